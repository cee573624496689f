//! Folders as their owners write them: what is served, what is refused by name, and
//! when a change reaches the store.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::time::SystemTime;

use rustls::pki_types::CertificateDer;
use tempfile::TempDir;

use super::*;
use crate::identity::fixtures::{
    DAY, HOUR, Identity, ManualClock, TestCa, domain, epoch, id, leaf_params,
};
use crate::identity::{Credential, NameProofs};
use crate::tls::{ParametersStore, TlsSettings};

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

fn with_validity(ca: &TestCa, account: &str, from: SystemTime, to: SystemTime) -> Identity {
    let mut params = leaf_params(&[&id(account).to_string()]);
    params.not_before = from.into();
    params.not_after = to.into();
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
async fn a_pair_is_waited_for_until_its_second_half_comes() {
    let place = Place::new();
    place.write("web");
    let folder = place.folder("web");
    let next = place.ca.identity(&id("web"));
    // Renewed by half: the certificate is new, the key is not.
    fs::write(folder.join("cert-chain.pem"), certificates(&next.chain)).unwrap();
    let files = place.files(None);
    let web = id("web");
    let mut asked = files.issue(&web);
    let early = std::future::poll_fn(|cx| std::task::Poll::Ready(asked.as_mut().poll(cx))).await;
    assert!(early.is_pending(), "half a pair was judged at once");
    write_key(&folder, &next);
    let issued = asked.await.unwrap();
    assert_eq!(issued.svid.chain(), &next.chain[..]);
}

/// A store in front of the files, and the credential of `web`.
async fn held(place: &Place, files: FileCertificates) -> (Arc<SvidStore>, Arc<Credential>) {
    let files = Arc::new(files);
    let parameters = ParametersStore::new(TlsSettings::default());
    let (trust, clock) = (place.trust.clone(), place.clock.clone());
    let store = SvidStore::with_clock(files.clone(), trust, parameters, clock);
    drop(files.follow(&store));
    let credential = store.acquire(&id("web")).await.unwrap();
    (store, credential)
}

/// Waits for the store to take another certificate than the one with this serial.
async fn renewed(credential: &Credential, before: &str) -> String {
    until(|| {
        let serial = credential.info().serial.to_string();
        (serial != before).then_some(serial)
    })
    .await
}

/// Asks until there is an answer. The store tells nobody of renewals.
async fn until<T>(answer: impl Fn() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = answer() {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let patience = Duration::from_secs(30);
    tokio::time::timeout(patience, asking)
        .await
        .expect("no answer for half a minute")
}

#[tokio::test]
async fn a_renewed_certificate_reaches_the_store_however_it_is_written() {
    let place = Place::new();
    place.write("web");
    let folder = place.folder("web");
    let (_store, credential) = held(&place, place.files(None)).await;
    let mut serial = credential.info().serial.to_string();

    // Written over.
    place.write("web");
    serial = renewed(&credential, &serial).await;

    // The folder exchanged by renaming.
    let (new, old) = (place.dir.path().join(".new"), place.dir.path().join(".old"));
    let identity = place.ca.identity(&id("web"));
    write_folder(&new, &identity, &place.roots());
    fs::rename(&folder, &old).unwrap();
    fs::rename(&new, &folder).unwrap();
    serial = renewed(&credential, &serial).await;

    // As Kubernetes does: files are links into `..data`, which is switched.
    let version = |name: &str| {
        let identity = place.ca.identity(&id("web"));
        write_folder(&folder.join(name), &identity, &place.roots());
    };
    version("..1");
    symlink("..1", folder.join("..data")).unwrap();
    for file in ["cert-chain.pem", "key.pem", "root-cert.pem"] {
        let link = folder.join(format!(".{file}"));
        symlink(format!("..data/{file}"), &link).unwrap();
        fs::rename(link, folder.join(file)).unwrap();
    }
    serial = renewed(&credential, &serial).await;
    version("..2");
    symlink("..2", folder.join("..data_tmp")).unwrap();
    fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    renewed(&credential, &serial).await;
}

#[tokio::test]
async fn a_bad_renewal_leaves_the_old_certificate_and_is_shown_until_it_is_mended() {
    let place = Place::new();
    place.write("web");
    let (store, credential) = held(&place, place.files(None)).await;
    let serial = credential.info().serial.to_string();
    let thief = place.ca.identity(&id("thief"));
    write_folder(&place.folder("web"), &thief, &place.roots());
    let failure = until(|| credential.info().renewal_failure.map(|it| it.to_string())).await;
    assert!(
        failure.contains("cert-chain.pem is not this workload's"),
        "{failure}"
    );
    assert_eq!(*credential.info().serial, *serial);
    assert!(credential.server_config().is_ok());

    place.write("web");
    renewed(&credential, &serial).await;
    assert!(store.list()[0].renewal_failure.is_none());
}

#[tokio::test]
async fn a_folder_that_comes_or_goes_changes_the_source() {
    let place = Place::new();
    let fallback = Arc::new(TestCa::new("cluster.local"));
    let news = fallback.news(crate::identity::Revocation::NotUsed);
    place.trust.set_own(news);
    let (_store, credential) = held(&place, place.files(Some(fallback))).await;
    let from_authority = credential.info().serial.to_string();
    place.write("web");
    let from_files = renewed(&credential, &from_authority).await;
    fs::remove_dir_all(place.folder("web")).unwrap();
    renewed(&credential, &from_files).await;
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
