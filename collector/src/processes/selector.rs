//! What a target selects by.
//!
//! Takes a selector as a client wrote it, produces a valid [`Selector`] in its
//! one canonical form, so that equal selectors compare equal; or a
//! [`SelectorError`] that says what is wrong with it.
#![forbid(unsafe_code)]

use std::{
    fmt::{self, Display},
    fs,
};

use netio::v1;
use procfs::process::MountInfo;

use super::{brief::brief, cgroup::ID_LENGTH};

/// The longest name, and the longest path of a cgroup.
const MAX_TEXT: usize = 4095;
/// The shortest prefix of a container's id; what `docker ps` shows.
const MIN_ID_LENGTH: usize = 12;
/// The units that systemd makes cgroups for.
const UNITS: [&str; 6] = [".service", ".scope", ".slice", ".socket", ".mount", ".swap"];

/// Which processes are meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Selector {
    /// From 1 to what a pid can be.
    Pid(u32),
    /// Not empty, without control characters.
    Name(String),
    /// Not 0.
    Port(u16),
    /// From the root of the hierarchy, which it is not: "/a/b".
    Cgroup(String),
    /// With its suffix.
    Unit(String),
    /// 12 to 64 hexadecimal digits, lower case.
    Container(String),
}

/// Why a selector can select nothing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SelectorError {
    #[error("{0} is no process id: give one from 1 to {max}, as `ps` shows it", max = i32::MAX)]
    Pid(u32),
    #[error(
        "no process can have the name '{name}': it {why}; give the name that `ps -o comm` shows, or the file name or whole path of the executable"
    )]
    Name { name: String, why: &'static str },
    #[error("{0} is no TCP port: give one from 1 to 65535, such as 3306")]
    Port(u32),
    #[error(
        "'{cgroup}' is no cgroup to watch: it {why}; give a path such as /system.slice or /sys/fs/cgroup/system.slice, as `systemd-cgls` shows it"
    )]
    Cgroup { cgroup: String, why: &'static str },
    #[error(
        "'{unit}' is no systemd unit with processes: it {why}; give a name such as mariadb.service, as `systemctl` shows it"
    )]
    Unit { unit: String, why: &'static str },
    #[error(
        "'{container}' is no container id: it {why}; give the id that `docker ps` or `crictl ps` shows, or its first {MIN_ID_LENGTH} digits or more"
    )]
    Container {
        container: String,
        why: &'static str,
    },
}

impl SelectorError {
    /// The reason by which clients tell it.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Pid(_) => "PID_INVALID",
            Self::Name { .. } => "NAME_INVALID",
            Self::Port(_) => "PORT_INVALID",
            Self::Cgroup { .. } => "CGROUP_INVALID",
            Self::Unit { .. } => "UNIT_INVALID",
            Self::Container { .. } => "CONTAINER_INVALID",
        }
    }
}

impl Selector {
    pub(crate) fn parse(selector: &v1::target::Selector) -> Result<Self, SelectorError> {
        use v1::target::Selector as Wire;
        match selector {
            Wire::Pid(pid) => match i32::try_from(*pid) {
                Ok(1..) => Ok(Self::Pid(*pid)),
                _ => Err(SelectorError::Pid(*pid)),
            },
            Wire::Name(name) => Self::name(name),
            Wire::Port(port) => match u16::try_from(*port) {
                Ok(port @ 1..) => Ok(Self::Port(port)),
                _ => Err(SelectorError::Port(*port)),
            },
            Wire::Cgroup(path) => Self::cgroup(path, &mounts()),
            Wire::Unit(unit) => Self::unit(unit),
            Wire::Container(id) => Self::container(id),
        }
    }

    /// Whether processes that start later can match.
    pub(crate) fn is_rule(&self) -> bool {
        !matches!(self, Self::Pid(_))
    }

    fn name(name: &str) -> Result<Self, SelectorError> {
        match unfit(name) {
            None => Ok(Self::Name(name.to_owned())),
            Some(why) => Err(SelectorError::Name {
                name: brief(name),
                why,
            }),
        }
    }

    fn cgroup(path: &str, mounts: &[CgroupMount]) -> Result<Self, SelectorError> {
        let refused = |why| SelectorError::Cgroup {
            cgroup: brief(path),
            why,
        };
        if let Some(why) = unfit(path) {
            return Err(refused(why));
        }
        if !path.starts_with('/') {
            return Err(refused("does not begin with /"));
        }
        let path = canonical(path).ok_or_else(|| refused("has .. in it"))?;
        let path = mounts
            .iter()
            .filter_map(|mount| Some((&mount.mount_point, mount.path_in_hierarchy(&path)?)))
            // Of a mount within another, the inner.
            .max_by_key(|(mount_point, _)| mount_point.len())
            .map_or(path, |(_, in_hierarchy)| in_hierarchy);
        // Whoever mounted it may have a strange one.
        if path.contains(char::is_control) {
            return Err(refused("is mounted from one with control characters in it"));
        }
        if path.is_empty() {
            return Err(refused("is the root, which every process is in or below"));
        }
        Ok(Self::Cgroup(path))
    }

