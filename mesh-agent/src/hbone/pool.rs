//! Keeps the tunnels of one worker, so that a connection need not wait for a
//! handshake. The outbound proxy opens every stream here; what a key is (source
//! identity and destination) is the proxy's affair.
//!
//! A pool belongs to one thread and must be used inside a `LocalSet`, on which
//! it runs its tunnels. No borrow of its state lives across an await.

mod carry;
mod dial;
mod state;

use std::fmt;
use std::hash::Hash;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout, timeout_at};

use crate::budget::PodBudget;
use crate::tls::Session;

use super::{ConnectRequest, OpenError, TunnelClient, TunnelError, TunnelSettings, TunnelStream};
use carry::Tunnel;
use dial::{Dial, Dialling, Outcome};
use state::{Place, Shared};

/// The limits of one worker's pool.
#[derive(Clone, Debug)]
pub struct PoolSettings {
    /// Limits of each tunnel.
    pub tunnel: TunnelSettings,
    /// Tunnels of one key at once.
    pub max_tunnels_per_key: usize,
    /// Tunnels in all, counting those still being dialled.
    pub max_tunnels: usize,
    /// Callers that wait for another's dial or for a free place, in all.
    pub max_waiting: usize,
    /// How long such a caller waits.
    pub max_wait: Duration,
    /// Time for TCP, TLS and HTTP/2 to a destination.
    pub dial_timeout: Duration,
    /// How long a tunnel without streams is kept.
    pub idle: Duration,
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self {
            tunnel: TunnelSettings::default(),
            max_tunnels_per_key: 64,
            max_tunnels: 4096,
            max_waiting: 8192,
            max_wait: Duration::from_secs(15),
            dial_timeout: Duration::from_secs(10),
            idle: Duration::from_secs(60),
        }
    }
}

/// A connection to a destination, ready for HTTP/2.
#[derive(Debug)]
pub struct Connected<IO> {
    /// The connection, TLS included.
    pub io: IO,
    /// What its handshake agreed on, for the streams to tell.
    pub session: Option<Arc<Session>>,
    /// The budget of the pod that opens the tunnel.
    pub budget: Option<Arc<PodBudget>>,
}

/// One worker's tunnels by key. Cheap to clone; `E` is why a dial failed.
pub struct Pool<K, E> {
    shared: Rc<Shared<K, E>>,
}

/// Why no stream could be had. All who waited for one dial get its reason.
#[derive(Debug, thiserror::Error)]
pub enum PoolError<E> {
    /// Connecting or its TLS handshake failed.
    #[error("{0}")]
    Dial(Arc<E>),
    /// The destination took the connection but HTTP/2 did not start.
    #[error("no tunnel: {0}")]
    Tunnel(TunnelError),
    /// Connecting and handshakes took too long.
    #[error("no tunnel to the destination within {0:?}: it may be down or unreachable")]
    DialTimeout(Duration),
    /// A tunnel was there, but the destination did not accept.
    #[error(transparent)]
    Open(OpenError),
    /// All tunnels that may be are full, and none became free in time.
    #[error("all tunnels to the destination were full for {0:?}")]
    Full(Duration),
    /// More callers than may are waiting already.
    #[error("{0} connections are waiting for a tunnel already")]
    Overloaded(usize),
    /// The key was cut meanwhile: its pod is gone or its credential changed.
    #[error("the tunnel was cut: its pod is gone or its credential was replaced")]
    Cut,
}

/// What happens to the streams of a tunnel that is taken out of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// They go on; the tunnel closes after the last.
    Graceful,
    /// They are lost at once.
    Abrupt,
}

/// What a pool holds at this moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Tunnels open or being dialled, with those that only finish their streams.
    pub tunnels: usize,
    /// Streams on tunnels that can be used.
    pub streams: usize,
    /// Callers waiting.
    pub waiting: usize,
}

