//! Where pids mean something else than to the kernel's programs, nothing is
//! counted: it would be another process's traffic.

mod support;

use std::process::Command;

use support::{Result, binary, lacks_kernel, skip};

fn elsewhere(arguments: &[&str]) -> Result<(bool, String)> {
    let output = Command::new("unshare")
        .args(["--pid", "--fork", "--mount-proc"])
        .arg(binary("netio-client"))
        .args(arguments)
        .env_remove("NETIO_ENDPOINT")
        .output()?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8(text)?))
}

#[test]
fn in_another_pid_namespace_nothing_is_watched_and_it_says_why() -> Result {
    if skip(lacks_kernel()) {
        return Ok(());
    }
    let (ended_well, text) = elsewhere(&["watch", "--pid", "1", "--count", "1"])?;
    assert!(!ended_well, "{text}");
    for word in ["PROBES_NOT_ATTACHED", "pid namespace", "--pid=host"] {
        assert!(text.contains(word), "{word} is missing in:\n{text}");
    }
    let (ended_well, text) = elsewhere(&["doctor"])?;
    assert!(!ended_well, "{text}");
    assert!(text.contains("FAIL  pid namespace"), "{text}");
    Ok(())
}
