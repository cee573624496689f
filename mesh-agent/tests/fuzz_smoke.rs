//! Runs the fuzz targets' bodies over their seeds and a few thousand mutations
//! of them, so that a broken parser is found without a fuzzer.

#[path = "../fuzz/src/lib.rs"]
#[expect(unreachable_pub, reason = "it is a library to the fuzz targets")]
mod bodies;

use std::path::Path;

/// Mutations of each seed.
const MUTATIONS: u64 = 400;

fn run(target: &str, body: fn(&[u8])) {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    let mut ran = 0;
    for seed in std::fs::read_dir(seeds.join(target)).unwrap() {
        let seed = std::fs::read(seed.unwrap().path()).unwrap();
        body(&seed);
        for n in 0..MUTATIONS {
            body(&mutated(&seed, n));
        }
        ran += 1;
    }
    assert!(ran > 0, "{target} has no seeds");
}

/// The same mutation for the same number, always.
fn mutated(seed: &[u8], n: u64) -> Vec<u8> {
    let mut state = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) as usize % below.max(1)
    };
    let mut bytes = seed.to_vec();
    for _ in 0..=random(4) {
        let at = random(bytes.len());
        match random(5) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, random(256) as u8),
            2 => bytes.extend_from_within(at..),
            _ if bytes.is_empty() => bytes.push(0),
            3 => drop(bytes.remove(at)),
            _ => bytes[at] ^= 1 << random(8),
        }
    }
    bytes
}

#[test]
fn connect_request() {
    run("connect_request", bodies::connect_request);
}

#[test]
fn forwarded() {
    run("forwarded", bodies::forwarded);
}

#[test]
fn baggage() {
    run("baggage", bodies::baggage);
}

#[test]
fn traceparent() {
    run("traceparent", bodies::traceparent);
}

#[test]
fn spiffe_id() {
    run("spiffe_id", bodies::spiffe_id);
}

#[test]
fn tunnel_server() {
    run("tunnel_server", bodies::tunnel_server);
}

#[test]
fn leaf_certificate() {
    run("leaf_certificate", bodies::leaf_certificate);
}

#[test]
fn certificate_request() {
    run("certificate_request", bodies::certificate_request);
}
