//! What the Kubernetes API says of a pod that is about to start, besides what was heard of it by
//! then. Used by the gate.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{Api, Client, Error};

use super::Missing;
use crate::config::{Hearing, KubeHealth};
use crate::model::asks_for_mesh;
use crate::node::cni::{Admitted, PodSandbox};

/// How long the API may take to say who is to be in the mesh.
const ASK_LIMIT: Duration = Duration::from_secs(2);

/// The API, and how it is heard.
#[derive(Clone)]
pub(in crate::agent) struct Cluster {
    pub(in crate::agent) client: Client,
    pub(in crate::agent) health: KubeHealth,
}

impl Cluster {
    /// Whether what is known of a pod of the mesh fits together. Kinds are watched apart: while
    /// some are away, policies may be older than the pod. While all are, nothing newer is known
    /// of the pod either, and what is known counts.
    pub(super) fn is_settled(&self) -> Result<(), Missing> {
        match self.health.hearing() {
            Hearing::Whole | Hearing::Nothing => Ok(()),
            Hearing::Part(what) => Err(Missing::Unheard(format!(
                "the agent hears the Kubernetes API in part, and the pod would start under \
                 policies of before: {what}; see `mesh-agent status`"
            ))),
        }
    }

    /// Whether a pod that the configuration has outside the mesh may start so: a pod may be heard
    /// of seconds before its namespace's label. While the API is away, what is known counts.
    pub(super) async fn may_start_outside(&self, pod: &PodSandbox) -> Result<Admitted, Missing> {
        match self.is_to_be_meshed(pod).await {
            Some(false) => Ok(Admitted::NotMeshed),
            Some(true) => Err(Missing::Other(
                "the agent has not heard yet that it is to be in the mesh".to_owned(),
            )),
            None => self.is_settled().map(|()| Admitted::NotMeshed),
        }
    }

    /// What the API says at this moment; `None` where it does not say it.
    async fn is_to_be_meshed(&self, pod: &PodSandbox) -> Option<bool> {
        let pods = Api::<Pod>::namespaced(self.client.clone(), &pod.namespace);
        let namespaces = Api::<Namespace>::all(self.client.clone());
        let both = async {
            tokio::try_join!(
                pods.get_metadata(&pod.name),
                namespaces.get_metadata(&pod.namespace)
            )
        };
        match tokio::time::timeout(ASK_LIMIT, both).await {
            Ok(Ok((pod, namespace))) => {
                let asks = asks_for_mesh(pod.metadata.labels.as_ref())
                    .or_else(|| asks_for_mesh(namespace.metadata.labels.as_ref()));
                Some(asks == Some(true))
            }
            // It is being removed, or is the kubelet's own and not yet known there.
            Ok(Err(Error::Api(status))) if status.code == 404 => Some(false),
            Ok(Err(_)) | Err(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::kubernetes::testing::{FakeApi, Reply};

    const POD: &str = "/api/v1/namespaces/shop/pods/web";
    const NAMESPACE: &str = "/api/v1/namespaces/shop";

    fn meta(name: &str, labels: &Value) -> Reply {
        Reply::Json(
            json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
            "metadata": {"name": name, "labels": labels}}),
        )
    }

    fn web() -> PodSandbox {
        PodSandbox {
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            uid: String::new(),
            container_id: String::new(),
            netns: None,
            addresses: Vec::new(),
        }
    }

    /// A cluster that answers so, and of which `lost` is not heard, and all else that matters.
    fn cluster(lost: &[&str], reply: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Cluster {
        let health = KubeHealth::default();
        for kind in ["namespaces", "pods"] {
            health.watched(kind, Some("v1"));
            health.heard(kind);
        }
        for kind in lost {
            health.failed(kind, "the script says so".to_owned());
        }
        let api = FakeApi::new(move |asked| reply(&asked.path));
        Cluster {
            client: api.client(),
            health,
        }
    }

    /// With these labels of the pod and of its namespace.
    async fn labelled(pod: Value, namespace: Value) -> Result<Admitted, Missing> {
        let cluster = cluster(&[], move |path| match path {
            POD => meta("web", &pod),
            NAMESPACE => meta("shop", &namespace),
            other => panic!("{other}"),
        });
        cluster.may_start_outside(&web()).await
    }

    #[tokio::test]
    async fn labels_that_were_not_heard_of_yet_keep_a_pod_waiting() {
        let (on, off) = (
            json!({"isthmus.dev/mesh": "enabled"}),
            json!({"isthmus.dev/mesh": "disabled"}),
        );
        let outside = Ok(Admitted::NotMeshed);
        assert_eq!(labelled(json!({}), json!({})).await, outside);
        assert_eq!(labelled(off.clone(), on.clone()).await, outside);
        assert_eq!(labelled(json!({}), off.clone()).await, outside);
        for (pod, namespace) in [(json!({}), on.clone()), (on, off)] {
            let waits = labelled(pod, namespace).await;
            assert!(matches!(&waits, Err(Missing::Other(why)) if why.contains("not heard yet")));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_that_does_not_say_leaves_what_is_known() {
        for fails in [
            || Reply::Never,
            || Reply::Fail(403, "Forbidden"),
            || Reply::Fail(500, "InternalError"),
        ] {
            for (lost, settled) in [
                (&["pods", "namespaces"][..], true),
                (&[], true),
                (&["namespaces"], false),
            ] {
                let cluster = cluster(lost, move |path| match path {
                    POD => meta("web", &json!({})),
                    _ => fails(),
                });
                let answer = cluster.may_start_outside(&web()).await;
                assert_eq!(answer.is_ok(), settled, "{lost:?}: {answer:?}");
            }
        }
        let gone = cluster(&["namespaces"], |path| match path {
            POD => Reply::Fail(404, "NotFound"),
            _ => meta("shop", &json!({})),
        });
        let answer = gone.may_start_outside(&web()).await;
        assert_eq!(answer, Ok(Admitted::NotMeshed));
    }

    #[tokio::test]
    async fn a_part_of_the_api_is_no_ground_to_start_on() {
        let answer = |lost: &[&str]| cluster(lost, |_| Reply::Never).is_settled();
        assert_eq!(answer(&[]), Ok(()));
        assert_eq!(answer(&["namespaces", "pods"]), Ok(()));
        let Err(Missing::Unheard(why)) = answer(&["namespaces"]) else {
            panic!("it is settled");
        };
        assert!(
            why.contains("namespaces not heard: the script says so"),
            "{why}"
        );
    }
}
