//! The embedded authority: its files, and what it signs.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::Barrier;

use rcgen::PublicKeyData;
use rustls::pki_types::pem::PemObject;
use tempfile::TempDir;

use super::*;
use crate::identity::fixtures::{
    DAY, HOUR, ManualClock, ca_params, domain, epoch, id, leaf_params, private_scalar, reveals,
};

fn open(dir: &Path) -> Result<EmbeddedCa, CaError> {
    EmbeddedCa::open_with_clock(dir, &domain("cluster.local"), ManualClock::at(epoch()))
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// A state directory with a root in it.
fn with_root() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).unwrap();
    dir
}

#[test]
fn the_first_start_makes_a_private_root_and_later_ones_find_it() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("var/isthmus");
    let first = open(&dir).unwrap();
    assert_eq!(mode(&dir), 0o700);
    assert_eq!(mode(&dir.join("ca-key.pem")), 0o600);
    assert!(!dir.join("ca-key.pem.new").exists() && !dir.join("ca-cert.pem.new").exists());
    assert_eq!(open(&dir).unwrap().bundle(), first.bundle());
}

#[test]
fn agents_that_start_together_get_one_root() {
    const AGENTS: usize = 32;
    let dir = tempfile::tempdir().unwrap();
    let start = Barrier::new(AGENTS);
    let bundles: Vec<TrustBundle> = std::thread::scope(|scope| {
        let agents: Vec<_> = (0..AGENTS)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    open(dir.path()).unwrap().bundle()
                })
            })
            .collect();
        agents
            .into_iter()
            .map(|agent| agent.join().unwrap())
            .collect()
    });
    assert!(bundles.iter().all(|bundle| *bundle == bundles[0]));
}

#[test]
fn a_crash_while_the_root_is_made_leaves_no_root_or_a_whole_one() {
    let at = |dir: &TempDir, name: &str| dir.path().join(name);

    // Before the first rename: nothing was ever used, so a new root is made.
    let before = with_root();
    let abandoned = open(before.path()).unwrap().bundle();
    fs::rename(at(&before, "ca-key.pem"), at(&before, "ca-key.pem.new")).unwrap();
    fs::rename(at(&before, "ca-cert.pem"), at(&before, "ca-cert.pem.new")).unwrap();
    chmod(&at(&before, "ca-key.pem.new"), 0o644);
    assert_ne!(open(before.path()).unwrap().bundle(), abandoned);
    assert_eq!(
        mode(&at(&before, "ca-key.pem")),
        0o600,
        "a leftover's mode was kept"
    );

    // Between the renames: the certificate may have been seen, so it stays.
    let between = with_root();
    let published = open(between.path()).unwrap().bundle();
    fs::rename(at(&between, "ca-key.pem"), at(&between, "ca-key.pem.new")).unwrap();
    assert_eq!(open(between.path()).unwrap().bundle(), published);
    assert!(!at(&between, "ca-key.pem.new").exists());
}

#[test]
fn permissions_that_let_others_in_are_refused_with_the_cure() {
    let key_modes = [
        (0o600, true),
        (0o400, true),
        (0o640, false),
        (0o604, false),
        (0o660, false),
        (0o644, false),
        (0o601, false),
    ];
    for (bits, fine) in key_modes {
        let dir = with_root();
        let key = dir.path().join("ca-key.pem");
        chmod(&key, bits);
        match open(dir.path()) {
            Ok(_) => assert!(fine, "{bits:o} was taken"),
            Err(error) => {
                assert!(!fine, "{bits:o} was refused: {error}");
                assert!(matches!(&error, CaError::KeyPermissions { mode, .. } if *mode == bits));
                let cure = format!("chmod 600 {}", key.display());
                assert!(error.to_string().contains(&cure), "{error}");
            }
        }
    }
    for (bits, fine) in [(0o700, true), (0o755, true), (0o770, false), (0o702, false)] {
        let dir = with_root();
        chmod(dir.path(), bits);
        let opened = open(dir.path());
        match opened {
            Ok(_) => assert!(fine, "{bits:o} was taken"),
            Err(CaError::DirectoryPermissions { mode, .. }) => assert!(!fine && mode == bits),
            Err(error) => panic!("{bits:o}: {error}"),
        }
    }
}

#[test]
fn a_directory_of_somebody_else_is_refused() {
    let temporary = tempfile::tempdir().unwrap();
    // Root can give a directory away; for everybody else, `/` is somebody else's.
    let dir = if nix::unistd::geteuid().is_root() {
        let nobody = nix::unistd::Uid::from_raw(65534);
        nix::unistd::chown(temporary.path(), Some(nobody), None).unwrap();
        temporary.path()
    } else {
        Path::new("/")
    };
    assert!(matches!(open(dir), Err(CaError::Owner { .. })));
}

