//! `mesh-agent precheck`: whether a cluster can have the mesh, seen through its API. What
//! only a node can tell (`/sys/fs/bpf`, kernel features) is for `mesh-agent check` there.

mod cluster;
mod network_policies;
mod nodes;
mod permissions;

use std::process::ExitCode;

use clap::Args;
use kube::Client;

use super::check::{Finding, render_findings};
use super::install::ClusterError;
use super::output::{self, Format};
use super::{CliError, install};
use crate::install::{InstallError, Manifest, Platform, Settings};
use crate::kubernetes;

/// Options of `mesh-agent precheck`.
#[derive(Clone, Debug, Args)]
pub struct PrecheckArgs {
    /// Form of the answer.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

/// Prints the findings. The exit code is 1 when something required is missing.
pub(super) async fn run(args: &PrecheckArgs) -> Result<ExitCode, CliError> {
    let client = kubernetes::client(kubernetes::Retries::Client)
        .await
        .map_err(ClusterError::from)?;
    let settings = Settings {
        platform: Platform::of(&install::nodes(&client).await?),
        ..Settings::default()
    };
    let manifests = settings.manifests().map_err(InstallError::from);
    let findings = findings(&client, &manifests.map_err(ClusterError::from)?).await?;
    match args.output {
        Format::Table => output::print(render(&findings).as_bytes())?,
        Format::Json => {
            let answer = serde_json::to_vec(&findings).map_err(std::io::Error::from)?;
            output::print_json(&answer)?;
        }
    }
    Ok(match is_anything_missing(&findings) {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    })
}

/// Everything that can be told of the cluster, for an installation of `manifests`.
pub(super) async fn findings(
    client: &Client,
    manifests: &[Manifest],
) -> Result<Vec<Finding>, ClusterError> {
    let version = client.apiserver_version().await;
    let version = version.map_err(ClusterError::asking("ask for the cluster's version"))?;
    let mut findings = vec![cluster::version(&version)];
    findings.push(permissions::finding(client, manifests).await?);
    findings.extend(nodes::findings(&install::nodes(client).await?));
    findings.extend(cluster::findings(client).await?);
    Ok(findings)
}

pub(super) fn is_anything_missing(findings: &[Finding]) -> bool {
    findings.iter().any(|it| it.required && !it.ok)
}

/// As `mesh-agent check` has it, with a verdict of the cluster.
pub(super) fn render(findings: &[Finding]) -> String {
    let mut out = render_findings(findings);
    out.push_str(
        &match findings.iter().filter(|it| it.required && !it.ok).count() {
            0 => "\nthis cluster can have the mesh\n".to_owned(),
            1 => "\n1 thing that the mesh needs is missing\n".to_owned(),
            n => format!("\n{n} things that the mesh needs are missing\n"),
        },
    );
    out
}
