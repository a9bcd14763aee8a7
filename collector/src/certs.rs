//! Certificates for a trial: a CA, and a pair each for the collector and a client.
//!
//! Takes a folder and names, writes PEM files there. Promises: nothing that is there is
//! written over, and if one file cannot be made, none is left; keys can be read by their
//! owner only. For more than a trial, use the CA that the site has.
#![forbid(unsafe_code)]

use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use time::OffsetDateTime;

/// How long the certificates are good for.
pub const VALIDITY: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// For clocks that are behind.
const BEFORE: Duration = Duration::from_secs(60 * 60);
/// Secrets.
const KEY_MODE: u32 = 0o600;
const MODE: u32 = 0o644;
const FOLDER_MODE: u32 = 0o755;

/// The files, by what they hold.
#[derive(Clone, Debug)]
pub struct Files {
    /// The CA's certificate, by which each side knows the other.
    pub ca: PathBuf,
    /// The CA's key, needed only to make more certificates.
    pub ca_key: PathBuf,
    /// The collector's certificate.
    pub server: PathBuf,
    /// And its key.
    pub server_key: PathBuf,
    /// A client's certificate.
    pub client: PathBuf,
    /// And its key.
    pub client_key: PathBuf,
}

impl Files {
    fn new(folder: &Path) -> Self {
        let path = |name| folder.join(name);
        Self {
            ca: path("ca.pem"),
            ca_key: path("ca-key.pem"),
            server: path("server.pem"),
            server_key: path("server-key.pem"),
            client: path("client.pem"),
            client_key: path("client-key.pem"),
        }
    }
}

/// Why there are no certificates.
#[derive(Debug, thiserror::Error)]
pub enum CertsError {
    /// A file is there, or cannot be made.
    #[error("cannot make {path}: {source}{next}", path = path.display(), next = next(source))]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A name that cannot be in a certificate, or no randomness.
    #[error("cannot make a certificate for {name:?}: {source}")]
    Certificate {
        /// Whose.
        name: String,
        /// Why.
        source: rcgen::Error,
    },
}

fn next(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AlreadyExists => {
            "; nothing is written over: remove it, or name another folder"
        }
        _ => "",
    }
}

/// Makes them in `folder`, which is made if it is missing. `hosts` are the names and
/// addresses by which clients will reach the collector, `client` is the common name in
/// the client's certificate.
pub fn init(folder: &Path, hosts: &[String], client: &str) -> Result<Files, CertsError> {
    let files = Files::new(folder);
    fs::DirBuilder::new()
        .recursive(true)
        .mode(FOLDER_MODE)
        .create(folder)
        .map_err(|source| file_error(folder, source))?;
    let of = |name: &str| {
        let name = name.to_owned();
        move |source| CertsError::Certificate { name, source }
    };

    let key = KeyPair::generate().map_err(of("the CA"))?;
    // A name of its own, so that another CA's certificate is told from a forged one.
    let id = key.public_key_raw().iter().rev().take(4);
    let id: String = id.map(|byte| format!("{byte:02x}")).collect();
    let mut params = named(&format!("netio trial CA {id}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca = params.self_signed(&key).map_err(of("the CA"))?;
    let ca_key = key.serialize_pem();
    let issuer = Issuer::new(params, key);

    let all = hosts.join(", ");
    let mut params = named("netio-collector");
    params.subject_alt_names = CertificateParams::new(hosts)
        .map_err(of(&all))?
        .subject_alt_names;
    let (server, server_key) =
        leaf(params, ExtendedKeyUsagePurpose::ServerAuth, &issuer).map_err(of(&all))?;
    let (client, client_key) =
        leaf(named(client), ExtendedKeyUsagePurpose::ClientAuth, &issuer).map_err(of(client))?;

    write_all(&[
        (&files.ca, &ca.pem(), MODE),
        (&files.ca_key, &ca_key, KEY_MODE),
        (&files.server, &server, MODE),
        (&files.server_key, &server_key, KEY_MODE),
        (&files.client, &client, MODE),
        (&files.client_key, &client_key, KEY_MODE),
    ])?;
    Ok(files)
}

fn named(common_name: &str) -> CertificateParams {
    let now = OffsetDateTime::now_utc();
    let mut params = CertificateParams::default();
    params.not_before = now - BEFORE;
    params.not_after = now + VALIDITY;
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params
}

/// The certificate and its key.
fn leaf(
    mut params: CertificateParams,
    purpose: ExtendedKeyUsagePurpose,
    issuer: &Issuer<'_, KeyPair>,
) -> Result<(String, String), rcgen::Error> {
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![purpose];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, issuer)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

/// All or none.
fn write_all(files: &[(&PathBuf, &String, u32)]) -> Result<(), CertsError> {
    for (number, (path, text, mode)) in files.iter().enumerate() {
        // Neither an existing file nor a link is opened.
        let mut made = fs::OpenOptions::new();
        made.write(true).create_new(true).mode(*mode);
        let opened = made.open(path);
        let is_made = opened.is_ok();
        let written = opened.and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        });
        if let Err(source) = written {
            let made = number + usize::from(is_made);
            for (path, ..) in files.iter().take(made) {
                let _ = fs::remove_file(path);
            }
            return Err(file_error(path, source));
        }
    }
    Ok(())
}

fn file_error(path: &Path, source: io::Error) -> CertsError {
    let path = path.to_owned();
    CertsError::File { path, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries
            .map(|it| it.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn keys_are_their_owners_and_nothing_is_written_over() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("made/here");
        let hosts = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let files = init(&folder, &hosts, "me").unwrap();
        for key in [&files.ca_key, &files.server_key, &files.client_key] {
            let mode = fs::metadata(key).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, KEY_MODE, "{}", key.display());
        }
        assert_eq!(names(&folder).len(), 6);

        let before = fs::read(&files.ca).unwrap();
        let refused = init(&folder, &hosts, "me").unwrap_err().to_string();
        assert!(refused.contains("nothing is written over"), "{refused}");
        assert_eq!(fs::read(&files.ca).unwrap(), before);
        // All or none.
        for made in [&files.ca, &files.ca_key, &files.server, &files.server_key] {
            fs::remove_file(made).unwrap();
        }
        init(&folder, &hosts, "me").unwrap_err();
        assert_eq!(names(&folder), ["client-key.pem", "client.pem"]);
    }

    #[test]
    fn a_name_that_cannot_be_is_explained() {
        let root = tempfile::tempdir().unwrap();
        let refused = init(root.path(), &["hö st".to_owned()], "me").unwrap_err();
        assert!(refused.to_string().contains("hö st"), "{refused}");
        assert_eq!(names(root.path()), [""; 0]);
    }
}
