//! The one connection that all calls to an authority share: made when it is needed,
//! by one caller for all, and after a failure only after a wait. The calls themselves
//! are here too, with their deadlines.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tonic::client::Grpc;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::connection::{Anchors, Channel, DialError, Endpoint};
use super::request::AnswerError;
use super::{RemoteError, RemoteSettings, files};
use crate::ca::api::{
    CREATE_CERTIFICATE, CertificateRequest, CertificateResponse, TrustMessage, WATCH_TRUST,
    WatchRequest,
};
use crate::cause::with_causes;
use crate::identity::{Clock, DomainTrust, Revocation};
use crate::tls::random_fraction;

/// Time for a connection, from name to HTTP/2.
const DIAL_DEADLINE: Duration = Duration::from_secs(8);

/// Time for one answer on an open connection. With the dial and the longest wait
/// before it, this is below the 30 s that the certificate store gives.
const CALL_DEADLINE: Duration = Duration::from_secs(10);

/// Waits between failed attempts start here and double up to [`MAX_BACKOFF`].
const FIRST_BACKOFF: Duration = Duration::from_millis(200);

/// An authority that is back is found within this time.
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// Longest answer with a certificate.
const MAX_ANSWER: usize = 256 * 1024;

/// Longest state of trust: room for some hundred thousand revoked certificates.
const MAX_TRUST: usize = 32 * 1024 * 1024;

pub(super) struct Link {
    endpoint: Endpoint,
    roots_file: PathBuf,
    token_file: PathBuf,
    clock: Arc<dyn Clock>,
    /// What was last told of trust, by `Watch` or in an earlier run.
    learnt: ArcSwapOption<DomainTrust>,
    channel: ArcSwapOption<Channel>,
    /// Held by the one who dials. The others wait for its outcome.
    dialing: Mutex<Dialing>,
    /// Attempts that have ended.
    attempts: AtomicU64,
}

#[derive(Default)]
struct Dialing {
    failures: u32,
    retry_at: Option<Instant>,
    last_error: Option<RemoteError>,
}

/// What became of watching.
pub(super) enum Watched {
    Stream(Box<Streaming<TrustMessage>>),
    /// The authority has Istio's API alone.
    NotOffered,
}

impl Link {
    pub(super) fn new(
        endpoint: Endpoint,
        settings: &RemoteSettings,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            endpoint,
            roots_file: settings.roots_file.clone(),
            token_file: settings.token_file.clone(),
            clock,
            learnt: ArcSwapOption::empty(),
            channel: ArcSwapOption::empty(),
            dialing: Mutex::default(),
            attempts: AtomicU64::new(0),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.open_channel().is_some()
    }

    /// Takes roots and lists by which later connections are checked, beside the file's.
    pub(super) fn learn(&self, trust: DomainTrust) {
        self.learnt.store(Some(Arc::new(trust)));
    }

