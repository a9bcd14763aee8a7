//! The guest's whole file system: busybox, the programs with their shared
//! libraries, modules, and the first process, which runs the script.
//!
//! It takes what the guest needs and produces one archive that the kernel
//! unpacks into memory at boot.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::kernel::Module;
use crate::command::output;
use crate::tree::find_command;

/// The guest's first process.
const INIT: &str = include_str!("init.sh");

/// Makes the archive in `scratch` and returns its path.
///
/// `files` are (path here, path in the guest). Executables are stripped of
/// debug information and followed by the libraries they load.
pub(crate) fn build(
    scratch: &Path,
    files: &[(PathBuf, String)],
    modules: &[Module],
    script: &str,
) -> Result<PathBuf> {
    let stage = scratch.join("stage");
    let busybox = find_command("busybox")
        .context("busybox is not installed; type `cargo xtask setup guest` to install it")?;
    for dir in ["proc", "sys", "dev", "tmp", "run", "results", "root"] {
        fs::create_dir_all(stage.join(dir)).context("cannot make the guest's directories")?;
    }
    copy(&busybox, &stage.join("bin/busybox"))?;
    let mut libraries = BTreeSet::new();
    for (here, there) in files {
        place(here, &inside(&stage, there))?;
        libraries.extend(shared_libraries(here)?);
    }
    for library in &libraries {
        copy(library, &inside(&stage, &library.to_string_lossy()))?;
    }
    for (position, (name, bytes)) in modules.iter().enumerate() {
        write(
            &stage.join(format!("modules/{position:03}-{name}.ko")),
            bytes,
        )?;
    }
    write(&stage.join("script"), script.as_bytes())?;
    write(&stage.join("init"), INIT.as_bytes())?;
    pack(&stage, &scratch.join("initramfs.cpio"))
}

/// The place in the stage of a path in the guest.
fn inside(stage: &Path, there: &str) -> PathBuf {
    stage.join(there.trim_start_matches('/'))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    make_parent(to)?;
    fs::copy(from, to).with_context(|| format!("cannot copy {} to the guest", from.display()))?;
    Ok(())
}

/// Copies a file, without debug information where it has any.
fn place(from: &Path, to: &Path) -> Result<()> {
    make_parent(to)?;
    let stripped = is_elf(from)?
        && output(
            Command::new("strip")
                .arg("--strip-debug")
                .arg("-o")
                .arg(to)
                .arg(from),
        )
        .is_ok();
    if stripped { Ok(()) } else { copy(from, to) }
}

/// Writes an executable file.
fn write(to: &Path, bytes: &[u8]) -> Result<()> {
    make_parent(to)?;
    fs::write(to, bytes)
        .and_then(|()| fs::set_permissions(to, fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("cannot write {}", to.display()))
}

fn make_parent(path: &Path) -> Result<()> {
    let parent = path.parent().context("a path without a directory")?;
    fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))
}

fn is_elf(file: &Path) -> Result<bool> {
    use std::io::Read as _;
    let mut magic = Vec::new();
    fs::File::open(file)
        .and_then(|open| open.take(4).read_to_end(&mut magic))
        .with_context(|| format!("cannot read {}", file.display()))?;
    Ok(magic == b"\x7fELF")
}

/// The shared libraries that `program` loads, its loader among them.
fn shared_libraries(program: &Path) -> Result<Vec<PathBuf>> {
    // A BPF object, say, is an ELF file too; only what can be run loads any.
    let runs = fs::metadata(program)
        .with_context(|| format!("cannot read {}", program.display()))?
        .permissions()
        .mode()
        & 0o111
        != 0;
    if !runs || !is_elf(program)? {
        return Ok(Vec::new());
    }
    match output(Command::new("ldd").arg(program)) {
        Ok(listed) => parse_ldd(&listed),
        Err(error) if format!("{error}").contains("not a dynamic executable") => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn parse_ldd(listed: &str) -> Result<Vec<PathBuf>> {
    let mut libraries = Vec::new();
    for line in listed.lines().map(str::trim) {
        let found = match line.split_once(" => ") {
            Some((name, "not found")) => {
                bail!("the library {name} is not installed, so the guest cannot have it")
            }
            Some((_, found)) => found,
            None => line,
        };
        // The kernel's own page of code has no path.
        if let Some(path) = found.split(" (").next()
            && path.starts_with('/')
        {
            libraries.push(PathBuf::from(path));
        }
    }
    Ok(libraries)
}

/// Packs the stage in the one format that the kernel unpacks, all owned by root.
fn pack(stage: &Path, archive: &Path) -> Result<PathBuf> {
    output(
        Command::new("sh")
            .current_dir(stage)
            .args([
                "-ec",
                "find . | cpio --quiet -o -H newc -R 0:0 > \"$1\"",
                "sh",
            ])
            .arg(archive),
    )
    .context("cannot pack the guest's files; `cargo xtask setup guest` installs cpio")?;
    Ok(archive.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_ldd() {
        let listed = "\tlinux-vdso.so.1 (0x00007ffc)\n\
                      \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                      \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        assert_eq!(
            parse_ldd(listed).expect("all are found"),
            [
                PathBuf::from("/lib/x86_64-linux-gnu/libc.so.6"),
                PathBuf::from("/lib64/ld-linux-x86-64.so.2")
            ]
        );
        assert!(parse_ldd("\tstatically linked\n").expect("none").is_empty());
        let error = parse_ldd("\tlibx.so => not found\n").expect_err("it is missing");
        assert!(error.to_string().contains("libx.so"));
    }
}
