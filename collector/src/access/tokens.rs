//! The tokens of those who have no certificate.
//!
//! Takes token files, one token a line, so that an old and a new one can hold at once;
//! tells whose a token is. Promises: comparing takes as long for a token that is nearly
//! right as for one that is wholly wrong; a file that is changed to something of no use
//! leaves the tokens as they were.
#![forbid(unsafe_code)]

use std::{
    collections::BTreeSet,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use subtle::ConstantTimeEq as _;
use tracing::warn;

use super::{AccessError, Grant, Grantee, Role, read_small, reload::Reload};

/// Shorter ones could be guessed.
const SHORTEST: usize = 16;
const LONGEST: usize = 1024;
/// Tokens of one file.
const MOST: usize = 16;

/// All token files.
#[derive(Debug, Default)]
pub(crate) struct Tokens(Vec<Arc<TokenFile>>);

/// One file and what it held when it was last of use.
pub(crate) struct TokenFile {
    name: String,
    role: Role,
    path: PathBuf,
    tokens: RwLock<Vec<Vec<u8>>>,
}

impl std::fmt::Debug for TokenFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Without the tokens.
        write!(f, "TokenFile({})", self.path.display())
    }
}

impl Tokens {
    /// Reads the files of the grants that have one.
    pub(super) fn read(grants: &[Grant]) -> Result<Self, AccessError> {
        let mut names = BTreeSet::new();
        let mut files = Vec::new();
        for grant in grants {
            let Grantee::Token { name, file } = &grant.to else {
                continue;
            };
            if !names.insert(name) {
                return Err(AccessError::TokenName(name.clone()));
            }
            let tokens = read(file).map_err(|why| AccessError::Token {
                path: file.clone(),
                why,
            })?;
            files.push(Arc::new(TokenFile {
                name: name.clone(),
                role: grant.role,
                path: file.clone(),
                tokens: RwLock::new(tokens),
            }));
        }
        Ok(Self(files))
    }

    pub(crate) fn files(&self) -> &[Arc<TokenFile>] {
        &self.0
    }

    /// Whose token this is, and what they may.
    pub(super) fn find(&self, token: &[u8]) -> Option<(&str, Role)> {
        let file = self.0.iter().find(|file| file.holds(token))?;
        Some((&file.name, file.role))
    }
}

impl TokenFile {
    fn holds(&self, token: &[u8]) -> bool {
        let tokens = self.tokens.read().unwrap_or_else(PoisonError::into_inner);
        tokens.iter().any(|it| it.ct_eq(token).into())
    }
}

impl Reload for TokenFile {
    fn paths(&self) -> Vec<PathBuf> {
        vec![self.path.clone()]
    }

    fn reload(&self) -> Result<(), String> {
        let tokens = read(&self.path)?;
        warn_if_open(&self.path);
        *self.tokens.write().unwrap_or_else(PoisonError::into_inner) = tokens;
        Ok(())
    }
}

fn read(path: &Path) -> Result<Vec<Vec<u8>>, String> {
    let bytes = read_small(path).map_err(|error| error.to_string())?;
    let lines = bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let tokens: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
    if tokens.is_empty() {
        return Err("it is empty: write a token into it, as by openssl rand -hex 32".to_owned());
    }
    if tokens.len() > MOST {
        return Err(format!("it has more than {MOST} lines, each a token"));
    }
    for token in &tokens {
        if !(SHORTEST..=LONGEST).contains(&token.len()) {
            return Err(format!(
                "a token has {} bytes: write one of {SHORTEST} to {LONGEST}, as by openssl rand \
                 -hex 32",
                token.len()
            ));
        }
        if !token.iter().all(u8::is_ascii_graphic) {
            return Err("a token holds something else than visible ASCII characters".to_owned());
        }
    }
    Ok(tokens.into_iter().map(<[u8]>::to_vec).collect())
}

/// A secret that everybody may read is none.
pub(crate) fn warn_if_open(path: &Path) {
    if let Ok(metadata) = std::fs::metadata(path)
        && metadata.permissions().mode() & 0o007 != 0
    {
        let path = path.display();
        warn!("{path} holds a secret, and every user may read or change it: chmod o= {path}");
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn grant(name: &str, role: Role, file: &Path) -> Grant {
        let (name, file) = (name.to_owned(), file.to_owned());
        let to = Grantee::Token { name, file };
        Grant { role, to }
    }

    #[test]
    fn a_token_is_found_whole_and_a_bad_change_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let [one, two] = ["one", "two"].map(|it| folder.path().join(it));
        fs::write(&one, "  first-token-of-one\n\nsecond-token-of-one\r\n").unwrap();
        fs::write(&two, "only-token-of-two!").unwrap();
        let grants = [
            grant("a", Role::Observe, &one),
            grant("b", Role::Admin, &two),
        ];
        let tokens = Tokens::read(&grants).unwrap();
        let find = |token: &str| tokens.find(token.as_bytes());
        assert_eq!(find("first-token-of-one"), Some(("a", Role::Observe)));
        assert_eq!(find("second-token-of-one"), Some(("a", Role::Observe)));
        assert_eq!(find("only-token-of-two!"), Some(("b", Role::Admin)));
        for wrong in [
            "",
            "first-token-of-on",
            "first-token-of-one ",
            "FIRST-TOKEN-OF-ONE",
        ] {
            assert_eq!(find(wrong), None, "{wrong:?}");
        }

        let file = &tokens.files()[0];
        for bad in [
            "",
            "\n\n",
            "short",
            "long-enough-and-b\u{e4}d",
            "a token with spaces in it",
        ] {
            fs::write(&one, bad).unwrap();
            file.reload().unwrap_err();
            assert!(find("first-token-of-one").is_some(), "{bad:?}");
        }
        fs::write(&one, "the-next-token-of-one").unwrap();
        file.reload().unwrap();
        assert_eq!(find("first-token-of-one"), None);
        assert_eq!(find("the-next-token-of-one"), Some(("a", Role::Observe)));
    }

    #[test]
    fn files_of_no_use_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let refused = |grants: &[Grant]| Tokens::read(grants).unwrap_err().to_string();
        let one = grant("a", Role::Watch, &path);
        assert!(refused(std::slice::from_ref(&one)).contains("No such file"));
        fs::write(&path, "x\n").unwrap();
        assert!(refused(std::slice::from_ref(&one)).contains("openssl rand"));
        fs::write(&path, "t".repeat(1_100_000)).unwrap();
        assert!(refused(std::slice::from_ref(&one)).contains("larger"));
        fs::write(&path, "0123456789abcdef\n".repeat(17)).unwrap();
        assert!(refused(std::slice::from_ref(&one)).contains("16 lines"));
        fs::write(&path, "0123456789abcdef").unwrap();
        assert!(refused(&[one.clone(), one]).contains("name"));
    }
}
