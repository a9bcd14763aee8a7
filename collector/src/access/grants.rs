//! Who is given which role.
//!
//! Takes the configuration's grants; tells which of them fit a caller, and how one for
//! somebody would be written.
#![forbid(unsafe_code)]

use std::{io, path::PathBuf};

use nix::unistd::Group;

use super::{Origin, Role};

/// A role for somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// What they may.
    pub role: Role,
    /// Who they are.
    pub to: Grantee,
}

/// Who is given a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grantee {
    /// On a Unix socket: the user with this id.
    Uid(u32),
    /// On a Unix socket: the processes of this group, primary or supplementary.
    Gid(u32),
    /// Over TLS: a certificate with this URI or DNS name among its subject's
    /// alternative names. A URI is compared exactly, a DNS name without case.
    San(String),
    /// Over TLS: a certificate with this common name, exactly.
    Cn(String),
    /// Anywhere: who gives a token of this file.
    Token {
        /// Names the owner of their watches: "token:NAME".
        name: String,
        /// One token a line.
        file: PathBuf,
    },
}

impl Grantee {
    pub(super) fn is_certificate(&self) -> bool {
        matches!(self, Self::San(_) | Self::Cn(_))
    }

    pub(super) fn is_local(&self) -> bool {
        matches!(self, Self::Uid(_) | Self::Gid(_))
    }

    /// Whether a connection fits by itself.
    pub(super) fn fits(&self, origin: &Origin) -> bool {
        match (self, origin) {
            (Self::Uid(granted), Origin::Unix { uid, .. }) => granted == uid,
            (Self::Gid(granted), Origin::Unix { gids, .. }) => gids.contains(granted),
            (Self::San(granted), Origin::Tls(_, Some(names))) => names.has_san(granted),
            (Self::Cn(granted), Origin::Tls(_, Some(names))) => names.has_cn(granted),
            _ => false,
        }
    }
}

/// The keys of a grant to this owner.
pub(super) fn written(owner: &str) -> String {
    match owner.split_once(':') {
        Some(("uid", uid)) => format!("uid = {uid}"),
        Some((key @ ("san" | "cn"), name)) => format!("{key} = {name:?}"),
        Some(("token", name)) => format!("token_file = \"...\" name = {name:?}"),
        _ => "and one of uid, gid, group, san, cn and token_file".to_owned(),
    }
}

/// The id of a group by its name, or by its number.
pub fn group_id(group: &str) -> Result<u32, String> {
    if let Ok(gid) = group.parse() {
        return Ok(gid);
    }
    match Group::from_name(group) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        Ok(None) => Err(format!(
            "is no group of this host: make it with groupadd --system {group}, or name another \
             (getent group)"
        )),
        Err(error) => {
            let error = io::Error::from(error);
            Err(format!("cannot be looked up as a group: {error}"))
        }
    }
}
