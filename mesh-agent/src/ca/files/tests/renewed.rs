//! When a change of the files reaches the store, and when it must not.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::time::Duration;

use super::{Place, certificates, write_folder, write_key};
use crate::ca::FileCertificates;
use crate::identity::fixtures::{TestCa, id};
use crate::identity::{CertificateAuthority, Credential, Revocation, SvidStore};
use crate::tls::{ParametersStore, TlsSettings};

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
    let news = fallback.news(Revocation::NotUsed);
    place.trust.set_own(news);
    let (_store, credential) = held(&place, place.files(Some(fallback))).await;
    let from_authority = credential.info().serial.to_string();
    place.write("web");
    let from_files = renewed(&credential, &from_authority).await;
    fs::remove_dir_all(place.folder("web")).unwrap();
    renewed(&credential, &from_files).await;
}