    /// The cgroup of a path where `/proc/self/mountinfo` tells these mounts.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn cgroup_as_mounted(path: &str, mountinfo: &str) -> Result<Self, SelectorError> {
        Self::cgroup(path, &mounts_in(mountinfo))
    }

    fn unit(unit: &str) -> Result<Self, SelectorError> {
        let refused = |why| SelectorError::Unit {
            unit: brief(unit),
            why,
        };
        if let Some(why) = unfit(unit) {
            return Err(refused(why));
        }
        if unit.contains('/') {
            return Err(refused("has a / in it, so it may be a cgroup"));
        }
        let stem = UNITS.iter().find_map(|suffix| unit.strip_suffix(suffix));
        if stem.is_none_or(str::is_empty) {
            return Err(refused(
                "does not end with .service, .scope, .slice, .socket, .mount or .swap",
            ));
        }
        Ok(Self::Unit(unit.to_owned()))
    }

    fn container(id: &str) -> Result<Self, SelectorError> {
        let refused = |why| SelectorError::Container {
            container: brief(id),
            why,
        };
        if !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(refused("has other characters than hexadecimal digits"));
        }
        if !(MIN_ID_LENGTH..=ID_LENGTH).contains(&id.len()) {
            return Err(refused("has not 12 to 64 digits"));
        }
        Ok(Self::Container(id.to_ascii_lowercase()))
    }
}

impl Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pid(pid) => write!(f, "pid {pid}"),
            Self::Name(name) => write!(f, "name {name}"),
            Self::Port(port) => write!(f, "port {port}"),
            Self::Cgroup(path) => write!(f, "cgroup {path}"),
            Self::Unit(unit) => write!(f, "unit {unit}"),
            Self::Container(id) => write!(f, "container {id}"),
        }
    }
}

/// What no name or path can be.
fn unfit(text: &str) -> Option<&'static str> {
    if text.is_empty() {
        Some("is empty")
    } else if text.len() > MAX_TEXT {
        Some("is longer than 4095 bytes")
    } else if text.contains(char::is_control) {
        Some("has control characters in it")
    } else {
        None
    }
}

/// The same path without what adds nothing; empty for the root. `None` if it
/// goes up.
fn canonical(path: &str) -> Option<String> {
    let mut canonical = String::new();
    for component in path.split('/') {
        match component {
            "" | "." => {}
            ".." => return None,
            component => {
                canonical.push('/');
                canonical.push_str(component);
            }
        }
    }
    Some(canonical)
}

/// Where a hierarchy of cgroups is mounted.
struct CgroupMount {
    mount_point: String,
    /// The cgroup that is seen there; empty for the root.
    root: String,
}

impl CgroupMount {
    /// The cgroup that a folder of this mount stands for.
    fn path_in_hierarchy(&self, folder: &str) -> Option<String> {
        let below = folder.strip_prefix(&self.mount_point)?;
        (below.is_empty() || below.starts_with('/')).then(|| self.root.clone() + below)
    }
}

fn mounts() -> Vec<CgroupMount> {
    // Without it, paths are taken as they are.
    let mountinfo = fs::read("/proc/self/mountinfo").unwrap_or_default();
    mounts_in(&String::from_utf8_lossy(&mountinfo))
}

