//! Which call is which, and who calls: everything about a request that is the same for
//! both services. A caller is known before a byte of the request's body is read.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::AUTHORIZATION;
use hyper::body::Incoming;
use tokio::sync::{Semaphore, watch};
use tonic::body::Body;
use tonic::server::{Grpc, ServerStreamingService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use super::issue;
use super::trust::{self, Published};
use crate::ca::api::{
    CREATE_CERTIFICATE, CertificateRequest, CertificateResponse, TrustMessage, WATCH_TRUST,
    WatchRequest,
};
use crate::ca::authorize::{Authorizer, Denial};
use crate::ca::{Authority, Requester};
use crate::identity::BoxFuture;

/// Longest request: a CSR takes one or two KiB.
const MAX_REQUEST: usize = 64 * 1024;

/// Calls that are being answered at once, watchers apart: what is more is told to come
/// back, since a client that waits here would time out and ask for the same again.
const MAX_CALLS: usize = 1024;

/// Of these, on connections on which no known caller has called.
const MAX_FIRST_CALLS: usize = MAX_CALLS / 2;

/// Certificates that are being signed at once; each syncs the journal.
const MAX_SIGNING: usize = 8;

/// How long a call may take from its headers to its answer, whoever is slow.
const CALL_DEADLINE: Duration = Duration::from_secs(15);

pub(super) struct Service {
    pub(super) authority: Arc<Authority>,
    pub(super) authorizer: Arc<dyn Authorizer>,
    pub(super) signing: Semaphore,
    calls: Semaphore,
    /// Of these, on connections that have proved nothing yet.
    first_calls: Semaphore,
    trust: watch::Receiver<Published>,
}

/// What is known of who calls before the call is looked at.
pub(super) struct Caller {
    pub(super) peer: SocketAddr,
    /// True when the connection is to end.
    pub(super) ending: watch::Receiver<bool>,
    /// Set when somebody known calls on the connection.
    pub(super) proved: Arc<watch::Sender<bool>>,
}

impl Service {
    pub(super) fn new(
        authority: Arc<Authority>,
        authorizer: Arc<dyn Authorizer>,
        trust: watch::Receiver<Published>,
    ) -> Self {
        Self {
            authority,
            authorizer,
            signing: Semaphore::new(MAX_SIGNING),
            calls: Semaphore::new(MAX_CALLS),
            first_calls: Semaphore::new(MAX_FIRST_CALLS),
            trust,
        }
    }

    pub(super) async fn answer(
        self: Arc<Self>,
        request: http::Request<Incoming>,
        caller: Caller,
    ) -> http::Response<Body> {
        let busy = || Status::resource_exhausted("the authority is busy: ask again later");
        let Ok(_call) = self.calls.try_acquire() else {
            return busy().into_http();
        };
        // Calls whose caller takes long to be checked leave room for those that are known.
        let is_known = *caller.proved.borrow();
        let Ok(_first_call) = self.first_calls.try_acquire_many(u32::from(!is_known)) else {
            return busy().into_http();
        };
        match tokio::time::timeout(CALL_DEADLINE, self.dispatch(request, caller)).await {
            Ok(Ok(response)) => response,
            Ok(Err(status)) => status.into_http(),
            Err(_) => {
                let text = format!("no answer within {} s", CALL_DEADLINE.as_secs());
                Status::deadline_exceeded(text).into_http()
            }
        }
    }

    async fn dispatch(
        self: &Arc<Self>,
        request: http::Request<Incoming>,
        caller: Caller,
    ) -> Result<http::Response<Body>, Status> {
        let path = request.uri().path();
        if !matches!(path, CREATE_CERTIFICATE | WATCH_TRUST) {
            return Err(Status::unimplemented("the authority has no such method"));
        }
        let requester = self.authenticate(&request, &caller).await?;
        caller
            .proved
            .send_if_modified(|proved| !std::mem::replace(proved, true));
        if path == CREATE_CERTIFICATE {
            let call = Issue {
                service: Arc::clone(self),
                requester,
                peer: caller.peer,
            };
            let codec = ProstCodec::<CertificateResponse, CertificateRequest>::new();
            let mut grpc = Grpc::new(codec).max_decoding_message_size(MAX_REQUEST);
            return Ok(grpc.unary(call, request).await);
        }
        tracing::info!(node = %requester.node, peer = %caller.peer, "a node watches trust");
        let call = Watch {
            trust: self.trust.clone(),
            ending: caller.ending,
        };
        let codec = ProstCodec::<TrustMessage, WatchRequest>::new();
        let mut grpc = Grpc::new(codec)
            .max_decoding_message_size(MAX_REQUEST)
            .max_encoding_message_size(usize::MAX);
        Ok(grpc.server_streaming(call, request).await)
    }

    async fn authenticate(
        &self,
        request: &http::Request<Incoming>,
        caller: &Caller,
    ) -> Result<Requester, Status> {
        let proof = match bearer(request) {
            Some(token) => {
                let from = caller.peer.ip().to_canonical();
                self.authorizer.authenticate(token, from).await
            }
            None => Err(Denial::NoToken),
        };
        proof.map_err(|denial| {
            tracing::warn!(peer = %caller.peer, path = request.uri().path(), reason = %Reason(&denial), "call denied");
            Status::from(&denial)
        })
    }
}

/// The bearer token of a call (RFC 6750 §2.1); the scheme's name is not case-sensitive.
fn bearer(request: &http::Request<Incoming>) -> Option<&str> {
    let value = request.headers().get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// A denial for the log, with the cause that the caller is not told.
pub(super) struct Reason<'a>(pub(super) &'a Denial);

impl std::fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Denial::Unavailable(cause) => write!(f, "callers cannot be checked: {cause}"),
            other => other.fmt(f),
        }
    }
}

impl From<&Denial> for Status {
    fn from(denial: &Denial) -> Self {
        let text = denial.to_string();
        match denial {
            Denial::NoToken | Denial::UnknownToken => Self::unauthenticated(text),
            Denial::OtherAccount { .. } | Denial::NoNode | Denial::NotOnNode { .. } => {
                Self::permission_denied(text)
            }
            Denial::TooMany => Self::resource_exhausted(text),
            Denial::Unavailable(_) => Self::unavailable(text),
        }
    }
}

struct Issue {
    service: Arc<Service>,
    requester: Requester,
    peer: SocketAddr,
}

impl UnaryService<CertificateRequest> for Issue {
    type Response = CertificateResponse;
    type Future = BoxFuture<'static, Result<Response<CertificateResponse>, Status>>;

    fn call(&mut self, request: Request<CertificateRequest>) -> Self::Future {
        let (service, requester) = (Arc::clone(&self.service), self.requester.clone());
        let peer = self.peer;
        Box::pin(async move {
            let answer = issue::issue(&service, requester, peer, request.into_inner()).await?;
            Ok(Response::new(answer))
        })
    }
}

struct Watch {
    trust: watch::Receiver<Published>,
    ending: watch::Receiver<bool>,
}

impl ServerStreamingService<WatchRequest> for Watch {
    type Response = TrustMessage;
    type ResponseStream = tokio_stream::wrappers::ReceiverStream<Result<TrustMessage, Status>>;
    type Future = std::future::Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, _: Request<WatchRequest>) -> Self::Future {
        let stream = trust::stream(self.trust.clone(), self.ending.clone());
        std::future::ready(Ok(Response::new(stream)))
    }
}
