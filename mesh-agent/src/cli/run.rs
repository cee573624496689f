//! The options of `mesh-agent run`, with their defaults. `main` hands the result to the
//! agent.

mod defaults;

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::admin::MetricsIdentities;
use crate::agent::{Authority, Options, SourceSettings};
use crate::budget::BudgetOptions;
use crate::ca::client::RemoteSettings;
use crate::intercept::KubeletCgroup;
use crate::node::chain;
use crate::node::cni::SOCKET;
use crate::observe::logging;

pub use defaults::DefaultError;
pub(super) use defaults::pods_cgroup;

/// Options of `mesh-agent run`, as given.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Folder of Kubernetes-shaped YAML to take the mesh from. It is watched.
    #[arg(
        long,
        value_name = "DIR",
        required_unless_present = "kube",
        conflicts_with = "kube"
    )]
    pub config: Option<PathBuf>,
    /// Take the mesh from the Kubernetes API: that of the pod's cluster, or of KUBECONFIG.
    #[arg(long)]
    pub kube: bool,
    /// Name of this node, as the pods' spec.nodeName has it [default: the host name].
    #[arg(long)]
    pub node: Option<String>,
    /// Control group (v2) that holds all pods [default: the kubelet's].
    #[arg(long, value_name = "DIR")]
    pub pods_cgroup: Option<PathBuf>,
    /// Control group (v2) of the kubelet, whose probes reach the pods whatever their policy;
    /// whatever else is in it does too [default: found with --kube, else none].
    #[arg(long, value_name = "DIR")]
    pub kubelet_cgroup: Option<PathBuf>,
    /// Where eBPF links and maps are pinned.
    #[arg(long, value_name = "DIR", default_value = super::DEFAULT_PIN_DIR)]
    pub pin_dir: PathBuf,
    /// Where the agent's sockets are.
    #[arg(long, value_name = "DIR", default_value = super::DEFAULT_RUN_DIR)]
    pub run_dir: PathBuf,
    /// Where the embedded authority keeps its keys, and what a remote one told is saved.
    #[arg(long, value_name = "DIR", default_value = super::DEFAULT_STATE_DIR)]
    pub state_dir: PathBuf,
    /// The authority that certifies the workloads, https://HOST:PORT, with Istio's
    /// certificate API [default: one embedded in the agent].
    #[arg(long, value_name = "URL", requires = "ca_roots", requires = "ca_token")]
    pub ca: Option<String>,
    /// Roots that vouch for the authority's own server (PEM).
    #[arg(long, value_name = "FILE", requires = "ca")]
    pub ca_roots: Option<PathBuf>,
    /// Token with which this node proves itself to the authority; read for each call.
    #[arg(long, value_name = "FILE", requires = "ca")]
    pub ca_token: Option<PathBuf>,
    /// Revocation lists (PEM), for an authority that does not tell them itself.
    #[arg(long, value_name = "FILE", requires = "ca")]
    pub ca_crl: Option<PathBuf>,
    /// Seconds for which certificates are asked to be valid, 60 to 86400; they are renewed at
    /// half of it [default: what the authority gives].
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(60..=86_400))]
    pub certificate_lifetime: Option<u64>,
    /// Folder of certificates that are brought as files, NAMESPACE/SERVICE ACCOUNT/ for each
    /// workload; a workload without a folder there is certified by the authority.
    #[arg(long, value_name = "DIR")]
    pub certificates: Option<PathBuf>,
    /// Folder of the container runtime's network configurations: the CNI plugin is kept in
    /// the one that is used, so that no pod starts before the agent has it.
    #[arg(long, value_name = "DIR", requires = "cni_bin_dir")]
    pub cni_conf_dir: Option<PathBuf>,
    /// Folder of the container runtime's CNI plugins, to which this executable is copied.
    #[arg(long, value_name = "DIR", requires = "cni_conf_dir")]
    pub cni_bin_dir: Option<PathBuf>,
    /// Let pods start outside the mesh while the agent is away, instead of not at all.
    #[arg(long, requires = "cni_conf_dir")]
    pub cni_fail_open: bool,
    /// Address of metrics and readiness.
    #[arg(long, value_name = "ADDR:PORT", default_value_t = DEFAULT_ADMIN)]
    pub admin: SocketAddr,
    /// To whom metrics at that address show names and identities of workloads: `authorized`
    /// wants the token of --metrics-token, or with --kube a bearer token that may get the
    /// non-resource URL /metrics; others get sums.
    #[arg(long, value_enum, value_name = "MODE", default_value_t)]
    pub metrics_identities: MetricsIdentities,
    /// File with the bearer token that proves the right to see them; read for each scrape.
    #[arg(long, value_name = "FILE")]
    pub metrics_token: Option<PathBuf>,
    /// Threads that carry traffic [default: one for each CPU].
    #[arg(long, value_name = "N")]
    pub workers: Option<NonZeroUsize>,
    /// Seconds that open connections are given to end after SIGTERM.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub drain_timeout: u64,
    /// Sockets that the agent holds for one pod at most; one in a tunnel, two in plaintext
    /// [default: half of the agent's limit of open files, less what it keeps for itself].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub pod_descriptors: Option<u64>,
    /// Bytes that the agent holds for one pod at most because readers do not take them
    /// [default: half of --node-buffered-bytes].
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1 << 20..))]
    pub pod_buffered_bytes: Option<u64>,
    /// The same for all pods of the node [default: a quarter of the agent's memory limit, or a
    /// sixteenth of the machine's memory; from 32 MiB to 1 GiB].
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1 << 20..))]
    pub node_buffered_bytes: Option<u64>,
    /// Form of the log on standard error; RUST_LOG filters it.
    #[arg(long, value_enum, default_value_t)]
    pub log_format: logging::Format,
}

