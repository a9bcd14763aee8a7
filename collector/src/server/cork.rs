//! Writes what the streams of a connection have to say at a tick together.
//!
//! HTTP/2 frames come here one by one, and each would be a system call: the most of
//! what a message costs. So where a connection has several streams, frames are held
//! back for [`TURNS`] turns of the connection's task, in which the tasks of the other
//! streams have theirs; then all go out at once. A turn is a poll, which begins by
//! reading. On a connection with one stream nothing is held back.
//!
//! Takes a transport, produces one that does so. Promises: it holds [`HELD`] bytes at
//! most and only until the task has had its turns, unless the peer does not take
//! them; a flush says that bytes are held or written, a shutdown that all are written.
//! As the task is woken for the turns that it needs, nothing stays behind.
#![forbid(unsafe_code)]

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that are held back; more are written at once.
const HELD: usize = 32 * 1024;
/// One turn, in which the other streams hand their frames to the connection, and one
/// in which it has taken them.
const TURNS: u8 = 2;

/// Counts the streams that are open on a connection. Clones count the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct OpenStreams(Arc<AtomicUsize>);

impl OpenStreams {
    /// Differs from that of other connections.
    pub(crate) fn id(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }

    /// One more, until what this returns is dropped.
    pub(crate) fn open(&self) -> OpenStream {
        self.0.fetch_add(1, Ordering::Relaxed);
        OpenStream(self.clone())
    }

    fn are_several(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 1
    }
}

/// An open stream.
pub(crate) struct OpenStream(OpenStreams);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// See the module.
pub(super) struct Cork<T> {
    inner: T,
    streams: OpenStreams,
    /// What is held back; its memory is given back with every write.
    held: Vec<u8>,
    /// So many of the held bytes are written.
    written: usize,
    /// Turns since the first of them came.
    turns: u8,
    /// What was released may be held by the transport itself, as TLS does, although a
    /// flush was answered before.
    unflushed: bool,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Cork<T> {
    pub(super) fn new(inner: T, streams: OpenStreams) -> Self {
        Self {
            inner,
            streams,
            held: Vec::new(),
            written: 0,
            turns: 0,
            unflushed: false,
        }
    }

    pub(super) fn streams(&self) -> &OpenStreams {
        &self.streams
    }

    /// Writes all that is held back; see `unflushed`.
    fn poll_release(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.held.get(self.written..)
            && !rest.is_empty()
        {
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, rest))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += written;
            self.unflushed = true;
        }
        self.held = Vec::new();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    fn poll_flush_inner(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }

