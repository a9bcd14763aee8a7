//! Runs a script under one of Debian's kernels, in a machine that qemu
//! emulates: a few seconds, no disk, no network, no privileges here.
//!
//! It takes the kernel's series, files to have inside, modules and a script,
//! and produces the script's exit status and the files it left in /results. A
//! guest that never reports, or reports nothing to the end, is an error that
//! shows the end of its console.

mod initramfs;
mod kernel;
mod report;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::tree::{Tree, find_command};
use kernel::Kernel;
pub(crate) use report::Report;

/// Lines of the console to show when a guest fails.
const CONSOLE_TAIL: usize = 40;
/// Lines that may wait for us; beyond it the guest's serial port waits.
const MAX_WAITING_LINES: usize = 1024;

/// One run.
pub(crate) struct Guest<'a> {
    /// Which kernel, for example `6.1`.
    pub(crate) series: &'a str,
    /// Files to have inside: (path here, path in the guest).
    pub(crate) files: Vec<(PathBuf, String)>,
    /// Modules to load before the script; what they need comes along.
    pub(crate) modules: &'a [&'a str],
    /// What to do, for busybox's shell. Its results go to /results.
    pub(crate) script: String,
    /// How long the whole may take.
    pub(crate) timeout: Duration,
    /// Mebibytes of memory.
    pub(crate) memory: u32,
    /// What its clock tells.
    pub(crate) clock: Clock,
    /// What its first process becomes.
    pub(crate) init: Init,
}

/// What a guest's first process becomes, once all is mounted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Init {
    /// What waits for the script, and nothing more.
    Script,
    /// This program in the guest, beside which the script runs.
    Program(&'static str),
}

/// What a guest's clock tells.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clock {
    /// The time, as it passes here.
    Time,
    /// Instructions: it advances by one nanosecond for each that the guest's one
    /// CPU executes, whatever happens here meanwhile.
    Instructions,
}

