//! The role that each method takes.
//!
//! Whatever is not in the table is refused: a method that is added to the API and not
//! here, and a path that only looks like one of these.
#![forbid(unsafe_code)]

use super::Role;

/// Exact paths, and the least role.
const TABLE: [(&str, Role); 10] = [
    ("/netio.v1.NetIoService/Subscribe", Role::Observe),
    ("/netio.v1.NetIoService/ListWatches", Role::Observe),
    ("/netio.v1.NetIoService/Discover", Role::Observe),
    ("/netio.v1.NetIoService/GetCollectorInfo", Role::Observe),
    ("/netio.v1.NetIoService/Watch", Role::Watch),
    // Of one's own; admin: of anybody's.
    ("/netio.v1.NetIoService/Unwatch", Role::Watch),
    ("/netio.v1.NetIoService/RenewWatches", Role::Watch),
    ("/grpc.health.v1.Health/Check", Role::Observe),
    ("/grpc.health.v1.Health/Watch", Role::Observe),
    (
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        Role::Observe,
    ),
];

/// The method's name and the role that it takes; `path` with a query, if it has one.
pub(super) fn entry(path: &str) -> Option<(&'static str, Role)> {
    let (path, role) = TABLE.into_iter().find(|(exact, _)| *exact == path)?;
    let name = path.rsplit('/').next().unwrap_or(path);
    Some((name, role))
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::*;

    /// The paths of a compiled API.
    fn paths(descriptors: &[u8]) -> Vec<String> {
        let set = FileDescriptorSet::decode(descriptors).unwrap();
        let mut paths = Vec::new();
        for file in set.file {
            for service in &file.service {
                for method in &service.method {
                    let (package, service) = (file.package(), service.name());
                    paths.push(format!("/{package}.{service}/{}", method.name()));
                }
            }
        }
        paths
    }

    #[test]
    fn every_method_that_is_served_has_an_entry_and_no_other_has() {
        let mut served: Vec<_> = [
            netio::v1::FILE_DESCRIPTOR_SET,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        ]
        .into_iter()
        .flat_map(paths)
        .collect();
        let mut listed: Vec<_> = TABLE.map(|(path, _)| path.to_owned()).into();
        served.sort();
        listed.sort();
        assert_eq!(listed, served);
    }

    #[test]
    fn fault_09_only_the_exact_path_is_found() {
        assert_eq!(
            entry("/netio.v1.NetIoService/Watch"),
            Some(("Watch", Role::Watch))
        );
        for path in [
            "",
            "/",
            "netio.v1.NetIoService/Watch",
            "//netio.v1.NetIoService/Watch",
            "/netio.v1.NetIoService//Watch",
            "/netio.v1.NetIoService/Watch/",
            "/netio.v1.NetIoService/Watch?",
            "/netio.v1.NetIoService/watch",
            "/NETIO.v1.NetIoService/Watch",
            "/netio.v1.NetIoService/W%61tch",
            "/netio.v1.NetIoService/./Watch",
            "/netio.v1.NetIoService/Watch ",
            "/netio.v2.NetIoService/Watch",
            "/netio.v1.NetIoService/Own",
        ] {
            assert_eq!(entry(path), None, "{path:?}");
        }
    }
}
