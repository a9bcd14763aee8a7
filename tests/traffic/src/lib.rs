//! A generator of TCP traffic that knows the truth about itself.
//!
//! It takes the name of a [`Pattern`], makes that traffic over loopback with
//! both ends in its own process (two patterns add a forked child), and reports
//! the sum of what its own send and receive calls returned. Where plain TCP
//! allows, the kernel's TCP_INFO must agree, or the run fails: so a wrong truth
//! is not taken for a wrong count. [`protocol`] is what it speaks on stdin and
//! stdout.
//!
//! Promise: at scale 1 no pattern moves more than about 10 MB or makes more
//! than about 3,000 calls, so that it also works under emulation, and none runs
//! for longer than a minute.

mod audit;
mod driver;
mod link;
mod pattern;
mod patterns;
pub mod protocol;
mod sys;
mod tally;

pub use driver::run;
pub use pattern::Pattern;
pub use sys::{TcpInfo, tcp_info};
