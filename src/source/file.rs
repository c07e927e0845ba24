//! source/file.
