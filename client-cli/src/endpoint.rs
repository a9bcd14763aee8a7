//! Where a collector is and how to be let in: takes the text of `--endpoint`, produces
//! an [`Endpoint`] that can be dialled, or an error that shows the right form.

use std::{fmt, fmt::Write as _, path::PathBuf, str::FromStr};

use http::uri::Authority;
use netio::Connect;

use crate::shell;

/// A collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    address: Address,
    credentials: Credentials,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Address {
    /// The absolute path of a Unix socket.
    Unix(String),
    /// `HOST:PORT`.
    Tcp(Authority),
    /// The same with TLS.
    Tls(Authority),
}

/// How to know the collector, and to be known by it.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub(crate) struct Credentials {
    /// For tls://: the CA that has signed the collector's certificate, PEM.
    #[arg(long, value_name = "FILE", env = "NETIO_CLIENT_TLS_CA")]
    pub(crate) tls_ca: Option<PathBuf>,
    /// For tls://: a certificate to be known by, PEM.
    #[arg(
        long,
        value_name = "FILE",
        env = "NETIO_CLIENT_TLS_CERT",
        requires = "tls_key"
    )]
    pub(crate) tls_cert: Option<PathBuf>,
    /// For tls://: its private key, PEM.
    #[arg(
        long,
        value_name = "FILE",
        env = "NETIO_CLIENT_TLS_KEY",
        requires = "tls_cert"
    )]
    pub(crate) tls_key: Option<PathBuf>,
    /// A file with a token to be known by, instead of a certificate or user.
    #[arg(long, value_name = "FILE", env = "NETIO_CLIENT_TOKEN_FILE")]
    pub(crate) token_file: Option<PathBuf>,
}

impl Endpoint {
    /// The same, to be reached with these.
    pub(crate) fn with(self, credentials: Credentials) -> Self {
        Self {
            credentials,
            ..self
        }
    }

    /// How to connect.
    pub(crate) fn connect(&self) -> Connect {
        let mut connect = Connect::to(self.to_string());
        let Credentials {
            tls_ca,
            tls_cert,
            tls_key,
            token_file,
        } = self.credentials.clone();
        // A Unix socket has none, so what the variables hold is not for it.
        if !matches!(self.address, Address::Unix(_)) {
            if let Some(ca) = tls_ca {
                connect = connect.tls_ca(ca);
            }
            if let (Some(cert), Some(key)) = (tls_cert, tls_key) {
                connect = connect.tls_identity(cert, key);
            }
        }
        match token_file {
            Some(file) => connect.token_file(file),
            None => connect,
        }
    }

    /// Whether TLS is spoken with it.
    pub(crate) fn has_tls(&self) -> bool {
        matches!(self.address, Address::Tls(_))
    }

    /// As options of a command that can be typed.
    pub(crate) fn options(&self) -> String {
        let Credentials {
            tls_ca,
            tls_cert,
            tls_key,
            token_file,
        } = &self.credentials;
        let mut options = format!("--endpoint {}", shell::word(&self.to_string()));
        for (option, file) in [
            ("--tls-ca", tls_ca),
            ("--tls-cert", tls_cert),
            ("--tls-key", tls_key),
            ("--token-file", token_file),
        ] {
            if let Some(file) = file {
                let _ = write!(
                    options,
                    " {option} {}",
                    shell::word(&file.to_string_lossy())
                );
            }
        }
        options
    }
}

impl From<Address> for Endpoint {
    fn from(address: Address) -> Self {
        Self {
            address,
            credentials: Credentials::default(),
        }
    }
}

/// Why a text names no endpoint.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct EndpointError(&'static str);

impl fmt::Display for EndpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}; write unix:///PATH, tls://HOST:PORT or tcp://HOST:PORT",
            self.0
        )
    }
}

impl std::error::Error for EndpointError {}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(EndpointError("it does not begin with a scheme"));
        };
        match scheme {
            "unix" if rest.contains('\0') => Err(EndpointError("the path holds a zero byte")),
            "unix" if rest.starts_with('/') && !rest.ends_with('/') => {
                Ok(Address::Unix(rest.to_owned()).into())
            }
            "unix" => Err(EndpointError("the socket's path is not absolute")),
            "http" | "tcp" => Ok(Address::Tcp(tcp(rest)?).into()),
            "https" | "tls" => Ok(Address::Tls(tcp(rest)?).into()),
            _ => Err(EndpointError("the scheme is unknown")),
        }
    }
}

fn tcp(rest: &str) -> Result<Authority, EndpointError> {
    let authority: Authority = rest
        .strip_suffix('/')
        .unwrap_or(rest)
        .parse()
        .map_err(|_| EndpointError("it is not HOST:PORT"))?;
    if authority.as_str().contains('@') {
        return Err(EndpointError("it names a user, which means nothing here"));
    }
    match authority.port_u16() {
        None | Some(0) => Err(EndpointError("the port is missing")),
        Some(_) if authority.host().is_empty() => Err(EndpointError("the host is missing")),
        Some(_) => Ok(authority),
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Unix(path) => write!(f, "unix://{path}"),
            Address::Tcp(authority) => write!(f, "http://{authority}"),
            Address::Tls(authority) => write!(f, "https://{authority}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        for text in [
            "unix:///run/netio/collector.sock",
            "unix:///tmp/a b.sock",
            "http://127.0.0.1:7070",
            "http://[::1]:7070",
            "http://collector.example:7070",
            "https://[::1]:7443",
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        assert!(netio::DEFAULT_ENDPOINT.parse::<Endpoint>().is_ok());
    }

    #[test]
    fn takes_tcp_and_a_trailing_slash_for_http() {
        for text in ["tcp://h:1", "http://h:1/", "tcp://h:1/"] {
            assert_eq!(
                text.parse::<Endpoint>().unwrap().to_string(),
                "http://h:1",
                "{text}"
            );
        }
    }

    #[test]
    fn takes_tls_for_https_and_tells_what_to_type_again() {
        let endpoint = "tls://h:1/".parse::<Endpoint>().unwrap();
        assert_eq!(endpoint.options(), "--endpoint https://h:1");
        let endpoint = endpoint.with(Credentials {
            tls_ca: Some("a b.pem".into()),
            token_file: Some("/t".into()),
            ..Credentials::default()
        });
        assert_eq!(
            endpoint.options(),
            "--endpoint https://h:1 --tls-ca 'a b.pem' --token-file /t"
        );
    }

    #[test]
    fn refuses_the_rest_and_shows_the_right_form() {
        for (text, why) in [
            ("", "scheme"),
            ("/run/netio.sock", "scheme"),
            ("localhost:7070", "scheme"),
            ("unix:/run/netio.sock", "scheme"),
            ("unix://run/netio.sock", "not absolute"),
            ("unix:///", "not absolute"),
            ("unix:///a\0b", "zero byte"),
            ("http://", "HOST:PORT"),
            ("http://localhost", "port"),
            ("http://localhost:0", "port"),
            ("http://localhost:70707", "port"),
            ("http://:7070", "host"),
            ("http://h:1/path", "HOST:PORT"),
            ("http://me@h:1", "user"),
            ("https://h", "port"),
            ("ftp://h:1", "unknown"),
        ] {
            let error = text.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
            assert!(error.contains("unix:///PATH"), "{text}: {error}");
        }
    }
}
