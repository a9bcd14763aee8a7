//! Who is let through: by what the connection tells, by token, and over the wire.

use std::{fs, path::Path};

use super::*;

pub(crate) mod wire;

const SERVICE: &str = "/netio.v1.NetIoService";
/// Methods by the least role that they take; for admin there are none of its own.
const BY_ROLE: [(Role, &[&str]); 2] = [
    (
        Role::Observe,
        &["Subscribe", "ListWatches", "Discover", "GetCollectorInfo"],
    ),
    (Role::Watch, &["Watch", "Unwatch", "RenewWatches"]),
];

fn grant(role: Role, to: Grantee) -> Grant {
    Grant { role, to }
}

/// Somebody who is neither root nor who runs the tests.
const SOMEBODY: u32 = 4_000_000_001;

fn unix(uid: u32, gids: &[u32]) -> Origin {
    let gids = gids.to_vec();
    Origin::Unix { uid, gids }
}

const IP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));

fn token(folder: &Path, name: &str, role: Role, token: &str) -> Grant {
    let file = folder.join(name);
    fs::write(&file, token).unwrap();
    let name = name.to_owned();
    grant(role, Grantee::Token { name, file })
}

/// What each role may: the method's answer for these grants.
fn admits(access: &Access, origin: &Origin, token: Option<&str>, method: &str) -> bool {
    let standing = access.standing(origin);
    let path = format!("{SERVICE}/{method}");
    let admitted = access.admit(&path, &standing, token.map(str::as_bytes));
    admitted.is_ok()
}

fn role(access: &Access, origin: &Origin) -> Option<Role> {
    access.standing(origin).role
}

#[test]
fn without_grants_the_socket_decides_and_loopback_is_open() {
    let access = Access::new(Vec::new()).unwrap();
    let own = geteuid().as_raw();
    assert_eq!(role(&access, &unix(0, &[])), Some(Role::Admin));
    assert_eq!(role(&access, &unix(own, &[])), Some(Role::Admin));
    assert_eq!(role(&access, &unix(SOMEBODY, &[])), Some(Role::Watch));
    assert_eq!(role(&access, &Origin::Tcp(IP)), Some(Role::Watch));
    assert_eq!(role(&access, &Origin::InProcess), Some(Role::Watch));
    assert_eq!(role(&access, &Origin::Tls(IP, None)), None);
    let named = Some(Names::default());
    assert_eq!(role(&access, &Origin::Tls(IP, named)), None);
    assert!(!access.asks_for_groups());
}

#[test]
fn grants_to_uids_and_gids_close_the_socket_to_others_but_root() {
    let access = Access::new(vec![
        grant(Role::Observe, Grantee::Gid(70)),
        grant(Role::Watch, Grantee::Uid(SOMEBODY)),
        grant(Role::Admin, Grantee::Gid(71)),
    ])
    .unwrap();
    assert!(access.asks_for_groups());
    assert_eq!(role(&access, &unix(0, &[])), Some(Role::Admin));
    assert_eq!(role(&access, &unix(SOMEBODY + 1, &[1, 2])), None);
    assert_eq!(
        role(&access, &unix(SOMEBODY + 1, &[1, 70])),
        Some(Role::Observe)
    );
    // The best of several.
    assert_eq!(role(&access, &unix(SOMEBODY, &[70])), Some(Role::Watch));
    assert_eq!(role(&access, &unix(SOMEBODY, &[70, 71])), Some(Role::Admin));
    // A grant of any kind closes loopback.
    assert_eq!(role(&access, &Origin::Tcp(IP)), None);
}

#[test]
fn grants_to_certificates_leave_the_socket_as_it_was() {
    let to = Grantee::Cn("c".to_owned());
    let access = Access::new(vec![grant(Role::Observe, to)]).unwrap();
    assert_eq!(role(&access, &unix(SOMEBODY, &[])), Some(Role::Watch));
    assert_eq!(role(&access, &Origin::Tcp(IP)), None);
}

