//! See `netio_collector::fuzzing::selector`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| netio_collector::fuzzing::selector(data));
