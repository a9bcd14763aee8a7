//! Reads what a `/proc/PID/cgroup` file tells: the cgroup, the systemd unit and
//! the container that a process is in.
//!
//! Takes the text of the file, a line for each hierarchy:
//! `ID:CONTROLLERS:PATH`, with `0::PATH` for version 2. Promises nothing about
//! control characters in what it produces: whoever made the cgroup named it.
#![forbid(unsafe_code)]

/// The path of the process's cgroup. On a host where version 2 is not in use,
/// mounted or not, the hierarchy of systemd's own counts in its place.
pub(super) fn cgroup_path(file: &str) -> Option<String> {
    let v2 = hierarchies(file).find(|it| it.id == "0" && it.controllers.is_empty());
    let systemd = || hierarchies(file).find(|it| it.controllers == "name=systemd");
    let counts = match v2 {
        Some(v2) if v2.path != "/" => Some(v2),
        Some(root) => systemd().or(Some(root)),
        None => systemd(),
    };
    counts.map(|it| it.path.to_owned())
}

/// Whether a path is that of this cgroup, or of one below it.
pub(super) fn lies_in(path: &str, cgroup: &str) -> bool {
    path.strip_prefix(cgroup)
        .is_some_and(|below| below.is_empty() || below.starts_with('/'))
}

/// Whether the process is in the cgroup of this systemd unit, or below it.
pub(super) fn is_of_unit(file: &str, unit: &str) -> bool {
    components(file).any(|component| unescaped(component) == unit)
}

/// The systemd unit of the process: the innermost service or scope.
pub(super) fn unit(file: &str) -> Option<String> {
    cgroup_path(file)?
        .rsplit('/')
        .map(unescaped)
        .find(|it| it.ends_with(".service") || it.ends_with(".scope"))
        .map(str::to_owned)
}

/// systemd puts a "_" before a unit's name that would pass for a file of the
/// cgroup, as "memory.service".
fn unescaped(component: &str) -> &str {
    component.strip_prefix('_').unwrap_or(component)
}

/// The ids of the containers that the process is in, the innermost last for each
/// hierarchy.
pub(super) fn container_ids(file: &str) -> impl Iterator<Item = &str> {
    components(file)
        // The process that looks after a container, of Podman or CRI-O, has its
        // id in a cgroup too, but is outside of it.
        .filter(|component| !component.contains("conmon"))
        .flat_map(|component| component.split(|c: char| !c.is_ascii_hexdigit()))
        .filter(|id| id.len() == ID_LENGTH)
}

/// Whether a prefix, in lower case, is this id's.
pub(super) fn begins_with(id: &str, prefix: &str) -> bool {
    id.get(..prefix.len())
        .is_some_and(|digits| digits.eq_ignore_ascii_case(prefix))
}

/// The id of the container that the process is in, the innermost.
pub(super) fn container_id(file: &str) -> Option<String> {
    file.lines()
        .find_map(|line| container_ids(line).last())
        .map(str::to_ascii_lowercase)
}

/// A container's id is a SHA-256 sum, in hexadecimal digits.
pub(super) const ID_LENGTH: usize = 64;

struct Hierarchy<'a> {
    id: &'a str,
    controllers: &'a str,
    path: &'a str,
}

fn hierarchies(file: &str) -> impl Iterator<Item = Hierarchy<'_>> {
    file.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':');
        Some(Hierarchy {
            id: fields.next()?,
            controllers: fields.next()?,
            path: fields.next()?,
        })
    })
}

