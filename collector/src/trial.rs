//! `netio-collector certs`: certificates to try TLS with, and the commands to try.
#![forbid(unsafe_code)]

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use netio::printable;
use netio_collector::certs::{self, Files};

use crate::complain;

/// The port in the commands that are told.
const PORT: u16 = 7443;

/// `certs`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Certs {
    /// Makes a CA, and a certificate and key each for the collector and a client, all
    /// PEM and good for a year; tells the commands that use them
    Init(Init),
}

/// `certs init`.
#[derive(Debug, clap::Args)]
pub(crate) struct Init {
    /// Folder to make them in; nothing in it is written over
    #[arg(value_name = "DIR")]
    folder: PathBuf,

    /// Name or address by which clients reach the collector; repeat for more
    /// [default: this host's name, localhost, 127.0.0.1 and ::1]
    #[arg(long, value_name = "HOST")]
    host: Vec<String>,

    /// Common name of the client's certificate, by which it is granted its role
    #[arg(long, value_name = "NAME", default_value = "netio-client")]
    client: String,
}

/// Makes them and tells the next commands.
pub(crate) fn run(Certs::Init(init): &Certs) -> ExitCode {
    let mut hosts = init.host.clone();
    if hosts.is_empty() {
        let own = rustix::system::uname();
        let own = own.nodename().to_string_lossy().into_owned();
        let usual = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        hosts = [own].into_iter().chain(usual).collect();
        hosts.dedup();
    }
    let files = match certs::init(&init.folder, &hosts, &init.client) {
        Ok(files) => files,
        Err(error) => {
            complain(&error);
            return ExitCode::FAILURE;
        }
    };
    let host = hosts.first().map_or("localhost", String::as_str);
    let mut stdout = io::stdout();
    let text = next(&files, host, &init.client);
    match writeln!(stdout, "{}", printable::lines(&text)).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            complain(&format!("cannot write what to do next: {error}"));
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}

/// The commands, as they can be typed.
fn next(files: &Files, host: &str, client: &str) -> String {
    let host = match host.contains(':') {
        true => format!("[{host}]"),
        false => host.to_owned(),
    };
    let Files {
        ca,
        server,
        server_key,
        client: cert,
        client_key,
        ..
    } = files;
    let [ca, server, server_key, cert, client_key] =
        [ca, server, server_key, cert, client_key].map(|it| quoted(&it.display().to_string()));
    let grant = quoted(&format!("watch cn={client}"));
    let endpoint = quoted(&format!("tls://{host}:{PORT}"));
    format!(
        "\
On this host:
  netio-collector --listen unix://{socket} --listen tls://0.0.0.0:{PORT} --tls-cert {server} --tls-key {server_key} --tls-client-ca {ca} --grant {grant}

On the client's, with {ca}, {cert} and {client_key} copied there:
  netio-client watch --port 3306 --endpoint {endpoint} --tls-ca {ca} --tls-cert {cert} --tls-key {client_key}",
        socket = netio::DEFAULT_ENDPOINT.trim_start_matches("unix://"),
    )
}

/// As a shell takes it for one word.
fn quoted(text: &str) -> String {
    // Fails for a NUL, which no path has.
    shlex::try_quote(text).map_or_else(|_| text.to_owned(), |it| it.into_owned())
}