impl Guest<'_> {
    /// Boots, runs the script and hands each line it prints to `each_line`.
    /// The report has a status.
    pub(crate) fn run(&self, tree: &Tree, mut each_line: impl FnMut(&str)) -> Result<Report> {
        if !cfg!(target_arch = "x86_64") {
            bail!("guests run only on x86-64, whose kernels and emulator they use");
        }
        let kernel = Kernel::find(tree, self.series)?;
        let modules = kernel.modules(self.modules)?;
        let scratch = tempfile::tempdir_in(tree.target("guest"))
            .context("cannot make a temporary directory for the guest")?;
        let archive = initramfs::build(scratch.path(), &self.files, &modules, &self.script)?;
        let console = scratch.path().join("console.log");
        println!("    booting {}", kernel.release);
        let mut machine = self.start(&kernel.image(), &archive, &console)?;
        let report = follow(&mut machine, self.timeout, &mut each_line);
        // It has ended by itself, unless something went wrong.
        let _ = machine.kill();
        let _ = machine.wait();
        report.map_err(|error| {
            anyhow!(
                "the guest with kernel {} failed: {error:#}; the end of its console:\n{}",
                kernel.release,
                tail(&console)
            )
        })
    }

    fn start(&self, image: &Path, archive: &Path, console: &Path) -> Result<Child> {
        let qemu = find_command("qemu-system-x86_64")
            .context("qemu is not installed; type `cargo xtask setup guest` to install it")?;
        // Emulation works everywhere, inside other virtual machines too.
        let (emulation, trust): (&[&str], &str) = match (self.clock, self.init) {
            (Clock::Time, Init::Script) => (&["-accel", "tcg,thread=multi", "-smp", "2"], ""),
            // systemd has the kernel change its code all the time, which an emulated CPU
            // does not always notice in time that another one has done.
            (Clock::Time, Init::Program(_)) => (&["-accel", "tcg", "-smp", "1"], ""),
            (Clock::Instructions, _) => (
                &["-accel", "tcg", "-icount", "shift=0,sleep=off", "-smp", "1"],
                // Or the kernel would time it by something else.
                " tsc=reliable",
            ),
        };
        let init = match self.init {
            Init::Script => String::new(),
            Init::Program(path) => format!(" NETIO_INIT={path}"),
        };
        Command::new(qemu)
            .args(emulation)
            .args(["-cpu", "max"])
            .args(["-m", &self.memory.to_string()])
            .args(["-nodefaults", "-display", "none", "-no-reboot"])
            // The kernel's messages and our report never share a port.
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .args(["-serial", "stdio"])
            .arg("-kernel")
            .arg(image)
            .arg("-initrd")
            .arg(archive)
            .arg("-append")
            .arg(format!("console=ttyS0 panic=-1 quiet{trust}{init}"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start qemu")
    }
}

/// Reads the report until the machine switches itself off.
fn follow(
    machine: &mut Child,
    timeout: Duration,
    each_line: &mut impl FnMut(&str),
) -> Result<Report> {
    let deadline = Instant::now() + timeout;
    let port = machine.stdout.take().context("qemu's output is not ours")?;
    let (sender, lines) = mpsc::sync_channel(MAX_WAITING_LINES);
    // Ends with the machine, whose end closes the port.
    thread::spawn(move || {
        for line in BufReader::new(port).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let mut report = Report::default();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match lines.recv_timeout(left) {
            Ok(line) => {
                if let Some(printed) = report.take(&line)? {
                    each_line(printed);
                }
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => bail!(
                "it took longer than {} s{}",
                timeout.as_secs(),
                if report.release.is_none() {
                    " and never booted"
                } else {
                    ""
                }
            ),
        }
    }
    match (&report.release, report.status) {
        (None, _) => bail!("it ended without a report"),
        (Some(_), None) => bail!("it ended in the middle of its report"),
        (Some(_), Some(_)) => Ok(report),
    }
}

/// The last lines of the console.
fn tail(console: &Path) -> String {
    let bytes = fs::read(console).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let first = lines.len().saturating_sub(CONSOLE_TAIL);
    lines.get(first..).unwrap_or_default().join("\n")
}

/// The script and the files of a command typed here: a first word that is a
/// file here is taken along.
pub(crate) fn command(words: &[String]) -> (String, Vec<(PathBuf, String)>) {
    let mut words = words.to_vec();
    let mut files = Vec::new();
    if let Some(program) = words.first_mut()
        && Path::new(program.as_str()).is_file()
    {
        let name = program.rsplit('/').next().unwrap_or_default();
        let inside = format!("/bin/{name}");
        files.push((PathBuf::from(&*program), inside.clone()));
        *program = inside;
    }
    let quoted: Vec<String> = words.iter().map(|word| quote(word)).collect();
    (quoted.join(" ") + "\n", files)
}

/// A word as the shell reads it back unchanged.
pub(crate) fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typed_command_keeps_its_words() {
        let (script, files) = command(&["echo".to_owned(), "it's  one".to_owned()]);
        assert_eq!(script, "'echo' 'it'\\''s  one'\n");
        assert!(files.is_empty());
    }

    #[test]
    fn program_from_here_is_taken_along() {
        let (script, files) = command(&["/proc/self/exe".to_owned(), "x".to_owned()]);
        assert_eq!(script, "'/bin/exe' 'x'\n");
        assert_eq!(files, [("/proc/self/exe".into(), "/bin/exe".to_owned())]);
    }

    #[test]
    fn machine_that_says_nothing_is_an_error() {
        let machine = |script: &str| {
            Command::new("sh")
                .args(["-c", script])
                .stdout(Stdio::piped())
                .spawn()
                .expect("sh starts")
        };
        let failed = |script: &str, timeout: u64| {
            let mut machine = machine(script);
            let error = follow(&mut machine, Duration::from_millis(timeout), &mut |_| {})
                .expect_err("no whole report");
            let _ = machine.kill();
            let _ = machine.wait();
            error.to_string()
        };
        assert_eq!(failed("true", 10_000), "it ended without a report");
        assert_eq!(
            failed("echo boot 6.1", 10_000),
            "it ended in the middle of its report"
        );
        assert!(failed("exec sleep 20", 50).ends_with("never booted"));
    }
}
