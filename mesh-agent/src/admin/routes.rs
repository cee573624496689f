//! Which path answers what. Pure: from a method and a path to a response.

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;

use super::{Admin, AgentView};
use crate::observe::metrics;

/// Which of the two interfaces a request came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Surface {
    /// TCP, for whoever reaches the node's address: nothing about single workloads.
    Node,
    /// The unix socket, for root.
    Socket,
}

type Answer = Response<Full<Bytes>>;

/// A path, with what answers it.
struct Route {
    path: &'static str,
    on_node: bool,
    answer: fn(&Admin) -> Answer,
}

const ROUTES: &[Route] = &[
    Route {
        path: "/healthz",
        on_node: true,
        answer: |_| text(StatusCode::OK, "ok\n"),
    },
    Route {
        path: "/readyz",
        on_node: true,
        answer: |admin| ready(&*admin.view),
    },
    Route {
        path: "/metrics",
        on_node: true,
        answer: scrape,
    },
    Route {
        path: "/status",
        on_node: false,
        answer: |admin| json(&admin.view.status()),
    },
    Route {
        path: "/workloads",
        on_node: false,
        answer: |admin| json(&admin.view.workloads()),
    },
    Route {
        path: "/connections",
        on_node: false,
        answer: |admin| json(&admin.view.connections()),
    },
    Route {
        path: "/audit",
        on_node: false,
        answer: |admin| audit(&*admin.view, false),
    },
    Route {
        path: "/audit/probe",
        on_node: false,
        answer: |admin| audit(&*admin.view, true),
    },
    Route {
        path: "/problems",
        on_node: false,
        answer: |admin| json(&admin.view.status().config.problems),
    },
];

/// Answers one request. May block briefly, as [`AgentView`] may.
pub(super) fn answer(admin: &Admin, surface: Surface, method: &Method, path: &str) -> Answer {
    let shown = |route: &&Route| route.on_node || surface == Surface::Socket;
    let Some(route) = ROUTES.iter().filter(shown).find(|route| route.path == path) else {
        let known: Vec<_> = ROUTES
            .iter()
            .filter(shown)
            .map(|route| route.path)
            .collect();
        return text(
            StatusCode::NOT_FOUND,
            format!("not found; there is {}\n", known.join(", ")),
        );
    };
    // HTTP semantics (RFC 9110, 9.3.2): HEAD is GET without the body, which hyper leaves out.
    if method != Method::GET && method != Method::HEAD {
        let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        refusal
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refusal;
    }
    (route.answer)(admin)
}

/// The answer when making the proper one failed.
pub(super) fn broken() -> Answer {
    text(
        StatusCode::INTERNAL_SERVER_ERROR,
        "the agent could not answer; see its log\n",
    )
}

fn ready(view: &dyn AgentView) -> Answer {
    #[derive(Serialize)]
    struct Readiness {
        ready: bool,
        reasons: Vec<String>,
    }
    match view.ready() {
        Ok(()) => json(&Readiness {
            ready: true,
            reasons: Vec::new(),
        }),
        Err(reasons) => {
            let mut answer = json(&Readiness {
                ready: false,
                reasons,
            });
            *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            answer
        }
    }
}

fn audit(view: &dyn AgentView, probe: bool) -> Answer {
    match view.audit(probe) {
        Ok(report) => json(&report),
        Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

fn scrape(admin: &Admin) -> Answer {
    match admin.registry.encode() {
        Ok(metrics) => reply(StatusCode::OK, metrics::CONTENT_TYPE, metrics),
        Err(error) => {
            tracing::error!(%error, "the metrics cannot be encoded");
            broken()
        }
    }
}

fn json<T: Serialize>(value: &T) -> Answer {
    match serde_json::to_vec(value) {
        Ok(body) => reply(StatusCode::OK, "application/json", body),
        Err(error) => {
            tracing::error!(%error, "an administrative answer cannot be encoded");
            broken()
        }
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    reply(status, "text/plain; charset=utf-8", body)
}

fn reply(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
