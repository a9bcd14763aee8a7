//! The patterns, one function each, grouped by what they exercise.

mod blocking;
mod children;
mod family;
mod fast_open;
pub(crate) mod inherit;
mod many;
mod mptcp;
mod not_tcp;
mod plain;
mod reading;
mod reuse;
mod splicing;
mod tls;
pub(crate) mod tree;
mod uring;
mod zerocopy;

use anyhow::Result;

use crate::driver::Run;
use crate::link::Link;
use crate::pattern::Pattern;
use crate::tally::Tally;

/// Makes the traffic of `pattern`.
pub(crate) fn make(pattern: Pattern, run: &mut Run) -> Result<()> {
    match pattern {
        Pattern::SingleThread => plain::single_thread(run),
        Pattern::Threads16 => plain::threads_16(run),
        Pattern::Connections64 => blocking::connections_64(run),
        Pattern::PartialSends => blocking::partial_sends(run),
        Pattern::Waitall => blocking::waitall(run),
        Pattern::Rcvlowat => blocking::rcvlowat(run),
        Pattern::Peek => reading::peek(run),
        Pattern::Quickack => reading::quickack(run),
        Pattern::Truncate => reading::truncate(run),
        Pattern::Vectored => many::vectored(run),
        Pattern::Mmsg => many::mmsg(run),
        Pattern::Sendfile => splicing::sendfile(run),
        Pattern::SpliceOut => splicing::splice_out(run),
        Pattern::SpliceIn => splicing::splice_in(run),
        Pattern::SpliceQueued => splicing::splice_queued(run),
        Pattern::ZerocopySend => zerocopy::send(run),
        Pattern::ZerocopyReceive => zerocopy::receive(run),
        Pattern::IoUring => uring::send_and_receive(run),
        Pattern::FastOpen => fast_open::fast_open(run),
        Pattern::Ipv6 => family::ipv6(run),
        Pattern::V4Mapped => family::v4_mapped(run),
        Pattern::OpenedBefore | Pattern::OpenedBeforeCollector => reading::opened_before(run),
        Pattern::Inherited => inherit::inherited(run),
        Pattern::InheritedUnwatched => inherit::inherited_unwatched(run),
        Pattern::Urgent => reading::urgent(run),
        Pattern::UrgentUnread => reading::urgent_unread(run),
        Pattern::Reconnected => plain::reconnected(run),
        Pattern::HalfClose => plain::half_close(run),
        Pattern::RawTcpAndUdp => not_tcp::raw_tcp_and_udp(run),
        Pattern::Ktls => tls::ktls(run),
        Pattern::KtlsSplice => tls::splice(run),
        Pattern::KtlsOneWay => tls::one_way(run),
        Pattern::Mptcp => mptcp::both_ends(run),
        Pattern::MptcpFallback => mptcp::fallback(run),
        Pattern::ExitMidTick => plain::exit_mid_tick(run),
        Pattern::ShortLivedChildren => children::short_lived(run),
        Pattern::ForkingTree => tree::forking_tree(run),
        Pattern::ChildrenBefore => children::before(run),
        Pattern::ReusedPid => reuse::reused_pid(run),
    }
}

/// The most that one thread may send before it receives: fits any buffer.
const ONE_GO: usize = 16 * 1024;

/// Sizes that fall below, on and above the usual segment and page sizes.
const SIZES: [usize; 6] = [1, 100, 1460, 4096, 5000, ONE_GO];

/// Sends in every size of [`SIZES`] in both directions, by one thread.
pub(crate) fn exchange(tally: &Tally, link: &Link, rounds: usize) -> Result<()> {
    let data = [7; ONE_GO];
    for _ in 0..rounds {
        for size in SIZES {
            tally.send_all(&link.near, &data[..size])?;
            tally.recv_exact(&link.far, size)?;
            tally.send_all(&link.far, &data[..size])?;
            tally.recv_exact(&link.near, size)?;
        }
    }
    Ok(())
}
