//! Placeholder.
pub mod kernel;
