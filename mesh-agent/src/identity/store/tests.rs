//! Sharing and renewing credentials, on tokio's paused clock.

mod careless;
mod clock;
mod renewal;
mod secrecy;
mod sharing;
mod trust;
mod year;

use std::future::pending;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::io::duplex;
use tokio::time::{Instant, sleep};

use super::*;
use crate::identity::fixtures::{DAY, HOUR, TestCa, TokioClock, epoch, id, trusting};
use crate::identity::{BoxFuture, Issued, Svid, TrustBundle};
use crate::tls::{ConfigError, HandshakeFailure, TlsSettings};

/// An authority that certifies for a day, fails or hangs on demand (but for the
/// workload `new`), and counts.
struct ScriptedCa {
    ca: ArcSwap<TestCa>,
    clock: Arc<TokioClock>,
    asked: AtomicU64,
    down: AtomicBool,
    hangs: AtomicBool,
}

#[derive(Debug, thiserror::Error)]
#[error("the authority is down")]
struct Down;

impl ScriptedCa {
    fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::SeqCst);
    }

    fn set_hangs(&self, hangs: bool) {
        self.hangs.store(hangs, Ordering::SeqCst);
    }
}

impl CertificateAuthority for ScriptedCa {
    fn issue<'a>(&'a self, id: &'a SpiffeId) -> BoxFuture<'a, Result<Issued, IssueError>> {
        Box::pin(async move {
            self.asked.fetch_add(1, Ordering::SeqCst);
            if self.hangs.load(Ordering::SeqCst) && *id != crate::identity::fixtures::id("new") {
                pending::<()>().await;
            }
            // As over a network: others run while the answer is on its way.
            sleep(Duration::from_millis(50)).await;
            if self.down.load(Ordering::SeqCst) {
                let source = Arc::new(Down);
                return Err(IssueError::Authority {
                    id: id.clone(),
                    source,
                });
            }
            let now = self.clock.now();
            Ok(self.ca.load().issue_valid(id, now, now + DAY))
        })
    }
}

fn store_of(
    authority: Arc<dyn CertificateAuthority>,
    trust: Arc<TrustStore>,
    clock: Arc<dyn Clock>,
) -> Arc<SvidStore> {
    let parameters = ParametersStore::new(TlsSettings::default());
    SvidStore::with_clock(authority, trust, parameters, clock)
}

fn store() -> (Arc<SvidStore>, Arc<ScriptedCa>, Arc<TokioClock>) {
    let clock = TokioClock::start();
    let ca = Arc::new(ScriptedCa {
        ca: ArcSwap::from_pointee(TestCa::new("cluster.local")),
        clock: clock.clone(),
        asked: AtomicU64::new(0),
        down: AtomicBool::new(false),
        hangs: AtomicBool::new(false),
    });
    let store = store_of(ca.clone(), trusting(&ca.ca.load()), clock.clone());
    (store, ca, clock)
}

/// Lets virtual time pass until something holds, for ten virtual days at most.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < 10 * DAY, "{what}: not within ten days");
        sleep(Duration::from_secs(1)).await;
    }
}

/// The serial number that a fresh handshake shows to a peer.
async fn presented_serial(credential: &Credential) -> String {
    let (client, server) = duplex(64 * 1024);
    let (client, server) = tokio::join!(
        crate::tls::connect(credential, credential.id(), client),
        crate::tls::accept(credential, server)
    );
    server.unwrap();
    let client = client.unwrap().stream;
    let chain = client.get_ref().1.peer_certificates().unwrap();
    crate::identity::leaf::read(&chain[0]).unwrap().serial
}