#[test]
fn each_role_may_call_what_the_table_says() {
    for role in Role::ALL {
        let access = Access::new(vec![grant(role, Grantee::Uid(SOMEBODY))]).unwrap();
        for (least, methods) in BY_ROLE {
            for method in methods {
                let may = admits(&access, &unix(SOMEBODY, &[]), None, method);
                assert_eq!(may, role >= least, "{role} {method}");
                let may = admits(&access, &unix(SOMEBODY + 1, &[]), None, method);
                assert!(!may, "no role, {method}");
            }
        }
    }
}

#[test]
fn a_token_counts_alone() {
    let folder = tempfile::tempdir().unwrap();
    let secret = "0123456789abcdef-of-a";
    let access = Access::new(vec![token(folder.path(), "a", Role::Observe, secret)]).unwrap();
    let own = unix(geteuid().as_raw(), &[]);
    assert!(admits(&access, &own, None, "Watch"));
    assert!(
        !admits(&access, &own, Some(secret), "Watch"),
        "it has observe"
    );
    assert!(admits(&access, &own, Some(secret), "ListWatches"));
    assert!(!admits(&access, &own, Some("wrong"), "ListWatches"));
    let standing = access.standing(&Origin::Tls(IP, None));
    let path = format!("{SERVICE}/ListWatches");
    let caller = access.admit(&path, &standing, Some(secret.as_bytes()));
    assert_eq!(caller.unwrap().owner, "token:a");
    let unknown = access.admit(&path, &standing, None);
    assert_eq!(unknown, Err(Refusal::Unknown));
}

#[test]
fn a_refusal_says_which_grant_is_lacking_and_where() {
    let access = Access::new(vec![grant(Role::Observe, Grantee::Uid(SOMEBODY))]).unwrap();
    let standing = access.standing(&unix(SOMEBODY, &[]));
    let path = format!("{SERVICE}/Watch");
    let refused = access
        .admit(&path, &standing, None)
        .unwrap_err()
        .to_string();
    let hint = format!("[[grant]] role = \"watch\" uid = {SOMEBODY}");
    assert!(
        refused.contains("has the role observe and Watch"),
        "{refused}"
    );
    assert!(refused.contains(&hint), "{refused}");
    let standing = access.standing(&unix(SOMEBODY + 1, &[]));
    let refused = access
        .admit(&path, &standing, None)
        .unwrap_err()
        .to_string();
    assert!(refused.contains("has no role"), "{refused}");
    for (owner, keys) in [
        ("san:spiffe://x/y", "san = \"spiffe://x/y\""),
        ("cn:a \"b\"", "cn = \"a \\\"b\\\"\""),
        ("token:t", "token_file = \"...\" name = \"t\""),
    ] {
        assert_eq!(grants::written(owner), keys);
    }
}

#[test]
fn tls_that_nobody_could_use_is_refused() {
    let check = |grants: Vec<Grant>, has_ca| {
        let checked = Access::new(grants).unwrap().check_tls(has_ca);
        checked.map_err(|error| error.to_string())
    };
    assert!(
        check(vec![], false)
            .unwrap_err()
            .contains("--tls-client-ca")
    );
    assert!(check(vec![], true).unwrap_err().contains("--grant"));
    let local = vec![grant(Role::Admin, Grantee::Uid(1))];
    assert!(check(local, true).unwrap_err().contains("--grant"));
    let by_cn = vec![grant(Role::Observe, Grantee::Cn("c".to_owned()))];
    assert_eq!(check(by_cn, true), Ok(false), "certificates are required");
    let folder = tempfile::tempdir().unwrap();
    let by_token = token(folder.path(), "t", Role::Observe, "0123456789abcdef");
    assert_eq!(check(vec![by_token.clone()], false), Ok(true));
    assert_eq!(check(vec![by_token], true), Ok(true));
}

#[test]
fn groups_are_found_by_name_and_number() {
    assert_eq!(group_id("root"), Ok(0));
    assert_eq!(group_id("12345"), Ok(12_345));
    let refused = group_id("no-such-group-here").unwrap_err();
    assert!(refused.contains("groupadd"), "{refused}");
}
