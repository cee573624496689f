//! From one endpoint of a service to the next, until one answers or the time is up; the
//! application has been told nothing and has had nothing carried meanwhile. Called by
//! `outbound`.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::affinity::Key;
use super::balance::{Balance, Busy};
use super::end::Failure;
use super::route::{Balanced, Candidate};
use super::worker::Worker;
use crate::model::Endpoint;
use crate::observe::{Connection, Reason};

/// Endpoints that are tried for one connection.
const ATTEMPTS: usize = 5;

/// Time for all of them. Where no other is left, an endpoint has what is left of it.
const WHOLE: Duration = Duration::from_secs(10);

/// Time for an endpoint while there is another: enough for a SYN that was lost once or
/// twice (sent again after 1 s and 2 s more, RFC 6298), and for a handshake.
const EACH: Duration = Duration::from_millis(3500);

/// Who asked for what of a service.
pub(super) struct Asked<'a> {
    pub(super) balanced: &'a Balanced,
    /// The service's port.
    pub(super) port: u16,
    /// The pod's address, canonical.
    pub(super) client: IpAddr,
}

/// Finds the endpoint to begin with and makes `attempt`s until one comes about.
///
/// # Errors
/// The last failure, if each was one that another endpoint need not share; else the first
/// that is not.
pub(super) async fn among<T>(
    worker: &Worker,
    asked: &Asked<'_>,
    record: &Connection,
    attempt: impl AsyncFnMut(Candidate) -> Result<T, Failure>,
) -> Result<(T, Busy), Failure> {
    let Balanced { service, endpoints } = asked.balanced;
    record.set_service(worker.labels.service(service));
    let balance = &worker.balance;
    let now = Instant::now().into_std();
    let mut first = balance.choose(endpoints, worker.random(), now);
    let key = service.affinity.map(|timeout| {
        let key = Key::new(service, asked.port, asked.client);
        let place = |addr| endpoints.binary_search_by_key(&addr, |it| it.addr).ok();
        let takes = |addr| place(addr).is_some();
        let affinity = &worker.shared.affinity;
        let led = affinity.lead(key.clone(), timeout, now, takes, endpoints[first].addr);
        first = place(led).unwrap_or(first);
        key
    });
    let retried = |reason| record.retried(reason);
    let (made, busy) = one_after_another(balance, endpoints, first, attempt, retried).await?;
    if let Some(key) = key.filter(|_| busy.addr() != endpoints[first].addr) {
        worker.shared.affinity.moved(&key, busy.addr());
    }
    Ok((made, busy))
}

/// [`among`], from the endpoint at the place `first`; `retried` is told why each further
/// one is tried.
async fn one_after_another<T>(
    balance: &Rc<Balance>,
    endpoints: &[Endpoint],
    first: usize,
    mut attempt: impl AsyncFnMut(Candidate) -> Result<T, Failure>,
    mut retried: impl FnMut(Reason),
) -> Result<(T, Busy), Failure> {
    if let [only] = endpoints {
        let busy = balance.busy(only.addr);
        // Each step on its way has its own limit.
        return Ok((attempt(Candidate::from(only)).await?, busy));
    }
    let deadline = Instant::now() + WHOLE;
    // In turn from the end, and looked for only when the first has failed.
    let mut rest: Option<Vec<usize>> = None;
    let mut place = first;
    loop {
        let endpoint = &endpoints[place];
        let left = deadline.saturating_duration_since(Instant::now());
        let is_last = rest.as_ref().is_some_and(Vec::is_empty);
        let limit = if is_last { left } else { left.min(EACH) };
        let busy = balance.busy(endpoint.addr);
        let made = timeout(limit, attempt(Candidate::from(endpoint))).await;
        let failure = match made {
            Ok(Ok(made)) => {
                balance.succeeded(endpoint.addr);
                return Ok((made, busy));
            }
            Ok(Err(failure)) => failure,
            Err(_) => {
                Failure::failed(Reason::UpstreamTimeout, Late(endpoint.addr, limit)).unanswered()
            }
        };
        let Some(reason) = failure.another_may_answer() else {
            return Err(failure);
        };
        let now = Instant::now();
        balance.failed(endpoint.addr, now.into_std());
        let rest = rest.get_or_insert_with(|| {
            let mut rest = balance.rest(endpoints, first, ATTEMPTS - 1, now.into_std());
            rest.reverse();
            rest
        });
        place = match rest.pop() {
            Some(next) if now < deadline => next,
            _ => return Err(failure),
        };
        retried(reason);
    }
}

/// An endpoint that kept its client waiting.
#[derive(Debug, thiserror::Error)]
#[error("{0} did not answer within {1:?}")]
struct Late(std::net::SocketAddr, Duration);

#[cfg(test)]
mod tests;
