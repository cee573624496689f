//! Certificate requests.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_agent_fuzz::certificate_request(data));