    /// Makes room for so many bytes more. Whether to hold them back; if not, nothing
    /// is held.
    fn poll_room(&mut self, cx: &mut Context<'_>, bytes: usize) -> Poll<io::Result<bool>> {
        let holds = self.streams.are_several() && bytes < HELD;
        if !holds || self.held.len() + bytes > HELD {
            ready!(self.poll_release(cx))?;
        }
        if holds && self.held.is_empty() {
            self.held.reserve_exact(HELD);
            self.turns = 0;
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(holds))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Cork<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.held.is_empty() {
            self.turns = self.turns.saturating_add(1);
            if self.turns < TURNS {
                cx.waker().wake_by_ref();
            } else if let Poll::Ready(Err(error)) = self.poll_release(cx) {
                return Poll::Ready(Err(error));
            }
        }
        if self.unflushed
            && let Poll::Ready(Err(error)) = self.poll_flush_inner(cx)
        {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Cork<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if !ready!(self.poll_room(cx, buf.len()))? {
            return Pin::new(&mut self.inner).poll_write(cx, buf);
        }
        self.held.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes = bufs.iter().map(|buf| buf.len()).sum();
        if !ready!(self.poll_room(cx, bytes))? {
            return Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        }
        for buf in bufs {
            self.held.extend_from_slice(buf);
        }
        Poll::Ready(Ok(bytes))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.held.is_empty() {
            return self.poll_flush_inner(cx);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_release(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Wake, Waker};

    use super::*;

    /// What came out, by write; each write takes up to `takes` bytes.
    #[derive(Default)]
    struct Wire {
        writes: Vec<Vec<u8>>,
        takes: usize,
        is_shut: bool,
        /// Writes that have come since the last flush.
        unflushed: usize,
    }

    impl AsyncRead for Wire {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Wire {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            let taken = buf.len().min(self.takes);
            if taken == 0 {
                return Poll::Pending;
            }
            self.writes.push(buf[..taken].to_vec());
            self.unflushed += 1;
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.unflushed = 0;
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.is_shut = true;
            Poll::Ready(Ok(()))
        }
    }

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A connection's task, polled by hand.
    struct Task {
        cork: Cork<Wire>,
        open: Vec<OpenStream>,
        woken: Arc<Woken>,
        waker: Waker,
    }

    fn task(streams: usize) -> Task {
        let wire = Wire {
            takes: usize::MAX,
            ..Wire::default()
        };
        let cork = Cork::new(wire, OpenStreams::default());
        let woken = Arc::<Woken>::default();
        Task {
            open: (0..streams).map(|_| cork.streams.open()).collect(),
            cork,
            waker: Arc::clone(&woken).into(),
            woken,
        }
    }

    impl Task {
        /// Whether the task was woken since it was asked last.
        fn is_woken(&self) -> bool {
            self.woken.0.swap(0, Ordering::Relaxed) > 0
        }

        fn read(&mut self) {
            let mut cx = Context::from_waker(&self.waker);
            let mut buffer = [0; 1];
            let read = Pin::new(&mut self.cork).poll_read(&mut cx, &mut ReadBuf::new(&mut buffer));
            assert!(read.is_pending());
        }

        /// How much was taken.
        fn write(&mut self, bytes: &[u8]) -> usize {
            let mut cx = Context::from_waker(&self.waker);
            let taken = match Pin::new(&mut self.cork).poll_write(&mut cx, bytes) {
                Poll::Ready(taken) => taken.unwrap(),
                Poll::Pending => 0,
            };
            assert!(Pin::new(&mut self.cork).poll_flush(&mut cx).is_ready());
            assert!(self.cork.held.len() <= HELD);
            taken
        }
    }

    #[test]
    fn frames_of_several_streams_go_out_together() {
        let mut task = task(2);
        task.read();
        assert_eq!(task.write(b"one "), 4);
        assert!(task.cork.inner.writes.is_empty());
        assert!(task.is_woken(), "it needs another turn");
        task.read();
        task.write(b"two ");
        task.write(b"three");
        assert!(task.is_woken(), "and the last one");
        task.read();
        assert_eq!(task.cork.inner.writes, [b"one two three"]);
        assert_eq!(task.cork.inner.unflushed, 0, "TLS would still hold it");
        assert_eq!(task.cork.held.capacity(), 0);
        task.read();
        assert!(!task.is_woken(), "there is nothing to do");
    }

    #[test]
    fn a_connection_is_known_by_its_streams() {
        let [one, other] = [OpenStreams::default(), OpenStreams::default()];
        assert_eq!(one.id(), one.clone().id());
        assert_ne!(one.id(), other.id());
    }

    #[test]
    fn nothing_is_held_back_where_there_is_one_stream() {
        let mut task = task(2);
        task.write(b"held");
        task.open.pop();
        task.write(b"one");
        task.write(b"two");
        let written = &task.cork.inner.writes;
        assert_eq!(*written, [&b"held"[..], b"one", b"two"]);
    }

    #[test]
    fn a_shutdown_writes_what_is_held() {
        let mut task = task(2);
        task.write(b"last words");
        let mut cx = Context::from_waker(&task.waker);
        task.cork.inner.takes = 0;
        let shut = Pin::new(&mut task.cork).poll_shutdown(&mut cx);
        assert!(shut.is_pending() && !task.cork.inner.is_shut);
        task.cork.inner.takes = 7;
        let shut = Pin::new(&mut task.cork).poll_shutdown(&mut cx);
        assert!(shut.is_ready() && task.cork.inner.is_shut);
        assert_eq!(task.cork.inner.writes.concat(), b"last words");
    }

    /// Whatever the sizes, and however little the peer takes, what comes out is what
    /// went in; and where something is held, the task will be polled.
    #[test]
    fn every_byte_goes_out_in_order() {
        let mut random = 1_u64;
        let mut below = |limit: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            usize::try_from(random % limit).unwrap()
        };
        let mut task = task(2);
        let mut sent = Vec::new();
        for step in 0..2_000 {
            task.cork.inner.takes = [0, 1, 1_000, HELD, usize::MAX][below(5)];
            match below(4) {
                0 => task.read(),
                1 if task.open.len() == 1 => task.open.push(task.cork.streams.open()),
                1 => drop(task.open.pop()),
                _ => {
                    let size = [1, 300, 1_000, HELD - 1, HELD, HELD + 1][below(6)];
                    let bytes = vec![u8::try_from(step % 251).unwrap(); size];
                    let taken = task.write(&bytes);
                    sent.extend_from_slice(&bytes[..taken]);
                }
            }
        }
        task.cork.inner.takes = usize::MAX;
        for _ in 0..TURNS {
            task.read();
        }
        assert!(task.cork.inner.writes.concat() == sent);
    }
}
