//! A tunnel server fed with bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_agent_fuzz::tunnel_server(data));
