//! Where a collector is: takes the text of `--endpoint`, produces an
//! [`Endpoint`] that can be dialled, or an error that shows the right form.

use std::{fmt, str::FromStr};

use http::uri::Authority;

/// The address of a collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// The absolute path of a Unix socket.
    Unix(String),
    /// `HOST:PORT`.
    Tcp(Authority),
}

/// Why a text names no endpoint.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct EndpointError(&'static str);

impl fmt::Display for EndpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}; write unix:///PATH, http://HOST:PORT or tcp://HOST:PORT",
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
                Ok(Self::Unix(rest.to_owned()))
            }
            "unix" => Err(EndpointError("the socket's path is not absolute")),
            "http" | "tcp" => tcp(rest).map(Self::Tcp),
            "https" => Err(EndpointError("TLS is not supported")),
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
        match self {
            Self::Unix(path) => write!(f, "unix://{path}"),
            Self::Tcp(authority) => write!(f, "http://{authority}"),
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
            ("https://h:1", "TLS"),
            ("ftp://h:1", "unknown"),
        ] {
            let error = text.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
            assert!(error.contains("unix:///PATH"), "{text}: {error}");
        }
    }
}
