//! Where lines go: takes text, writes it at once, and tells a reader that has
//! left (`| head -3`), which ends a command without error, from a write that
//! failed. Whatever is in the text, what it writes cannot steer a terminal: it is
//! the one way out, and the last gate ([`printable::lines`]).

use std::io::{self, Write as _};

use netio::printable;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use crate::failure::Failure;

/// Whether there is still somebody who reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pipe {
    /// There is.
    Open,
    /// There is not: further lines would be in vain.
    Closed,
}

/// Standard output and standard error, or what stands for them in a test.
#[derive(Debug)]
pub(crate) struct Output<O, E> {
    /// Takes the lines.
    pub(crate) out: O,
    /// Takes the notes.
    pub(crate) err: E,
}

impl<O: AsyncWrite + Unpin, E: AsyncWrite + Unpin> Output<O, E> {
    /// Writes lines, newlines included.
    pub(crate) async fn lines(&mut self, lines: &str) -> Result<Pipe, Failure> {
        let written = async {
            self.out
                .write_all(printable::lines(lines).as_bytes())
                .await?;
            self.out.flush().await
        };
        judge(written.await)
    }

    /// Writes a remark for people. It is a courtesy: that it cannot be written
    /// ends nothing.
    pub(crate) async fn note(&mut self, note: &str) {
        let note = format!("netio-client: {}\n", printable::lines(note));
        if self.err.write_all(note.as_bytes()).await.is_ok() {
            let _ = self.err.flush().await;
        }
    }
}

/// Writes the whole answer of a command to standard output.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let text = printable::lines(text);
    judge(out.write_all(text.as_bytes()).and_then(|()| out.flush())).map(|_| ())
}

/// Writes a remark for people to standard error.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr(), "netio-client: {}", printable::lines(text));
}

fn judge(written: io::Result<()>) -> Result<Pipe, Failure> {
    match written {
        Ok(()) => Ok(Pipe::Open),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Pipe::Closed),
        Err(error) => Err(Failure::new(
            format!("cannot write to standard output: {error}"),
            "check where it leads to: is the disk full?",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reader_that_left_is_no_failure() {
        let (out, reader) = tokio::io::duplex(64);
        let mut output = Output {
            out,
            err: Vec::new(),
        };
        assert_eq!(output.lines("a\n").await, Ok(Pipe::Open));
        drop(reader);
        assert_eq!(output.lines("b\n").await, Ok(Pipe::Closed));
        output.note("left").await;
        assert_eq!(output.err, b"netio-client: left\n");
    }

    #[tokio::test]
    async fn nothing_that_is_written_steers_a_terminal() {
        let mut output = Output {
            out: Vec::new(),
            err: Vec::new(),
        };
        let hostile = "a\u{1b}[2J\u{9b}\u{202e}\r\0\nb\n";
        output.lines(hostile).await.unwrap();
        output.note(hostile).await;
        let fit = "a\u{fffd}[2J\u{fffd}\u{fffd}\u{fffd}\u{fffd}\nb\n";
        assert_eq!(output.out, fit.as_bytes());
        assert_eq!(output.err, format!("netio-client: {fit}\n").as_bytes());
    }

    #[test]
    fn a_full_disk_is_one() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let shown = judge(Err(full)).unwrap_err().to_string();
        assert!(shown.contains("cannot write"), "{shown}");
    }
}
