//! Who may do what, as the configuration has it.
//!
//! Takes `--grant` flags and `[[grant]]` tables, the files of TLS and the group of the
//! Unix sockets; produces grants and files that fit the addresses to listen on.
#![forbid(unsafe_code)]

use std::{path::PathBuf, str::FromStr};

use super::{Address, ConfigError, Given, Origin, first};
use crate::{Grant, Grantee, Role, TlsFiles, group_id};

/// A `[[grant]]` table, or the words of a `--grant`.
#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct GivenGrant {
    role: String,
    uid: Option<u32>,
    gid: Option<u32>,
    group: Option<String>,
    san: Option<String>,
    cn: Option<String>,
    token_file: Option<PathBuf>,
    /// Of the owner of what is watched by these tokens.
    name: Option<String>,
}

/// "ROLE KEY=VALUE", such as "watch cn=netio-client".
impl FromStr for GivenGrant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = "write 'ROLE KEY=VALUE', such as 'watch cn=netio-client' or 'observe uid=1000'";
        let (role, granted) = text.split_once(' ').ok_or(form)?;
        let (key, value) = granted.split_once('=').ok_or(form)?;
        let mut given = Self {
            role: role.to_owned(),
            ..Self::default()
        };
        let number = || value.parse().map_err(|_| format!("{value:?} is no id"));
        let text = || Some(value.to_owned());
        match key.trim_start() {
            "uid" => given.uid = Some(number()?),
            "gid" => given.gid = Some(number()?),
            "group" => given.group = text(),
            "san" => given.san = text(),
            "cn" => given.cn = text(),
            "token_file" => given.token_file = Some(value.into()),
            _ => {
                let keys = "uid, gid, group, san, cn or token_file";
                return Err(format!("{key:?} is none of {keys}; {form}"));
            }
        }
        Ok(given)
    }
}

impl GivenGrant {
    fn grant(&self) -> Result<Grant, String> {
        let given = self.clone();
        let role = Role::ALL.into_iter().find(|it| it.name() == given.role);
        let role = role.ok_or("must have as role one of observe, watch and admin")?;
        if given.name.is_some() && given.token_file.is_none() {
            return Err("has a name, which is for those with a token_file".to_owned());
        }
        let group = given.group.map(|group| match group_id(&group) {
            Ok(gid) => Ok(Grantee::Gid(gid)),
            Err(why) => Err(format!("names a group that does not do: {group:?} {why}")),
        });
        let token = given.token_file.map(|file| token(file, given.name));
        let mut grantees = [
            given.uid.map(Grantee::Uid).map(Ok),
            given.gid.map(Grantee::Gid).map(Ok),
            group,
            given.san.map(Grantee::San).map(Ok),
            given.cn.map(Grantee::Cn).map(Ok),
            token,
        ]
        .into_iter()
        .flatten();
        match (grantees.next(), grantees.next()) {
            (Some(to), None) => Ok(Grant { role, to: to? }),
            _ => Err("must have exactly one of uid, gid, group, san, cn and token_file".to_owned()),
        }
    }
}

/// Named by its file, unless it is told otherwise.
fn token(file: PathBuf, name: Option<String>) -> Result<Grantee, String> {
    let stem = || Some(file.file_stem()?.to_str()?.to_owned());
    let name = name.or_else(stem).unwrap_or_default();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if !(1..=64).contains(&name.len()) || !name.chars().all(is_plain) {
        return Err(format!(
            "needs a name of 1 to 64 letters, digits, '.', '_' and '-', and has {name:?}"
        ));
    }
    Ok(Grantee::Token { name, file })
}

/// The grants of the first place that has any.
pub(super) fn grants(given: &[(Origin<'_>, Given)]) -> Result<Vec<Grant>, ConfigError> {
    let Some((origin, grants)) =
        first(given, |it| (!it.grant.is_empty()).then(|| it.grant.clone()))
    else {
        return Ok(Vec::new());
    };
    let grant = |it: &GivenGrant| {
        let bad = |why| origin.bad("grant", format_args!("{it:?}"), why);
        it.grant().map_err(bad)
    };
    grants.iter().map(grant).collect()
}

/// The group of the Unix sockets.
pub(super) fn socket_group(given: &[(Origin<'_>, Given)]) -> Result<Option<u32>, ConfigError> {
    let Some((origin, group)) = first(given, |it| it.socket_group.clone()) else {
        return Ok(None);
    };
    group_id(&group)
        .map(Some)
        .map_err(|why| origin.bad("socket_group", group, why))
}

/// The files of TLS: there if, and only if, some address has it.
pub(super) fn tls(
    given: &[(Origin<'_>, Given)],
    listen: &[Address],
) -> Result<Option<TlsFiles>, ConfigError> {
    let cert = first(given, |it| it.tls_cert.clone());
    let key = first(given, |it| it.tls_key.clone());
    let client_ca = first(given, |it| it.tls_client_ca.clone());
    let address = listen.iter().find_map(|it| match it {
        Address::Tls(address) => Some(address),
        _ => None,
    });
    let Some(address) = address else {
        let files = [
            ("tls_cert", cert),
            ("tls_key", key),
            ("tls_client_ca", client_ca),
        ];
        return match files.into_iter().find_map(|(key, it)| Some((key, it?))) {
            None => Ok(None),
            Some((key, (origin, path))) => {
                let why =
                    "is for addresses with TLS, and there is none: add --listen tls://HOST:PORT";
                Err(origin.bad(key, path.display(), why))
            }
        };
    };
    match (cert, key) {
        (Some((_, cert)), Some((_, key))) => Ok(Some(TlsFiles {
            cert,
            key,
            client_ca: client_ca.map(|(_, path)| path),
        })),
        _ => {
            let why = "needs a certificate and its key: give --tls-cert and --tls-key \
                       (netio-collector certs init DIR makes a set to try)";
            let (origin, _) = first(given, |it| (!it.listen.is_empty()).then_some(()))
                .unwrap_or((Origin::Flags, ()));
            Err(origin.bad("listen", format_args!("tls://{address}"), why))
        }
    }
}
