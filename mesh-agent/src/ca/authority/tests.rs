//! Signing: what is issued, to whom it is refused, and that the journal has it.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Barrier;

use super::*;
use crate::ca::bed::{Bed, bed};
use crate::ca::{CsrError, Fault, make_request};
use crate::identity::fixtures::{DAY, HOUR, epoch, id};
use crate::identity::leaf_identity;

impl Bed {
    fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("ca")
    }

    fn again(&self) -> Result<Authority, CaError> {
        Authority::open(&self.path(), self.clock.clone())
    }
}

fn node(name: &str) -> Requester {
    Requester { node: name.into() }
}

fn issue(ca: &Authority, account: &str) -> Result<Signed, SignError> {
    let (request, _) = make_request(&id(account)).unwrap();
    ca.sign(&request, &id(account), &node("n1"), None)
}

#[test]
fn a_certificate_is_in_the_journal_with_its_node_and_end() {
    let bed = bed();
    let signed = issue(&bed.ca, "web").unwrap();
    assert_eq!(leaf_identity(&signed.chain[0]).unwrap(), id("web"));
    assert_eq!(signed.chain.len(), 2, "the leaf and the intermediate");
    assert_eq!(signed.not_after, epoch() + DAY);
    let listed = bed.ca.issued(None, false).unwrap();
    let [entry] = &listed[..] else {
        panic!("{listed:?}")
    };
    assert_eq!(entry.serial, signed.serial);
    assert_eq!(
        (&*entry.identity, &*entry.node),
        (&*id("web").to_string(), "n1")
    );
    assert_eq!(
        (&*entry.not_after, entry.state),
        ("2027-01-16T08:00:00Z", "valid")
    );
}

#[test]
fn a_lifetime_is_kept_within_bounds() {
    let bed = bed();
    let (request, _) = make_request(&id("web")).unwrap();
    for (asked, given) in [
        (Duration::ZERO, Duration::from_secs(60)),
        (HOUR, HOUR),
        (DAY * 365, DAY),
    ] {
        let signed = bed.ca.sign(&request, &id("web"), &node("n1"), Some(asked));
        assert_eq!(signed.unwrap().not_after, epoch() + given);
    }
}

#[test]
fn refusals_say_whose_fault_they_are_and_leave_no_record() {
    let bed = bed();
    let (request, _) = make_request(&id("web")).unwrap();
    let other = bed.ca.sign(&request, &id("db"), &node("n1"), None);
    let other = other.unwrap_err();
    assert!(
        matches!(&other, SignError::Request(CsrError::OtherName { .. })),
        "{other}"
    );
    assert_eq!(other.fault(), Fault::Request);
    let stranger = "spiffe://example.org/ns/shop/sa/web".parse().unwrap();
    let (request, _) = make_request(&stranger).unwrap();
    let foreign = bed.ca.sign(&request, &stranger, &node("n1"), None);
    assert_eq!(foreign.unwrap_err().fault(), Fault::Denied);
    assert!(bed.ca.issued(None, true).unwrap().is_empty());
}

#[test]
fn a_server_is_certified_under_its_names_only() {
    let bed = bed();
    let key = profile::new_key().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let request = params.serialize_request(&key).unwrap();
    assert!(matches!(
        bed.ca.sign_server(request.der(), &[]),
        Err(SignError::NoNames)
    ));
    let names = ["ca.isthmus.svc", "10.0.0.1", "::1"].map(|name| name.try_into().unwrap());
    let signed = bed.ca.sign_server(request.der(), &names).unwrap();
    let certificate = leaf::parse(&signed.chain[0]).unwrap();
    let found = certificate.subject_alternative_name().unwrap().unwrap();
    assert_eq!(found.value.general_names.len(), 3);
    let usage = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && !usage.client_auth);
    assert!(
        leaf_identity(&signed.chain[0]).is_err(),
        "a server is no workload"
    );
    // What a workload asks for is not for a server to ask.
    let (workload, _) = make_request(&id("web")).unwrap();
    assert!(bed.ca.sign_server(&workload, &names).is_err());
}

