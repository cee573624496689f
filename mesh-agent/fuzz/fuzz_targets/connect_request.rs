//! The CONNECT request of a tunnel client.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_agent_fuzz::connect_request(data));
