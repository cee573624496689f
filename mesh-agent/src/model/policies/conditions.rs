//! Keys of conditions that only HTTP, or TLS that the application itself speaks, can answer.
//! <https://istio.io/latest/docs/reference/config/security/conditions/>

/// What a key of a condition is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// An attribute of HTTP requests or of the application's own TLS.
    NeedsHttp,
    /// The same, without the name in brackets that it must have.
    LacksName,
    /// Anything else.
    Other,
}

const WHOLE: [&str; 4] = [
    "request.auth.principal",
    "request.auth.audiences",
    "request.auth.presenter",
    "connection.sni",
];

/// Beginnings of keys that end in a name in brackets: `request.headers[User-Agent]`.
const WITH_NAME: [&str; 3] = [
    "request.headers",
    "request.auth.claims",
    "experimental.envoy.filters.",
];

pub(super) fn kind(key: &str) -> Key {
    if WHOLE.contains(&key) {
        return Key::NeedsHttp;
    }
    if !WITH_NAME.iter().any(|prefix| key.starts_with(prefix)) {
        return Key::Other;
    }
    let inside = key
        .strip_suffix(']')
        .and_then(|rest| rest.split_once('['))
        .is_some_and(|(before, name)| !before.is_empty() && !name.is_empty());
    match inside {
        true => Key::NeedsHttp,
        false => Key::LacksName,
    }
}