/// The mounts of the hierarchies whose paths count: version 2, and systemd's.
fn mounts_in(mountinfo: &str) -> Vec<CgroupMount> {
    mountinfo
        .lines()
        // Line by line: any user's mount may have a strange one.
        .filter_map(|line| MountInfo::from_line(line).ok())
        .filter(|mount| match mount.fs_type.as_str() {
            "cgroup2" => true,
            "cgroup" => mount.super_options.get("name") == Some(&Some("systemd".to_owned())),
            _ => false,
        })
        .filter_map(|mount| {
            Some(CgroupMount {
                mount_point: canonical(mount.mount_point.to_str()?)?,
                root: canonical(&mount.root)?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use v1::target::Selector as Wire;

    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw
nonsense
";
    const UNIFIED: &str = "29 23 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw\n";
    const PART: &str = "29 23 0:26 /outer /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";

    fn cgroup(path: &str, mountinfo: &str) -> String {
        match Selector::cgroup(path, &mounts_in(mountinfo)) {
            Ok(Selector::Cgroup(path)) => path,
            other => panic!("{other:?}"),
        }
    }

    fn reason(selector: Wire) -> &'static str {
        let error = Selector::parse(&selector).unwrap_err();
        let message = error.to_string();
        assert!(message.len() < 300, "{message}");
        assert!(!message.contains(char::is_control), "{message}");
        error.reason()
    }

    #[test]
    fn valid_selectors_have_one_form() {
        let cases = [
            (Wire::Pid(42), Selector::Pid(42), "pid 42"),
            (
                Wire::Name("mariadbd".into()),
                Selector::Name("mariadbd".into()),
                "name mariadbd",
            ),
            (Wire::Port(65_535), Selector::Port(65_535), "port 65535"),
            (
                Wire::Cgroup("//system.slice/./x/".into()),
                Selector::Cgroup("/system.slice/x".into()),
                "cgroup /system.slice/x",
            ),
            (
                Wire::Unit("postgresql@15-main.service".into()),
                Selector::Unit("postgresql@15-main.service".into()),
                "unit postgresql@15-main.service",
            ),
            (
                Wire::Container("0123456789AB".into()),
                Selector::Container("0123456789ab".into()),
                "container 0123456789ab",
            ),
        ];
        for (wire, selector, text) in cases {
            assert_eq!(Selector::parse(&wire).unwrap(), selector);
            assert_eq!(selector.to_string(), text);
            assert_eq!(selector.is_rule(), selector != Selector::Pid(42));
        }
        assert!(Selector::parse(&Wire::Name("x".repeat(4095))).is_ok());
        assert!(Selector::parse(&Wire::Container("0".repeat(64))).is_ok());
    }

    #[test]
    fn what_selects_nothing_is_refused_with_a_short_reason() {
        for pid in [0, 1 << 31, u32::MAX] {
            assert_eq!(reason(Wire::Pid(pid)), "PID_INVALID");
        }
        for port in [0, 65_536, u32::MAX] {
            assert_eq!(reason(Wire::Port(port)), "PORT_INVALID");
        }
        let long = "x".repeat(4096);
        for name in ["", "a\0b", "a\nb", "\x1b[2J", &long] {
            assert_eq!(reason(Wire::Name(name.into())), "NAME_INVALID");
        }
        let long = "/x".repeat(2048);
        for path in ["", "/", "//.", "a/b", "/a/../b", "/..", "/a\tb", &long] {
            assert_eq!(reason(Wire::Cgroup(path.into())), "CGROUP_INVALID");
        }
        let long = "x".repeat(4096) + ".service";
        for unit in [
            "",
            "mariadb",
            ".service",
            "/x.service",
            "x.timer",
            "a\nb.service",
            &long,
        ] {
            assert_eq!(reason(Wire::Unit(unit.into())), "UNIT_INVALID");
        }
        let long = "0".repeat(65);
        for id in ["", "0123456789a", "mariadb-main-1", "0123456789ag", &long] {
            assert_eq!(reason(Wire::Container(id.into())), "CONTAINER_INVALID");
        }
    }

    #[test]
    fn a_folder_of_the_mounted_hierarchy_is_its_cgroup() {
        assert_eq!(cgroup("/sys/fs/cgroup/a/b/", UNIFIED), "/a/b");
        assert_eq!(cgroup("/a/b", UNIFIED), "/a/b");
        assert_eq!(cgroup("/sys/fs/cgroups/a", UNIFIED), "/sys/fs/cgroups/a");
        for mount in ["unified", "systemd"] {
            let folder = format!("/sys/fs/cgroup/{mount}/a");
            assert_eq!(cgroup(&folder, HYBRID), "/a");
        }
        // Another hierarchy's paths say nothing about this one's.
        let memory = "/sys/fs/cgroup/memory/a";
        assert_eq!(cgroup(memory, HYBRID), memory);
        assert_eq!(cgroup("/sys/fs/cgroup/a", PART), "/outer/a");
        assert_eq!(cgroup("/sys/fs/cgroup", PART), "/outer");
        assert_eq!(cgroup("/a", ""), "/a");
        let both =
            "1 1 0:1 / /mnt rw - cgroup2 x rw\n2 1 0:1 /outer/long /mnt/b rw - cgroup2 x rw\n";
        assert_eq!(cgroup("/mnt/b/c", both), "/outer/long/c");
    }

    #[test]
    fn the_root_of_the_mounted_hierarchy_is_everything_and_refused() {
        for path in ["/sys/fs/cgroup", "/sys/fs/cgroup/", "/"] {
            let error = Selector::cgroup(path, &mounts_in(UNIFIED)).unwrap_err();
            assert!(error.to_string().contains("every process"), "{error}");
        }
    }
}
