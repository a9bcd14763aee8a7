//! What a guest reports on its second serial port, line by line.
//!
//! The port carries nothing else, the kernel's messages go to the first.
//!
//! | line | meaning |
//! |---|---|
//! | `boot RELEASE` | the first process runs |
//! | `out TEXT` | a line the script printed |
//! | `file NAME SHA256` | a file of /results follows |
//! | `data HEX` | its next bytes |
//! | `status N` | the script's exit status; the last line |

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};

use crate::ebpf::manifest::sha256;

/// The largest result file that is taken from a guest.
const MAX_FILE_BYTES: usize = 64 << 20;

/// Everything a guest reported.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// The kernel's release; none before the guest's first process ran.
    pub(crate) release: Option<String>,
    /// The script's exit status; none unless it came to its end.
    pub(crate) status: Option<u8>,
    files: BTreeMap<String, (String, Vec<u8>)>,
    open: Option<String>,
}

impl Report {
    /// Takes in one line; returns what the script printed, if it is that.
    pub(crate) fn take<'a>(&mut self, line: &'a str) -> Result<Option<&'a str>> {
        let line = line.trim_end_matches('\r');
        let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
        match kind {
            "boot" => self.release = Some(rest.to_owned()),
            "out" => return Ok(Some(rest)),
            "file" => {
                let (name, hash) = rest.rsplit_once(' ').context("a file without its hash")?;
                self.files
                    .insert(name.to_owned(), (hash.to_owned(), Vec::new()));
                self.open = Some(name.to_owned());
            }
            "data" => self.append(rest)?,
            "status" => {
                self.status = Some(rest.parse().with_context(|| {
                    format!("the guest reports {rest:?} where an exit status belongs")
                })?);
            }
            _ => bail!("the guest reports {line:?}, which means nothing"),
        }
        Ok(None)
    }

    /// A result file, whole.
    pub(crate) fn file(&self, name: &str) -> Result<&[u8]> {
        let (hash, bytes) = self
            .files
            .get(name)
            .with_context(|| format!("the guest did not leave the result file {name}"))?;
        if sha256(bytes) != *hash {
            bail!("the result file {name} was damaged on its way out of the guest");
        }
        Ok(bytes)
    }

    fn append(&mut self, hex: &str) -> Result<()> {
        let bytes = self
            .open
            .as_ref()
            .and_then(|name| self.files.get_mut(name))
            .map(|(_, bytes)| bytes)
            .context("the guest reports data that belong to no file")?;
        if bytes.len() > MAX_FILE_BYTES {
            bail!("a result file is larger than {MAX_FILE_BYTES} bytes");
        }
        for pair in hex.as_bytes().chunks(2) {
            let byte = std::str::from_utf8(pair)
                .ok()
                .and_then(|pair| u8::from_str_radix(pair, 16).ok())
                .with_context(|| format!("the guest reports {hex:?} where hex belongs"))?;
            bytes.push(byte);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(lines: &[&str]) -> Result<(Report, Vec<String>)> {
        let mut report = Report::default();
        let mut printed = Vec::new();
        for line in lines {
            printed.extend(report.take(line)?.map(str::to_owned));
        }
        Ok((report, printed))
    }

    #[test]
    fn whole_report_is_understood() {
        let hash = sha256(b"{}\n");
        let (report, printed) = report(&[
            "boot 6.1.0\r",
            "out   two  spaces",
            "out",
            &format!("file a.json {hash}"),
            "data 7b",
            "data 7d0a",
            "status 3",
        ])
        .expect("well-formed");
        assert_eq!(report.release.as_deref(), Some("6.1.0"));
        assert_eq!(report.status, Some(3));
        assert_eq!(printed, ["  two  spaces", ""]);
        assert_eq!(report.file("a.json").expect("whole"), b"{}\n");
        assert!(report.file("b.json").is_err());
    }

    #[test]
    fn damage_is_noticed() {
        let (lost, _) =
            report(&[&format!("file a {}", sha256(b"ab")), "data 61"]).expect("well-formed so far");
        assert!(lost.file("a").is_err());
        assert!(report(&["data 61"]).is_err());
        assert!(report(&["file a hash", "data 6z"]).is_err());
        assert!(report(&["gibberish"]).is_err());
        assert!(report(&["status "]).is_err());
    }
}
