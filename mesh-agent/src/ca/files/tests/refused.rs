//! What cannot serve, and what is said of it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::SystemTime;

use super::{Place, certificates, named, write_folder, write_key};
use crate::identity::NameProofs;
use crate::identity::fixtures::{DAY, HOUR, Identity, TestCa, epoch, id, leaf_params};

fn with_validity(ca: &TestCa, account: &str, from: SystemTime, to: SystemTime) -> Identity {
    let mut params = leaf_params(&[&id(account).to_string()]);
    params.not_before = from.into();
    params.not_after = to.into();
    ca.sign(params)
}

#[tokio::test(start_paused = true)]
async fn without_a_fallback_a_missing_folder_is_said() {
    let complaint = Place::new().complaint("web").await;
    assert!(complaint.contains("there is no folder"), "{complaint}");
    assert!(complaint.contains("shop/web"), "{complaint}");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_serve_is_refused_by_its_file_with_a_cure() {
    type Break = fn(&Place, &Path);
    let table: [(Break, &str, &str); 15] = [
        (
            |_, at| fs::remove_file(at.join("key.pem")).unwrap(),
            "key.pem",
            "cannot read",
        ),
        (
            |_, at| fs::remove_file(at.join("root-cert.pem")).unwrap(),
            "root-cert.pem",
            "cannot read",
        ),
        (
            |_, at| fs::write(at.join("cert-chain.pem"), "").unwrap(),
            "cert-chain.pem",
            "holds no certificate",
        ),
        (
            |_, at| fs::write(at.join("root-cert.pem"), "notes").unwrap(),
            "root-cert.pem",
            "holds no certificate",
        ),
        (
            |place, at| {
                let key = fs::read(at.join("key.pem")).unwrap();
                let chain = certificates(&place.ca.identity(&id("web")).chain);
                fs::write(at.join("cert-chain.pem"), [chain.as_bytes(), &key].concat()).unwrap();
            },
            "cert-chain.pem",
            "it holds a private key",
        ),
        (
            |_, at| {
                let chain = fs::read(at.join("cert-chain.pem")).unwrap();
                fs::write(at.join("root-cert.pem"), chain).unwrap();
            },
            "root-cert.pem",
            "is not an authority's",
        ),
        (
            |_, at| fs::write(at.join("key.pem"), "no key").unwrap(),
            "key.pem",
            "no private key that can be used",
        ),
        (
            |_, at| {
                fs::set_permissions(at.join("key.pem"), Permissions::from_mode(0o640)).unwrap();
            },
            "key.pem",
            "has mode 0640",
        ),
        (
            |place, at| write_key(at, &place.ca.identity(&id("web"))),
            "key.pem",
            "is not that of the certificate in",
        ),
        (
            |place, at| write_folder(at, &place.ca.identity(&id("thief")), &place.roots()),
            "cert-chain.pem",
            "names spiffe://cluster.local/ns/shop/sa/thief",
        ),
        (
            |place, at| {
                write_folder(
                    at,
                    &named(&place.ca, &["db.example.com", "*.apps.local"]),
                    &place.roots(),
                )
            },
            "cert-chain.pem",
            "its DNS names (db.example.com, *.apps.local) match none of the workload's (web.example.com)",
        ),
        (
            |place, at| {
                write_folder(
                    at,
                    &with_validity(&place.ca, "web", epoch() - DAY, epoch() - HOUR),
                    &place.roots(),
                )
            },
            "cert-chain.pem",
            "expired at 2027-01-15T07:00:00Z",
        ),
        (
            |place, at| {
                write_folder(
                    at,
                    &with_validity(&place.ca, "web", epoch() + HOUR, epoch() + DAY),
                    &place.roots(),
                )
            },
            "cert-chain.pem",
            "is not valid before 2027-01-15T09:00:00Z",
        ),
        (
            |_, at| {
                let roots = certificates(TestCa::new("cluster.local").bundle().roots());
                fs::write(at.join("root-cert.pem"), roots).unwrap();
            },
            "root-cert.pem",
            "would refuse the certificate in",
        ),
        (
            |place, at| {
                let mut params = leaf_params(&[&id("web").to_string()]);
                params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
                write_folder(at, &place.ca.sign(params), &place.roots());
            },
            "cert-chain.pem",
            "would refuse the certificate in",
        ),
    ];
    for (break_it, file, expected) in table {
        let place = Place::new();
        let proofs = vec![(id("web"), vec!["web.example.com".to_owned()])];
        place.trust.set_names(NameProofs::new(proofs));
        place.write("web");
        break_it(&place, &place.folder("web"));
        let key = fs::read_to_string(place.folder("web").join("key.pem")).unwrap_or_default();
        let complaint = place.complaint("web").await;
        assert!(
            complaint.contains(expected),
            "{complaint} does not say {expected}"
        );
        assert!(
            complaint.contains(&format!("/shop/web/{file}")),
            "{complaint} does not name {file}"
        );
        assert!(complaint.contains("; "), "{complaint} has no cure");
        let secret = key.lines().nth(1).unwrap_or("no second line");
        assert!(!complaint.contains(secret), "the key is in the message");
    }
}
