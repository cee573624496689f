//! What policy said of one connection, as far as it is to be told: kept with the
//! connection by the proxy, read by the access log, the counters and `mesh-agent explain`.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use crate::policy::{Decision, Denial, DryRun, PolicyRef, Would};

/// What policy said of a connection. Makes no allocation where it was simply allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruling {
    /// Why it was refused; `None` where it was allowed.
    pub denial: Option<Arc<Denial>>,
    /// The AUDIT policies that matched.
    pub audited: Vec<PolicyRef>,
    /// What the policies on trial would have done.
    pub dry_run: Vec<DryRun>,
}

/// Policies that one line names; a count stands for the others.
const NAMED: usize = 8;

impl Ruling {
    /// What is to be kept of a decision.
    pub fn of<P>(decision: &Decision<P>) -> Self {
        Self {
            denial: decision.outcome.as_ref().err().cloned().map(Arc::new),
            audited: decision.audited.clone(),
            dry_run: decision.dry_run.clone(),
        }
    }

    /// The policy that refused, if one did.
    pub fn policy(&self) -> Option<&PolicyRef> {
        self.denial.as_ref()?.policy()
    }

    /// The rule of that policy, counted from 0.
    pub fn rule(&self) -> Option<usize> {
        match self.denial.as_deref() {
            Some(Denial::Policy { rule, .. }) => Some(*rule),
            _ => None,
        }
    }

    /// `shop/web, shop/all`; `None` if nothing audits the connection.
    pub fn audit_text(&self) -> Option<String> {
        text(&self.audited)
    }

    /// `deny by shop/web spec.rules[0], ...`; `None` if nothing is on trial.
    pub fn dry_run_text(&self) -> Option<String> {
        text(&self.dry_run)
    }

    /// Whether a policy on trial would have done this.
    pub(super) fn would(&self, would: Would) -> bool {
        self.dry_run.iter().any(|it| it.would == would)
    }
}

fn text<T: fmt::Display>(all: &[T]) -> Option<String> {
    let (first, others) = all.split_first()?;
    let mut text = first.to_string();
    for other in others.iter().take(NAMED - 1) {
        // Writing to a String cannot fail.
        let _ = write!(text, ", {other}");
    }
    if all.len() > NAMED {
        let _ = write!(text, ", and {} more", all.len() - NAMED);
    }
    Some(text)
}

impl Would {
    /// `allow` or `deny`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

impl fmt::Display for DryRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            policy,
            rule,
            would,
        } = self;
        let would = would.as_str();
        match rule {
            Some(rule) => write!(f, "{would} by {policy} spec.rules[{rule}]"),
            None => write!(f, "{would} by {policy}, of which no rule matches"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(name: &str) -> PolicyRef {
        PolicyRef {
            namespace: "shop".into(),
            name: name.into(),
        }
    }

    #[test]
    fn policies_are_named_and_beyond_eight_counted() {
        assert_eq!(Ruling::default().audit_text(), None);
        let named = |count: usize| Ruling {
            audited: (0..count).map(|i| policy(&format!("p{i}"))).collect(),
            ..Ruling::default()
        };
        assert_eq!(named(2).audit_text().unwrap(), "shop/p0, shop/p1");
        let many = named(10).audit_text().unwrap();
        assert!(many.ends_with("shop/p7, and 2 more"), "{many}");
    }

    #[test]
    fn a_trial_says_what_it_would_do_and_by_which_rule() {
        let on_trial = |rule, would| DryRun {
            policy: policy("p"),
            rule,
            would,
        };
        let ruling = Ruling {
            dry_run: vec![on_trial(Some(1), Would::Allow), on_trial(None, Would::Deny)],
            ..Ruling::default()
        };
        assert_eq!(
            ruling.dry_run_text().unwrap(),
            "allow by shop/p spec.rules[1], deny by shop/p, of which no rule matches"
        );
        assert!(ruling.would(Would::Allow) && ruling.would(Would::Deny));
        assert!(!Ruling::default().would(Would::Deny));
    }
}
