//! The state's file: a header, then the state.
//!
//! ```text
//! "netio-st"  8 bytes
//! format      u32  another one is refused
//! checksum    u32  CRC-32 of all that follows
//! boot id     36 bytes, as text
//! state       the rest, as a protobuf message
//! ```
//!
//! Promises: a file is replaced in one step, so that whoever is killed while writing
//! leaves the one of before; one that is cut off or changed is refused.
#![forbid(unsafe_code)]

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use prost::Message as _;

use super::State;

const MAGIC: &[u8; 8] = b"netio-st";
/// Of the file and of the state in it.
const FORMAT: u32 = 1;
const BOOT_ID: usize = 36;
/// No state is larger: the limits do not allow for it.
const MAX: u64 = 256 << 20;

/// Which boot of the host this is.
fn boot_id() -> io::Result<String> {
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(boot_id.trim().to_owned())
}

/// The state in a file of this boot; none if there is no file.
pub(super) fn read(path: &Path) -> Result<Option<State>, String> {
    let told = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let size = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        size => size.map_err(|error| told(&error))?.len(),
    };
    if size > MAX {
        return Err(told(&"is too large to be a state"));
    }
    let bytes = fs::read(path).map_err(|error| told(&error))?;
    let boot_id = boot_id().map_err(|error| told(&error))?;
    decode(&bytes, &boot_id).map(Some).map_err(|why| told(&why))
}

/// Replaces the file.
pub(super) fn write(path: &Path, state: &State) -> io::Result<()> {
    let next = path.with_file_name(super::NEXT);
    // Whatever was left there, a link included, is not written to.
    match fs::remove_file(&next) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&next)?;
    file.write_all(&encode(state, &boot_id()?))?;
    fs::rename(&next, path)
}

fn encode(state: &State, boot_id: &str) -> Vec<u8> {
    let mut rest = Vec::with_capacity(BOOT_ID + state.encoded_len());
    rest.extend_from_slice(boot_id.as_bytes());
    rest.extend(state.encode_to_vec());
    let mut bytes = Vec::with_capacity(16 + rest.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&FORMAT.to_le_bytes());
    bytes.extend_from_slice(&crc32fast::hash(&rest).to_le_bytes());
    bytes.append(&mut rest);
    bytes
}

fn decode(bytes: &[u8], boot_id: &str) -> Result<State, String> {
    let damaged = || "is damaged".to_owned();
    let (magic, bytes) = bytes.split_first_chunk().ok_or_else(damaged)?;
    if magic != MAGIC {
        return Err("is no state of netio".to_owned());
    }
    let (format, bytes) = bytes.split_first_chunk().ok_or_else(damaged)?;
    let format = u32::from_le_bytes(*format);
    if format != FORMAT {
        return Err(format!("has format {format}, and {FORMAT} can be read"));
    }
    let (checksum, rest) = bytes.split_first_chunk().ok_or_else(damaged)?;
    if crc32fast::hash(rest) != u32::from_le_bytes(*checksum) {
        return Err(damaged());
    }
    let (boot, state) = rest.split_first_chunk::<BOOT_ID>().ok_or_else(damaged)?;
    if boot != boot_id.as_bytes() {
        return Err("is of another boot".to_owned());
    }
    State::decode(state).map_err(|error| format!("is damaged: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: &str = "01234567-89ab-cdef-0123-456789abcdef";

    fn state() -> State {
        State {
            number: 7,
            last_watch_id: 3,
            ..State::default()
        }
    }

    #[test]
    fn a_state_is_read_back_and_nothing_else_is() {
        let bytes = encode(&state(), BOOT);
        assert_eq!(decode(&bytes, BOOT), Ok(state()));
        for length in 0..bytes.len() {
            assert!(decode(&bytes[..length], BOOT).is_err(), "{length} bytes");
        }
        for place in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[place] ^= 4;
            assert!(decode(&changed, BOOT).is_err(), "byte {place}");
        }
        let other = BOOT.replace('0', "1");
        let refused = decode(&bytes, &other).unwrap_err();
        assert_eq!(refused, "is of another boot");
    }

    #[test]
    fn a_file_is_replaced_in_one_step() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        assert_eq!(read(&path), Ok(None));
        write(&path, &state()).unwrap();
        assert_eq!(read(&path), Ok(Some(state())));
        write(&path, &State::default()).unwrap();
        assert_eq!(read(&path), Ok(Some(State::default())));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        // Through no link, and over what a writer that was killed has left.
        let precious = folder.path().join("precious");
        fs::write(&precious, "precious").unwrap();
        std::os::unix::fs::symlink(&precious, path.with_file_name(super::super::NEXT)).unwrap();
        write(&path, &state()).unwrap();
        assert_eq!(read(&path), Ok(Some(state())));
        assert_eq!(fs::read(&precious).unwrap(), b"precious");
    }
}