#[test]
fn the_rest_of_a_torn_line_is_removed_and_nothing_else() {
    for torn in [
        "{\"time\":\"2027-01-",
        "x",
        "\0\0\0\0",
        "{\"time\":1}",
        &"y".repeat(10_000),
    ] {
        let bed = bed();
        let first = issue(&bed.ca, "web").unwrap().serial;
        let journal = bed.path().join("issued.log");
        let mut file = OpenOptions::new().append(true).open(&journal).unwrap();
        file.write_all(torn.as_bytes()).unwrap();
        drop(file);
        // One that has it open mends it as one that opens it does.
        let mender = if torn.len() > 5 {
            bed.again().unwrap()
        } else {
            bed.ca
        };
        let second = issue(&mender, "db").unwrap().serial;
        let listed = mender.issued(None, true).unwrap();
        let serials: Vec<_> = listed.into_iter().map(|entry| entry.serial).collect();
        assert_eq!(serials, [first, second], "{torn:?}");
    }
}

#[test]
fn a_whole_line_without_its_end_is_kept() {
    let bed = bed();
    issue(&bed.ca, "web").unwrap();
    let journal = bed.path().join("issued.log");
    let text = fs::read_to_string(&journal).unwrap();
    fs::write(&journal, text.trim_end()).unwrap();
    assert_eq!(bed.again().unwrap().issued(None, true).unwrap().len(), 1);
    assert_eq!(fs::read_to_string(&journal).unwrap(), text);
}

#[test]
fn a_damaged_line_is_named() {
    let bed = bed();
    issue(&bed.ca, "web").unwrap();
    let journal = bed.path().join("issued.log");
    let text = fs::read_to_string(&journal).unwrap();
    fs::write(&journal, format!("{text}garbage\n{text}")).unwrap();
    let error = bed.ca.issued(None, true).unwrap_err();
    assert!(
        matches!(error, CaError::JournalDamaged { line: 2, .. }),
        "{error}"
    );
}

#[test]
fn several_who_use_one_directory_lose_nothing_of_each_other() {
    const EACH: usize = 20;
    let bed = bed();
    let start = Barrier::new(4);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let ca = bed.again().unwrap();
                start.wait();
                for _ in 0..EACH {
                    issue(&ca, "web").unwrap();
                }
            });
        }
        scope.spawn(|| {
            let ca = bed.again().unwrap();
            start.wait();
            for _ in 0..3 {
                ca.rotate_intermediate(None, true).unwrap();
                ca.tend().unwrap();
            }
        });
    });
    let listed = bed.ca.issued(None, true).unwrap();
    assert_eq!(listed.len(), 3 * EACH);
    let serials: std::collections::HashSet<_> = listed.iter().map(|e| &e.serial).collect();
    assert_eq!(serials.len(), 3 * EACH);
    // Each one's issuer is known still, or its list could not name it.
    let lists = bed.ca.trust().unwrap().domain.revocation;
    let Revocation::Lists(lists) = lists else {
        panic!("{lists:?}")
    };
    let issuers: std::collections::HashSet<_> = listed.iter().map(|e| &e.issuer).collect();
    assert!(lists.len() >= issuers.len());
}

#[test]
fn permissions_that_let_others_in_are_refused_with_the_cure() {
    let bed = bed();
    let chmod = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let locked = bed.ca.layout.lock().unwrap();
    let key = locked.issuer(&locked.state().unwrap().active).key();
    drop(locked);
    assert_eq!(fs::metadata(&key).unwrap().mode() & 0o7777, 0o600);
    for (mode, fine) in [
        (0o600, true),
        (0o400, true),
        (0o640, false),
        (0o604, false),
        (0o601, false),
    ] {
        chmod(&key, mode);
        match bed.again() {
            Ok(_) => assert!(fine, "{mode:o} was taken"),
            Err(error) => {
                assert!(
                    !fine && matches!(error, CaError::KeyPermissions { .. }),
                    "{error}"
                );
                let cure = format!("chmod 600 {}", key.display());
                assert!(error.to_string().contains(&cure), "{error}");
            }
        }
    }
    chmod(&key, 0o600);
    for (mode, fine) in [
        (0o700, true),
        (0o750, false),
        (0o701, false),
        (0o770, false),
    ] {
        chmod(&bed.path(), mode);
        match bed.again() {
            Ok(_) => assert!(fine, "{mode:o} was taken"),
            Err(error) => {
                assert!(
                    !fine && matches!(error, CaError::DirectoryPermissions { .. }),
                    "{error}"
                );
            }
        }
    }
}

