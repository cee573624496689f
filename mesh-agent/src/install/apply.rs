//! Bringing the manifests into a cluster: what others need first, the authority before
//! the agents, which wait for its roots.

use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DynamicObject, Patch, PatchParams, ValidationDirective};
use kube::{Api, Client};

use super::deadline::{Deadline, Verdict};
use super::error::InstallError;
use super::manifest::Manifest;
use super::{AGENT, AUTHORITY, NAMESPACE, Progress, ROOTS, rollout};

/// As whom the installer owns fields.
const MANAGER: &str = "isthmus-install";
/// On every object of ours.
pub(super) const PART_OF: (&str, &str) = ("app.kubernetes.io/part-of", "isthmus");

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Definitions that were left as they are, since they are another product's.
    pub kept: Vec<String>,
}

/// Applies the manifests, server-side, and waits until the authority and the agents are
/// ready, all within `timeout`. To be repeated at will: what is so already stays.
///
/// # Errors
/// See [`InstallError`]. What was applied until then stays, and a repetition goes on from there.
pub async fn apply(
    client: &Client,
    manifests: &[Manifest],
    timeout: Duration,
    progress: Progress<'_>,
) -> Result<Applied, InstallError> {
    let deadline = Deadline::after(timeout);
    let mut applied = Applied::default();
    for stage in Stage::ALL {
        for manifest in manifests.iter().filter(|it| Stage::of(it) == stage) {
            if stage == Stage::Definitions && is_anothers(client, manifest).await? {
                progress(&format!("kept     {manifest}, which is not Isthmus's"));
                applied.kept.push(manifest.name().to_owned());
                continue;
            }
            put(client, manifest).await?;
            progress(&format!("applied  {manifest}"));
        }
        match stage {
            Stage::Definitions => established(client, manifests, deadline).await?,
            Stage::Authority => {
                rollout::authority(client, AUTHORITY, deadline, progress).await?;
                roots(client, deadline, progress).await?;
            }
            Stage::Agents => rollout::agents(client, AGENT, deadline, progress).await?,
            Stage::Namespace | Stage::Rest => {}
        }
    }
    Ok(applied)
}

/// The order of things.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    Namespace,
    Definitions,
    Rest,
    Authority,
    Agents,
}

impl Stage {
    const ALL: [Self; 5] = [
        Self::Namespace,
        Self::Definitions,
        Self::Rest,
        Self::Authority,
        Self::Agents,
    ];

    pub(super) fn of(manifest: &Manifest) -> Self {
        match manifest.kind() {
            "Namespace" => Self::Namespace,
            "CustomResourceDefinition" => Self::Definitions,
            "Deployment" => Self::Authority,
            "DaemonSet" => Self::Agents,
            _ => Self::Rest,
        }
    }
}

async fn put(client: &Client, manifest: &Manifest) -> Result<(), InstallError> {
    // The installer's word holds over what was edited by hand; a misspelt field is refused.
    let params = PatchParams {
        field_validation: Some(ValidationDirective::Strict),
        ..PatchParams::apply(MANAGER).force()
    };
    let applied = manifest
        .api(client)
        .patch(manifest.name(), &params, &Patch::Apply(manifest.value()))
        .await;
    applied
        .map(drop)
        .map_err(InstallError::api("apply", manifest))
}

/// Whether the definition is there and lacks our label.
pub(super) async fn is_anothers(
    client: &Client,
    definition: &Manifest,
) -> Result<bool, InstallError> {
    let there = definition.api(client).get_opt(definition.name()).await;
    let there = there.map_err(InstallError::api("look at", definition))?;
    Ok(there.is_some_and(|it| !is_ours(&it)))
}

pub(super) fn is_ours(object: &DynamicObject) -> bool {
    let (label, value) = PART_OF;
    let labels = object.metadata.labels.as_ref();
    labels
        .and_then(|labels| labels.get(label))
        .map(String::as_str)
        == Some(value)
}

async fn established(
    client: &Client,
    manifests: &[Manifest],
    deadline: Deadline,
) -> Result<(), InstallError> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let definitions = manifests
        .iter()
        .filter(|it| Stage::of(it) == Stage::Definitions);
    for definition in definitions {
        let waited_for = format!("until the API server serves {definition}");
        let judge = |object: Option<&CustomResourceDefinition>| {
            let status = object.and_then(|object| object.status.as_ref());
            let conditions = status.and_then(|status| status.conditions.as_deref());
            let of = |kind| {
                conditions
                    .into_iter()
                    .flatten()
                    .find(move |it| it.type_ == kind)
            };
            match (of("Established"), of("NamesAccepted")) {
                (Some(it), _) if it.status == "True" => Verdict::So(()),
                (_, Some(names)) => Verdict::NotYet(names.message.clone().unwrap_or_default()),
                _ => Verdict::NotYet("it says nothing of itself".to_owned()),
            }
        };
        deadline
            .wait(api.clone(), definition.name(), &waited_for, judge)
            .await?;
    }
    Ok(())
}

async fn roots(
    client: &Client,
    deadline: Deadline,
    progress: Progress<'_>,
) -> Result<(), InstallError> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    let judge = |map: Option<&ConfigMap>| match map {
        Some(_) => Verdict::So(()),
        None => Verdict::NotYet(format!(
            "look at `kubectl -n {NAMESPACE} logs deployment/{AUTHORITY}`"
        )),
    };
    let waited_for = format!("until the authority has published its roots in ConfigMap {ROOTS}");
    deadline.wait(api, ROOTS, &waited_for, judge).await?;
    progress("ready    the authority, which has published its roots");
    Ok(())
}
