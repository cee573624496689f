//! How an authority begins: by itself, below an off-line root, or after a crash.

use std::fs;
use std::path::PathBuf;
use std::sync::Barrier;

use tempfile::TempDir;

use super::*;
use crate::ca::{EmbeddedCa, Requester, make_request};
use crate::identity::fixtures::{DAY, ManualClock, domain, epoch, id};

fn clock() -> Arc<ManualClock> {
    ManualClock::at(epoch())
}

fn home() -> TrustDomain {
    domain("cluster.local")
}

#[test]
fn agents_that_start_together_get_one_authority() {
    const AGENTS: usize = 16;
    let dir = tempfile::tempdir().unwrap();
    let start = Barrier::new(AGENTS);
    let found: Vec<_> = std::thread::scope(|scope| {
        let agents: Vec<_> = (0..AGENTS)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    let ca = EmbeddedCa::open_with_clock(dir.path(), &home(), clock());
                    ca.unwrap().authority().trust().unwrap()
                })
            })
            .collect();
        agents.into_iter().map(|a| a.join().unwrap()).collect()
    });
    assert!(found.iter().all(|trust| *trust == found[0]));
}

#[test]
fn a_second_init_and_another_trust_domain_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("ca");
    init(&at, &home(), clock()).unwrap();
    let again = init(&at, &home(), clock());
    assert!(matches!(again, Err(CaError::AlreadyInitialised { .. })));
    let other = EmbeddedCa::open_with_clock(dir.path(), &domain("example.org"), clock());
    let error = other.unwrap_err().to_string();
    assert!(
        error.contains("cluster.local") && error.contains("example.org"),
        "{error}"
    );
}

/// A crash before the state was written leaves files that nobody was told of.
#[test]
fn a_crash_while_it_is_made_leaves_none_or_a_whole_one() {
    let whole = tempfile::tempdir().unwrap();
    init(&whole.path().join("ca"), &home(), clock()).unwrap();
    for left in [
        &["root-keys"][..],
        &["root-keys", "issuers"],
        &["root-keys", "issuers", "revoked.json"],
    ] {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("ca");
        init(&at, &home(), clock()).unwrap();
        for name in [
            "root-keys",
            "issuers",
            "revoked.json",
            "roots.pem",
            "authority.json",
        ] {
            if left.contains(&name) {
                continue;
            }
            let path = at.join(name);
            if path.is_dir() {
                fs::remove_dir_all(path).unwrap();
            } else {
                fs::remove_file(path).unwrap();
            }
        }
        let made = init(&at, &home(), clock()).unwrap();
        assert_eq!(
            fs::read_dir(at.join("issuers")).unwrap().count(),
            1,
            "{left:?}"
        );
        let (request, _) = make_request(&id("web")).unwrap();
        let to = Requester { node: "n".into() };
        made.sign(&request, &id("web"), &to, None).unwrap();
    }
    // After the state: the copy of the roots is made good.
    let at = whole.path().join("ca");
    let copy = fs::read_to_string(at.join("roots.pem")).unwrap();
    fs::remove_file(at.join("roots.pem")).unwrap();
    Authority::open(&at, clock()).unwrap().tend().unwrap();
    assert_eq!(fs::read_to_string(at.join("roots.pem")).unwrap(), copy);
}

/// A machine with a root, and one that wants an intermediate below it.
struct Offline {
    dir: TempDir,
    root: Authority,
}

impl Offline {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = init(&dir.path().join("root"), &home(), clock()).unwrap();
        let this = Self { dir, root };
        fs::write(this.path("roots.pem"), this.root.roots_pem().unwrap()).unwrap();
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Has the request of `node/` signed into `chain.pem`.
    fn answer(&self) {
        let request = request_intermediate(&self.path("node"), &home()).unwrap();
        fs::write(self.path("request.pem"), request).unwrap();
        let chain = self.root.certify_intermediate(&self.path("request.pem"));
        fs::write(self.path("chain.pem"), pem::chain(&[chain.unwrap()])).unwrap();
    }

    fn finish(&self) -> Result<Authority, CaError> {
        init_with_chain(
            &self.path("node"),
            &self.path("chain.pem"),
            &self.path("roots.pem"),
            clock(),
        )
    }
}

