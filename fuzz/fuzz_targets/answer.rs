//! See `netio_client::fuzzing::answer`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| netio_client::fuzzing::answer(data));
