//! Which path answers what: from a request's head to a response.

use bytes::Bytes;
use http::header::{ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderValue, Method, Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;

use super::access::Scrape;
use super::serve::Head;
use super::{Admin, AgentView};
use crate::explain::Question;
use crate::observe::metrics;

/// Which of the two interfaces a request came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Surface {
    /// TCP, for every caller that reaches the node's address: nothing about single workloads
    /// without a right to it.
    Node,
    /// The unix socket, for root.
    Socket,
}

pub(super) type Answer = Response<Full<Bytes>>;

/// What of a request an answer depends on.
struct Asked<'a> {
    surface: Surface,
    query: &'a str,
    authorization: Option<&'a HeaderValue>,
}

/// A path, with what answers it.
struct Route {
    path: &'static str,
    on_node: bool,
    /// Whether it is answered out of a configuration, and refused before there is one.
    of_configuration: bool,
    answer: fn(&Admin, &Asked<'_>) -> Answer,
}

const ROUTES: &[Route] = &[
    Route {
        path: "/healthz",
        on_node: true,
        of_configuration: false,
        answer: |_, _| alive(),
    },
    Route {
        path: "/readyz",
        on_node: true,
        of_configuration: false,
        answer: |admin, _| ready(admin.view.ready()),
    },
    Route {
        path: "/metrics",
        on_node: true,
        of_configuration: false,
        answer: scrape,
    },
    Route {
        path: "/status",
        on_node: false,
        of_configuration: false,
        answer: |admin, _| json(&admin.view.status()),
    },
    Route {
        path: "/workloads",
        on_node: false,
        of_configuration: true,
        answer: |admin, _| json(&admin.view.workloads()),
    },
    Route {
        path: "/connections",
        on_node: false,
        of_configuration: true,
        answer: |admin, _| json(&admin.view.connections()),
    },
    Route {
        path: "/explain",
        on_node: false,
        of_configuration: true,
        answer: |admin, asked| explain(&*admin.view, asked.query),
    },
    Route {
        path: "/flows",
        on_node: false,
        of_configuration: true,
        answer: |admin, _| json(&admin.view.flows()),
    },
    Route {
        path: "/audit",
        on_node: false,
        of_configuration: true,
        answer: |admin, _| audit(&*admin.view, false),
    },
    Route {
        path: "/audit/probe",
        on_node: false,
        of_configuration: true,
        answer: |admin, _| audit(&*admin.view, true),
    },
    Route {
        path: "/problems",
        on_node: false,
        of_configuration: false,
        answer: |admin, _| json(&admin.view.status().config.problems),
    },
];

/// Answers one request. May block briefly, as [`AgentView`] may.
pub(super) fn answer(admin: &Admin, surface: Surface, request: &Head) -> Answer {
    let path = request.uri.path();
    let shown = |route: &&Route| route.on_node || surface == Surface::Socket;
    let Some(route) = ROUTES.iter().filter(shown).find(|route| route.path == path) else {
        return unknown(ROUTES.iter().filter(shown).map(|route| route.path));
    };
    if let Some(refusal) = refuse_method(&request.method) {
        return refusal;
    }
    if route.of_configuration
        && let Err(why) = admin.view.knows()
    {
        return text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n"));
    }
    let asked = Asked {
        surface,
        query: request.uri.query().unwrap_or_default(),
        authorization: request.headers.get(AUTHORIZATION),
    };
    (route.answer)(admin, &asked)
}

/// Answers the probes of a process that has only these.
pub(super) fn health(readiness: &dyn Fn() -> Result<(), Vec<String>>, request: &Head) -> Answer {
    match (request.uri.path(), refuse_method(&request.method)) {
        ("/healthz" | "/readyz", Some(refusal)) => refusal,
        ("/healthz", None) => alive(),
        ("/readyz", None) => ready(readiness()),
        _ => unknown(["/healthz", "/readyz"]),
    }
}

fn unknown(known: impl IntoIterator<Item = &'static str>) -> Answer {
    let known: Vec<_> = known.into_iter().collect();
    text(
        StatusCode::NOT_FOUND,
        format!("not found; there is {}\n", known.join(", ")),
    )
}

/// HTTP semantics (RFC 9110, 9.3.2): HEAD is GET without the body, which hyper leaves out.
fn refuse_method(method: &Method) -> Option<Answer> {
    if method == Method::GET || method == Method::HEAD {
        return None;
    }
    let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
    refusal
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    Some(refusal)
}

/// The answer when making the proper one failed.
pub(super) fn broken() -> Answer {
    text(
        StatusCode::INTERNAL_SERVER_ERROR,
        "the agent could not answer; see its log\n",
    )
}

fn alive() -> Answer {
    text(StatusCode::OK, "ok\n")
}

fn ready(ready: Result<(), Vec<String>>) -> Answer {
    #[derive(Serialize)]
    struct Readiness {
        ready: bool,
        reasons: Vec<String>,
    }
    match ready {
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

fn explain(view: &dyn AgentView, query: &str) -> Answer {
    let question = match Question::parse(query) {
        Ok(question) => question,
        Err(error) => return text(StatusCode::BAD_REQUEST, format!("{error}\n")),
    };
    match view.explain(&question) {
        Ok(explanation) => json(&explanation),
        Err(error) => text(StatusCode::NOT_FOUND, format!("{error}\n")),
    }
}

fn scrape(admin: &Admin, asked: &Asked<'_>) -> Answer {
    let decided = match asked.surface {
        Surface::Socket => Scrape::Named,
        Surface::Node => {
            let authorization = asked.authorization.map(HeaderValue::as_bytes);
            admin.access.decide(authorization)
        }
    };
    let encoded = match decided {
        Scrape::Named => admin.registry.encode(),
        Scrape::Nameless => admin.registry.encode_nameless(),
        Scrape::Refused(status, why) => {
            let mut refusal = text(status, format!("{why}\n"));
            if status == StatusCode::UNAUTHORIZED {
                let scheme = HeaderValue::from_static("Bearer");
                refusal.headers_mut().insert(WWW_AUTHENTICATE, scheme);
            }
            return refusal;
        }
    };
    match encoded {
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
