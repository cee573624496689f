//! Certificates for enrolled pods. They are asked for beside everything else, so that an
//! authority that is slow or away holds up neither another pod's enrolment nor a change of
//! the configuration.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::Fleet;
use crate::identity::SvidStore;
use crate::proxy::Pod;

/// How long an enrolment waits for the first answer, so that the pod's first connections find
/// a certificate; our choice, far above what an authority that works needs.
const FIRST_ANSWER: Duration = Duration::from_secs(2);

/// Pauses after failed attempts start here and double up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// An authority that is back, or a pod that it learnt of, is found within this time.
const MAX_PAUSE: Duration = Duration::from_secs(5);

impl Fleet {
    /// Has the pod certified, however many attempts that takes. Says whether it was when this
    /// returned: after the first answer, or at once unless it `waits`.
    pub(super) async fn certify(&self, pod: &Arc<Pod>, waits: bool) -> bool {
        let (answered, answer) = oneshot::channel();
        let (svids, asking) = (Arc::clone(&self.identities.svids), Arc::clone(pod));
        tokio::spawn(async move {
            tokio::select! {
                () = ask(&svids, &asking, answered) => {}
                () = asking.until_released() => {}
            }
        });
        if waits {
            // Whichever it was, the pod tells.
            let _ = tokio::time::timeout(FIRST_ANSWER, answer).await;
        }
        pod.credential().is_ok()
    }
}

/// Asks until there is a certificate, and tells of the first answer.
async fn ask(svids: &Arc<SvidStore>, pod: &Pod, answered: oneshot::Sender<()>) {
    let mut answered = Some(answered);
    let mut pause = FIRST_PAUSE;
    loop {
        let workload = pod.workload();
        let certified = svids.acquire(&workload.identity).await;
        let failed = match certified {
            Ok(credential) => {
                pod.certify(credential);
                None
            }
            Err(error) => Some(error),
        };
        if let Some(answered) = answered.take() {
            // The enrolment may have stopped waiting.
            let _ = answered.send(());
        }
        let Some(error) = failed else {
            return;
        };
        tracing::error!(pod = %workload.uid, %error, retry_in_ms = pause.as_millis() as u64,
            "no certificate: the pod's connections are refused");
        tokio::time::sleep(pause).await;
        pause = MAX_PAUSE.min(pause * 2);
    }
}
