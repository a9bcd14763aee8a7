//! `doctor`: shows what this host offers to count with. Local: it asks no
//! collector.

use netio_collector::doctor;

use crate::{
    args::{Doctor, Format},
    failure::Failure,
    json, output,
};

/// Runs it; produces whether the host can count.
pub(crate) fn run(args: &Doctor) -> Result<bool, Failure> {
    let report = doctor::run();
    let text = match args.output.format {
        Format::Table => report.to_string(),
        Format::Json => json::line(&report)?,
    };
    // Some reports end their last line, some leave that to the caller.
    let newline = if text.ends_with('\n') { "" } else { "\n" };
    output::print(&(text + newline))?;
    Ok(report.healthy())
}
