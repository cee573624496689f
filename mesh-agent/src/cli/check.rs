//! `mesh-agent check`: what this machine has and lacks for the agent, with the cure.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use nix::sys::resource::{Resource, getrlimit};
use serde::Serialize;

use super::output::{self, Format};
use super::run::pods_cgroup;
use crate::intercept::{self, features};

/// Open files below which a node of some dozen pods would soon be short: a connection
/// takes one, and a share of a tunnel.
const FEW_FILES: u64 = 4096;

/// Options of `mesh-agent check`.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// Form of the answer.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
    /// Where eBPF links and maps are to be pinned.
    #[arg(long, value_name = "DIR", default_value = super::DEFAULT_PIN_DIR)]
    pub pin_dir: PathBuf,
    /// Control group (v2) that holds all pods [default: the kubelet's, or else the whole
    /// hierarchy].
    #[arg(long, value_name = "DIR")]
    pub pods_cgroup: Option<PathBuf>,
}

/// One thing that the agent needs or can use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is, in a few words.
    pub name: String,
    /// Whether it is there.
    pub ok: bool,
    /// Whether the agent cannot work without it.
    pub required: bool,
    /// What was found.
    pub detail: String,
    /// What to do when it is missing.
    pub cure: String,
}

/// Prints the findings. The exit code is 1 when something required is missing.
pub(super) fn run(args: &CheckArgs) -> io::Result<ExitCode> {
    let pods_cgroup = args.pods_cgroup.clone().unwrap_or_else(likely_pods_cgroup);
    let findings = findings(&pods_cgroup, &args.pin_dir);
    match args.output {
        Format::Table => output::print(render(&findings).as_bytes())?,
        Format::Json => output::print_json(&serde_json::to_vec(&findings)?)?,
    }
    let missing = findings
        .iter()
        .any(|finding| finding.required && !finding.ok);
    Ok(if missing {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Where there is no kubelet, what can be said of the hierarchy can be said of its root.
fn likely_pods_cgroup() -> PathBuf {
    pods_cgroup()
        .ok()
        .or_else(|| intercept::cgroup2_mount().ok().flatten())
        .unwrap_or_else(|| PathBuf::from("/sys/fs/cgroup"))
}

fn findings(pods_cgroup: &Path, pin_dir: &Path) -> Vec<Finding> {
    let features = features::probe(pods_cgroup, pin_dir).into_iter();
    let finding = |feature: features::Feature| Finding {
        name: feature.name.to_owned(),
        ok: feature.present,
        required: feature.needed,
        detail: feature.detail,
        cure: feature.cure.to_owned(),
    };
    features.map(finding).chain([files()]).collect()
}

fn files() -> Finding {
    let (ok, detail) = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) => (hard >= FEW_FILES, format!("{soft}, at most {hard}")),
        Err(errno) => (false, errno.to_string()),
    };
    Finding {
        name: "open files".to_owned(),
        ok,
        required: false,
        detail,
        cure: "raise the limit (LimitNOFILE= of a systemd unit, ulimit -n)".to_owned(),
    }
}

/// One line a finding, the cure under what is missing, and a verdict.
pub(super) fn render(findings: &[Finding]) -> String {
    let mut out = render_findings(findings);
    let missing = findings
        .iter()
        .filter(|finding| finding.required && !finding.ok)
        .count();
    out.push_str(&match missing {
        0 => "\nthis machine can run the agent\n".to_owned(),
        1 => "\n1 thing that the agent needs is missing\n".to_owned(),
        n => format!("\n{n} things that the agent needs are missing\n"),
    });
    out
}

/// The same without the verdict.
pub(super) fn render_findings(findings: &[Finding]) -> String {
    let width = findings
        .iter()
        .map(|finding| finding.name.chars().count())
        .max()
        .unwrap_or(0);
    let mut out = String::new();
    for Finding {
        name,
        ok,
        required,
        detail,
        cure,
    } in findings
    {
        let mark = match (ok, required) {
            (true, _) => "ok     ",
            (false, true) => "MISSING",
            (false, false) => "absent ",
        };
        out.push_str(&format!("{mark}  {name:<width$}  {detail}\n"));
        if !ok && !cure.is_empty() {
            out.push_str(&format!("         {:<width$}  → {cure}\n", ""));
        }
    }
    out
}