/// Loopback alone, port 15020 as Istio's agents have it.
const DEFAULT_ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 15020);

impl RunArgs {
    /// Fills in what was not given from the machine.
    ///
    /// # Errors
    /// When the machine does not tell; the error names the option to give instead.
    pub fn resolve(self) -> Result<Options, DefaultError> {
        let certificate_lifetime = self.certificate_lifetime.map(Duration::from_secs);
        let remote = |(endpoint, roots_file, token_file)| {
            Authority::Remote(RemoteSettings {
                endpoint,
                roots_file,
                token_file,
                crl_file: self.ca_crl,
                lifetime: certificate_lifetime,
                state_dir: self.state_dir.clone(),
            })
        };
        let socket = self.run_dir.join(SOCKET);
        let settings = chain::Settings {
            // The container runtime starts the plugin elsewhere.
            socket: std::path::absolute(&socket).unwrap_or(socket),
            fail_open: self.cni_fail_open,
            exclude_namespaces: None,
        };
        let place = self.cni_conf_dir.zip(self.cni_bin_dir);
        let place = place.map(|(conf_dir, bin_dir)| chain::Place { conf_dir, bin_dir });
        Ok(Options {
            chain: place.zip(Some(settings)),
            // The command line's rules give all three or none.
            authority: self
                .ca
                .zip(self.ca_roots)
                .zip(self.ca_token)
                .map(|((endpoint, roots), token)| (endpoint, roots, token))
                .map_or(Authority::Embedded, remote),
            certificate_lifetime,
            certificates: self.certificates,
            node: self.node.map_or_else(defaults::node, Ok)?,
            pods_cgroup: self.pods_cgroup.map_or_else(defaults::pods_cgroup, Ok)?,
            kubelet: match self.kubelet_cgroup {
                Some(cgroup) => KubeletCgroup::At(cgroup),
                None if self.kube => KubeletCgroup::Find,
                None => KubeletCgroup::Untrusted,
            },
            workers: self.workers.unwrap_or_else(defaults::workers),
            // Without a folder the command line's rules want the API.
            source: self
                .config
                .map_or(SourceSettings::Kube, SourceSettings::Folder),
            pin_dir: self.pin_dir,
            run_dir: self.run_dir,
            state_dir: self.state_dir,
            admin: self.admin,
            metrics_identities: self.metrics_identities,
            metrics_token: self.metrics_token,
            drain_timeout: Duration::from_secs(self.drain_timeout),
            budget: BudgetOptions {
                pod_descriptors: self.pod_descriptors,
                pod_buffered_bytes: self.pod_buffered_bytes,
                node_buffered_bytes: self.node_buffered_bytes,
            },
        })
    }
}
