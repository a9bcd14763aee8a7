//! Processes as files tell them, and real ones of this machine.

mod cgroups;
mod fake;
mod fixture;
mod ports;
mod real;
mod running;
mod scans;
