//! What the cluster has besides nodes: its version, storage, other meshes, and namespaces
//! that ask for one.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::version::Info;
use kube::api::ListParams;
use kube::{Api, Client};

use super::super::check::Finding;
use super::super::install::ClusterError;
use super::network_policies;
use crate::install::{AUTHORITY, NAMESPACE};

/// The first whose tokens name the node of their pod, and which has `appArmorProfile` and
/// `ValidatingAdmissionPolicy` for good.
const KUBERNETES: (u32, u32) = (1, 30);
/// By which a storage class is the default.
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";

pub(super) fn version(info: &Info) -> Finding {
    // Some add a sign: "33+".
    let digits = |text: &str| {
        let end = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        text[..end].parse().ok()
    };
    let version = digits(&info.major).zip(digits(&info.minor));
    Finding {
        name: "Kubernetes".to_owned(),
        ok: version.is_some_and(|it: (u32, u32)| it >= KUBERNETES),
        required: true,
        detail: info.git_version.clone(),
        cure: "upgrade the cluster to 1.30 or later".to_owned(),
    }
}

pub(super) async fn findings(client: &Client) -> Result<Vec<Finding>, ClusterError> {
    Ok(vec![
        storage(client).await?,
        istio(client).await?,
        other_meshes(client).await?,
        labels(client).await?,
        network_policies::finding(client).await?,
    ])
}

async fn storage(client: &Client) -> Result<Finding, ClusterError> {
    let all = ListParams::default();
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), NAMESPACE);
    let claim = claims.get_opt(AUTHORITY).await;
    let claim = claim.map_err(ClusterError::asking("look at the authority's claim"))?;
    let is_bound = claim.is_some_and(|it| {
        let phase = it.status.and_then(|status| status.phase);
        phase.as_deref() == Some("Bound")
    });
    let classes = Api::<StorageClass>::all(client.clone()).list(&all).await;
    let classes = classes.map_err(ClusterError::asking("list the storage classes"))?;
    let default = classes.into_iter().find(|class| {
        let annotations = class.metadata.annotations.as_ref();
        annotations
            .and_then(|it| it.get(DEFAULT_CLASS))
            .map(String::as_str)
            == Some("true")
    });
    let volumes = Api::<PersistentVolume>::all(client.clone())
        .list(&all)
        .await;
    let volumes = volumes.map_err(ClusterError::asking("list the volumes"))?;
    let is_free = |volume: &PersistentVolume| {
        let phase = volume.status.as_ref().and_then(|it| it.phase.as_deref());
        let class = volume
            .spec
            .as_ref()
            .and_then(|it| it.storage_class_name.as_deref());
        phase == Some("Available") && class.is_none_or(str::is_empty)
    };
    let free = volumes.iter().any(is_free);
    let detail = match (&default, is_bound) {
        (_, true) => "the authority has its volume".to_owned(),
        (Some(class), _) => {
            let name = class.metadata.name.as_deref().unwrap_or_default();
            format!("default storage class {name}")
        }
        (None, _) if free => "a volume without a class is free".to_owned(),
        _ => "no default storage class, and no volume that is free".to_owned(),
    };
    Ok(Finding {
        name: "storage".to_owned(),
        ok: is_bound || default.is_some() || free,
        required: true,
        detail,
        cure: format!(
            "the authority keeps its keys on a volume: mark a storage class as the default \
             (annotation {DEFAULT_CLASS}: \"true\"), or make a PersistentVolume without a class"
        ),
    })
}

async fn istio(client: &Client) -> Result<Finding, ClusterError> {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let name = "authorizationpolicies.security.istio.io";
    let definition = definitions.get_opt(name).await;
    let definition = definition.map_err(ClusterError::asking("look for Istio's definitions"))?;
    let ours = |it: &CustomResourceDefinition| {
        let labels = it.metadata.labels.as_ref();
        labels.is_some_and(|it| {
            it.get("app.kubernetes.io/part-of")
                .is_some_and(|it| it == "isthmus")
        })
    };
    Ok(Finding {
        name: "Istio's API".to_owned(),
        ok: true,
        required: false,
        detail: match definition {
            None => "not there; comes with Isthmus".to_owned(),
            Some(it) if ours(&it) => "there, from Isthmus".to_owned(),
            Some(_) => "there, from Istio, and stays as it is".to_owned(),
        },
        cure: String::new(),
    })
}

/// Two meshes that take the same pods' connections would undo each other's work.
async fn other_meshes(client: &Client) -> Result<Finding, ClusterError> {
    let sets = Api::<DaemonSet>::all(client.clone())
        .list(&ListParams::default())
        .await;
    let sets = sets.map_err(ClusterError::asking("list the DaemonSets"))?;
    let ztunnel = sets.into_iter().find(|it| {
        let labels = it.metadata.labels.as_ref();
        let app = labels.and_then(|labels| labels.get("app"));
        app.is_some_and(|app| app == "ztunnel")
    });
    let ambient = namespaces(client, "istio.io/dataplane-mode=ambient").await?;
    let sidecars = [
        namespaces(client, "istio-injection=enabled,isthmus.dev/mesh=enabled").await?,
        namespaces(client, "linkerd.io/inject=enabled,isthmus.dev/mesh=enabled").await?,
    ]
    .concat();
    let detail = match (
        ztunnel.is_some() && !ambient.is_empty(),
        sidecars.is_empty(),
    ) {
        (true, _) => format!("Istio's ambient mesh has namespaces {}", ambient.join(", ")),
        (false, false) => format!(
            "sidecars are injected into namespaces {}",
            sidecars.join(", ")
        ),
        (false, true) => "none takes pods that Isthmus would".to_owned(),
    };
    Ok(Finding {
        name: "other meshes".to_owned(),
        ok: sidecars.is_empty() && (ztunnel.is_none() || ambient.is_empty()),
        required: true,
        detail,
        cure: "a pod can be in one mesh: remove the other's label from these namespaces, since \
               Isthmus reads istio.io/dataplane-mode too"
            .to_owned(),
    })
}

async fn labels(client: &Client) -> Result<Finding, ClusterError> {
    let ours = namespaces(client, "isthmus.dev/mesh=enabled").await?;
    let ambient = namespaces(client, "istio.io/dataplane-mode=ambient").await?;
    let all = [ours, ambient].concat();
    Ok(Finding {
        name: "namespaces".to_owned(),
        ok: true,
        required: false,
        detail: match all.is_empty() {
            true => "none is labelled yet".to_owned(),
            false => format!("labelled, and enrolled at once: {}", all.join(", ")),
        },
        cure: String::new(),
    })
}

async fn namespaces(client: &Client, labels: &str) -> Result<Vec<String>, ClusterError> {
    let chosen = ListParams::default().labels(labels);
    let namespaces = Api::<Namespace>::all(client.clone()).list(&chosen).await;
    let namespaces = namespaces.map_err(ClusterError::asking("list the namespaces"))?;
    let names = namespaces.into_iter().filter_map(|it| it.metadata.name);
    Ok(names.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_with_a_sign_are_read() {
        let of = |major: &str, minor: &str| {
            version(&Info {
                major: major.into(),
                minor: minor.into(),
                ..Info::default()
            })
            .ok
        };
        assert!(of("1", "30") && of("1", "33+") && of("2", "0"));
        assert!(!of("1", "29") && !of("1", "29+") && !of("", ""));
    }
}
