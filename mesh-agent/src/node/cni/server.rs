//! The agent's side: takes the plugin's questions to the gate. Started by the agent.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::wire::{Answer, MAX, Question};
use super::{Gate, SOCKET};
use crate::admin::{AdminError, AdminSocket};

/// Connections at a time. A kubelet starts some tens of pods at once at the very most.
const MAX_CONNECTIONS: usize = 256;
/// Time for a question to be read, and for an answer to be written.
const LIMIT: Duration = Duration::from_secs(5);
/// Time for the gate to answer, whatever it waits for; twice what it is to take.
const GATE_LIMIT: Duration = Duration::from_secs(20);
/// Pause after a failed accept, which is most often a lack of descriptors.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// The bound socket, for root alone.
#[derive(Debug)]
pub struct CniServer(AdminSocket);

impl CniServer {
    /// Binds `cni.sock` in the run directory, in the place of an older agent's. Dropping it
    /// removes the file, unless a newer agent put its own there.
    ///
    /// # Errors
    /// As [`AdminSocket::bind`].
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn bind(run_dir: &Path) -> Result<Self, AdminError> {
        AdminSocket::bind_as(SOCKET, run_dir).map(Self)
    }

    /// Serves until dropped; what is being asked then goes unanswered, which the plugin
    /// takes for a refusal.
    pub async fn serve(self, gate: Arc<dyn Gate>) {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            let next = async {
                // Closed by nobody, so this only ever waits.
                let slot = Arc::clone(&slots).acquire_owned().await;
                (slot, self.0.accept_permitted().await)
            };
            tokio::select! {
                (slot, accepted) = next => match accepted {
                    Ok(Some(stream)) => {
                        let gate = Arc::clone(&gate);
                        connections.spawn(async move {
                            connection(stream, &*gate).await;
                            drop(slot);
                        });
                    }
                    Ok(None) => {}
                    Err(error) => {
                        tracing::warn!(%error, "the CNI plugin's socket cannot accept");
                        tokio::time::sleep(ACCEPT_BACKOFF).await;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }
}

async fn connection(mut stream: UnixStream, gate: &dyn Gate) {
    let answer = match tokio::time::timeout(LIMIT, question(&mut stream)).await {
        Ok(Ok(question)) => answer(question, gate).await,
        Ok(Err(reason)) => Answer::Refused(reason),
        Err(_) => Answer::Refused("the question was not sent in time".to_owned()),
    };
    let Ok(mut line) = serde_json::to_vec(&answer) else {
        // Strings and names of variants: there is nothing in it that JSON lacks.
        return;
    };
    line.push(b'\n');
    match tokio::time::timeout(LIMIT, stream.write_all(&line)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "the CNI plugin left before its answer"),
        Err(_) => tracing::debug!("the CNI plugin did not read its answer"),
    }
}

async fn question(stream: &mut UnixStream) -> Result<Question, String> {
    let mut line = Vec::new();
    BufReader::new(stream.take(MAX))
        .read_until(b'\n', &mut line)
        .await
        .map_err(|error| format!("the question cannot be read: {error}"))?;
    if line.last() != Some(&b'\n') {
        return Err(format!("the question has no end within {MAX} bytes"));
    }
    serde_json::from_slice(&line).map_err(|error| {
        format!(
            "the question is not understood ({error}): are the plugin and the agent of one version?"
        )
    })
}

async fn answer(question: Question, gate: &dyn Gate) -> Answer {
    let asked = async {
        match question {
            Question::Admit(pod) => match gate.admit(pod).await {
                Ok(admitted) => Answer::Admitted(admitted),
                Err(refusal) => Answer::Refused(refusal.0),
            },
            Question::Leave(pod) => {
                gate.leave(pod).await;
                Answer::Done
            }
        }
    };
    let answered = tokio::time::timeout(GATE_LIMIT, asked).await;
    answered.unwrap_or_else(|_| Answer::Refused("the agent took too long".to_owned()))
}
