//! TLS of the listeners that have it.
//!
//! Takes the files of the server's certificate and key and of the CA that signs the
//! clients' certificates; produces the configuration by which the next handshake is made.
//! Promises: TLS 1.3 only, HTTP/2 only; files that change are taken into use without a
//! restart, those of no use are not, and connections that are open go on. No session is
//! resumed, since a resumed one would not have its certificate checked again.
#![forbid(unsafe_code)]

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    version::TLS13,
};

use crate::access::{read_small, reload::Reload, tokens::warn_if_open};

pub(super) mod handshakes;
#[cfg(test)]
mod tests;

/// What TLS needs; all are PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate, with those of intermediate CAs after it.
    pub cert: PathBuf,
    /// Its private key (PKCS #8, SEC 1 or PKCS #1).
    pub key: PathBuf,
    /// The CAs that clients' certificates are signed by; none: clients have none.
    pub client_ca: Option<PathBuf>,
}

/// The files and what they held when they were last of use.
pub(super) struct Tls {
    files: TlsFiles,
    /// Clients without a certificate are let in, to give a token.
    is_certificate_optional: bool,
    current: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    pub(super) fn new(files: TlsFiles, is_certificate_optional: bool) -> Result<Self, String> {
        let current = load(&files, is_certificate_optional)?;
        Ok(Self {
            files,
            is_certificate_optional,
            current: RwLock::new(Arc::new(current)),
        })
    }

    /// What the next handshake goes by.
    fn current(&self) -> Arc<ServerConfig> {
        let current = self.current.read();
        Arc::clone(&current.unwrap_or_else(PoisonError::into_inner))
    }
}

impl Reload for Tls {
    fn paths(&self) -> Vec<PathBuf> {
        let TlsFiles {
            cert,
            key,
            client_ca,
        } = self.files.clone();
        [cert, key].into_iter().chain(client_ca).collect()
    }

    fn reload(&self) -> Result<(), String> {
        let next = Arc::new(load(&self.files, self.is_certificate_optional)?);
        warn_if_open(&self.files.key);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }
}

/// Fails with what is wrong with which file.
pub(super) fn load(
    files: &TlsFiles,
    is_certificate_optional: bool,
) -> Result<ServerConfig, String> {
    let chain = certificates(&files.cert)?;
    let key = read(&files.key)?;
    let key = PrivateKeyDer::from_pem_slice(&key)
        .map_err(|why| bad(&files.key, format_args!("no private key in PEM ({why:?})")))?;
    let provider = Arc::new(ring::default_provider());
    let clients = match &files.client_ca {
        None => WebPkiClientVerifier::no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|why| bad(path, why))?;
            }
            let provider = Arc::clone(&provider);
            let mut clients =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            if is_certificate_optional {
                clients = clients.allow_unauthenticated();
            }
            clients.build().map_err(|why| bad(path, why))?
        }
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(|why| why.to_string())?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)
        .map_err(|why| {
            let key = files.key.display();
            bad(
                &files.cert,
                format_args!("not the certificate of {key} ({why})"),
            )
        })?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match found {
        Ok(found) if found.is_empty() => Err(bad(path, "no certificate in PEM")),
        Ok(found) => Ok(found),
        Err(why) => Err(bad(path, format_args!("no certificate in PEM ({why:?})"))),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    read_small(path).map_err(|why| format!("cannot read {}: {why}", path.display()))
}

fn bad(path: &Path, why: impl fmt::Display) -> String {
    format!("{} is of no use for TLS: {why}", path.display())
}
