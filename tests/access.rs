//! Who may do what, with real programs: over TLS by the commands that are told, and on
//! a Unix socket by users of this host.

mod support;

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::Instant,
};

use support::{
    Collector, PATIENCE, Result, binary, copy_program, servers::free_address, skip,
    without_netio_variables,
};

/// Ended when dropped.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A command as it was told, with the programs of this build.
fn shell(line: &str) -> Result<Command> {
    let programs = binary("netio-client");
    let programs = programs.parent().ok_or("no folder of programs")?;
    let path = env::join_paths([programs, Path::new("/usr/bin"), Path::new("/bin")])?;
    let mut command = Command::new("sh");
    // Replaced by the program, so that it is what is ended.
    command.arg("-c").arg(format!("exec {}", line.trim()));
    without_netio_variables(&mut command);
    command.env("PATH", path).env("NETIO_LOG", "warn");
    // Beside the host's own collector.
    command.env("NETIO_NO_PIN", "true");
    command.stdin(Stdio::null());
    Ok(command)
}

fn told<'a>(text: &'a str, program: &str) -> Result<&'a str> {
    let mut lines = text.lines().map(str::trim);
    let found = lines.find(|line| line.starts_with(program));
    Ok(found.ok_or_else(|| format!("no {program} in {text}"))?)
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The commands of the README: `certs init`, and the two that it tells.
#[test]
fn the_commands_for_another_host_work_as_told() -> Result {
    if skip(support::lacks_kernel()) {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    // What is told can be typed, whatever the folder is called.
    let certs = folder.path().join("its tls");
    let init = format!(
        "netio-collector certs init '{}' --host 127.0.0.1",
        certs.display()
    );
    let made = shell(&init)?.output()?;
    assert!(made.status.success(), "{}", stderr(&made));
    let next = stdout(&made);
    let again = shell(&init)?.output()?;
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains("nothing is written over"));

    // Only the addresses are others.
    let address = free_address()?;
    let socket = folder.path().join("collector.sock");
    let collector = told(&next, "netio-collector ")?
        .replace("0.0.0.0:7443", &address.to_string())
        .replace("/run/netio/collector.sock", &socket.to_string_lossy());
    let mut collector = Ended(shell(&collector)?.spawn()?);
    let client = told(&next, "netio-client ")?
        .replace("127.0.0.1:7443", &address.to_string())
        .replace(
            "--port 3306",
            &format!("--pid {} --count 1 --output json", std::process::id()),
        );
    let begin = Instant::now();
    let watched = loop {
        let watched = shell(&client)?.output()?;
        if watched.status.success() {
            break watched;
        }
        assert!(collector.0.try_wait()?.is_none(), "the collector ended");
        assert!(begin.elapsed() < PATIENCE, "{}", stderr(&watched));
        std::thread::sleep(std::time::Duration::from_millis(200));
    };
    let line = stdout(&watched);
    let sample: serde_json::Value = serde_json::from_str(line.trim())?;
    assert_eq!(sample["pid"], std::process::id(), "{line}");

    // Without its certificate it is told what is missing.
    let (bare, _) = client.split_once(" --tls-cert").ok_or("no --tls-cert")?;
    let refused = shell(bare)?.output()?;
    assert_eq!(refused.status.code(), Some(1));
    let why = stderr(&refused);
    assert!(
        why.contains("certificate") && why.contains("--tls-cert"),
        "{why}"
    );
    // And one that is not the collector's CA's does not reach it.
    let other = folder.path().join("other");
    let init = format!("netio-collector certs init {}", other.display());
    assert!(shell(&init)?.output()?.status.success());
    let with_other = |option: &str, file: &str| {
        let tls = certs.join(file).display().to_string();
        let wrong = other.join(file).display().to_string();
        client.replace(&format!("{option} '{tls}'"), &format!("{option} {wrong}"))
    };
    let refused = shell(&with_other("--tls-ca", "ca.pem"))?.output()?;
    let why = stderr(&refused);
    assert!(
        why.contains("UnknownIssuer") && why.contains("--tls-ca"),
        "{why}"
    );
    let foreign = with_other("--tls-cert", "client.pem");
    let key = |certs: &Path| certs.join("client-key.pem").display().to_string();
    let foreign = foreign.replace(&format!("'{}'", key(&certs)), &key(&other));
    assert_eq!(foreign.matches(&other.display().to_string()).count(), 2);
    let refused = shell(&foreign)?.output()?;
    let why = stderr(&refused);
    assert!(
        !refused.status.success() && why.contains("--tls-cert"),
        "{why}"
    );
    Ok(())
}

