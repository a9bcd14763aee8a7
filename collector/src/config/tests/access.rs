//! Grants and the files of TLS, from every place.

use std::path::PathBuf;

use super::load;
use crate::{Grant, Grantee, Role, TlsFiles};

fn grant(role: Role, to: Grantee) -> Grant {
    Grant { role, to }
}

fn token(name: &str, file: &str) -> Grantee {
    let (name, file) = (name.to_owned(), file.into());
    Grantee::Token { name, file }
}

#[test]
fn grants_are_words_of_a_flag_or_tables_of_the_file() {
    let expected = [
        grant(Role::Watch, Grantee::Uid(1000)),
        grant(Role::Observe, Grantee::Gid(7)),
        grant(Role::Admin, Grantee::Gid(0)),
        grant(Role::Watch, Grantee::San("spiffe://a/b=c".to_owned())),
        grant(Role::Watch, Grantee::Cn("some body".to_owned())),
        grant(Role::Observe, token("grafana", "/etc/netio/grafana.token")),
    ];
    let flags = [
        "--grant=watch uid=1000",
        "--grant=observe gid=7",
        "--grant=admin group=root",
        "--grant=watch san=spiffe://a/b=c",
        "--grant=watch cn=some body",
        "--grant=observe token_file=/etc/netio/grafana.token",
    ];
    let file = r#"
        [[grant]]
        role = "watch"
        uid = 1000
        [[grant]]
        role = "observe"
        gid = 7
        [[grant]]
        role = "admin"
        group = "root"
        [[grant]]
        role = "watch"
        san = "spiffe://a/b=c"
        [[grant]]
        role = "watch"
        cn = "some body"
        [[grant]]
        role = "observe"
        token_file = "/etc/netio/grafana.token"
    "#;
    assert_eq!(load(&flags, &[], "").unwrap().options.grants, expected);
    assert_eq!(load(&[], &[], file).unwrap().options.grants, expected);
    // Flags are in the place of the file's.
    let one = load(&flags[..1], &[], file).unwrap();
    assert_eq!(one.options.grants, expected[..1]);
    let named = "[[grant]]\nrole = \"watch\"\ntoken_file = \"/t\"\nname = \"n\"";
    let named = load(&[], &[], named).unwrap().options.grants;
    assert_eq!(named, [grant(Role::Watch, token("n", "/t"))]);
}

#[test]
fn grants_that_say_too_little_or_too_much_are_explained() {
    for (file, said) in [
        ("role = \"watch\"", "exactly one of uid"),
        ("uid = 1", "observe, watch and admin"),
        ("role = \"Watch\"\nuid = 1", "observe, watch and admin"),
        (
            "role = \"watch\"\nuid = 1\ncn = \"a\"",
            "exactly one of uid",
        ),
        ("role = \"watch\"\nuid = 1\nname = \"a\"", "token_file"),
        ("role = \"watch\"\nuser = \"a\"", "unknown field"),
        ("role = \"watch\"\ngroup = \"no-such-group\"", "groupadd"),
        (
            "role = \"watch\"\ntoken_file = \"/t\"\nname = \"a b\"",
            "letters",
        ),
    ] {
        let refused = load(&[], &[], &format!("[[grant]]\n{file}")).unwrap_err();
        assert!(refused.contains(said), "{file}: {refused}");
    }
    for words in ["watch", "watch uid", "watch uid=x", "watch user=a"] {
        let flag = format!("--grant={words}");
        let refused = load(&[&flag], &[], "").unwrap_err();
        assert!(refused.contains("--grant"), "{words}: {refused}");
    }
}

#[test]
fn the_files_of_tls_come_with_an_address_that_has_it() {
    let path = |name: &str| PathBuf::from(name);
    let all = TlsFiles {
        cert: path("/c"),
        key: path("/k"),
        client_ca: Some(path("/a")),
    };
    let flags = ["--tls-cert=/c", "--tls-key=/k", "--tls-client-ca=/a"];
    let listen = "--listen=tls://0.0.0.0:7443";
    let by_flags = [&flags[..], &[listen]].concat();
    assert_eq!(load(&by_flags, &[], "").unwrap().tls.unwrap(), all);
    let env = [
        ("NETIO_LISTEN", "tls://127.0.0.1:1"),
        ("NETIO_TLS_CERT", "/c"),
        ("NETIO_TLS_KEY", "/k"),
        ("NETIO_TLS_CLIENT_CA", "/a"),
    ];
    assert_eq!(load(&[], &env, "").unwrap().tls.unwrap(), all);
    let file = "listen = \"tls://127.0.0.1:1\"\ntls_cert = \"/c\"\ntls_key = \"/k\"\n\
                tls_client_ca = \"/a\"";
    assert_eq!(load(&[], &[], file).unwrap().tls.unwrap(), all);
    assert_eq!(load(&[], &[], "").unwrap().tls, None);

    let in_vain = load(&flags, &[], "").unwrap_err();
    assert!(in_vain.contains("--tls-cert: \"/c\""), "{in_vain}");
    assert!(in_vain.contains("--listen tls://HOST:PORT"), "{in_vain}");
    let lacking = load(&[listen, "--tls-cert=/c"], &[], "").unwrap_err();
    assert!(lacking.contains("certs init"), "{lacking}");
}

#[test]
fn variables_of_the_client_are_no_mistake() {
    let names = [
        "NETIO_CLIENT_TLS_CA",
        "NETIO_TLS_CERT",
        "NETIO_SOCKET_GROUP",
    ];
    let unknown = crate::config::unknown_variables(names.iter().map(Into::into));
    assert_eq!(unknown, Vec::<String>::new());
}
