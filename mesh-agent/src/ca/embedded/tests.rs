//! The embedded authority: what it issues and what it tells the trust store.

use super::*;
use crate::ca::Reason;
use crate::identity::fixtures::{ManualClock, domain, epoch, id};
use crate::identity::leaf;

fn open(dir: &Path) -> Arc<EmbeddedCa> {
    let clock = ManualClock::at(epoch());
    Arc::new(EmbeddedCa::open_with_clock(dir, &domain("cluster.local"), clock).unwrap())
}

#[tokio::test]
async fn every_svid_has_a_key_and_a_serial_of_its_own_and_the_right_profile() {
    let dir = tempfile::tempdir().unwrap();
    let ca = open(dir.path());
    let one = ca.issue(&id("web")).await.unwrap().svid;
    let two = ca.issue(&id("web")).await.unwrap().svid;
    assert_ne!(one.serial(), two.serial());
    let (one, two) = [&one, &two]
        .map(|svid| leaf::parse(&svid.chain()[0]).unwrap())
        .into();
    assert_ne!(one.public_key().raw, two.public_key().raw);
    assert!(!one.is_ca() && one.basic_constraints().unwrap().unwrap().critical);
    let usage = one.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.digital_signature());
    assert_eq!(usage.value.flags.count_ones(), 1, "only digitalSignature");
    let extended = one.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth && !extended.any);
}

#[tokio::test]
async fn issue_certifies_ids_of_a_template() {
    let dir = tempfile::tempdir().unwrap();
    let mut forms = crate::identity::IdForms::default();
    let template = "/k8s/{namespace}/{serviceAccount}".parse().unwrap();
    forms.set(domain("cluster.local"), template);
    let uri = "spiffe://cluster.local/k8s/shop/web";
    let id = forms.parse(uri).unwrap();
    let issued = open(dir.path()).issue(&id).await.unwrap();
    assert_eq!(*issued.svid.id(), id);
    let certificate = leaf::parse(&issued.svid.chain()[0]).unwrap();
    assert_eq!(leaf::only_uri(&certificate), Ok(uri));
}

#[tokio::test]
async fn only_the_own_trust_domain_is_certified() {
    let dir = tempfile::tempdir().unwrap();
    let stranger = "spiffe://example.org/ns/shop/sa/web".parse().unwrap();
    let error = open(dir.path()).issue(&stranger).await.unwrap_err();
    let IssueError::Authority { source, .. } = &error else {
        panic!("{error}");
    };
    let source = source.downcast_ref::<SignError>();
    assert!(
        matches!(source, Some(SignError::OtherTrustDomain { .. })),
        "{error}"
    );
}

#[tokio::test]
async fn the_store_is_told_at_once_and_of_every_change() {
    let dir = tempfile::tempdir().unwrap();
    let ca = open(dir.path());
    let store = TrustStore::new(domain("cluster.local"));
    let mut numbers = store.subscribe();
    let following = ca.follow(Arc::clone(&store));
    assert_eq!(*numbers.borrow_and_update(), 1, "before it returns");
    let serial = ca.issue(&id("web")).await.unwrap().svid.serial().to_owned();

    // Another process.
    let other = open(dir.path());
    other
        .authority()
        .revoke_serial(&serial, Reason::Unspecified)
        .unwrap();
    numbers.changed().await.unwrap();
    let trust = other.authority().trust().unwrap();
    let own = store.own().clone();
    assert_eq!(**store.current().domain(&own).unwrap(), trust.domain);

    // A state that cannot be read keeps the roots, and says so of the lists.
    std::fs::write(other.authority().dir().join("authority.json.x"), "{").unwrap();
    std::fs::rename(
        other.authority().dir().join("authority.json.x"),
        other.authority().dir().join("authority.json"),
    )
    .unwrap();
    numbers.changed().await.unwrap();
    let current = store.current();
    let told = current.domain(&own).unwrap();
    assert_eq!(told.bundle, trust.domain.bundle);
    let Revocation::Unreadable(why) = &told.revocation else {
        panic!("{:?}", told.revocation)
    };
    assert!(why.contains("authority.json"), "{why}");
    following.abort();
}

#[test]
fn a_state_directory_of_others_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o770)).unwrap();
    let error = EmbeddedCa::open(dir.path(), &domain("cluster.local")).unwrap_err();
    assert!(
        matches!(error, CaError::DirectoryPermissions { mode: 0o770, .. }),
        "{error}"
    );
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let nobody = nix::unistd::Uid::from_raw(65534);
    if nix::unistd::geteuid().is_root() {
        nix::unistd::chown(dir.path(), Some(nobody), None).unwrap();
    }
    let theirs = if nix::unistd::geteuid().is_root() {
        dir.path()
    } else {
        Path::new("/")
    };
    let error = EmbeddedCa::open(theirs, &domain("cluster.local")).unwrap_err();
    assert!(matches!(error, CaError::Owner { .. }), "{error}");
}
