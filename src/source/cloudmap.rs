//! source/cloudmap.