fn components(file: &str) -> impl Iterator<Item = &str> {
    hierarchies(file).flat_map(|it| it.path.split('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const OTHER: &str = "f123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde0";

    const V2: &str = "0::/system.slice/mariadb.service\n";
    const V1: &str = "12:pids:/system.slice/mariadb.service\n\
        4:memory:/system.slice/mariadb.service\n\
        1:name=systemd:/system.slice/mariadb.service\n";
    const HYBRID: &str = "4:memory:/elsewhere\n\
        1:name=systemd:/system.slice/mariadb.service\n0::/\n";

    #[test]
    fn the_path_is_that_of_version_2_or_else_of_systemd_s_hierarchy() {
        let service = Some("/system.slice/mariadb.service".to_owned());
        for file in [V2, V1, HYBRID] {
            assert_eq!(cgroup_path(file), service, "{file}");
        }
        let both = "1:name=systemd:/a\n0::/b:c\n";
        assert_eq!(cgroup_path(both).as_deref(), Some("/b:c"));
        assert_eq!(cgroup_path("0::/\n").as_deref(), Some("/"));
        assert_eq!(cgroup_path("4:memory:/a\n"), None);
        assert_eq!(cgroup_path(""), None);
        assert_eq!(cgroup_path("nonsense"), None);
    }

    #[test]
    fn below_begins_at_the_end_of_a_component() {
        assert!(lies_in("/a/b", "/a/b"));
        assert!(lies_in("/a/b/c", "/a/b"));
        assert!(!lies_in("/a/bc", "/a/b"));
        assert!(!lies_in("/a", "/a/b"));
        assert!(!lies_in("/x/a/b", "/a/b"));
    }

    #[test]
    fn a_unit_is_a_component_in_any_hierarchy() {
        for file in [V2, V1, HYBRID] {
            assert!(is_of_unit(file, "mariadb.service"));
            assert!(is_of_unit(file, "system.slice"));
            assert!(!is_of_unit(file, "maria.service"));
            assert!(!is_of_unit(file, "adb.service"));
            assert_eq!(unit(file).as_deref(), Some("mariadb.service"));
        }
        let delegated = "0::/system.slice/db.service/workers/1\n";
        assert!(is_of_unit(delegated, "db.service"));
        assert_eq!(unit(delegated).as_deref(), Some("db.service"));
        let user = "0::/user.slice/user-1.slice/user@1.service/app.slice/db.service\n";
        assert_eq!(unit(user).as_deref(), Some("db.service"));
        let escaped = "0::/system.slice/_memory.service\n";
        assert!(is_of_unit(escaped, "memory.service"));
        assert_eq!(unit(escaped).as_deref(), Some("memory.service"));
        assert_eq!(unit("0::/a/b\n"), None);
    }

    #[test]
    fn every_runtime_s_way_to_name_a_container_is_known() {
        let paths = [
            format!("/docker/{ID}"),
            format!("/system.slice/docker-{ID}.scope"),
            format!("/system.slice/docker-{ID}.scope/init.scope"),
            format!("/machine.slice/libpod-{ID}.scope/container"),
            format!("/libpod_parent/libpod-{ID}"),
            format!("/kubepods.slice/kubepods-pod1a_2b.slice/cri-containerd-{ID}.scope"),
            format!("/kubepods.slice/kubepods-pod1a_2b.slice/crio-{ID}.scope"),
            format!("/kubepods/burstable/pod1a-2b/{ID}"),
            format!("/system.slice/kubepods-pod1a.slice:cri-containerd:{ID}"),
            format!("/docker/{OTHER}/kubelet/cri-containerd-{ID}.scope"),
        ];
        for path in paths {
            for file in [format!("0::{path}\n"), format!("4:memory:{path}\n0::/\n")] {
                assert_eq!(container_id(&file).as_deref(), Some(ID), "{file}");
                assert!(container_ids(&file).any(|id| id == ID), "{file}");
            }
        }
        let nested = format!("0::/docker/{OTHER}/docker/{ID}\n");
        let ids: Vec<_> = container_ids(&nested).collect();
        assert_eq!(ids, [OTHER, ID]);
    }

    #[test]
    fn what_only_looks_like_a_container_is_none() {
        let paths = [
            format!("/machine.slice/libpod-conmon-{ID}.scope"),
            format!("/system.slice/crio-conmon-{ID}.scope"),
            format!("/docker/{ID}0"),
            format!("/docker/{}", &ID[1..]),
            "/system.slice/docker.service".to_owned(),
            "/".to_owned(),
        ];
        for path in paths {
            assert_eq!(container_id(&format!("0::{path}\n")), None, "{path}");
        }
    }
}
