//! What a service manager does for the collector, by the unit that is shipped.

use std::{
    fs,
    process::{Command, Stdio},
};

use tempfile::TempDir;

use super::{Result, binary, file, without_netio_variables};

/// Nobody in particular.
pub const UID: &str = "65534";

/// Any program of this name.
pub fn lacks(program: &'static str) -> Option<&'static str> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = std::env::split_paths(&path);
    (!folders.any(|folder| folder.join(program).exists())).then_some(program)
}

/// What the shipped unit says of a setting, all lines of it.
pub fn unit(setting: &str) -> Result<Vec<String>> {
    let text = fs::read_to_string(file("packaging/systemd/netio-collector.service"))?;
    let values: Vec<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix(setting)?.strip_prefix('='))
        .map(str::to_owned)
        .collect();
    assert!(!values.is_empty(), "the unit says nothing of {setting}");
    Ok(values)
}

/// A folder that everybody may use, which a path of the socket needs.
pub fn open_folder() -> Result<TempDir> {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777))?;
    Ok(folder)
}

/// Runs a program as another user with these capabilities, as the unit has it.
pub fn with_capabilities(capabilities: &[String]) -> Command {
    let mut list = "-all".to_owned();
    for capability in capabilities {
        let name = capability.trim_start_matches("CAP_").to_lowercase();
        list.push_str(&format!(",+{name}"));
    }
    let mut command = Command::new("setpriv");
    command.args([
        "--reuid",
        UID,
        "--regid",
        UID,
        "--clear-groups",
        "--no-new-privs",
    ]);
    for set in ["--inh-caps", "--ambient-caps", "--bounding-set"] {
        command.args([set, &list]);
    }
    command.arg("--").arg(binary("netio-collector"));
    without_netio_variables(&mut command).env("NETIO_LOG", "info");
    command.stdin(Stdio::null());
    command
}

/// The capabilities of the unit.
pub fn unit_capabilities() -> Result<Vec<String>> {
    let capabilities = unit("AmbientCapabilities")?.concat();
    Ok(capabilities.split(' ').map(str::to_owned).collect())
}
