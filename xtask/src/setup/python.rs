//! The Python environment of the end-to-end tests, below the build directory:
//! nothing is installed into the system.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::command::{output, run};
use crate::tree::Tree;

/// What is installed into it.
const REQUIREMENTS: &str = "xtask/python-requirements.txt";

/// The interpreter that has grpcio.
pub(crate) fn interpreter(tree: &Tree) -> PathBuf {
    tree.target("python/bin/python")
}

pub(super) fn install(tree: &Tree, dry_run: bool) -> Result<()> {
    let interpreter = interpreter(tree);
    let present =
        output(Command::new(&interpreter).args(["-c", "import grpc, grpc_tools"])).is_ok();
    println!(
        "    {}: grpcio in {} (the stock gRPC client for Python)",
        if present { "present" } else { "missing" },
        tree.target("python").display()
    );
    if present || dry_run {
        return Ok(());
    }
    run(Command::new("python3")
        .args(["-m", "venv", "--clear"])
        .arg(tree.target("python")))?;
    run(Command::new(&interpreter)
        .args(["-m", "pip", "install", "--quiet", "--requirement"])
        .arg(tree.path(REQUIREMENTS)))
}
