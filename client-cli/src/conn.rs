//! Which collector to speak to: takes what the user named, produces a
//! [`Connection`].
//!
//! An endpoint that is named must answer. When none is named the default
//! socket is tried, and where nobody listens there, the commands that may do
//! so run the collector within this process instead. Anything else that is
//! wrong with the default socket, such as missing permission, is an error: a
//! collector may well run behind it.

use std::{error::Error, io, time::Duration};

use netio::{Channel, ConnectError};
use tokio_util::sync::CancellationToken;
use tonic::transport;

use crate::{
    args::Connect,
    embedded::{Embedded, Settings},
    endpoint::Endpoint,
    failure::{Failure, Origin, for_tls},
    output,
    rpc::Rpc,
};

/// How long establishing a connection may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How often a silent connection is probed, and how long the answer may take:
/// a host that vanished is noticed even between ticks.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// What a command may do to reach a collector.
#[derive(Debug)]
pub(crate) struct Wish {
    /// What the user named.
    pub(crate) named: Option<Endpoint>,
    /// Where to look otherwise.
    pub(crate) default: Endpoint,
    /// What if nobody listens there.
    pub(crate) embed: Embedding,
}

/// Whether a command may run the collector within this process.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Embedding {
    /// It may, like so.
    Allowed(Settings),
    /// It would be a new one, with nothing in it that the command is about.
    Pointless,
    /// It would end with this process, and with it what the command makes.
    TooShort,
}

impl Wish {
    /// Looks where the user says, else at the default endpoint, else embeds if that is allowed.
    pub(crate) fn new(connect: Connect, embed: Embedding) -> Result<Self, Failure> {
        let default: Endpoint = netio::DEFAULT_ENDPOINT
            .parse()
            .map_err(|error| Failure::new(format!("{error}"), "name an --endpoint"))?;
        Ok(Self {
            named: connect.named(),
            default: default.with(connect.credentials),
            embed,
        })
    }
}

/// A collector that can be called, perhaps within this process.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Its calls.
    pub(crate) rpc: Rpc,
    embedded: Option<Embedded>,
}

impl Connection {
    /// Connects as wished. `stop` bounds later calls, see [`Rpc::new`].
    pub(crate) async fn open(wish: Wish, stop: CancellationToken) -> Result<Self, Failure> {
        let is_default = wish.named.is_none();
        let endpoint = wish.named.unwrap_or(wish.default);
        let has_settings =
            matches!(wish.embed, Embedding::Allowed(settings) if settings != Settings::default());
        if has_settings && !is_default {
            return Err(settings_in_vain(&endpoint));
        }
        match (connect(&endpoint).await, wish.embed) {
            (Ok(_), _) if has_settings => Err(settings_in_vain(&endpoint)),
            (Ok(channel), _) => Ok(Self {
                rpc: Rpc::new(channel, Origin::Remote(endpoint), stop),
                embedded: None,
            }),
            (Err(Unreachable::Absent), Embedding::Allowed(settings)) if is_default => {
                output::note(&format!(
                    "no collector listens at {endpoint}: counting in this process"
                ));
                let (embedded, channel) = Embedded::start(settings).await?;
                Ok(Self {
                    rpc: Rpc::new(without_token(channel), Origin::InProcess, stop),
                    embedded: Some(embedded),
                })
            }
            (Err(Unreachable::Absent), Embedding::TooShort) if is_default => {
                Err(too_short(&endpoint))
            }
            (Err(unreachable), _) => Err(unreachable.failure(&endpoint, is_default)),
        }
    }

    /// Ends the connection. The command's own `outcome` counts, unless the
    /// collector in this process failed: then that is the cause of the rest.
    pub(crate) async fn close(self, outcome: Result<(), Failure>) -> Result<(), Failure> {
        drop(self.rpc);
        match self.embedded {
            Some(embedded) => embedded.stop().await.and(outcome),
            None => outcome,
        }
    }
}

/// A collector in this process knows no tokens.
pub(crate) fn without_token(channel: transport::Channel) -> Channel {
    netio::Connect::to(netio::DEFAULT_ENDPOINT).with_token(channel)
}

fn settings_in_vain(endpoint: &Endpoint) -> Failure {
    Failure::new(
        format!(
            "--hooks and --interval are for a collector within this process, but there is one at {endpoint}"
        ),
        "leave them out here and give them to netio-collector when it is started",
    )
}

fn too_short(endpoint: &Endpoint) -> Failure {
    Failure::new(
        format!(
            "no collector listens at {endpoint}, and one within this process would end with it, \
             and so would the watches"
        ),
        "start netio-collector, or name one that runs by --endpoint; \
         or leave out --detach to watch from here",
    )
}

/// Why a connection could not be made.
#[derive(Debug, PartialEq, Eq)]
enum Unreachable {
    /// Nobody listens: no socket, or nobody behind it.
    Absent,
    /// The socket's permissions forbid it.
    Forbidden,
    /// Anything else, in words.
    Other(String),
}

