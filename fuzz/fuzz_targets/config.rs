//! See `netio_collector::fuzzing::config`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| netio_collector::fuzzing::config(data));