#[test]
fn files_that_are_damaged_or_gone_are_refused_by_name() {
    type Damage = fn(&Path, &Path);
    let cases: [(&str, Damage, &str); 8] = [
        (
            "no state",
            |dir, _| fs::remove_file(dir.join("authority.json")).unwrap(),
            "authority.json is missing",
        ),
        (
            "an empty state",
            |dir, _| fs::write(dir.join("authority.json"), "").unwrap(),
            "authority.json",
        ),
        (
            "a state that leaves its directory",
            |dir, _| {
                let path = dir.join("authority.json");
                let text = fs::read_to_string(&path).unwrap();
                fs::write(path, text.replace("root-1", "../root-1")).unwrap();
            },
            "a consistent state",
        ),
        (
            "no list of what was revoked",
            |dir, _| fs::remove_file(dir.join("revoked.json")).unwrap(),
            "revoked.json",
        ),
        (
            "no key",
            |_, issuer| fs::remove_file(issuer.join("key.pem")).unwrap(),
            "key.pem",
        ),
        (
            "an empty key",
            |_, issuer| fs::write(issuer.join("key.pem"), "").unwrap(),
            "key.pem is not an ECDSA",
        ),
        (
            "the key of another",
            |dir, issuer| {
                fs::copy(dir.join("root-keys/root-1.pem"), issuer.join("key.pem")).unwrap();
            },
            "do not belong together",
        ),
        (
            "a leaf as its own issuer",
            |_, issuer| {
                let key = profile::new_key().unwrap();
                let leaf = profile::workload(&id("web"), epoch(), epoch() + DAY).unwrap();
                fs::write(
                    issuer.join("chain.pem"),
                    leaf.self_signed(&key).unwrap().pem(),
                )
                .unwrap();
                fs::write(issuer.join("key.pem"), key.serialize_pem()).unwrap();
            },
            "a CA certificate",
        ),
    ];
    for (name, damage, expected) in cases {
        let bed = bed();
        issue(&bed.ca, "web").unwrap();
        let issuers = fs::read_dir(bed.path().join("issuers")).unwrap();
        let issuer = issuers.map(|entry| entry.unwrap().path()).next().unwrap();
        damage(&bed.path(), &issuer);
        let error = bed.again().expect_err(name).to_string();
        assert!(error.contains(expected), "{name}: {error}");
    }
}

#[test]
fn a_damaged_list_is_told_and_mended() {
    let bed = bed();
    let issuer = bed.ca.trust().unwrap().issuer.unwrap().to_string();
    let list = bed.path().join("issuers").join(&issuer).join("crl.pem");
    for damage in [
        "",
        "hello",
        "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n",
    ] {
        fs::write(&list, damage).unwrap();
        let told = bed.ca.trust().unwrap().domain.revocation;
        let Revocation::Unreadable(why) = told else {
            panic!("{told:?}")
        };
        assert!(why.contains("crl.pem"), "{why}");
        bed.ca.tend().unwrap();
        assert!(matches!(
            bed.ca.trust().unwrap().domain.revocation,
            Revocation::Lists(_)
        ));
    }
}

#[test]
fn keys_are_in_no_debug_output_and_no_public_file() {
    let bed = bed();
    let signed = issue(&bed.ca, "web").unwrap();
    let shown = format!("{:?} {signed:?} {:?}", bed.ca, bed.ca.trust());
    let mut public = String::new();
    let mut secrets = Vec::new();
    let mut folders = vec![bed.path()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            if fs::metadata(&path).unwrap().mode() & 0o777 == 0o600 && text.contains("PRIVATE KEY")
            {
                secrets.push(text.lines().nth(1).unwrap().to_owned());
            } else {
                public += &text;
            }
        }
    }
    assert_eq!(secrets.len(), 2, "the root's and the intermediate's");
    assert!(!public.contains("PRIVATE"));
    for secret in secrets {
        assert!(!public.contains(&secret) && !shown.contains(&secret));
    }
}
