//! When a service account's token expires: the one claim that a TokenReview does not tell.
//! Read by [`super::answers`], of tokens that the API server has accepted: nothing is
//! verified here.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

#[derive(Deserialize)]
struct Claims {
    /// Seconds since 1970 (RFC 7519, section 4.1.4).
    exp: u64,
}

/// The expiry of a JSON Web Token; `None` for what is none, or has no expiry.
pub(super) fn expiry(token: &str) -> Option<SystemTime> {
    let claims = token.split('.').nth(1)?;
    let claims = URL_SAFE_NO_PAD.decode(claims).ok()?;
    let claims: Claims = serde_json::from_slice(&claims).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(claims.exp))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_expiry_is_read_and_nothing_is_made_up() {
        let token = |claims: &str| format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(claims));
        let at = |seconds| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(
            expiry(&token(r#"{"exp":1700000000,"a":"??>"}"#)),
            at(1_700_000_000)
        );
        for odd in [
            "",
            "abc",
            "a.b",
            "a.%%.c",
            &token("{}"),
            &token(r#"{"exp":-1}"#),
            &token(r#"{"exp":18446744073709551615}"#),
        ] {
            assert_eq!(expiry(odd), None, "{odd}");
        }
    }
}
