//! `mesh-agent status` and `mesh-agent problems` for people.

mod identity;

use super::human;
use super::table::{self, Kind};
use crate::admin::api::{ApiKindStatus, Attachment, ProbesStatus, Status};

pub(super) fn render(status: &Status) -> String {
    let mut out = String::new();
    summary(&mut out, status);
    attachments(&mut out, &status.kernel.attachments);
    if !status.kernel.counters.is_empty() {
        let rows: Vec<_> = status
            .kernel
            .counters
            .iter()
            .map(|(name, count)| vec![name.clone(), count.to_string()])
            .collect();
        section(
            &mut out,
            &[("KERNEL COUNTER", Kind::Elastic), ("COUNT", Kind::Number)],
            &rows,
        );
    }
    if !status.starting {
        identity::render(&mut out, status);
    }
    if !status.config.problems.is_empty() {
        out.push_str("\nPROBLEMS IN THE CONFIGURATION\n");
        out.push_str(&render_problems(&status.config.problems));
    }
    out
}

/// One problem a line.
pub(super) fn render_problems(problems: &[String]) -> String {
    if problems.is_empty() {
        return "the configuration has no problem\n".into();
    }
    problems
        .iter()
        .map(|problem| format!("{problem}\n"))
        .collect()
}

fn summary(out: &mut String, status: &Status) {
    let mut line = |title: &str, text: String| out.push_str(&format!("{title:<14}{text}\n"));
    let readiness = if status.ready { "ready" } else { "NOT READY" };
    line("node", format!("{}, {readiness}", status.node));
    for missing in &status.not_ready {
        line("", missing.clone());
    }
    line(
        "agent",
        format!(
            "version {}, pid {}, up {}",
            status.version,
            status.pid,
            human::seconds(status.uptime_s)
        ),
    );
    let config = &status.config;
    let problems = count(config.problems.len() as u64, "problem");
    let state = match status.starting {
        true => "NOT KNOWN YET".to_owned(),
        false => format!("generation {}", config.generation),
    };
    if !status.starting {
        line(
            "mesh",
            format!(
                "trust domain {}, {}",
                status.trust_domain, status.inbound_mode
            ),
        );
    }
    line("config", format!("{}, {state}, {problems}", config.dir));
    if !config.api.is_empty() {
        for (i, text) in api(&config.api).into_iter().enumerate() {
            line(if i == 0 { "API" } else { "" }, text);
        }
    }
    if let Some(cni) = &status.cni {
        line(
            "CNI",
            match &cni.file {
                Some(file) => format!("the plugin is in {file}"),
                None => "the plugin is in NO configuration: pods start without it".to_owned(),
            },
        );
    }
    line("kernel", status.kernel.release.clone());
    if status.starting {
        return;
    }
    line("probes", probes(&status.probes));
    line(
        "traffic",
        format!(
            "{} open, {} open",
            count(status.connections, "connection"),
            count(status.tunnels, "tunnel")
        ),
    );
    let limits = status.limits;
    line(
        "open files",
        format!("{} of {}", limits.open_files, limits.max_open_files),
    );
    line(
        "pods hold",
        format!(
            "{} of {} descriptors, {} of {} MiB buffered",
            limits.descriptors,
            limits.max_descriptors,
            limits.buffered_bytes >> 20,
            limits.max_buffered_bytes >> 20
        ),
    );
    line(
        "log",
        format!("{} dropped", count(status.log_lines_dropped, "line")),
    );
}

/// How the Kubernetes API is heard, in lines.
fn api(kinds: &[ApiKindStatus]) -> Vec<String> {
    let lines = kinds.iter().filter_map(|kind| {
        let what = &kind.kind;
        match (kind.away_for_s, kind.synced) {
            (Some(seconds), _) => {
                let error = kind.error.as_deref().unwrap_or("no answer yet");
                let away = human::seconds(seconds);
                Some(format!("{what} NOT HEARD for {away}: {error}"))
            }
            (None, false) => Some(format!("{what} not listed yet")),
            (None, true) => None,
        }
    });
    let mut lines: Vec<_> = lines.collect();
    if lines.is_empty() {
        lines.push(format!("heard, {}", count(kinds.len() as u64, "kind")));
    }
    lines
}

fn probes(probes: &ProbesStatus) -> String {
    match (&probes.error, &probes.cgroup) {
        (Some(error), _) => format!("NOT let through: {error}"),
        (None, Some(cgroup)) => format!("let through from {cgroup}"),
        (None, None) => "let through from nowhere: no kubelet was named".to_owned(),
    }
}

fn attachments(out: &mut String, attachments: &[Attachment]) {
    let id = |id: Option<u32>| id.map_or_else(|| "-".into(), |id| id.to_string());
    let rows: Vec<_> = attachments
        .iter()
        .map(|attachment| {
            vec![
                attachment.name.clone(),
                if attachment.attached { "yes" } else { "NO" }.into(),
                id(attachment.link_id),
                id(attachment.prog_id),
                attachment.tag.clone().unwrap_or_else(|| "-".into()),
            ]
        })
        .collect();
    let columns = [
        ("KERNEL PROGRAM", Kind::Elastic),
        ("ATTACHED", Kind::Whole),
        ("LINK", Kind::Number),
        ("PROG", Kind::Number),
        ("TAG", Kind::Whole),
    ];
    section(out, &columns, &rows);
}

/// A table with an empty line before it, or nothing when it would be empty.
fn section(out: &mut String, columns: &[(&str, Kind)], rows: &[Vec<String>]) {
    if !rows.is_empty() {
        out.push('\n');
        out.push_str(&table::render(columns, rows));
    }
}

fn count(number: u64, thing: &str) -> String {
    match number {
        0 => format!("no {thing}s"),
        1 => format!("1 {thing}"),
        _ => format!("{number} {thing}s"),
    }
}