#[test]
fn an_intermediate_below_an_off_line_root_signs_and_the_roots_key_is_nowhere() {
    let bed = Offline::new();
    bed.answer();
    let same = request_intermediate(&bed.path("node"), &home()).unwrap();
    assert_eq!(same, fs::read_to_string(bed.path("request.pem")).unwrap());
    let ca = bed.finish().unwrap();
    let (request, _) = make_request(&id("web")).unwrap();
    let to = Requester { node: "n".into() };
    let signed = ca.sign(&request, &id("web"), &to, None).unwrap();
    assert_eq!(signed.not_after, epoch() + DAY);
    assert_eq!(pem::chain(&signed.roots), bed.root.roots_pem().unwrap());
    assert!(!bed.path("node/root-keys").exists() && !bed.path("node/pending").exists());
    // The root's journal has the intermediate.
    assert_eq!(
        bed.root
            .issued(Some("spiffe://cluster.local"), false)
            .unwrap()
            .len(),
        1
    );

    // Its successor comes the same way.
    let error = ca.rotate_intermediate(None, true).unwrap_err();
    assert!(matches!(error, CaError::NoRootKey { .. }), "{error}");
    bed.answer();
    let step = ca
        .rotate_intermediate(Some(&bed.path("chain.pem")), true)
        .unwrap();
    assert_eq!(ca.rotation().unwrap().active, step.issuer);
    assert!(!bed.path("node/pending").exists());
}

#[test]
fn an_agent_does_not_make_a_root_where_a_request_waits() {
    let dir = tempfile::tempdir().unwrap();
    request_intermediate(&dir.path().join("ca"), &home()).unwrap();
    let error = EmbeddedCa::open_with_clock(dir.path(), &home(), clock()).unwrap_err();
    assert!(matches!(error, CaError::ChainAwaited { .. }), "{error}");
}

#[test]
fn a_chain_that_does_not_fit_is_refused_with_the_reason() {
    type Spoil = fn(&Offline);
    let cases: [(&str, Spoil, &str); 6] = [
        (
            "of another key",
            |bed| {
                fs::remove_dir_all(bed.path("node/pending")).unwrap();
                request_intermediate(&bed.path("node"), &home()).unwrap();
            },
            "not of the key that waits",
        ),
        (
            "to another root",
            |bed| {
                let other = init(&bed.path("other"), &home(), clock()).unwrap();
                fs::write(bed.path("roots.pem"), other.roots_pem().unwrap()).unwrap();
            },
            "leads to none of the 1 roots",
        ),
        (
            "no certificate",
            |bed| fs::write(bed.path("chain.pem"), "hello").unwrap(),
            "certificates in PEM",
        ),
        (
            "only a root",
            |bed| {
                fs::copy(bed.path("roots.pem"), bed.path("chain.pem")).unwrap();
            },
            "a certificate in PEM",
        ),
        (
            "a leaf",
            |bed| resign(bed, |params| params.is_ca = rcgen::IsCa::ExplicitNoCa),
            "CA:TRUE",
        ),
        (
            "one that may sign no lists",
            |bed| {
                resign(bed, |params| {
                    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
                });
            },
            "cRLSign",
        ),
    ];
    for (name, spoil, reason) in cases {
        let bed = Offline::new();
        bed.answer();
        spoil(&bed);
        let error = bed.finish().expect_err(name).to_string();
        assert!(error.contains(reason), "{name}: {error}");
        assert!(!bed.path("node/authority.json").exists(), "{name}");
    }
    let bed = Offline::new();
    bed.answer();
    fs::remove_dir_all(bed.path("node/pending")).unwrap();
    assert!(matches!(bed.finish(), Err(CaError::NothingPending { .. })));
}

/// Signs the waiting key's certificate as a careless root would.
fn resign(bed: &Offline, change: fn(&mut rcgen::CertificateParams)) {
    let key = fs::read_to_string(bed.path("node/pending/key.pem")).unwrap();
    let key = rcgen::KeyPair::from_pem(&key).unwrap();
    let locked = bed.root.layout.lock().unwrap();
    let state = locked.state().unwrap();
    let signer = make::root_signer(&locked, &state.roots[0]).unwrap();
    let mut params = crate::ca::profile::intermediate(&home(), epoch(), epoch() + DAY).unwrap();
    change(&mut params);
    let chain = signer.sign(&params, &key).unwrap();
    fs::write(bed.path("chain.pem"), pem::chain(&[chain])).unwrap();
}
