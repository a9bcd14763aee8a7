//! netio by its proto alone: a Python client with stubs made here and now.

mod support;

use std::{
    env,
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use support::{Collector, Result, connection, file, skip, transfer};

/// A Python with grpcio and grpcio-tools: `NETIO_PYTHON`, or python3.
fn python() -> String {
    env::var("NETIO_PYTHON").unwrap_or_else(|_| "python3".to_owned())
}

fn lacks_grpc() -> Option<&'static str> {
    let found = Command::new(python())
        .args(["-c", "import grpc, grpc_tools"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    (!found).then_some("a Python with grpcio-tools (cargo xtask setup installs one)")
}

#[test]
fn a_python_client_watches_and_subscribes() -> Result {
    if skip(support::lacks_kernel().or_else(lacks_grpc)) {
        return Ok(());
    }
    let stubs = tempfile::tempdir()?;
    let made = Command::new(python())
        .args(["-m", "grpc_tools.protoc", "netio/v1/netio.proto"])
        .arg(format!("--proto_path={}", file("proto").display()))
        .arg(format!("--python_out={}", stubs.path().display()))
        .arg(format!("--grpc_python_out={}", stubs.path().display()))
        .status()?;
    assert!(made.success(), "the stubs cannot be made");

    let mut link = connection()?;
    let collector = Collector::start(&["--interval", "200ms"])?;
    let mut client = Command::new(python())
        .arg(file("tests/python/client.py"))
        .arg(stubs.path())
        .arg(format!("unix:{}", collector.socket.display()))
        .args([std::process::id().to_string(), "4".to_owned()])
        .stdout(Stdio::piped())
        .spawn()?;
    let lines = BufReader::new(client.stdout.take().ok_or("no output")?).lines();
    let mut totals = Vec::new();
    for line in lines {
        let sample: serde_json::Value = serde_json::from_str(&line?)?;
        assert_eq!(sample["pid"], std::process::id());
        totals.push((
            sample["sent_bytes_total"].as_u64().ok_or("no total")?,
            sample["received_bytes_total"].as_u64().ok_or("no total")?,
        ));
        if totals.len() == 1 {
            transfer(&mut link, 123_457)?;
        }
    }
    assert!(client.wait()?.success());
    assert_eq!(totals.len(), 4);
    assert_eq!(totals[0], (0, 0), "idle before");
    assert_eq!(totals[3], (123_457, 123_457));
    Ok(())
}
