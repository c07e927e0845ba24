//! Legation.
