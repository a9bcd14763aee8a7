//! The one system call that the BPF library has no room for: reading many
//! entries of a map at once.
#![allow(unsafe_code)] // a raw system call

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;

/// `union bpf_attr` for the batch commands.
#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Reads a whole per-CPU hash map, a batch at a time, and hands over each key with
/// its values, one for each possible CPU. Its keys are of 4 bytes and its values
/// `[u64; 4]`. `keys` and `values` are room for a batch, kept by the caller, so that
/// no reading allocates.
pub(crate) fn each_entry(
    map: BorrowedFd<'_>,
    keys: &mut [u32],
    values: &mut [[u64; 4]],
    cpus: usize,
    mut entry: impl FnMut(u32, &[[u64; 4]]),
) -> io::Result<()> {
    if cpus == 0 || values.len() < keys.len() * cpus {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // Where the kernel goes on: its own business, a number of 4 bytes in a hash.
    let (mut here, mut next) = (0_u64, 0_u64);
    let mut is_first = true;
    loop {
        let mut attr = BatchAttr {
            in_batch: if is_first { 0 } else { &raw mut here as u64 },
            out_batch: &raw mut next as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: u32::try_from(keys.len()).unwrap_or(u32::MAX),
            map_fd: map.as_raw_fd().cast_unsigned(),
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: the kernel reads and writes `attr`, of the size given, and what
        // it points to: two numbers on this stack and two buffers with room for
        // `count` keys and as many values for each CPU, as checked above.
        let done = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_MAP_LOOKUP_BATCH,
                &raw mut attr,
                size_of::<BatchAttr>(),
            )
        };
        let error = (done < 0).then(io::Error::last_os_error);
        let is_last = match error {
            None => false,
            Some(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Some(error) => return Err(error),
        };
        let read = keys.iter().zip(values.chunks_exact(cpus));
        for (key, values) in read.take(attr.count as usize) {
            entry(*key, values);
        }
        if is_last {
            return Ok(());
        }
        here = next;
        is_first = false;
    }
}
