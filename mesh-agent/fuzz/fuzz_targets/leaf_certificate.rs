//! Leaf certificates.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_agent_fuzz::leaf_certificate(data));
