//! Random policies and paths.
