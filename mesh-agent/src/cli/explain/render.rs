//! An explanation as text, the answer first.

use crate::explain::{Explanation, Happened, Nearest, Side, Verdict, Way};

/// Lines of `label: value`, with their labels of one width.
struct Lines(String);

impl Lines {
    fn line(&mut self, label: &str, value: &str) {
        // A text may come from a peer or a file: it must not move the cursor.
        let shown = |c: char| if c.is_control() { '\u{fffd}' } else { c };
        let value: String = value.chars().map(shown).collect();
        let line = format!("{label:<14}{value}");
        self.0.push_str(line.trim_end());
        self.0.push('\n');
    }

    fn some(&mut self, label: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.line(label, value);
        }
    }

    fn all(&mut self, label: &str, values: &[String]) {
        for value in values {
            self.line(label, value);
        }
    }
}

pub(super) fn render(it: &Explanation) -> String {
    let mut out = Lines(String::new());
    if let Some(happened) = &it.happened {
        past(&mut out, happened);
        out.0.push_str("\nby the policies in force now\n");
    }
    out.line("verdict", verdict(it.verdict));
    let asked = &it.asked;
    out.line(
        "from",
        asked.pod.as_deref().unwrap_or("an address of no known pod"),
    );
    match (&asked.identity, &asked.no_identity) {
        (Some(identity), _) => out.line("  identity", identity),
        (None, why) => out.line(
            "  identity",
            &format!("none: {}", why.as_deref().unwrap_or("unknown")),
        ),
    }
    out.line("to", &format!("{}, {}", asked.destination, it.route));
    for way in &it.ways {
        self::way(&mut out, way);
    }
    let complete = if it.complete {
        ""
    } else {
        ", which could not be read in full"
    };
    out.line(
        "configuration",
        &format!("generation {}{complete}", it.generation),
    );
    out.0
}

fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allowed => "ALLOWED",
        Verdict::Denied => "DENIED",
        Verdict::Mixed => "DEPENDS on the endpoint",
        Verdict::Unknown => "not to be said",
    }
}

fn past(out: &mut Lines, it: &Happened) {
    let outcome = match &it.reason {
        Some(reason) => format!("{}, {reason}", it.outcome),
        None => it.outcome.clone(),
    };
    out.line(
        "connection",
        &format!("{}, {} of {}", it.id, it.direction, it.pod),
    );
    out.line(
        "  addresses",
        &format!("{} -> {}", it.source, it.destination),
    );
    out.line("  outcome", &outcome);
    out.some("  meaning", it.meaning.as_deref());
    out.some("  policy", place(it.policy.as_deref(), it.rule).as_deref());
    out.some("  detail", it.detail.as_deref());
    out.some("  nearest", it.nearest.as_ref().map(nearest).as_deref());
    out.all("  audited by", &it.audited);
    out.all("  dry run", &it.dry_run);
    out.some("  cure", it.cure.as_deref());
}

fn way(out: &mut Lines, it: &Way) {
    let pod = it
        .pod
        .as_deref()
        .unwrap_or("nobody that the configuration names");
    out.line("  reaches", &format!("{}, {pod}", it.address));
    out.some("  by", it.transport.as_deref());
    out.some("  expects", it.identity.as_deref());
    if let Some(mode) = &it.mode {
        out.line("  mode", &format!("{} by {}", mode.mode, mode.from));
    }
    out.all("  network", &it.network);
    side(out, "  source", it.source.as_ref());
    side(out, "  destination", it.destination.as_ref());
}

fn side(out: &mut Lines, label: &str, side: Option<&Side>) {
    let Some(side) = side else {
        return out.line(label, "no agent is asked");
    };
    let verdict = match &side.reason {
        Some(reason) if !side.allowed => format!("DENIED, {reason}"),
        _ => "allowed".to_owned(),
    };
    out.line(label, &verdict);
    out.line("    why", &side.detail);
    out.some(
        "    policy",
        place(side.policy.as_deref(), side.rule).as_deref(),
    );
    out.some("    nearest", side.nearest.as_ref().map(nearest).as_deref());
    out.all("    audited by", &side.audited);
    out.all("    dry run", &side.dry_run);
    out.some("    cure", side.cure.as_deref());
}

fn place(policy: Option<&str>, rule: Option<usize>) -> Option<String> {
    let policy = policy?;
    Some(match rule {
        Some(rule) => format!("{policy} spec.rules[{rule}]"),
        None => policy.to_owned(),
    })
}

fn nearest(it: &Nearest) -> String {
    let rule = place(Some(&it.policy), it.rule).unwrap_or_default();
    format!(
        "{rule}: {} wants {} and saw {}",
        it.field, it.wanted, it.seen
    )
}