/// A netio-client as another user.
struct User<'a> {
    client: &'a Path,
    endpoint: &'a str,
}

impl User<'_> {
    fn run(&self, uid: u32, gid: u32, groups: Option<u32>, words: &[&str]) -> Result<Output> {
        let mut command = Command::new("setpriv");
        command.arg(format!("--reuid={uid}"));
        command.arg(format!("--regid={gid}"));
        match groups {
            Some(group) => command.arg(format!("--groups={group}")),
            None => command.arg("--clear-groups"),
        };
        command.arg(self.client).args(words);
        command.args(["--endpoint", self.endpoint]);
        Ok(without_netio_variables(&mut command)
            .stdin(Stdio::null())
            .output()?)
    }
}

#[test]
fn fault_10_users_of_the_socket_have_what_they_are_granted() -> Result {
    const SOCKET: u32 = 54_321;
    const DBA: u32 = 54_322;
    if skip(support::lacks_kernel()) {
        return Ok(());
    }
    // Where other users can look.
    let folder = tempfile::tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    let client = folder.path().join("netio-client");
    copy_program(&binary("netio-client"), &client)?;
    let endpoint = format!("unix://{}/netio.sock", folder.path().display());
    let _collector = Collector::start(&[
        "--listen",
        &endpoint,
        "--socket-group",
        &SOCKET.to_string(),
        "--grant",
        "observe uid=54001",
        "--grant",
        &format!("watch gid={DBA}"),
    ])?;
    let socket = folder.path().join("netio.sock");
    let metadata = fs::metadata(&socket)?;
    assert_eq!(metadata.permissions().mode() & 0o777, 0o660);
    assert_eq!(std::os::unix::fs::MetadataExt::gid(&metadata), SOCKET);

    let user = User {
        client: &client,
        endpoint: &endpoint,
    };
    let pid = std::process::id().to_string();
    let watch = ["watch", "--detach", "--pid", &pid];
    let refused = |output: Output, words: &[&str]| {
        assert_eq!(output.status.code(), Some(1));
        let why = stderr(&output);
        for word in words {
            assert!(why.contains(word), "{word}: {why}");
        }
    };
    // Observes by its uid.
    assert!(user.run(54_001, SOCKET, None, &["list"])?.status.success());
    let hint = "[[grant]] role = \"watch\" uid = 54001";
    refused(
        user.run(54_001, SOCKET, None, &watch)?,
        &["ROLE_LACKING", hint],
    );
    // Watches by a supplementary group.
    let made = user.run(54_002, SOCKET, Some(DBA), &watch)?;
    assert!(made.status.success(), "{}", stderr(&made));
    // May connect, and nothing else.
    for words in [
        &["list"][..],
        &["info"],
        &["discover"],
        &["unwatch", "w-1"],
        &watch,
    ] {
        refused(
            user.run(54_003, SOCKET, None, words)?,
            &["ROLE_LACKING", "no role"],
        );
    }
    // May not even connect.
    refused(
        user.run(54_004, 54_999, None, &["list"])?,
        &["permission denied at unix"],
    );

    let listed = user.run(0, 0, None, &["list", "--output", "json"])?;
    let listed: serde_json::Value = serde_json::from_str(stdout(&listed).trim())?;
    assert_eq!(listed["owner"], "uid:54002");
    let id = listed["watch_id"].as_str().ok_or("no id")?;
    // Not another's, and then root's.
    refused(
        user.run(54_005, SOCKET, Some(DBA), &["unwatch", id])?,
        &["NOT_THE_OWNER"],
    );
    assert!(user.run(0, 0, None, &["unwatch", id])?.status.success());
    Ok(())
}
