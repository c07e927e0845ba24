//! source/ecs.