/// Replaces the root by one made here, with its right key.
fn replace_root(dir: &TempDir, params: &CertificateParams) {
    let key = KeyPair::generate().unwrap();
    let root = params.self_signed(&key).unwrap();
    fs::write(dir.path().join("ca-cert.pem"), root.pem()).unwrap();
    fs::write(dir.path().join("ca-key.pem"), key.serialize_pem()).unwrap();
}

#[test]
fn files_that_make_no_root_are_refused() {
    type Damage = fn(&TempDir);
    type Expected = fn(&CaError) -> bool;
    let cases: [(&str, Damage, Expected); 9] = [
        (
            "no key",
            |dir| fs::remove_file(dir.path().join("ca-key.pem")).unwrap(),
            |error| matches!(error, CaError::Incomplete { missing, .. } if missing.ends_with("ca-key.pem")),
        ),
        (
            "no certificate",
            |dir| fs::remove_file(dir.path().join("ca-cert.pem")).unwrap(),
            |error| matches!(error, CaError::Incomplete { missing, .. } if missing.ends_with("ca-cert.pem")),
        ),
        (
            "an empty key",
            |dir| fs::write(dir.path().join("ca-key.pem"), "").unwrap(),
            |error| matches!(error, CaError::Unreadable { path, .. } if path.ends_with("ca-key.pem")),
        ),
        (
            "a certificate that is text",
            |dir| fs::write(dir.path().join("ca-cert.pem"), "hello").unwrap(),
            |error| matches!(error, CaError::Unreadable { path, .. } if path.ends_with("ca-cert.pem")),
        ),
        (
            "bytes that are no text",
            |dir| fs::write(dir.path().join("ca-cert.pem"), [0xff; 100]).unwrap(),
            |error| matches!(error, CaError::Io { action: "read", .. }),
        ),
        (
            "the key of another root",
            |dir| {
                let key = KeyPair::generate().unwrap().serialize_pem();
                fs::write(dir.path().join("ca-key.pem"), key).unwrap();
            },
            |error| matches!(error, CaError::Mismatch { .. }),
        ),
        (
            "a leaf in place of the root",
            |dir| replace_root(dir, &leaf_params(&["spiffe://cluster.local"])),
            |error| {
                matches!(
                    error,
                    CaError::Unreadable {
                        expected: "a CA certificate",
                        ..
                    }
                )
            },
        ),
        (
            "a root that names no trust domain",
            |dir| replace_root(dir, &ca_params("foreign")),
            |error| matches!(error, CaError::OtherTrustDomain { .. }),
        ),
        (
            "an expired root",
            |dir| {
                let mut params = ca_params("old");
                params.subject_alt_names = vec![uri("spiffe://cluster.local").unwrap()];
                params.not_after = (epoch() - Duration::from_secs(1)).into();
                replace_root(dir, &params);
            },
            |error| matches!(error, CaError::OutOfValidity { .. }),
        ),
    ];
    for (name, damage, expected) in cases {
        let dir = with_root();
        damage(&dir);
        let error = open(dir.path()).expect_err(name);
        assert!(expected(&error), "{name}: {error}");
        assert!(
            error
                .to_string()
                .contains(&dir.path().display().to_string()),
            "{name}: the message does not name the file: {error}"
        );
    }
}

#[test]
fn the_root_of_another_trust_domain_is_refused_by_name() {
    let dir = with_root();
    let clock = ManualClock::at(epoch());
    let error = EmbeddedCa::open_with_clock(dir.path(), &domain("example.org"), clock)
        .expect_err("another mesh's root was taken")
        .to_string();
    assert!(
        error.contains("spiffe://cluster.local") && error.contains("example.org"),
        "{error}"
    );
}

#[test]
fn an_svid_has_the_profile_of_x509_svid() {
    let dir = with_root();
    let ca = open(dir.path()).unwrap();
    let Issued { svid, bundle } = ca.sign(&id("web")).unwrap();
    assert_eq!(*svid.id(), id("web"));
    assert_eq!(svid.chain().len(), 1, "the root is not sent");
    assert_eq!(svid.not_before(), epoch() - Duration::from_secs(60));
    assert_eq!(svid.not_after(), epoch() + DAY);
    assert_eq!(svid.serial().len(), 32, "{}", svid.serial());
    assert!(bundle.is_none() && ca.bundle().roots().len() == 1);

    let leaf = leaf_of(&svid);
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert_eq!(names.value.general_names.len(), 1);
    assert!(
        leaf.subject().iter().next().is_none() && names.critical,
        "empty subject, critical SAN"
    );
    assert!(!leaf.is_ca());
    let usage = leaf.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.digital_signature());
    assert_eq!(usage.value.flags.count_ones(), 1, "only digitalSignature");
    let extended = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth && !extended.any);
}

fn leaf_of(svid: &Svid) -> x509_parser::certificate::X509Certificate<'_> {
    crate::identity::leaf::parse(&svid.chain()[0]).unwrap()
}

