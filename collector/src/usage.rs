//! What is said about a wrong command line.
#![forbid(unsafe_code)]

use std::{
    borrow::Cow,
    io::{self, Write as _},
    process,
};

use clap::error::ContextValue;
use netio::printable;

/// Shows the error, or the help that was asked for, and ends the process as clap
/// does; but what the error repeats of arguments and variables cannot steer a
/// terminal or pass for a line (see [`netio::printable`]).
pub fn exit(mut error: clap::Error) -> ! {
    let quoted: Vec<_> = error
        .context()
        .filter_map(|(kind, value)| Some((kind, fit(value)?)))
        .collect();
    for (kind, value) in quoted {
        error.insert(kind, value);
    }
    // What is left are words of our own, that may quote as well.
    let told = error.to_string();
    if error.use_stderr()
        && let Cow::Owned(fit) = printable::lines(&told)
    {
        let _ = io::stderr().write_all(fit.as_bytes());
        process::exit(error.exit_code());
    }
    error.exit()
}

fn fit(value: &ContextValue) -> Option<ContextValue> {
    let line = |text: &String| printable::line(text).into_owned();
    match value {
        ContextValue::String(text) => Some(ContextValue::String(line(text))),
        ContextValue::Strings(texts) => {
            Some(ContextValue::Strings(texts.iter().map(line).collect()))
        }
        _ => None,
    }
}
