//! Debian's package manager, as far as the tasks need it.

use std::process::Command;
use std::sync::Once;

use anyhow::{Result, bail};

use crate::command::{output, run};
use crate::tree::{find_command, is_root_user};

/// Whether this system is run by apt.
pub(crate) fn is_here() -> bool {
    find_command("apt-get").is_some()
}

/// Whether apt can install `package`.
pub(crate) fn has_candidate(package: &str) -> bool {
    output(Command::new("apt-cache").args(["policy", package]))
        .is_ok_and(|policy| candidate(&policy).is_some())
}

/// Refreshes the package lists, once per run, when we may.
pub(crate) fn update_once() {
    static UPDATED: Once = Once::new();
    if !is_root_user() {
        return;
    }
    UPDATED.call_once(|| {
        println!("    the package lists do not have it yet: refreshing them");
        if let Err(error) = run(Command::new("apt-get").args(["update", "-q"])) {
            // What can be had from the old lists may be enough.
            println!("    {error:#}");
        }
    });
}

/// Installs `packages` without what they merely recommend.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let install = ["install", "--yes", "--no-install-recommends", "-q"];
    if !is_root_user() {
        bail!(
            "only root can install packages; type `sudo apt-get {} {}` and repeat this",
            install.join(" "),
            packages.join(" ")
        );
    }
    if !packages.iter().all(|package| has_candidate(package)) {
        update_once();
    }
    let attempt = || {
        run(Command::new("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(install)
            .args(packages))
    };
    // Stale lists name files that the archive has replaced.
    attempt().or_else(|_| {
        update_once();
        attempt()
    })
}

/// The version that `apt-cache policy` would install.
fn candidate(policy: &str) -> Option<&str> {
    policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: "))
        .filter(|version| *version != "(none)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidate_is_told_from_none() {
        let policy = "cpio:\n  Installed: (none)\n  Candidate: 2.13\n  Version table:\n";
        assert_eq!(candidate(policy), Some("2.13"));
        assert_eq!(candidate("x:\n  Candidate: (none)\n"), None);
        assert_eq!(candidate(""), None);
    }
}
