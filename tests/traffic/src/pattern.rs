//! The names of the patterns, with a sentence about each (its help text).
#![forbid(unsafe_code)]

use clap::ValueEnum;

/// A way to use TCP that a byte counter may get wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
pub enum Pattern {
    /// One thread sends and receives, in sizes from 1 byte to 16 KiB
    SingleThread,
    /// 16 threads of one process make small calls at the same time
    #[value(name = "threads-16")]
    Threads16,
    /// 64 connections: 64 senders blocked in send at once, then 64 receivers blocked in recv at once
    #[value(name = "connections-64")]
    Connections64,
    /// A non-blocking sender with a small buffer: partial sends and EAGAIN
    PartialSends,
    /// 1 MiB receives with MSG_WAITALL, which sleep inside the call while data trickles in
    Waitall,
    /// SO_RCVLOWAT above what arrives at once, so that receives sleep with data waiting
    Rcvlowat,
    /// MSG_PEEK several times before each receive
    Peek,
    /// TCP_QUICKACK set again and again between receives
    Quickack,
    /// MSG_TRUNC, which discards bytes of the stream unread
    Truncate,
    /// writev and readv
    Vectored,
    /// sendmmsg and recvmmsg
    Mmsg,
    /// sendfile from a file to a socket
    Sendfile,
    /// splice from a pipe to a socket
    SpliceOut,
    /// splice from a socket to a pipe, FIN included: old and new connections, accepted and connected ends, one thread and several
    SpliceIn,
    /// splice as the first read of a connection that waited in the accept queue when the watch began
    SpliceQueued,
    /// MSG_ZEROCOPY sends, completions read from the error queue
    ZerocopySend,
    /// TCP_ZEROCOPY_RECEIVE: pages mapped out of the receive queue
    ZerocopyReceive,
    /// io_uring: inline, by a worker thread, by a polling thread, and zero-copy sends
    IoUring,
    /// Data in the SYN (MSG_FASTOPEN and TCP_FASTOPEN_CONNECT)
    FastOpen,
    /// IPv6 over ::1
    Ipv6,
    /// IPv6 sockets connected over ::ffff:127.0.0.1
    V4Mapped,
    /// Connections that were used before the watch began, with data left unread, peeked at, or unacknowledged
    OpenedBefore,
    /// The same, to be started before the collector itself
    OpenedBeforeCollector,
    /// Sockets inherited over fork: parent and child, both watched, use them in turn
    Inherited,
    /// The same with only the child watched
    InheritedUnwatched,
    /// Urgent bytes (MSG_OOB), read out of band and inline
    Urgent,
    /// Urgent bytes that are never fetched: the reading of the stream skips them
    UrgentUnread,
    /// One direction ended before the other, and connections reset with data unread
    HalfClose,
    /// Sockets that disconnect and connect anew
    Reconnected,
    /// UDP, raw and Unix sockets, which must not be counted, beside a little TCP
    RawTcpAndUdp,
    /// Kernel TLS in both directions: the plaintext counts
    Ktls,
    /// Kernel TLS read by splice from the socket to a pipe
    KtlsSplice,
    /// Kernel TLS in one direction only: the other stays plain TCP
    KtlsOneWay,
    /// Multipath TCP at both ends
    Mptcp,
    /// Multipath TCP sockets whose peer speaks plain TCP
    MptcpFallback,
    /// The process exits right after its last bytes
    ExitMidTick,
    /// 2,000 children, up to 16 at a time, that each send 100 bytes and exit at once
    ShortLivedChildren,
    /// Three generations of children, an orphan, a sibling (CLONE_PARENT), vfork and exec
    ForkingTree,
    /// Children and theirs that live when the watch begins, and fork more
    ChildrenBefore,
    /// The watched process exits, and its pid goes to others, whose bytes are not its own
    ReusedPid,
}

impl Pattern {
    /// The name on the command line and in reports.
    #[must_use]
    pub fn name(self) -> String {
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }

    /// One sentence.
    #[must_use]
    pub fn description(self) -> String {
        self.to_possible_value()
            .and_then(|value| value.get_help().map(ToString::to_string))
            .unwrap_or_default()
    }

    /// Whether the generator must be started before the collector.
    #[must_use]
    pub fn starts_before_collector(self) -> bool {
        self == Self::OpenedBeforeCollector
    }

    /// Whether the generator exits unasked, and reports ahead of its last bytes.
    #[must_use]
    pub fn exits_by_itself(self) -> bool {
        self == Self::ExitMidTick
    }

    /// Whether the children of the watched process must be watched with it: the
    /// truth is the sum.
    #[must_use]
    pub fn follows_children(self) -> bool {
        matches!(
            self,
            Self::ShortLivedChildren | Self::ForkingTree | Self::ChildrenBefore
        )
    }

    /// Whether the watched process, which is not the generator, has exited when
    /// the report comes.
    #[must_use]
    pub fn watched_exits(self) -> bool {
        matches!(self, Self::ForkingTree | Self::ReusedPid)
    }

    /// Whether it forks after "go".
    pub(crate) fn forks(self) -> bool {
        self.follows_children() || self.watched_exits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_has_its_own_name_and_a_description() {
        let mut names: Vec<_> = Pattern::value_variants().iter().map(|p| p.name()).collect();
        assert!(names.contains(&"threads-16".to_owned()));
        assert!(names.contains(&"v4-mapped".to_owned()));
        names.sort();
        names.dedup();
        assert_eq!(names.len(), Pattern::value_variants().len());
        for pattern in Pattern::value_variants() {
            assert!(!pattern.description().is_empty(), "{pattern:?}");
        }
    }
}
