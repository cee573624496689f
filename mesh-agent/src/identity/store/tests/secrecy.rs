//! Private keys are in nothing that could be written to a log.

use super::*;
use crate::identity::fixtures::{private_scalar, reveals};

/// An authority that keeps a copy of the key it handed out.
struct Indiscreet(
    TestCa,
    Mutex<Option<rustls::pki_types::PrivateKeyDer<'static>>>,
);

impl CertificateAuthority for Indiscreet {
    fn issue<'a>(&'a self, id: &'a SpiffeId) -> BoxFuture<'a, Result<Issued, IssueError>> {
        let issued = self.0.issue_valid(id, epoch(), epoch() + DAY);
        *self.1.lock().unwrap() = Some(issued.svid.key().clone_key());
        Box::pin(async move { Ok(issued) })
    }
}

#[tokio::test(start_paused = true)]
async fn keys_are_in_no_debug_output_and_no_error() {
    let ca = TestCa::new("cluster.local");
    let trust = trusting(&ca);
    let authority = Arc::new(Indiscreet(ca, Mutex::default()));
    let store = store_of(authority.clone(), trust.clone(), TokioClock::start());
    let web = store.acquire(&id("web")).await.unwrap();
    let (near, far) = duplex(64 * 1024);
    let (client, server) = tokio::join!(
        crate::tls::connect(&web, web.id(), near),
        crate::tls::accept(&web, far)
    );
    let (client, server) = (client.unwrap().session, server.unwrap().session);
    let key = authority.1.lock().unwrap().take().unwrap();
    let chain = client.peer.clone();
    let issued = authority.0.issue_valid(&id("web"), epoch(), epoch() + DAY);
    let mismatch = Issued {
        svid: Svid::new(issued.svid.chain().to_vec(), key.clone_key()).unwrap(),
        bundle: None,
    };
    let shown = format!(
        "{store:?} {web:?} {:?} {client:?} {server:?} {chain:?} {trust:?} {:?} {:?} {mismatch:?} {:?}",
        web.info(),
        web.accepting().unwrap(),
        web.connecting(&id("db")).unwrap(),
        web.install(issued).unwrap(),
    );
    let refused = web.install(mismatch).expect_err("the key is another's");
    let shown = format!("{shown} {refused} {refused:?}");
    let scalar = private_scalar(&key);
    // The search finds what it looks for where it is to be found.
    assert!(reveals(&format!("{:?}", key.secret_der()), &scalar));
    assert!(!reveals(&shown, &scalar), "{shown}");
}
