//! Where the node's certificates and trust come from: the authority embedded in the
//! agent or a remote one, with certificates from files before either. Made by the
//! agent at its start; what it says of itself goes into the status.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::task::JoinHandle;

use super::{Error, Options};
use crate::admin::api::AuthorityStatus;
use crate::ca::client::{Health, RemoteCa, RemoteSettings, TrustFrom};
use crate::ca::{EmbeddedCa, FileCertificates};
use crate::config::{Loaded, Source};
use crate::identity::{
    CertificateAuthority, NameProofs, SvidStore, SystemClock, TrustDomain, TrustStore,
};
use crate::model::World;
use crate::tls::{ParametersStore, TlsSettings};

/// Which authority certifies the node's workloads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Authority {
    /// The agent's own, in its state directory.
    #[default]
    Embedded,
    /// One elsewhere; the state directory of the settings is the agent's.
    Remote(RemoteSettings),
}

/// Everything that makes and judges certificates, wired together.
pub(super) struct Identities {
    pub(super) trust: Arc<TrustStore>,
    pub(super) parameters: Arc<ParametersStore>,
    pub(super) svids: Arc<SvidStore>,
    kind: Kind,
    files: Option<PathBuf>,
    /// They end with the agent.
    _following: Vec<JoinHandle<()>>,
}

enum Kind {
    Embedded(PathBuf),
    Remote(Arc<RemoteCa>),
}

impl Identities {
    /// Opens the authority for the configured trust domain, and starts to follow what
    /// it tells. Gives the configuration as it is by then.
    pub(super) async fn open(
        options: &Options,
        source: &mut Source,
        first: Loaded,
    ) -> Result<(Self, Loaded), Error> {
        let (kind, authority, first) = match &options.authority {
            Authority::Embedded => {
                let (first, embedded) = open_embedded(options, source, first).await?;
                let embedded = Arc::new(embedded.with_lifetime(options.certificate_lifetime));
                let dir = embedded.authority().dir().to_owned();
                (Kind::Embedded(dir), Any::Embedded(embedded), first)
            }
            Authority::Remote(settings) => {
                let remote = RemoteCa::new(settings.clone(), Arc::new(SystemClock))?;
                (
                    Kind::Remote(Arc::clone(&remote)),
                    Any::Remote(remote),
                    first,
                )
            }
        };
        let mesh = first.world.mesh();
        let trust = TrustStore::new(mesh.trust_domain.clone());
        let parameters = ParametersStore::new(mesh.tls.clone());
        follow_configuration(&trust, &parameters, &first.world);
        let mut following = Vec::new();
        let authority: Arc<dyn CertificateAuthority> = match authority {
            Any::Embedded(embedded) => {
                following.push(embedded.follow(Arc::clone(&trust)));
                embedded
            }
            Any::Remote(remote) => {
                following.push(remote.follow(Arc::clone(&trust)));
                remote
            }
        };
        let svids = match &options.certificates {
            None => SvidStore::new(authority, Arc::clone(&trust), Arc::clone(&parameters)),
            Some(dir) => {
                let clock = Arc::new(SystemClock);
                let files =
                    FileCertificates::open(dir, Arc::clone(&trust), clock, Some(authority))?;
                let files = Arc::new(files);
                let svids = SvidStore::new(
                    Arc::clone(&files) as Arc<dyn CertificateAuthority>,
                    Arc::clone(&trust),
                    Arc::clone(&parameters),
                );
                following.push(files.follow(&svids));
                svids
            }
        };
        let identities = Self {
            trust,
            parameters,
            svids,
            kind,
            files: options.certificates.clone(),
            _following: following,
        };
        Ok((identities, first))
    }

    /// Puts into force what a new configuration says of trust and of TLS.
    pub(super) fn configure(&self, world: &World) {
        follow_configuration(&self.trust, &self.parameters, world);
    }

    /// What is to be told of the authority.
    pub(super) fn status(&self) -> AuthorityStatus {
        let files = self.files.as_ref().map(|dir| dir.display().to_string());
        match &self.kind {
            Kind::Embedded(dir) => AuthorityStatus {
                kind: "embedded".to_owned(),
                place: dir.display().to_string(),
                files,
                ..AuthorityStatus::default()
            },
            Kind::Remote(remote) => {
                let Health {
                    endpoint,
                    connected,
                    last_success,
                    last_error,
                    trust_from,
                } = remote.health();
                let trust_from = match trust_from {
                    TrustFrom::Nothing => "nothing yet",
                    TrustFrom::Saved => "what was saved earlier",
                    TrustFrom::Watch => "the authority",
                    TrustFrom::Files => "files",
                };
                AuthorityStatus {
                    kind: "remote".to_owned(),
                    place: endpoint,
                    files,
                    connected: Some(connected),
                    answered_s_ago: last_success
                        .and_then(|at| at.elapsed().ok())
                        .map(|ago| ago.as_secs()),
                    error: last_error,
                    trust_from: Some(trust_from.to_owned()),
                }
            }
        }
    }
}

enum Any {
    Embedded(Arc<EmbeddedCa>),
    Remote(Arc<RemoteCa>),
}

fn follow_configuration(trust: &TrustStore, parameters: &ParametersStore, world: &World) {
    let mesh = world.mesh();
    trust.set_foreign(mesh.foreign.clone());
    trust.set_stale(mesh.stale_lists);
    trust.set_id_forms(&mesh.id_forms);
    trust.set_names(NameProofs::new(world.name_proofs()));
    parameters.set(TlsSettings::clone(&mesh.tls));
}

/// Opens the embedded authority. Where the configuration could not be read in full, the
/// trust domain may be a default that nobody meant: then an authority that does not fit
/// is no reason to give up, but to wait for the files to be mended. Pods that an earlier
/// agent enrolled are refused meanwhile.
async fn open_embedded(
    options: &Options,
    source: &mut Source,
    mut loaded: Loaded,
) -> Result<(Loaded, EmbeddedCa), Error> {
    loop {
        let trust_domain: &TrustDomain = &loaded.world.mesh().trust_domain;
        match EmbeddedCa::open(&options.state_dir, trust_domain) {
            Ok(authority) => return Ok((loaded, authority)),
            Err(error) if loaded.complete => return Err(error.into()),
            Err(error) => {
                for problem in &loaded.problems {
                    tracing::error!(target: "config", %problem, "configuration");
                }
                tracing::error!(%error, "waiting for the configuration to be mended");
                loaded = source.changed().await;
            }
        }
    }
}
