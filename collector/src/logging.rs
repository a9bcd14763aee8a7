//! Logs, to standard error: readable lines, or one JSON object per line.
//!
//! Takes records whose fields may hold anybody's text (names, paths, what a caller
//! wrote), produces one line for each, in which nothing steers a terminal or passes
//! for another line (see [`netio::printable`]).
#![forbid(unsafe_code)]

use std::{
    fmt,
    io::{self, IsTerminal as _, Write},
};

use netio::printable;
use tracing::field::{Field, Visit};
use tracing_subscriber::{
    EnvFilter,
    field::RecordFields,
    fmt::{FormatFields, format::Writer},
};

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Pretty,
    /// For machines: one object per line.
    Json,
}

/// Starts logging. Called once.
pub fn start(filter: EnvFilter, format: LogFormat) {
    let filter = quiet(filter);
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    match format {
        LogFormat::Pretty => builder
            .compact()
            .with_ansi(io::stderr().is_terminal())
            .fmt_fields(PrintableFields)
            .init(),
        LogFormat::Json => builder
            .json()
            .with_writer(|| JsonLines(io::stderr()))
            .init(),
    }
}

/// Of some frames h2 warns each time that a peer sends one, and so the log would be the
/// peer's to fill: not unless h2 is asked for.
fn quiet(filter: EnvFilter) -> EnvFilter {
    if filter.to_string().contains("h2") {
        return filter;
    }
    match "h2=error".parse() {
        Ok(directive) => filter.add_directive(directive),
        Err(_) => filter,
    }
}

/// Writes a record's fields in one line, `message field=value`, harmful characters
/// replaced.
#[derive(Clone, Copy, Debug)]
pub struct PrintableFields;

impl<'writer> FormatFields<'writer> for PrintableFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut visitor = Fields {
            writer,
            is_first: true,
            written: Ok(()),
        };
        fields.record(&mut visitor);
        visitor.written
    }
}

struct Fields<'writer> {
    writer: Writer<'writer>,
    is_first: bool,
    written: fmt::Result,
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let name = field.name();
        // What the crate log adds of itself.
        if self.written.is_err() || name.starts_with("log.") {
            return;
        }
        let value = format!("{value:?}");
        let value = printable::line(&value);
        let space = if self.is_first { "" } else { " " };
        self.is_first = false;
        self.written = match name {
            "message" => write!(self.writer, "{space}{value}"),
            name => write!(self.writer, "{space}{name}={value}"),
        };
    }
}

/// JSON escapes only what it must, which leaves C1 controls and marks that reorder
/// text. Takes whole records, as they are written.
struct JsonLines<W>(W);

impl<W: Write> Write for JsonLines<W> {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(record);
        self.0.write_all(printable::json(&text).as_bytes())?;
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    const HOSTILE: &str = "a\u{1b}[2J\n{\"level\":\"ERROR\"}\r\u{9b}\u{202e}\0b";

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Log {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    fn say() {
        let error = io::Error::other(HOSTILE);
        tracing::warn!(what = %HOSTILE, text = HOSTILE, debug = ?HOSTILE, %error, "of {HOSTILE}");
    }

    fn assert_one_line(text: &str) {
        let line = text.strip_suffix('\n').unwrap();
        assert!(line.chars().all(printable::may_be_shown), "{line:?}");
    }

    #[test]
    fn fault_21_a_readable_line_is_one_line_and_steers_nothing() {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .compact()
            .with_ansi(false)
            .fmt_fields(PrintableFields)
            .finish();
        tracing::subscriber::with_default(subscriber, say);
        let text = log.text();
        assert_one_line(&text);
        let fit = printable::line(HOSTILE);
        assert!(
            text.contains(&format!("of {fit} what={fit} text=")),
            "{text}"
        );
    }

    #[test]
    fn fault_21_a_json_line_is_one_object_and_loses_nothing() {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .json()
            .with_writer(move || JsonLines(writer.clone()))
            .finish();
        tracing::subscriber::with_default(subscriber, say);
        let text = log.text();
        assert_one_line(&text);
        assert!(text.contains(r"\u009b\u202e"), "{text}");
    }

    #[test]
    fn h2_warns_only_if_it_is_asked_to() {
        let said = |text| quiet(EnvFilter::new(text)).to_string();
        assert_eq!(said("info"), "h2=error,info");
        assert_eq!(said("h2=warn"), "h2=warn");
    }
}