    /// Asks for a certificate. A connection that ended just as it was used is replaced,
    /// once.
    pub(super) async fn create_certificate(
        &self,
        request: CertificateRequest,
    ) -> Result<CertificateResponse, RemoteError> {
        let mut again = true;
        loop {
            let channel = self.channel().await?;
            let request = self.with_token(request.clone()).await?;
            let mut grpc = self.grpc(&channel).max_decoding_message_size(MAX_ANSWER);
            let call = async {
                grpc.ready()
                    .await
                    .map_err(|error| Status::from_error(Box::new(error)))?;
                let path = http::uri::PathAndQuery::from_static(CREATE_CERTIFICATE);
                grpc.unary(request, path, ProstCodec::<CertificateRequest, _>::new())
                    .await
            };
            match self
                .within(CALL_DEADLINE, "answer a certificate request", call)
                .await?
            {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) if again && !channel.is_open() && is_of_connection(&status) => {
                    again = false;
                }
                Err(status) => return Err(self.told(&status)),
            }
        }
    }

    /// Opens the stream of trust.
    pub(super) async fn watch(&self) -> Result<Watched, RemoteError> {
        let channel = self.channel().await?;
        let request = self.with_token(WatchRequest {}).await?;
        let mut grpc = self.grpc(&channel).max_decoding_message_size(MAX_TRUST);
        let call = async {
            grpc.ready()
                .await
                .map_err(|error| Status::from_error(Box::new(error)))?;
            let path = http::uri::PathAndQuery::from_static(WATCH_TRUST);
            grpc.server_streaming(request, path, ProstCodec::<WatchRequest, _>::new())
                .await
        };
        match self.within(CALL_DEADLINE, "answer", call).await? {
            Ok(response) => Ok(Watched::Stream(Box::new(response.into_inner()))),
            Err(status) if status.code() == Code::Unimplemented => Ok(Watched::NotOffered),
            Err(status) => Err(self.told(&status)),
        }
    }

    /// The next state; `None` when the authority ended the stream in order.
    pub(super) async fn next(
        &self,
        stream: &mut Streaming<TrustMessage>,
        first: bool,
    ) -> Result<Option<TrustMessage>, RemoteError> {
        let next = if first {
            self.within(CALL_DEADLINE, "tell its trust", stream.message())
                .await?
        } else {
            // For as long as it takes: a connection that died is noticed by its pings.
            stream.message().await
        };
        next.map_err(|status| self.told(&status))
    }

    pub(super) fn bad_answer(&self, error: AnswerError) -> RemoteError {
        RemoteError::Answer {
            endpoint: Arc::clone(&self.endpoint.text),
            error,
        }
    }

    pub(super) fn endpoint(&self) -> &Arc<str> {
        &self.endpoint.text
    }

    /// The open connection, or a new one.
    async fn channel(&self) -> Result<Channel, RemoteError> {
        if let Some(open) = self.open_channel() {
            return Ok(open);
        }
        let ended_before = self.attempts.load(Ordering::Acquire);
        let mut dialing = self.dialing.lock().await;
        if let Some(open) = self.open_channel() {
            return Ok(open);
        }
        let waited_for_another = self.attempts.load(Ordering::Acquire) != ended_before;
        if let (true, Some(error)) = (waited_for_another, &dialing.last_error) {
            return Err(error.clone());
        }
        if let Some(retry_at) = dialing.retry_at {
            tokio::time::sleep_until(retry_at).await;
        }
        let dialled = self.dial().await;
        match &dialled {
            Ok(channel) => {
                *dialing = Dialing::default();
                self.channel.store(Some(Arc::new(channel.clone())));
                tracing::info!(endpoint = %self.endpoint.text, "connected to the authority");
            }
            Err(error) => {
                let wait = backoff(dialing.failures);
                *dialing = Dialing {
                    failures: dialing.failures.saturating_add(1),
                    retry_at: Some(Instant::now() + wait),
                    last_error: Some(error.clone()),
                };
            }
        }
        self.attempts.fetch_add(1, Ordering::Release);
        dialled
    }

    fn open_channel(&self) -> Option<Channel> {
        let channel = self.channel.load();
        channel
            .as_deref()
            .filter(|channel| channel.is_open())
            .cloned()
    }

    async fn dial(&self) -> Result<Channel, RemoteError> {
        let anchors = self.anchors().await?;
        let dial = Channel::open(&self.endpoint, anchors, Arc::clone(&self.clock));
        let dialled = self
            .within(DIAL_DEADLINE, "accept a connection", dial)
            .await?;
        dialled.map_err(|error| match error {
            DialError::Connect(source) => RemoteError::Connect {
                endpoint: Arc::clone(&self.endpoint.text),
                source: Arc::new(source),
            },
            DialError::Handshake(failure) => RemoteError::Handshake {
                endpoint: Arc::clone(&self.endpoint.text),
                failure: Arc::new(failure),
                roots: self.roots_file.clone(),
            },
            DialError::Http(error) => RemoteError::Call {
                endpoint: Arc::clone(&self.endpoint.text),
                code: Code::Unavailable,
                reason: error.to_string(),
            },
        })
    }

    /// The file's roots and those that were learnt. Either may be behind the other
    /// while roots are exchanged.
    async fn anchors(&self) -> Result<Anchors, RemoteError> {
        let path = self.roots_file.clone();
        let read = blocking(move || files::roots(&path)).await;
        let Some(learnt) = self.learnt.load_full() else {
            return Ok(Anchors {
                roots: read?,
                lists: Vec::new(),
            });
        };
        let mut roots = learnt.bundle.roots().to_vec();
        match read {
            Ok(read) => roots.extend(read),
            Err(error) => {
                tracing::warn!(%error, "the authority is checked against the roots that it told")
            }
        }
        let lists = match &learnt.revocation {
            Revocation::Lists(lists) => lists.clone(),
            Revocation::NotUsed | Revocation::Unreadable(_) => Vec::new(),
        };
        Ok(Anchors { roots, lists })
    }

    /// Projected tokens are replaced all the time, so it is read for each call.
    async fn with_token<T>(&self, message: T) -> Result<Request<T>, RemoteError> {
        let path = self.token_file.clone();
        let token = blocking(move || files::token(&path)).await?;
        let header = zeroize::Zeroizing::new(format!("Bearer {}", token.as_str()));
        let mut request = Request::new(message);
        // `files::token` lets only visible ASCII through.
        if let Ok(mut value) = MetadataValue::try_from(header.as_str()) {
            value.set_sensitive(true);
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }

    fn grpc(&self, channel: &Channel) -> Grpc<Channel> {
        Grpc::with_origin(channel.clone(), self.endpoint.uri.clone())
    }

    async fn within<T>(
        &self,
        after: Duration,
        what: &'static str,
        call: impl Future<Output = T>,
    ) -> Result<T, RemoteError> {
        let done = tokio::time::timeout(after, call).await;
        done.map_err(|_| RemoteError::TimedOut {
            endpoint: Arc::clone(&self.endpoint.text),
            what,
            after,
        })
    }

    fn told(&self, status: &Status) -> RemoteError {
        let endpoint = Arc::clone(&self.endpoint.text);
        let (code, reason) = (status.code(), reason(status));
        match code {
            Code::Unauthenticated | Code::PermissionDenied => RemoteError::Refused {
                endpoint,
                code,
                reason,
                token_file: self.token_file.clone(),
            },
            _ => RemoteError::Call {
                endpoint,
                code,
                reason,
            },
        }
    }
}

/// The wait after a failed attempt, by the number of failures before it: an
/// exponential bound, of which at least half is waited.
pub(super) fn backoff(failures: u32) -> Duration {
    let bound = FIRST_BACKOFF
        .saturating_mul(2_u32.saturating_pow(failures))
        .min(MAX_BACKOFF);
    bound.mul_f64(0.5 + 0.5 * random_fraction())
}

/// Runs what reads files.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down, and this task with it.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Whether a call ended because of its connection: what a peer says has no source.
fn is_of_connection(status: &Status) -> bool {
    status.source().is_some()
}

/// What a status says, to its cause: a connection's errors hide theirs.
fn reason(status: &Status) -> String {
    with_causes(status.message().to_owned(), status.source())
}
