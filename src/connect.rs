//! Reaching a collector, on this host or another.

use std::{
    error::Error,
    fmt, fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{self, Certificate, ClientTlsConfig, Endpoint, Identity, Uri},
};

/// How to reach a collector.
///
/// ```no_run
/// use netio::{Connect, v1::net_io_service_client::NetIoServiceClient};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let channel = Connect::to("tls://db1.example:7443")
///     .tls_ca("ca.pem")
///     .tls_identity("client.pem", "client-key.pem")
///     .channel()
///     .await?;
/// let mut netio = NetIoServiceClient::new(channel);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Connect {
    address: String,
    tls_ca: Option<PathBuf>,
    tls_identity: Option<(PathBuf, PathBuf)>,
    token_file: Option<PathBuf>,
}

/// A channel whose calls have the token that there may be.
pub type Channel = InterceptedService<transport::Channel, Token>;

/// Why a collector cannot be reached.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConnectError {
    /// The options do not fit together; what is wrong, and what to do.
    Options(String),
    /// A file cannot be read.
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The connection cannot be made; the sources of the error say why.
    Transport(transport::Error),
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Options(what) => f.write_str(what),
            Self::File { path, source } => write!(f, "cannot read {}: {source}", path.display()),
            Self::Transport(error) => error.fmt(f),
        }
    }
}

impl Error for ConnectError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Options(_) => None,
            Self::File { source, .. } => Some(source),
            Self::Transport(error) => error.source(),
        }
    }
}

impl From<transport::Error> for ConnectError {
    fn from(error: transport::Error) -> Self {
        Self::Transport(error)
    }
}

impl Connect {
    /// A collector by its address: `unix:///PATH`, `tls://HOST:PORT` (or `https`), or
    /// `tcp://HOST:PORT` (or `http`), which has no TLS.
    #[must_use]
    pub fn to(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            tls_ca: None,
            tls_identity: None,
            token_file: None,
        }
    }

    /// The CAs that may have signed the collector's certificate, a PEM file. Needed for
    /// `tls://`: there are no others that would be trusted.
    #[must_use]
    pub fn tls_ca(mut self, ca: impl Into<PathBuf>) -> Self {
        self.tls_ca = Some(ca.into());
        self
    }

    /// The client's own certificate and its key, PEM files.
    #[must_use]
    pub fn tls_identity(mut self, cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.tls_identity = Some((cert.into(), key.into()));
        self
    }

    /// A file whose first line is a token, to be told by instead of a certificate. It is
    /// read anew for every call.
    #[must_use]
    pub fn token_file(mut self, token_file: impl Into<PathBuf>) -> Self {
        self.token_file = Some(token_file.into());
        self
    }

    /// Connects.
    pub async fn channel(&self) -> Result<Channel, ConnectError> {
        let channel = self.endpoint()?.connect().await?;
        Ok(self.with_token(channel))
    }

    /// For a channel with settings of one's own; to be given to [`Connect::with_token`]
    /// when it is connected. Reads the files of TLS.
    pub fn endpoint(&self) -> Result<Endpoint, ConnectError> {
        let (scheme, rest) = self.address.split_once("://").unwrap_or_default();
        let (uri, has_tls) = match scheme {
            "unix" => return Ok(Endpoint::from_shared(self.address.clone())?),
            "tls" | "https" => (format!("https://{rest}"), true),
            _ if self.tls_ca.is_some() || self.tls_identity.is_some() => {
                let address = &self.address;
                let what =
                    format!("{address} has no TLS: write tls://HOST:PORT, or leave out its files");
                return Err(ConnectError::Options(what));
            }
            "tcp" => (format!("http://{rest}"), false),
            _ => (self.address.clone(), false),
        };
        let endpoint = Endpoint::from_shared(uri)?;
        if has_tls {
            return Ok(endpoint.tls_config(self.tls()?)?);
        }
        if self.token_file.is_some() && !is_loopback(endpoint.uri()) {
            let address = &self.address;
            let what = format!(
                "a token would be sent to {address} for all to read: write tls://HOST:PORT"
            );
            return Err(ConnectError::Options(what));
        }
        Ok(endpoint)
    }

    /// The channel's calls get the token that there may be.
    #[must_use]
    pub fn with_token(&self, channel: transport::Channel) -> Channel {
        let token = Token {
            file: self.token_file.as_deref().map(Arc::from),
        };
        InterceptedService::new(channel, token)
    }

    fn tls(&self) -> Result<ClientTlsConfig, ConnectError> {
        let Some(ca) = &self.tls_ca else {
            let what = format!(
                "{} needs the CA that has signed the collector's certificate, a PEM file \
                 (netio-client: --tls-ca)",
                self.address
            );
            return Err(ConnectError::Options(what));
        };
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(ca)?));
        if let Some((cert, key)) = &self.tls_identity {
            tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
        }
        Ok(tls)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ConnectError> {
    fs::read(path).map_err(|source| ConnectError::File {
        path: path.to_owned(),
        source,
    })
}

fn is_loopback(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// Adds the token of a file to calls, if there is one.
#[derive(Clone, Debug, Default)]
pub struct Token {
    file: Option<Arc<Path>>,
}

impl Token {
    fn value(path: &Path) -> Result<MetadataValue<Ascii>, String> {
        let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
        let token = text.lines().map(str::trim).find(|line| !line.is_empty());
        let token = token.ok_or("it is empty")?;
        let value = MetadataValue::try_from(format!("Bearer {token}"));
        let mut value = value.map_err(|_| "it holds no token")?;
        value.set_sensitive(true);
        Ok(value)
    }
}

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(path) = &self.file {
            let value = Self::value(path).map_err(|why| {
                Status::unauthenticated(format!(
                    "cannot read the token in {}: {why}",
                    path.display()
                ))
            })?;
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(connect: &Connect) -> String {
        connect.endpoint().unwrap_err().to_string()
    }

    #[test]
    fn options_that_would_mislead_are_refused() {
        assert!(refused(&Connect::to("tls://h:1")).contains("--tls-ca"));
        for address in ["tcp://127.0.0.1:1", "http://h:1"] {
            let misled = Connect::to(address).tls_ca("/nonexistent");
            assert!(refused(&misled).contains("has no TLS"), "{address}");
        }
        let shown = Connect::to("http://h:1").token_file("/t");
        assert!(refused(&shown).contains("all to read"));
        for safe in [
            "http://127.0.0.1:1",
            "tcp://[::1]:1",
            "http://localhost:1",
            "unix:///a",
        ] {
            Connect::to(safe).token_file("/t").endpoint().unwrap();
        }
        let missing = Connect::to("https://h:1").tls_ca("/nonexistent/ca.pem");
        assert!(refused(&missing).contains("/nonexistent/ca.pem"));
    }

    #[test]
    fn a_token_is_the_first_line_and_read_each_time() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut token = Token {
            file: Some(file.path().into()),
        };
        let mut sent = || {
            let request = token.call(Request::new(())).map_err(|it| it.to_string())?;
            let value = request.metadata().get("authorization").unwrap();
            Ok::<_, String>(value.to_str().unwrap().to_owned())
        };
        assert!(sent().unwrap_err().contains("it is empty"));
        fs::write(file.path(), "\n first \nsecond\n").unwrap();
        assert_eq!(sent().unwrap(), "Bearer first");
        fs::write(file.path(), "next").unwrap();
        assert_eq!(sent().unwrap(), "Bearer next");
    }
}
