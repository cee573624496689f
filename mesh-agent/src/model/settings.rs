//! What holds for the whole mesh, from `MeshConfig`. Called by [`build`](super::build()).

mod aliases;
pub(super) mod foreign;
mod id_forms;
mod ranges;
mod tls;

use super::object::{Objects, Origin, Sourced, name};
use super::problem::Problem;
use super::schema::{MeshConfig, StaleListsMode};
use super::world::World;
use crate::identity::{DomainTrust, IdForms, StaleLists, TrustDomain};
use crate::tls::TlsSettings;

pub use ranges::DeclaredRanges;

/// What the settings' problems are said of.
const MESH_CONFIG: &str = "MeshConfig mesh";

const DEFAULT_TRUST_DOMAIN: &str = "cluster.local";
const DEFAULT_ROOT_NAMESPACE: &str = "istio-system";

/// The settings of the whole mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshSettings {
    /// Of every identity in the mesh; `cluster.local` unless set.
    pub trust_domain: TrustDomain,
    /// Further names of it in the principals of policies. Trust is unchanged by them: a
    /// peer of such a domain is accepted only if [`foreign`](Self::foreign) has its roots.
    pub trust_domain_aliases: Vec<TrustDomain>,
    /// Whose policies hold mesh-wide; `istio-system` unless set.
    pub root_namespace: String,
    /// The mode of workloads that no narrower PeerAuthentication speaks of. To be
    /// shown; the mode of a port is [`Policies::mtls_mode`](crate::policy::Policies::mtls_mode).
    pub inbound_mode: MtlsMode,
    /// How its workloads do TLS with each other.
    pub tls: TlsSettings,
    /// What vouches for the workloads of other meshes, ordered by trust domain.
    pub foreign: Vec<DomainTrust>,
    /// The forms of SPIFFE IDs of trust domains that do not have Istio's.
    pub id_forms: IdForms,
    /// What becomes of peers whose revocation list is unreadable or out of date.
    pub stale_lists: StaleLists,
    /// Addresses that are never outside the mesh.
    pub ranges: DeclaredRanges,
}

/// What a meshed workload takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MtlsMode {
    /// Plaintext and mutual TLS.
    Permissive,
    /// Mutual TLS only.
    Strict,
    /// No mutual TLS is asked for; it is taken all the same.
    Disable,
}

impl MtlsMode {
    /// As Istio writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Strict => "STRICT",
            Self::Permissive => "PERMISSIVE",
            Self::Disable => "DISABLE",
        }
    }
}

impl Default for MeshSettings {
    fn default() -> Self {
        Self {
            trust_domain: TrustDomain::new(DEFAULT_TRUST_DOMAIN).expect("the default is valid"),
            trust_domain_aliases: Vec::new(),
            root_namespace: DEFAULT_ROOT_NAMESPACE.to_owned(),
            inbound_mode: MtlsMode::Permissive,
            tls: TlsSettings::default(),
            foreign: Vec::new(),
            id_forms: IdForms::default(),
            stale_lists: StaleLists::default(),
            ranges: DeclaredRanges::default(),
        }
    }
}

impl MeshSettings {
    /// Whether somebody vouches for the workloads of a trust domain: it is the own
    /// one, or there is a bundle for it.
    pub fn trusts(&self, domain: &TrustDomain) -> bool {
        self.trusted_domains().any(|it| it == domain)
    }

    /// The own trust domain, then the others for which somebody vouches.
    pub(crate) fn trusted_domains(&self) -> impl Iterator<Item = &TrustDomain> {
        let foreign = self.foreign.iter().map(|it| it.bundle.trust_domain());
        std::iter::once(&self.trust_domain).chain(foreign)
    }

    /// The own trust domain and its aliases.
    pub(crate) fn local_domains(&self) -> impl Iterator<Item = &TrustDomain> {
        std::iter::once(&self.trust_domain).chain(&self.trust_domain_aliases)
    }
}

