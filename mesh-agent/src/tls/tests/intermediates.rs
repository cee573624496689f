//! Two meshes below one root, without revocation lists: an intermediate with a SPIFFE URI
//! vouches for its own trust domain alone, and a pinned one is the only one that does.

use std::sync::Arc;

use super::domains::{foreign, mesh, of};
use super::peers::{acquire, credential_under};
use super::*;
use crate::identity::fixtures::{domain, trusting};
use crate::identity::{DomainTrust, Issued, Revocation, TrustBundle, TrustStore, TrustUpdate};

const ONE: &str = "spiffe://one";
const TWO: &str = "spiffe://two";

fn trust_of(bundle: TrustBundle) -> Arc<TrustStore> {
    let trust = TrustStore::new(bundle.trust_domain().clone());
    trust.set_own(TrustUpdate {
        domain: DomainTrust {
            bundle,
            revocation: Revocation::NotUsed,
        },
        issuer: None,
    });
    trust
}

/// What a server and a client with `ours` make of a peer that `ca` certified as `claimed`.
async fn outcomes(
    ours: &Credential,
    ca: &TestCa,
    claimed: &SpiffeId,
) -> [Result<Session, HandshakeFailure>; 2] {
    let client = RawClient::with(ca.identity(claimed));
    let server = RawServer::with(ca.identity(claimed));
    [
        client.handshake_with(ours).await,
        server.handshake_with(ours, claimed).await,
    ]
}

#[tokio::test]
async fn intermediate_cannot_mint_identities_of_another_domain_below_a_shared_root() {
    let root = TestCa::new("one");
    let one = root.intermediate_named("one", &[ONE]);
    let two = root.intermediate_named("two", &[TWO]);
    let below_two = two.intermediate_named("below two", &[]);
    let here = mesh("one", &root, vec![foreign("two", &root)]);
    let db = credential_under(&one, &of("one", "db"), &here).await;
    for (ca, claimed, issuer) in [
        (&two, of("one", "web"), TWO),
        (&one, of("two", "web"), ONE),
        // The URI of any intermediate of the chain counts.
        (&below_two, of("one", "web"), TWO),
    ] {
        for outcome in outcomes(&db, ca, &claimed).await {
            let failure = outcome.expect_err("an intermediate vouched for another domain");
            assert!(
                matches!(&failure, HandshakeFailure::ForeignIntermediate { peer, issuer: found }
                    if *peer == claimed && found == issuer),
                "{failure:?}"
            );
        }
    }
    for (ca, claimed) in [
        (&one, of("one", "web")),
        (&two, of("two", "web")),
        (&below_two, of("two", "web")),
    ] {
        for outcome in outcomes(&db, ca, &claimed).await {
            assert_eq!(outcome.unwrap().peer, claimed);
        }
    }
}

#[tokio::test]
async fn intermediate_with_ambiguous_spiffe_uris_vouches_for_no_domain_but_a_plain_one_does() {
    let root = TestCa::new("one");
    let here = mesh("one", &root, Vec::new());
    let db = credential_under(&root, &of("one", "db"), &here).await;
    let web = of("one", "web");
    let named = |uris: &[&str]| root.intermediate_named("some", uris);
    for uris in [
        &[ONE, TWO][..],
        &["spiffe:one"],
        &["SPIFFE://two"],
        &["spiffe://one.example"],
        &["spiffe://One"],
        &["spiffe://"],
    ] {
        for outcome in outcomes(&db, &named(uris), &web).await {
            let failure = outcome.expect_err("vouched for a domain that is not its own");
            let foreign = matches!(failure, HandshakeFailure::ForeignIntermediate { .. });
            assert!(foreign, "{uris:?}: {failure:?}");
        }
    }
    // Without a SPIFFE URI it vouches as its root does. Some authorities add a path.
    for uris in [
        &[][..],
        &["https://pki.example/two"],
        &["spiffe://one/ns/x/sa/ca"],
    ] {
        for outcome in outcomes(&db, &named(uris), &web).await {
            assert_eq!(outcome.unwrap().peer, web, "{uris:?}");
        }
    }
}

#[tokio::test]
async fn pinned_intermediate_is_the_only_one_of_its_root_that_vouches() {
    let root = TestCa::new("one");
    // Neither says of which domain it is.
    let (one, two) = (
        root.intermediate_named("one", &[]),
        root.intermediate_named("two", &[]),
    );
    let here = trust_of(one.pinned_bundle("one"));
    let there = DomainTrust {
        bundle: two.pinned_bundle("two"),
        revocation: Revocation::NotUsed,
    };
    here.set_foreign(vec![there]);
    let db = credential_under(&one, &of("one", "db"), &here).await;
    for (ca, claimed, fine) in [
        (&one, of("one", "web"), true),
        (&two, of("two", "web"), true),
        (&two, of("one", "web"), false),
        (&one, of("two", "web"), false),
        (&root, of("one", "web"), false),
    ] {
        for outcome in outcomes(&db, ca, &claimed).await {
            let untrusted = matches!(outcome, Err(HandshakeFailure::UntrustedRoot));
            assert_eq!((outcome.is_ok(), untrusted), (fine, !fine), "{claimed}");
        }
    }
}

#[tokio::test]
async fn pinned_intermediate_of_another_domain_is_not_used_and_the_reason_is_shown() {
    let root = TestCa::new("one");
    let two = root.intermediate_named("two", &[TWO]);
    let trust = trust_of(two.pinned_bundle("one"));
    let current = trust.current();
    let [why] = current.unusable_roots(&domain("one")) else {
        panic!("{:?}", current.unusable_roots(&domain("one")));
    };
    assert_eq!(
        &**why,
        "root 0: it is the intermediate of spiffe://two, which does not vouch for one"
    );
    // A shared root may have the URI of the mesh that made it.
    let mut params = ca_params("corporate");
    params.subject_alt_names = vec![rcgen::SanType::URI(TWO.try_into().unwrap())];
    let shared = self_signed(&params).chain;
    let trust = trust_of(TrustBundle::new(domain("one"), shared));
    assert!(trust.current().unusable_roots(&domain("one")).is_empty());
}

#[tokio::test]
async fn own_certificate_from_the_intermediate_of_another_domain_is_not_taken() {
    let root = TestCa::new("cluster.local");
    let two = root.intermediate_named("two", &[TWO]);
    let issued = Issued {
        bundle: None,
        ..two.issue_valid(&id("web"), epoch(), epoch() + DAY)
    };
    let refused = super::peers::try_acquire(issued, epoch(), trusting(&root)).await;
    let text = format!("{:?}", refused.expect_err("took it"));
    assert!(text.contains("ForeignIntermediate"), "{text}");
    let own = root.intermediate_named("own", &["spiffe://cluster.local"]);
    let issued = own.issue_valid(&id("web"), epoch(), epoch() + DAY);
    acquire(issued, epoch(), trusting(&root)).await;
}
