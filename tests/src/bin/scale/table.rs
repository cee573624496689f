//! The figures, side by side, with how they grow.

use std::fmt::Write;

use super::measure::Row;

/// A table with a column for each size, and what 10,000 pods more cost.
pub(crate) fn of(rows: &[Row]) -> String {
    let mut text = String::from("\n");
    let mut line = |name: &str, value: &dyn Fn(&Row) -> f64| {
        let _ = write!(text, "{name:<52}");
        for row in rows {
            let _ = write!(text, "{:>11}", rounded(value(row)));
        }
        if let [first, .., last] = rows {
            let pods = f64::from(last.filled.pods - first.filled.pods) / 10_000.0;
            let growth = (value(last) - value(first)) / pods;
            let _ = write!(text, "{:>16}", rounded(growth));
        }
        text.push('\n');
    };
    line("pods                         (then: each 10,000)", &|it| {
        f64::from(it.filled.pods)
    });
    line("services", &|it| f64::from(it.filled.services));
    line("start to ready, s", &|it| it.sync);
    line("  processor time of it, s", &|it| it.sync_cpu);
    line("  from the API, MB", &|it| it.sync_bytes);
    line("  requests (with the first 20 s)", &|it| {
        it.sync_requests as f64
    });
    line("memory: at most until idle, MB", &|it| it.peak);
    line("memory: idle, MB", &|it| it.resident);
    line("memory: at most, all in all, MB", &|it| it.churn_peak);
    line("idle: processors", &|it| it.idle_cpu);
    line("idle: from the API in 20 s, MB", &|it| it.idle_bytes);
    line("idle: requests in 20 s", &|it| it.idle_requests as f64);
    line(
        "policy written or removed: in force after, median s",
        &|it| median(&it.policy),
    );
    line("  the longest, s", &|it| longest(&it.policy));
    line(
        "namespace labelled: its pod enrolled after, median s",
        &|it| median(&it.enrolled),
    );
    line("  the longest, s", &|it| longest(&it.enrolled));
    line("churn: pods changed in 30 s", &|it| {
        f64::from(it.churn_changes)
    });
    line("churn: processors", &|it| it.churn_cpu);
    line("churn: from the API, MB", &|it| it.churn_bytes);
    line("churn: a pod enrolled after, s", &|it| it.churn_enrolled);
    line("authority: start to knowing the pods, s", &|it| {
        it.authority.sync
    });
    line("  memory: at most, MB", &|it| it.authority.peak);
    line("  memory: idle, MB", &|it| it.authority.resident);
    text
}

fn rounded(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        100.0.. => format!("{value:.0}"),
        1.0.. => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

fn longest(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}
