//! Who may do what.
//!
//! Takes who is at the other end of a connection ([`Origin`]), the grants of the
//! configuration, and of each call its exact method path and its token; produces the
//! [`Caller`], who owns the watches that it makes, or a [`Refusal`].
//!
//! Promises: a method that the [`table`] does not name, byte for byte, is refused to
//! everybody; a token that is given counts alone, so that a wrong one never falls back
//! to what the connection tells; and every refusal is an [`audit`] line.
//!
//! ```text
//! connection ─► Origin ─► Standing ─┐
//! authorization: Bearer … ─► Tokens ┴─► Role ─► table ─► Caller | Refusal
//! ```
#![forbid(unsafe_code)]

use std::{fmt, io, net::IpAddr, path::PathBuf};

use rustix::process::geteuid;

pub(crate) mod audit;
mod gate;
mod grants;
pub(crate) mod names;
pub(crate) mod reload;
mod table;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod tokens;

use audit::Audit;
pub(crate) use gate::{Gate, Gates};
pub use grants::{Grant, Grantee, group_id};
use names::Names;
use tokens::Tokens;

/// What a caller may do; each role may do what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// See: samples, watches, the collector, its databases and health.
    Observe,
    /// Also watch, and end and renew watches of its own.
    Watch,
    /// Also end watches of others.
    Admin,
}

impl Role {
    /// All, least first.
    pub const ALL: [Self; 3] = [Self::Observe, Self::Watch, Self::Admin];

    /// As the configuration has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Watch => "watch",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why the grants cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// A token file that is of no use.
    #[error("cannot take tokens from {path}: {why}", path = path.display())]
    Token {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The callers of two files would be one owner.
    #[error("two grants by token_file have the name {0:?}: give each a name of its own")]
    TokenName(String),
    /// Nobody could do anything over TLS.
    #[error(
        "over tls:// nobody could do anything: grant a role to a certificate's san or cn, or to a \
         token_file, such as --grant 'watch cn=netio-client'"
    )]
    NobodyOverTls,
    /// Nobody could prove who they are.
    #[error(
        "over tls:// nobody could prove who they are: give the CA of the clients' certificates \
         (--tls-client-ca), or grant a role to a token_file"
    )]
    NoProof,
}

/// How a caller reached the collector.
pub(crate) enum Origin {
    InProcess,
    /// By SO_PEERCRED; the groups only where some grant is to a group.
    Unix {
        uid: u32,
        gids: Vec<u32>,
    },
    /// Over TCP without TLS, so from this host.
    Tcp(IpAddr),
    /// With a certificate of the clients' CA, or none.
    Tls(IpAddr, Option<Names>),
}

/// What a connection is allowed by itself, before any token.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    pub(crate) owner: String,
    role: Option<Role>,
    /// Nothing proves who calls.
    is_anonymous: bool,
}

impl Standing {
    /// Whether the connection itself proves or is allowed something.
    pub(crate) fn is_proof(&self) -> bool {
        !self.is_anonymous || self.role.is_some()
    }
}

/// Who calls, and may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    /// "uid:N", "san:NAME", "cn:NAME", "token:NAME", "ip:ADDRESS" or "in-process".
    pub(crate) owner: String,
    pub(crate) role: Role,
}

/// Why a call is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error(
        "the collector cannot tell who calls: give a client certificate (netio-client \
         --tls-cert and --tls-key) or a token (--token-file); whoever runs the collector grants \
         roles to them, by [[grant]] in its configuration"
    )]
    Unknown,
    #[error(
        "the token is none of this collector's: compare it with the token_file of a [[grant]] in \
         the collector's configuration, or leave it out"
    )]
    Token,
    #[error(
        "{owner} has {has} and {method} takes the role {needed}: whoever runs the collector can \
         add to its configuration: [[grant]] role = \"{needed}\" {grantee}"
    )]
    Role {
        method: &'static str,
        owner: String,
        has: Has,
        needed: Role,
        grantee: String,
    },
    #[error(
        "there is no such method, so nobody may call it: compare the versions of the client and \
         the collector"
    )]
    Method,
}

/// A role or none, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Has(pub(crate) Option<Role>);

impl fmt::Display for Has {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(role) => write!(f, "the role {role}"),
            None => f.write_str("no role"),
        }
    }
}