/// Reads the settings; what cannot be used is reported, and what was in force or
/// else the default taken. Also says where they were read.
pub(super) fn settings(
    sources: &[&Objects],
    previous: Option<&World>,
    problems: &mut Vec<Problem>,
) -> (MeshSettings, Option<Origin>) {
    let mut settings = MeshSettings::default();
    let configs = sources.iter().flat_map(|objects| &objects.mesh_configs);
    let config = the_mesh_config(configs.collect(), problems);
    if let Some(config) = config {
        apply(config, &mut settings, previous, problems);
    }
    (settings, config.map(|config| config.origin.clone()))
}

/// The one config named `mesh`; the first by file and place where there are more.
fn the_mesh_config<'a>(
    mut configs: Vec<&'a Sourced<MeshConfig>>,
    problems: &mut Vec<Problem>,
) -> Option<&'a Sourced<MeshConfig>> {
    configs.sort_by_key(|config| &config.origin);
    let mut chosen: Option<&Sourced<MeshConfig>> = None;
    for config in configs {
        let meta = &config.object.metadata;
        if name(meta) != "mesh" {
            problems.push(Problem::new(
                &config.origin,
                format!("MeshConfig {}", name(meta)),
                "metadata.name",
                "the settings of the mesh are the MeshConfig named \"mesh\"; this one has no effect",
                "name it \"mesh\" or remove it",
            ));
        } else if let Some(first) = chosen {
            problems.push(Problem::new(
                &config.origin,
                MESH_CONFIG,
                "metadata.name",
                format!(
                    "there is one already in {}; this one has no effect",
                    first.origin
                ),
                "keep one of them",
            ));
        } else {
            chosen = Some(config);
        }
    }
    chosen
}

/// A trust domain that cannot be used leaves the one in force where it is: with
/// another, every workload would change its identity.
fn apply(
    config: &Sourced<MeshConfig>,
    settings: &mut MeshSettings,
    previous: Option<&World>,
    problems: &mut Vec<Problem>,
) {
    let Sourced { object, origin } = config;
    let spec = &object.spec;
    if let Some(text) = &spec.trust_domain {
        match TrustDomain::new(text) {
            Ok(trust_domain) => settings.trust_domain = trust_domain,
            Err(error) => {
                if let Some(previous) = previous {
                    settings.trust_domain = previous.mesh.trust_domain.clone();
                }
                problems.push(Problem::new(
                    origin,
                    MESH_CONFIG,
                    "spec.trustDomain",
                    error.to_string(),
                    format!("correct it; until then it is {}", settings.trust_domain),
                ));
            }
        }
    }
    let in_force = previous.map(|world| &*world.mesh.trust_domain_aliases);
    settings.trust_domain_aliases =
        aliases::aliases(&spec.trust_domain_aliases, origin, in_force, problems);
    if let Some(namespace) = &spec.root_namespace {
        settings.root_namespace.clone_from(namespace);
    }
    let last_good = previous.map(World::mesh);
    if let Some(config) = &spec.mesh_mtls {
        let last_good = last_good.map(|mesh| &mesh.tls);
        settings.tls = tls::tls(config, origin, last_good, problems);
    }
    let ranges_before = last_good.map(|mesh| &mesh.ranges);
    settings.ranges = ranges::ranges(&spec.cluster_ranges, origin, ranges_before, problems);
    settings.id_forms = id_forms::id_forms(spec, settings, last_good, origin, problems);
    let last_good = last_good.map_or(&[][..], |mesh| &mesh.foreign);
    let (own, entries) = (&settings.trust_domain, &spec.ca_certificates);
    settings.foreign = foreign::foreign(entries, own, origin, last_good, problems);
    settings.stale_lists = match spec.revocation.stale_lists {
        StaleListsMode::Refuse => StaleLists::Refuse,
        StaleListsMode::Allow => StaleLists::Allow,
    };
}
