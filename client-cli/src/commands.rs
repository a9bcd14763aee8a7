//! The commands: each takes its part of the command line, shows its answer on
//! standard output, and produces an outcome.

pub(crate) mod detach;
pub(crate) mod discover;
pub(crate) mod doctor;
pub(crate) mod info;
pub(crate) mod list;
pub(crate) mod unwatch;
pub(crate) mod watch;