/// The grants, and the tokens that belong to them.
#[derive(Debug)]
pub(crate) struct Access {
    grants: Vec<Grant>,
    tokens: Tokens,
    pub(crate) audit: Audit,
}

impl Access {
    /// Reads the token files.
    pub(crate) fn new(grants: Vec<Grant>) -> Result<Self, AccessError> {
        Ok(Self {
            tokens: Tokens::read(&grants)?,
            grants,
            audit: Audit::default(),
        })
    }

    /// Fails if TLS would be in vain; tells whether a certificate can be done without.
    pub(crate) fn check_tls(&self, has_client_ca: bool) -> Result<bool, AccessError> {
        let has_tokens = !self.tokens.files().is_empty();
        if !has_client_ca && !has_tokens {
            return Err(AccessError::NoProof);
        }
        if !has_tokens && !self.grants.iter().any(|it| it.to.is_certificate()) {
            return Err(AccessError::NobodyOverTls);
        }
        Ok(has_tokens)
    }

    /// Whether groups matter.
    pub(crate) fn asks_for_groups(&self) -> bool {
        self.grants
            .iter()
            .any(|it| matches!(it.to, Grantee::Gid(_)))
    }

    pub(crate) fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// What a connection is allowed by itself.
    pub(crate) fn standing(&self, origin: &Origin) -> Standing {
        let granted = || {
            let grants = self.grants.iter();
            let fitting = grants.filter(|grant| grant.to.fits(origin));
            fitting.map(|grant| grant.role).max()
        };
        let (owner, role, is_anonymous) = match origin {
            Origin::InProcess => ("in-process".to_owned(), Some(Role::Watch), false),
            Origin::Unix { uid, .. } => {
                let role = if *uid == 0 || *uid == geteuid().as_raw() {
                    Some(Role::Admin)
                } else if self.grants.iter().any(|it| it.to.is_local()) {
                    granted()
                } else {
                    // Whom the socket's permissions let in.
                    Some(Role::Watch)
                };
                (format!("uid:{uid}"), role, false)
            }
            Origin::Tcp(ip) => {
                let role = self.grants.is_empty().then_some(Role::Watch);
                (by_address(*ip), role, true)
            }
            Origin::Tls(ip, names) => {
                let name = names.as_ref().and_then(Names::owner);
                let is_anonymous = name.is_none();
                let owner = name.unwrap_or_else(|| by_address(*ip));
                (owner, granted(), is_anonymous)
            }
        };
        Standing {
            owner,
            role,
            is_anonymous,
        }
    }

    /// Whether somebody may call a method. `path` is the request's, as it came; `token`
    /// what its authorization header holds.
    pub(crate) fn admit(
        &self,
        path: &str,
        standing: &Standing,
        token: Option<&[u8]>,
    ) -> Result<Caller, Refusal> {
        let named;
        let standing = match token {
            None => standing,
            Some(token) => {
                let (name, role) = self.tokens.find(token).ok_or(Refusal::Token)?;
                named = Standing {
                    owner: format!("token:{name}"),
                    role: Some(role),
                    is_anonymous: false,
                };
                &named
            }
        };
        let (method, needed) = match table::entry(path) {
            _ if !standing.is_proof() => return Err(Refusal::Unknown),
            None => return Err(Refusal::Method),
            Some(entry) => entry,
        };
        match standing.role {
            Some(role) if role >= needed => Ok(Caller {
                owner: standing.owner.clone(),
                role,
            }),
            role => Err(Refusal::Role {
                method,
                owner: standing.owner.clone(),
                has: Has(role),
                needed,
                grantee: grants::written(&standing.owner),
            }),
        }
    }
}

fn by_address(ip: IpAddr) -> String {
    format!("ip:{}", ip.to_canonical())
}

/// At most so many bytes of a file that should be small.
const LARGEST_FILE: u64 = 1 << 20;

/// The whole of a small file.
pub(crate) fn read_small(path: &std::path::Path) -> io::Result<Vec<u8>> {
    use io::Read as _;
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path)?;
    file.take(LARGEST_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST_FILE {
        let why = format!("it is larger than {LARGEST_FILE} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
    }
    Ok(bytes)
}