async fn connect(endpoint: &Endpoint) -> Result<Channel, Unreachable> {
    let connect = endpoint.connect();
    let channel = connect
        .endpoint()
        .map_err(|error| match error {
            ConnectError::Transport(error) => Unreachable::Other(innermost(&error)),
            other => Unreachable::Other(other.to_string()),
        })?
        .connect_timeout(CONNECT_LIMIT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .connect()
        .await
        .map_err(|error| match io_kind(&error) {
            Some(io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => Unreachable::Absent,
            Some(io::ErrorKind::PermissionDenied) => Unreachable::Forbidden,
            _ => Unreachable::Other(innermost(&error)),
        })?;
    Ok(connect.with_token(channel))
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

fn io_kind(error: &transport::Error) -> Option<io::ErrorKind> {
    causes(error).find_map(|cause| Some(cause.downcast_ref::<io::Error>()?.kind()))
}

/// The library wraps the cause in words that say less, "transport error".
fn innermost(error: &transport::Error) -> String {
    causes(error).last().unwrap_or(error).to_string()
}

impl Unreachable {
    fn failure(self, endpoint: &Endpoint, is_default: bool) -> Failure {
        match self {
            Self::Absent if is_default => Failure::new(
                format!("no collector listens at {endpoint}"),
                "start netio-collector, or name one that runs by --endpoint",
            ),
            Self::Absent => Failure::new(
                format!("no collector listens at {endpoint}"),
                "start one there with netio-collector --listen, or correct --endpoint (NETIO_ENDPOINT)",
            ),
            Self::Forbidden => Failure::new(
                format!("permission denied at {endpoint}"),
                "run this as root (sudo), or as a user whom the socket's owner and mode let in",
            ),
            Self::Other(why) => Failure::new(
                format!("cannot connect to {endpoint}: {why}"),
                for_tls(&why).unwrap_or(
                    "check --endpoint (NETIO_ENDPOINT), and that netio-collector listens there",
                ),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use tokio::net::{TcpListener, UnixListener};

    use super::*;

    async fn reach(endpoint: &str) -> Result<(), Unreachable> {
        connect(&endpoint.parse().unwrap()).await.map(|_| ())
    }

    fn wish(named: Option<&str>, default: &str, embed: Embedding) -> Wish {
        Wish {
            named: named.map(|it| it.parse().unwrap()),
            default: default.parse().unwrap(),
            embed,
        }
    }

    async fn refusal(wish: Wish) -> String {
        let opened = Connection::open(wish, CancellationToken::new()).await;
        opened.map(|_| ()).unwrap_err().to_string()
    }

    #[tokio::test]
    async fn nobody_listens() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let endpoint = format!("unix://{}", socket.display());
        assert_eq!(reach(&endpoint).await, Err(Unreachable::Absent));
        drop(UnixListener::bind(&socket).unwrap());
        assert_eq!(reach(&endpoint).await, Err(Unreachable::Absent));

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        assert_eq!(
            reach(&format!("tcp://{address}")).await,
            Err(Unreachable::Absent)
        );
    }

    #[tokio::test]
    async fn a_forbidden_socket_is_not_an_absent_one() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let _listener = UnixListener::bind(&socket).unwrap();
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o000)).unwrap();
        let reached = reach(&format!("unix://{}", socket.display())).await;
        if rustix::process::geteuid().is_root() {
            // Modes do not bind root.
            assert_eq!(reached, Ok(()));
        } else {
            assert_eq!(reached, Err(Unreachable::Forbidden));
        }
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_told() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let endpoint = format!("unix://{}", file.path().display());
        let shown = refusal(wish(Some(&endpoint), &endpoint, Embedding::Pointless)).await;
        assert!(shown.contains("listen"), "{shown}");
    }

    #[tokio::test]
    async fn a_named_endpoint_must_answer_and_is_never_replaced() {
        let shown = refusal(wish(
            Some("unix:///nonexistent/named.sock"),
            "unix:///nonexistent/default.sock",
            Embedding::Allowed(Settings::default()),
        ))
        .await;
        assert!(
            shown.contains("no collector listens at unix:///nonexistent/named.sock"),
            "{shown}"
        );
        assert!(shown.contains("--endpoint"), "{shown}");
    }

    #[tokio::test]
    async fn a_command_that_may_not_embed_fails_without_a_collector() {
        let refused = async |embed| {
            let default = "unix:///nonexistent/default.sock";
            let shown = refusal(wish(None, default, embed)).await;
            assert!(shown.contains("start netio-collector"), "{shown}");
            shown
        };
        let shown = refused(Embedding::Pointless).await;
        assert!(!shown.contains("--detach"), "{shown}");
        let shown = refused(Embedding::TooShort).await;
        assert!(shown.contains("would end with it"), "{shown}");
        assert!(shown.contains("leave out --detach"), "{shown}");
    }

    #[tokio::test]
    async fn settings_for_a_collector_elsewhere_are_refused() {
        let settings = Settings {
            interval: Some(Duration::from_secs(2)),
            ..Settings::default()
        };
        let named = wish(
            Some("http://127.0.0.1:1"),
            "unix:///nonexistent",
            Embedding::Allowed(settings),
        );
        assert!(refusal(named).await.contains("--interval"));

        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let _listener = UnixListener::bind(&socket).unwrap();
        let default = format!("unix://{}", socket.display());
        assert!(
            refusal(wish(None, &default, Embedding::Allowed(settings)))
                .await
                .contains("--interval")
        );
    }
}
