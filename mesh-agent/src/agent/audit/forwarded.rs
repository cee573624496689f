//! TCP that passes a PERMISSIVE pod's devices without a socket of the pod: a virtual machine,
//! NAT or a container behind the pod. Nothing hands it to the agent, so the pod is covered in
//! part. Shared by the audit and by `workloads`.

use std::time::Duration;

use super::Finding;
use crate::intercept::{ForwardedTcp, Interceptor};
use crate::proxy::Pod;

/// For this long after the last such packet the pod counts as covered in part.
const RECENT: Duration = Duration::from_secs(60);

/// Why the pod is covered in part; `None` when it is not.
///
/// # Errors
/// When the kernel cannot be asked.
pub(in crate::agent) fn partly_covered(
    kernel: &Interceptor,
    pod: &Pod,
    strict: bool,
) -> Result<Option<Finding>, String> {
    let seen = kernel.forwarded(pod.netns().cookie());
    let seen = seen.map_err(|error| error.to_string())?;
    Ok(finding(&seen, strict))
}

/// Under STRICT nothing passes: what did is older than the mode.
fn finding(seen: &ForwardedTcp, strict: bool) -> Option<Finding> {
    let recent = seen.last_passed.is_some_and(|ago| ago < RECENT);
    let text = "TCP without a socket of the pod passes its devices (of a virtual machine, a \
                container behind the pod, or NAT): it has no identity and meets no policy";
    (recent && !strict).then(|| Finding::new("forwarded", text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(seconds: u64) -> ForwardedTcp {
        ForwardedTcp {
            passed: 3,
            dropped: 0,
            last_passed: Some(Duration::from_secs(seconds)),
        }
    }

    #[test]
    fn finding_lasts_as_long_as_forwarded_packets_are_recent() {
        assert_eq!(finding(&ForwardedTcp::default(), false), None);
        let found = finding(&seen(0), false).unwrap();
        assert_eq!(found.what, "forwarded");
        assert_eq!(finding(&seen(59), false), Some(found));
        assert_eq!(finding(&seen(60), false), None);
    }

    #[test]
    fn finding_is_none_under_strict() {
        assert_eq!(finding(&seen(0), true), None);
    }
}
