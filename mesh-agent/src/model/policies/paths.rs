//! Validates the paths of HTTP rules, which this agent cannot evaluate: a policy that Istio
//! refuses is refused here as well. Templates:
//! <https://istio.io/latest/docs/reference/config/security/authorization-policy/#Operation>

const ONE: &str = "{*}";
const ANY: &str = "{**}";

/// The reason why a path is not valid.
pub(super) fn fault(path: &str) -> Option<&'static str> {
    let is_template = path.contains(ONE) || path.contains(ANY);
    let mut any = false;
    for segment in path.trim_matches('/').split('/') {
        match segment {
            ONE | ANY if any => return Some("nothing that matches may follow {**}"),
            ONE => {}
            ANY => any = true,
            _ if segment.contains(['{', '}']) => {
                return Some("braces are for the whole segments {*} and {**}");
            }
            _ if is_template && !is_literal(segment) => {
                return Some("a template has a segment that a path cannot have");
            }
            _ => {}
        }
    }
    None
}

/// Characters of a path's segment (`pchar` of RFC 3986, appendix A, without the star).
fn is_literal(segment: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~%!$&'()+,;:@=".contains(&b);
    !segment.is_empty() && segment.bytes().all(allowed)
}