impl<K, E> Pool<K, E>
where
    K: Clone + Eq + Hash + 'static,
    E: 'static,
{
    /// An empty pool.
    pub fn new(settings: PoolSettings) -> Self {
        Self {
            shared: Shared::new(settings),
        }
    }

    /// Opens a stream to `request.destination` on a tunnel of `key`: one that
    /// is there, or one that someone is dialling, or one that `connect` dials
    /// now. A tunnel of the pool that turns out dead is replaced once.
    pub async fn open<IO>(
        &self,
        key: &K,
        request: &ConnectRequest,
        connect: impl AsyncFn() -> Result<Connected<IO>, E>,
    ) -> Result<TunnelStream, PoolError<E>>
    where
        IO: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let deadline = Instant::now() + self.shared.settings.max_wait;
        let (mut retried, mut fresh) = (false, false);
        let mut joined = None;
        loop {
            let (tunnel, lease) = match self.shared.place(key, joined.take(), fresh) {
                Place::Stream(tunnel, lease) => (tunnel, lease),
                Place::Join(dial) => {
                    joined = self.join(&dial, deadline).await?;
                    continue;
                }
                Place::Dial(dialling) => {
                    let tunnel = self.dial(dialling, &connect).await?;
                    let stream = tunnel.client.open(request).await;
                    return stream.map_err(PoolError::Open);
                }
                Place::Full if fresh => {
                    fresh = false;
                    continue;
                }
                Place::Full => {
                    self.wait_for_place(deadline).await?;
                    continue;
                }
            };
            match tunnel.client.open_leased(request, lease).await {
                Ok(stream) => return Ok(stream),
                Err(error) if !retried && was_stale(&error) => {
                    (retried, fresh) = (true, true);
                }
                Err(error) => return Err(PoolError::Open(error)),
            }
        }
    }

    /// Takes the tunnels of all keys but those that `keep` accepts out of the
    /// pool; dials for them fail with [`PoolError::Cut`].
    pub fn retain(&self, keep: impl FnMut(&K) -> bool, cut: Cut) {
        self.shared.retain(keep, cut);
    }

    /// Cuts the tunnels whose handshake `keep` no longer accepts, with their streams.
    /// Tunnels that were taken out of the pool earlier are not asked about.
    pub fn retain_sessions(&self, keep: impl FnMut(&Session) -> bool) {
        self.shared.retain_sessions(keep);
    }

    /// Completes once no tunnel is open or being dialled, those included that
    /// were taken out of the pool and only finish their streams.
    pub async fn emptied(&self) {
        loop {
            let freed = self.shared.freed.notified();
            if self.shared.live.get() == 0 {
                return;
            }
            freed.await;
        }
    }

    /// What the pool holds at this moment.
    pub fn stats(&self) -> PoolStats {
        self.shared.stats()
    }

    async fn join(
        &self,
        dial: &Rc<Dial<E>>,
        deadline: Instant,
    ) -> Result<Option<Rc<Tunnel>>, PoolError<E>> {
        let _waiting = self.shared.wait()?;
        let _joined = dial.join();
        loop {
            let done = dial.done.notified();
            match dial.outcome() {
                Some(Outcome::Ready(tunnel)) => return Ok(tunnel.upgrade()),
                Some(Outcome::Failed(error)) => return Err(error),
                Some(Outcome::Abandoned) => return Ok(None),
                None => self.until(deadline, done).await?,
            }
        }
    }

    async fn wait_for_place(&self, deadline: Instant) -> Result<(), PoolError<E>> {
        let _waiting = self.shared.wait()?;
        self.until(deadline, self.shared.freed.notified()).await
    }

    async fn until(
        &self,
        deadline: Instant,
        event: impl Future<Output = ()>,
    ) -> Result<(), PoolError<E>> {
        let waited = timeout_at(deadline, event).await;
        waited.map_err(|_| PoolError::Full(self.shared.settings.max_wait))
    }

    /// Runs `connect` for this caller and all who join; dropped half-way, it
    /// leaves the dial to one of those.
    async fn dial<IO>(
        &self,
        dialling: Dialling<K, E>,
        connect: &impl AsyncFn() -> Result<Connected<IO>, E>,
    ) -> Result<Rc<Tunnel>, PoolError<E>>
    where
        IO: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let settings = &self.shared.settings;
        let attempt = async {
            let dialled = connect().await.map_err(|e| PoolError::Dial(Arc::new(e)))?;
            let freed = self.shared.freed.clone();
            let tunnel = TunnelSettings {
                budget: dialled.budget,
                ..settings.tunnel.clone()
            };
            let (client, driver) = TunnelClient::handshake_notifying(dialled.io, &tunnel, freed)
                .await
                .map_err(PoolError::Tunnel)?;
            Ok((client.secured_by(dialled.session), driver))
        };
        let dialled = timeout(settings.dial_timeout, attempt).await;
        match dialled.unwrap_or(Err(PoolError::DialTimeout(settings.dial_timeout))) {
            Ok((client, driver)) => dialling.succeed(client, driver),
            Err(error) => Err(dialling.fail(error)),
        }
    }
}

/// The tunnel was there but its peer is not, or takes no more streams. Nothing
/// of the connection's data was sent yet, so it may be asked for again.
fn was_stale(error: &OpenError) -> bool {
    const REFUSED_STREAM: u32 = 7;
    matches!(
        error,
        OpenError::TunnelLost { .. }
            | OpenError::Reset {
                code: REFUSED_STREAM
            }
    )
}

impl<K, E> Clone for Pool<K, E> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

impl<K, E> fmt::Debug for Pool<K, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}

impl<E> Clone for PoolError<E> {
    fn clone(&self) -> Self {
        match self {
            Self::Dial(error) => Self::Dial(error.clone()),
            Self::Tunnel(error) => Self::Tunnel(error.clone()),
            Self::DialTimeout(limit) => Self::DialTimeout(*limit),
            Self::Open(error) => Self::Open(error.clone()),
            Self::Full(waited) => Self::Full(*waited),
            Self::Overloaded(waiting) => Self::Overloaded(*waiting),
            Self::Cut => Self::Cut,
        }
    }
}

#[cfg(test)]
mod tests;
