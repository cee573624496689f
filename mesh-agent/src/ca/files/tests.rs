//! Folders as their owners write them, and what is served from them.

mod refused;
mod renewed;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use rustls::pki_types::CertificateDer;
use tempfile::TempDir;

use super::*;
use crate::identity::NameProofs;
use crate::identity::fixtures::{Identity, ManualClock, TestCa, domain, epoch, id, leaf_params};

/// A directory of certificates, and an authority whose are in it.
struct Place {
    dir: TempDir,
    ca: TestCa,
    trust: Arc<TrustStore>,
    clock: Arc<ManualClock>,
}

impl Place {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            ca: TestCa::new("cluster.local"),
            trust: TrustStore::new(domain("cluster.local")),
            clock: ManualClock::at(epoch()),
        }
    }

    /// Of the workloads of namespace `shop`.
    fn folder(&self, account: &str) -> PathBuf {
        self.dir.path().join("shop").join(account)
    }

    fn files(&self, fallback: Option<Arc<dyn CertificateAuthority>>) -> FileCertificates {
        let (trust, clock) = (self.trust.clone(), self.clock.clone());
        FileCertificates::open(self.dir.path(), trust, clock, fallback).unwrap()
    }

    /// A whole folder for `account`, from this place's authority.
    fn write(&self, account: &str) {
        let identity = self.ca.identity(&id(account));
        write_folder(&self.folder(account), &identity, &self.roots());
    }

    fn roots(&self) -> String {
        certificates(self.ca.bundle().roots())
    }

    /// What the files say is wrong, by the file's name.
    async fn complaint(&self, account: &str) -> String {
        let error = self.files(None).issue(&id(account)).await.unwrap_err();
        error.to_string()
    }
}

fn text(label: &str, der: &[u8]) -> String {
    pem::encode(&pem::Pem::new(label, der))
}

fn certificates(chain: &[CertificateDer<'_>]) -> String {
    chain.iter().map(|it| text("CERTIFICATE", it)).collect()
}

fn write_folder(folder: &Path, identity: &Identity, roots: &str) {
    fs::create_dir_all(folder).unwrap();
    write_key(folder, identity);
    fs::write(folder.join("cert-chain.pem"), certificates(&identity.chain)).unwrap();
    fs::write(folder.join("root-cert.pem"), roots).unwrap();
}

fn write_key(folder: &Path, identity: &Identity) {
    let path = folder.join("key.pem");
    fs::write(&path, text("PRIVATE KEY", identity.key.secret_der())).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
}

/// A certificate for DNS names and no URI.
fn named(ca: &TestCa, names: &[&str]) -> Identity {
    let mut params = leaf_params(&[]);
    let names = names.iter().map(|name| (*name).try_into().unwrap());
    params.subject_alt_names = names.map(rcgen::SanType::DnsName).collect();
    ca.sign(params)
}

#[tokio::test]
async fn a_folder_serves_its_workload_and_the_fallback_the_others() {
    let place = Place::new();
    place.write("web");
    let other = Arc::new(TestCa::new("cluster.local"));
    let files = place.files(Some(other));
    let web = files.issue(&id("web")).await.unwrap();
    assert_eq!(web.svid.id(), &id("web"));
    assert_eq!(web.bundle, Some(place.ca.bundle()));
    let db = files.issue(&id("db")).await.unwrap();
    assert_eq!(db.svid.id(), &id("db"));
    assert_eq!(db.bundle, None);
    assert!(files.source(&id("web")).ends_with("shop/web"));
    // The same names in another trust domain are not this folder's.
    let foreign = "spiffe://other.example/ns/shop/sa/web".parse().unwrap();
    assert_eq!(files.issue(&foreign).await.unwrap().bundle, None);
}

#[tokio::test]
async fn dns_names_and_wild_cards_stand_for_a_workload_that_has_them() {
    for presented in ["web.example.com", "*.example.com", "WEB.example.com"] {
        let place = Place::new();
        let proofs = vec![(id("web"), vec!["web.example.com".to_owned()])];
        place.trust.set_names(NameProofs::new(proofs));
        let identity = named(&place.ca, &[presented]);
        write_folder(&place.folder("web"), &identity, &place.roots());
        let issued = place.files(None).issue(&id("web")).await;
        assert_eq!(issued.unwrap().svid.id(), &id("web"), "{presented}");
    }
}

#[tokio::test]
async fn a_directory_that_is_not_there_is_said() {
    let place = Place::new();
    let dir = place.dir.path().join("nowhere");
    let opened = FileCertificates::open(&dir, place.trust.clone(), place.clock.clone(), None);
    let error = opened.expect_err("opened nothing").to_string();
    assert!(
        error.contains("nowhere") && error.contains("create it"),
        "{error}"
    );
}
