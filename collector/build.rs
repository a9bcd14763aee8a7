//! Chooses the object with the programs for the kernel (the one that is shipped,
//! or the one that `NETIO_BPF_OBJECT` names at build time: a fresh build under
//! test), and generates the server's side of the API.
//!
//! The messages are those of the crate `netio`, but for what Subscribe streams:
//! that is encoded already when it comes to the server (hub/prepared.rs).

use std::{env, error::Error, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-env-changed=NETIO_BPF_OBJECT");
    println!("cargo:rerun-if-changed=bpf/netio.bpf.o");
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let object = env::var_os("NETIO_BPF_OBJECT")
        .map_or_else(|| manifest.join("bpf/netio.bpf.o"), PathBuf::from);
    println!("cargo:rerun-if-changed={}", object.display());
    println!("cargo:rustc-env=NETIO_BPF_OBJECT={}", object.display());

    let proto = manifest.join("../proto");
    println!("cargo:rerun-if-changed={}", proto.display());
    let descriptors = protox::compile(["netio/v1/netio.proto"], [proto])?;
    tonic_prost_build::configure()
        .build_client(false)
        .codec_path("crate::rpc::ApiCodec")
        .extern_path(".netio.v1.SubscribeResponse", "crate::hub::Prepared")
        .extern_path(".netio.v1", "::netio::v1")
        .compile_fds(descriptors)?;
    Ok(())
}
