//! Chooses the object with the programs for the kernel: the one that is shipped,
//! or the one that `NETIO_BPF_OBJECT` names at build time (a fresh build under
//! test).

use std::{env, path::PathBuf};

fn main() {
    println!("cargo:rerun-if-env-changed=NETIO_BPF_OBJECT");
    println!("cargo:rerun-if-changed=bpf/netio.bpf.o");
    let object = env::var_os("NETIO_BPF_OBJECT").map_or_else(
        || {
            PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default())
                .join("bpf/netio.bpf.o")
        },
        PathBuf::from,
    );
    println!("cargo:rerun-if-changed={}", object.display());
    println!("cargo:rustc-env=NETIO_BPF_OBJECT={}", object.display());
}
