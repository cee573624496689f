//! `mesh-agent install`: the mesh into the cluster of the kubeconfig, for who would rather
//! not know what a server-side apply is.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use k8s_openapi::api::core::v1::Node;
use kube::api::ListParams;
use kube::{Api, Client};

use super::{CliError, output, precheck};
use crate::identity::TrustDomain;
use crate::install::{self, InstallError, Manifest, Platform, Settings};
use crate::kubernetes::{self, KubernetesError};

/// Options of `mesh-agent install`.
#[derive(Clone, Debug, Args)]
pub struct InstallArgs {
    /// Where the cluster is from [default: as its nodes say].
    #[arg(long, value_enum)]
    pub platform: Option<Platform>,
    /// Image of agent and authority [default: that of the manifests].
    #[arg(long)]
    pub image: Option<String>,
    /// SPIFFE trust domain of all identities [default: cluster.local]. It is for good: with another,
    /// every workload changes its identity.
    #[arg(long, value_parser = trust_domain)]
    pub trust_domain: Option<TrustDomain>,
    /// Folder of CNI configurations on the nodes [default: the platform's].
    #[arg(long, value_name = "DIR", value_parser = absolute)]
    pub cni_conf_dir: Option<String>,
    /// Folder of CNI plugins on the nodes [default: the platform's].
    #[arg(long, value_name = "DIR", value_parser = absolute)]
    pub cni_bin_dir: Option<String>,
    /// Print the manifests as YAML and change nothing. Asks no cluster if --platform is given.
    #[arg(long)]
    pub dry_run: bool,
    /// Install though the precheck found something missing.
    #[arg(long)]
    pub force: bool,
    /// Seconds until all of it must be ready.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub timeout: u64,
}

/// Why nothing, or not everything, was installed or removed.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The cluster is not known.
    #[error(transparent)]
    Kubernetes(#[from] KubernetesError),
    /// A step failed.
    #[error(transparent)]
    Install(#[from] InstallError),
    /// A question to the cluster failed.
    #[error("cannot {what}: {}", install::said(source))]
    Asking {
        /// What was asked.
        what: &'static str,
        /// What came back.
        source: Box<kube::Error>,
    },
    /// The manifests cannot be printed.
    #[error("the manifests cannot be written as YAML: {0}")]
    Yaml(#[from] serde_yaml_ng::Error),
}

impl ClusterError {
    pub(super) fn asking(what: &'static str) -> impl FnOnce(kube::Error) -> Self {
        move |source| Self::Asking {
            what,
            source: Box::new(source),
        }
    }
}

/// Installs, or prints what would be. The exit code is 1 when the precheck found
/// something missing.
pub(super) async fn run(args: &InstallArgs) -> Result<ExitCode, CliError> {
    if let (true, Some(platform)) = (args.dry_run, args.platform) {
        return print(&args.manifests(platform)?);
    }
    let client = kubernetes::client(kubernetes::Retries::Client)
        .await
        .map_err(ClusterError::from)?;
    let platform = match args.platform {
        Some(platform) => platform,
        None => Platform::of(&nodes(&client).await?),
    };
    let manifests = args.manifests(platform)?;
    if args.dry_run {
        return print(&manifests);
    }
    let findings = precheck::findings(&client, &manifests).await?;
    output::print(precheck::render(&findings).as_bytes())?;
    if !args.force && precheck::is_anything_missing(&findings) {
        output::print(b"nothing was installed; --force installs all the same\n")?;
        return Ok(ExitCode::FAILURE);
    }
    say(&format!("\ninstalling for the platform {platform}"));
    let timeout = Duration::from_secs(args.timeout);
    install::apply(&client, &manifests, timeout, &say)
        .await
        .map_err(ClusterError::from)?;
    output::print(NEXT.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

const NEXT: &str = "
Isthmus is installed. Put a namespace into the mesh, without a restart of its pods:

  kubectl label namespace NAME isthmus.dev/mesh=enabled
";

impl InstallArgs {
    fn manifests(&self, platform: Platform) -> Result<Vec<Manifest>, ClusterError> {
        let settings = Settings {
            platform,
            image: self.image.clone(),
            trust_domain: self.trust_domain.clone(),
            cni_conf_dir: self.cni_conf_dir.clone(),
            cni_bin_dir: self.cni_bin_dir.clone(),
        };
        Ok(settings.manifests().map_err(InstallError::from)?)
    }
}

fn print(manifests: &[Manifest]) -> Result<ExitCode, CliError> {
    let mut text = String::new();
    for manifest in manifests {
        text.push_str("---\n");
        text.push_str(&serde_yaml_ng::to_string(manifest.value()).map_err(ClusterError::from)?);
    }
    output::print(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// One line of progress. Whoever reads it may have gone; the work goes on.
pub(super) fn say(line: &str) {
    let _ = output::print(format!("{line}\n").as_bytes());
}

pub(super) async fn nodes(client: &Client) -> Result<Vec<Node>, ClusterError> {
    let nodes = Api::<Node>::all(client.clone())
        .list(&ListParams::default())
        .await;
    Ok(nodes.map_err(ClusterError::asking("list the nodes"))?.items)
}

fn trust_domain(text: &str) -> Result<TrustDomain, String> {
    TrustDomain::new(text).map_err(|error| error.to_string())
}

/// A path on a node: `hostPath` takes no other.
fn absolute(text: &str) -> Result<String, String> {
    match text.starts_with('/') && !text.split('/').any(|part| part == "..") {
        true => Ok(text.to_owned()),
        false => Err("it must be an absolute path without \"..\"".to_owned()),
    }
}

impl From<ClusterError> for CliError {
    fn from(error: ClusterError) -> Self {
        Self::Cluster(Box::new(error))
    }
}
