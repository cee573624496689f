//! What the server tells of trust: the authority's state, read again whenever its
//! directory changed, and the stream of one watcher. Owned by [`super::Server`].

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{ServeError, blocking};
use crate::ca::api::TrustMessage;
use crate::ca::{Authority, Changes};

/// The state that watchers are told.
#[derive(Clone, Debug)]
pub(super) struct Published {
    pub(super) message: Arc<TrustMessage>,
}

/// Reads the authority's trust and tells it.
pub(super) struct Publisher {
    authority: Arc<Authority>,
    changes: Changes,
    state: watch::Sender<Published>,
}

impl Publisher {
    pub(super) async fn start(authority: Arc<Authority>) -> Result<Self, ServeError> {
        // Watched before it is read, so that no change falls in between.
        let changes = blocking(&authority, Authority::changes).await??;
        let first = read(&authority).await?;
        Ok(Self {
            authority,
            changes,
            state: watch::Sender::new(first),
        })
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Published> {
        self.state.subscribe()
    }

    /// Tells every change for as long as it is polled.
    pub(super) async fn follow(mut self) {
        loop {
            self.changes.changed().await;
            match read(&self.authority).await {
                Ok(now) => {
                    let told = self.state.send_if_modified(|was| {
                        let different = was.message != now.message;
                        if different {
                            *was = now;
                        }
                        different
                    });
                    if told {
                        tracing::info!("the authority's roots, revocation or issuer changed");
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "the authority's trust cannot be read: watchers keep what they were told");
                }
            }
        }
    }
}

async fn read(authority: &Arc<Authority>) -> Result<Published, ServeError> {
    let update = blocking(authority, Authority::trust).await??;
    Ok(Published {
        message: Arc::new(TrustMessage::new(&update)),
    })
}

/// The stream of one watcher: the state now, and then each other one. A watcher that
/// reads slowly misses states in between, never the last. Ends, without an error, when
/// its connection is to end.
pub(super) fn stream(
    mut state: watch::Receiver<Published>,
    mut draining: watch::Receiver<bool>,
) -> ReceiverStream<Result<TrustMessage, Status>> {
    let (tell, told) = mpsc::channel(1);
    state.mark_changed();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                changed = state.changed() => if changed.is_err() { return },
                _ = draining.wait_for(|draining| *draining) => return,
                () = tell.closed() => return,
            }
            let message = TrustMessage::clone(&state.borrow_and_update().message);
            tokio::select! {
                sent = tell.send(Ok(message)) => if sent.is_err() { return },
                _ = draining.wait_for(|draining| *draining) => return,
            }
        }
    });
    ReceiverStream::new(told)
}
