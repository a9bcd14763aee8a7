//! A generator of TCP traffic that knows the truth about itself.
//!
//! It takes the name of a [`Pattern`], makes that traffic over loopback with
//! both ends in its own process (some patterns add forked ones), and reports the
//! sum of what its own send and receive calls returned. Where plain TCP
//! allows, the kernel's TCP_INFO must agree, or the run fails: so a wrong truth
//! is not taken for a wrong count. [`protocol`] is what it speaks on stdin and
//! stdout.
//!
//! Promise: at scale 1 no pattern moves more than about 10 MB, makes more than
//! about 6,000 calls or forks more than about 2,000 times, so that it also works
//! under emulation, and none runs for longer than a minute.

mod audit;
mod driver;
mod kin;
mod link;
mod pattern;
mod patterns;
pub mod protocol;
mod puppet;
mod sys;
mod tally;

pub use driver::run;
pub use pattern::Pattern;
pub use patterns::tree::send_on_stdin;
pub use puppet::puppet;
pub use sys::{TcpInfo, tcp_info};
