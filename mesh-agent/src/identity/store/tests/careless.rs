//! What is not taken from an authority, whatever it says.

use super::*;

/// An authority that answers every question with the same thing.
struct Careless(TestCa, fn(&TestCa) -> Issued);

impl CertificateAuthority for Careless {
    fn issue<'a>(&'a self, _: &'a SpiffeId) -> BoxFuture<'a, Result<Issued, IssueError>> {
        let issued = (self.1)(&self.0);
        Box::pin(async move { Ok(issued) })
    }
}

async fn refused_from(careless: fn(&TestCa) -> Issued) -> IssueError {
    let ca = TestCa::new("cluster.local");
    let trust = trusting(&ca);
    refused_under(trust, ca, careless).await
}

async fn refused_under(
    trust: Arc<TrustStore>,
    ca: TestCa,
    careless: fn(&TestCa) -> Issued,
) -> IssueError {
    store_of(Arc::new(Careless(ca, careless)), trust, TokioClock::start())
        .acquire(&id("web"))
        .await
        .expect_err("a careless authority was believed")
}

fn unusable(error: &IssueError) -> &ConfigError {
    match error {
        IssueError::Unusable { source, .. } => source,
        other => panic!("{other}"),
    }
}

#[tokio::test(start_paused = true)]
async fn what_peers_would_refuse_is_not_taken_from_an_authority() {
    let error = refused_from(|ca| ca.issue_valid(&id("db"), epoch(), epoch() + DAY)).await;
    assert!(matches!(error, IssueError::OtherIdentity { .. }));

    let expired = |ca: &TestCa| ca.issue_valid(&id("web"), epoch() - DAY, epoch() - HOUR);
    let error = refused_from(expired).await;
    let expired = matches!(
        unusable(&error),
        ConfigError::Refusable(HandshakeFailure::Expired)
    );
    assert!(expired, "{error}");

    let foreign = |_: &TestCa| {
        let other = TestCa::new("cluster.local");
        other.issue_valid(&id("web"), epoch(), epoch() + DAY)
    };
    let error = refused_from(foreign).await;
    let untrusted = matches!(
        unusable(&error),
        ConfigError::Refusable(HandshakeFailure::UntrustedRoot)
    );
    assert!(untrusted, "{error}");

    let error = refused_from(|ca| {
        let [web, other] = [(); 2].map(|()| ca.identity(&id("web")));
        Issued {
            svid: Svid::new(web.chain, other.key).unwrap(),
            bundle: None,
        }
    });
    let error = error.await;
    assert!(matches!(unusable(&error), ConfigError::Key(_)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn without_a_root_nothing_is_taken_into_use() {
    let fine = |ca: &TestCa| ca.issue_valid(&id("web"), epoch(), epoch() + DAY);
    let nobody = TrustStore::new(id("web").trust_domain().clone());
    let error = refused_under(nobody, TestCa::new("cluster.local"), fine).await;
    assert!(matches!(unusable(&error), ConfigError::NoRoot), "{error}");

    let error = refused_from(|ca| Issued {
        bundle: Some(TrustBundle::new(
            ca.bundle().trust_domain().clone(),
            Vec::new(),
        )),
        ..ca.issue_valid(&id("web"), epoch(), epoch() + DAY)
    });
    let error = error.await;
    assert!(matches!(unusable(&error), ConfigError::NoRoot), "{error}");

    let error = refused_from(|ca| Issued {
        bundle: Some(TestCa::new("example.org").bundle()),
        ..ca.issue_valid(&id("web"), epoch(), epoch() + DAY)
    });
    let error = error.await;
    let other = matches!(unusable(&error), ConfigError::OtherBundle { .. });
    assert!(other, "{error}");
}