#[test]
fn every_svid_has_a_key_and_a_serial_of_its_own() {
    let dir = with_root();
    let ca = open(dir.path()).unwrap();
    let [one, two] = [(); 2].map(|()| ca.sign(&id("web")).unwrap().svid);
    assert_ne!(one.serial(), two.serial());
    assert_ne!(
        leaf_of(&one).public_key().raw,
        leaf_of(&two).public_key().raw
    );
}

#[tokio::test]
async fn only_the_own_trust_domain_is_certified() {
    let dir = with_root();
    let stranger = "spiffe://example.org/ns/shop/sa/web".parse().unwrap();
    let error = open(dir.path())
        .unwrap()
        .issue(&stranger)
        .await
        .expect_err("certified a stranger");
    let IssueError::Authority { source, .. } = &error else {
        panic!("{error}");
    };
    let source = source.downcast_ref::<SigningError>();
    assert!(
        matches!(source, Some(SigningError::OtherTrustDomain { .. })),
        "{error}"
    );
}

#[test]
fn nothing_outlives_the_root() {
    let dir = with_root();
    let clock = ManualClock::at(epoch());
    let ca = EmbeddedCa::open_with_clock(dir.path(), &domain("cluster.local"), clock.clone());
    let ca = ca.unwrap();
    clock.set(ca.root_not_after - HOUR);
    assert_eq!(
        ca.sign(&id("web")).unwrap().svid.not_after(),
        ca.root_not_after
    );
    clock.set(ca.root_not_after + HOUR);
    assert!(matches!(
        ca.sign(&id("web")),
        Err(SigningError::RootExpired(_))
    ));
}

/// A second opinion: OpenSSL accepts the chain for both purposes, strictly.
#[test]
fn openssl_verifies_the_chain() {
    let dir = tempfile::tempdir().unwrap();
    let ca = EmbeddedCa::open(dir.path(), &domain("cluster.local")).unwrap();
    let svid = ca.sign(&id("web")).unwrap().svid;
    let leaf = dir.path().join("leaf.der");
    fs::write(&leaf, &svid.chain()[0]).unwrap();
    let root = dir.path().join("ca-cert.pem");
    for purpose in ["sslserver", "sslclient"] {
        openssl(&[
            "verify".as_ref(),
            "-x509_strict".as_ref(),
            "-purpose".as_ref(),
            purpose.as_ref(),
            "-CAfile".as_ref(),
            root.as_os_str(),
            leaf.as_os_str(),
        ]);
    }
    let text = openssl(&[
        "x509".as_ref(),
        "-inform".as_ref(),
        "DER".as_ref(),
        "-text".as_ref(),
        "-noout".as_ref(),
        "-in".as_ref(),
        leaf.as_os_str(),
    ]);
    for line in [
        "URI:spiffe://cluster.local/ns/shop/sa/web",
        "X509v3 Subject Alternative Name: critical",
        "ASN1 OID: prime256v1",
        "Signature Algorithm: ecdsa-with-SHA256",
        "CA:FALSE",
    ] {
        assert!(text.contains(line), "no {line:?} in:\n{text}");
    }
}

fn openssl(arguments: &[&std::ffi::OsStr]) -> String {
    let output = Command::new("openssl")
        .args(arguments)
        .output()
        .expect("these tests need the openssl command");
    let (out, errors) = (output.stdout, output.stderr);
    let (out, errors) = (
        String::from_utf8_lossy(&out),
        String::from_utf8_lossy(&errors),
    );
    assert!(
        output.status.success(),
        "openssl {arguments:?}: {out}{errors}"
    );
    out.into_owned()
}

/// The root's key on disk is the one that signs, and is in no `Debug` output.
#[test]
fn keys_are_in_no_debug_output() {
    let dir = with_root();
    let ca = open(dir.path()).unwrap();
    let root_pem = fs::read(dir.path().join("ca-key.pem")).unwrap();
    let root_key = PrivateKeyDer::from_pem_slice(&root_pem).unwrap();
    let Issued { svid, bundle } = ca.sign(&id("web")).unwrap();
    let shown = format!("{ca:?} {svid:?} {bundle:?}");
    for key in [&root_key, svid.key()] {
        let scalar = private_scalar(key);
        // The search finds what it looks for where it is to be found.
        assert!(reveals(&format!("{:?}", key.secret_der()), &scalar));
        assert!(!reveals(&shown, &scalar), "{shown}");
    }
}

#[test]
fn the_public_half_of_the_key_on_disk_is_the_roots() {
    let dir = with_root();
    let pem = fs::read_to_string(dir.path().join("ca-key.pem")).unwrap();
    let key = KeyPair::from_pem(&pem).unwrap();
    let ca = open(dir.path()).unwrap();
    let root = crate::identity::leaf::parse(&ca.root).unwrap();
    assert_eq!(root.public_key().raw, key.subject_public_key_info());
    assert!(root.is_ca() && root.verify_signature(None).is_ok());
}
