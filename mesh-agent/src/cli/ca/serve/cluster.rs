//! `mesh-agent ca serve --kube`: the authority of a cluster. Its directory is made at the
//! first start, its callers are known to the Kubernetes API, and so are its roots.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use kube::Client;

use super::CaServeError;
use crate::ca::authorize::{Account, Authorizer, ClusterAuthorizer};
use crate::ca::published::{self, Published};
use crate::ca::{Authority, CaError, open_or_init};
use crate::cli::ca::{DirArgs, init};
use crate::identity::{SystemClock, TrustDomain};
use crate::kubernetes;

/// Options of `mesh-agent ca serve` in a cluster.
#[derive(Clone, Debug, Args)]
pub struct ClusterArgs {
    /// Ask the Kubernetes API who the callers are and which pods run on which node, and
    /// publish the roots there.
    #[arg(long)]
    pub kube: bool,
    /// Make the authority if the directory has none.
    #[arg(long, conflicts_with = "config")]
    pub init: bool,
    /// The mesh's trust domain, as in MeshConfig: of the authority that is made, and what
    /// one that is there must have.
    #[arg(long, value_name = "DOMAIN", conflicts_with = "config", default_value = "cluster.local",
        value_parser = init::domain)]
    pub trust_domain: TrustDomain,
    /// The audience for which agents' tokens must be.
    #[arg(
        long,
        value_name = "TEXT",
        conflicts_with = "config",
        default_value = "isthmus-ca"
    )]
    pub audience: String,
    /// The agents' service account.
    #[arg(
        long,
        value_name = "NAMESPACE/NAME",
        conflicts_with = "config",
        default_value = "isthmus-system/isthmus-agent"
    )]
    pub agent_account: Account,
    /// Where to publish the roots [default: the namespace of this pod].
    #[arg(long, value_name = "NAME", conflicts_with = "config")]
    pub namespace: Option<String>,
}

/// The first and the longest wait for an API that does not answer.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// What an authority in a cluster is made of.
pub(super) struct Cluster {
    pub(super) authority: Arc<Authority>,
    pub(super) authorizer: Arc<dyn Authorizer>,
    pub(super) published: Published,
}

impl ClusterArgs {
    /// Opens the authority, or makes it, which waits for the API.
    pub(super) async fn open(&self, dir: &DirArgs) -> Result<Cluster, CaServeError> {
        let client = kubernetes::client(kubernetes::Retries::Client).await?;
        let namespace = self.namespace.as_deref();
        let namespace = namespace.unwrap_or(client.default_namespace()).to_owned();
        let authority = Arc::new(self.authority(dir, &client, &namespace).await?);
        let authorizer =
            ClusterAuthorizer::new(client.clone(), &self.audience, self.agent_account.clone());
        Ok(Cluster {
            published: Published::new(client, &namespace, Arc::clone(&authority)),
            authority,
            authorizer: Arc::new(authorizer),
        })
    }

    async fn authority(
        &self,
        dir: &DirArgs,
        client: &Client,
        namespace: &str,
    ) -> Result<Authority, CaServeError> {
        let authority = match dir.open() {
            Err(CaError::NotInitialised { .. }) if self.init => {
                if trusted(client, namespace).await {
                    return Err(CaServeError::Lost {
                        dir: dir.dir.clone(),
                        namespace: namespace.to_owned(),
                    });
                }
                open_or_init(&dir.dir, &self.trust_domain, Arc::new(SystemClock))?
            }
            opened => opened?,
        };
        if self.trust_domain != *authority.trust_domain() {
            return Err(CaServeError::OtherTrustDomain {
                dir: dir.dir.clone(),
                found: authority.trust_domain().clone(),
                wanted: self.trust_domain.clone(),
            });
        }
        Ok(authority)
    }
}

/// Whether the cluster trusts an authority already: one that was made anew in an empty
/// volume would cut it off from all its certificates. Asked until it is answered.
async fn trusted(client: &Client, namespace: &str) -> bool {
    let mut wait = BACKOFF.0;
    loop {
        match published::any(client.clone(), namespace).await {
            Ok(any) => return any,
            Err(error) => {
                tracing::warn!(%error, "cannot tell whether this cluster has an authority: the Kubernetes API is asked again");
            }
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(BACKOFF.1);
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::cli::Cli;

    fn parses(options: &str) -> bool {
        let line = format!("mesh-agent ca serve --name ca.example {options}");
        Cli::try_parse_from(line.split(' ')).is_ok()
    }

    #[test]
    fn callers_are_known_by_a_folder_or_by_the_cluster_and_not_by_both() {
        assert!(parses("--config /mesh"));
        assert!(parses(
            "--kube --init --trust-domain a.example --agent-account a/b"
        ));
        assert!(!parses("--init"));
        assert!(!parses("--kube --config /mesh"));
        assert!(!parses("--kube --agent-account isthmus-agent"));
        for option in [
            "--init",
            "--audience x",
            "--agent-account a/b",
            "--namespace x",
        ] {
            assert!(!parses(&format!("--config /mesh {option}")), "{option}");
        }
    }
}
