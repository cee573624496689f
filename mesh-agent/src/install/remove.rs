//! Taking an installation out of a cluster. The agents go first and while everything
//! that they ask is there: an agent whose DaemonSet is being removed releases its pods,
//! removes its pins, and takes its plugin out of the CNI chain.

use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DeleteParams, DynamicObject, ListParams};
use kube::{Api, Client};

use super::apply::{Stage, is_anothers};
use super::deadline::{Deadline, Verdict};
use super::error::InstallError;
use super::manifest::Manifest;
use super::platform::Platform;
use super::settings::Settings;
use super::{AGENT, NAMESPACE, Progress, rollout};

/// What is taken out, and how long that may take.
#[derive(Clone, Copy, Debug)]
pub struct RemoveOptions {
    /// The definitions of Istio's kinds too, if they are ours; the policies of these
    /// kinds go with them.
    pub definitions: bool,
    /// Time for all of it.
    pub timeout: Duration,
}

/// Takes everything out that an installation on any platform brought. To be repeated at
/// will: what is gone already is passed over.
///
/// # Errors
/// See [`InstallError`]. While an agent remains, nothing else is removed.
pub async fn remove(
    client: &Client,
    options: RemoveOptions,
    progress: Progress<'_>,
) -> Result<(), InstallError> {
    let deadline = Deadline::after(options.timeout);
    let manifests = of_all_platforms()?;
    agents(client, deadline, progress).await?;
    // The other way round than they were applied.
    let mut rest: Vec<&Manifest> = manifests.iter().rev().collect();
    rest.sort_by_key(|it| std::cmp::Reverse(Stage::of(it)));
    for manifest in rest {
        match Stage::of(manifest) {
            Stage::Definitions => {
                definition(client, manifest, options.definitions, progress).await?;
            }
            Stage::Namespace => namespace(client, manifest, deadline, progress).await?,
            Stage::Rest | Stage::Authority | Stage::Agents => {
                // What is in the namespace goes with it, the authority's keys too.
                if manifest.namespace().is_none() && delete(client, manifest).await? {
                    progress(&format!("removed  {manifest}"));
                }
            }
        }
    }
    labels(client, progress).await
}

/// One of each object, whatever the platform.
fn of_all_platforms() -> Result<Vec<Manifest>, InstallError> {
    let mut all: Vec<Manifest> = Vec::new();
    for platform in Platform::ALL {
        let settings = Settings {
            platform,
            ..Settings::default()
        };
        for manifest in settings.manifests()? {
            if !all.iter().any(|it| it.is_same_object(&manifest)) {
                all.push(manifest);
            }
        }
    }
    Ok(all)
}

async fn agents(
    client: &Client,
    deadline: Deadline,
    progress: Progress<'_>,
) -> Result<(), InstallError> {
    let object = || format!("DaemonSet {NAMESPACE}/{AGENT}");
    let api: Api<DaemonSet> = Api::namespaced(client.clone(), NAMESPACE);
    // In the foreground: the object stays, marked, until its pods are gone.
    match api.delete(AGENT, &DeleteParams::foreground()).await {
        Ok(_) => progress("waiting  for the agents, which release their pods"),
        Err(error) if is_gone(&error) => return Ok(()),
        Err(error) => return Err(InstallError::of("remove", object())(error)),
    }
    // Its status stands still from here on: which agents are left, their pods say.
    let judge = |daemon_set: Option<&DaemonSet>| match daemon_set {
        None => Verdict::So(()),
        Some(_) => Verdict::NotYet(String::new()),
    };
    let waited_for = "until the agents have released their nodes";
    let ended = deadline.wait(api, AGENT, waited_for, judge).await;
    if let Err(InstallError::Timeout {
        waited_for,
        seconds,
        ..
    }) = ended
    {
        return Err(InstallError::Timeout {
            waited_for,
            seconds,
            found: who_is_left(client).await,
        });
    }
    ended?;
    progress(&format!("removed  {}", object()));
    Ok(())
}

/// The pods that keep the agents' removal, and what to do about them.
async fn who_is_left(client: &Client) -> String {
    let pods = match rollout::pods(client, AGENT).await {
        Ok(pods) => pods,
        Err(error) => return super::error::said(&error),
    };
    let nodes: Vec<String> = pods
        .into_iter()
        .filter_map(|pod| pod.spec?.node_name)
        .collect();
    format!(
        "agents are left on nodes {}; is their kubelet up? Repeat this once they are, or remove their Node objects",
        nodes.join(", ")
    )
}

/// Removes the object. `false` if it was gone, or its kind is unknown to the cluster.
async fn delete(client: &Client, manifest: &Manifest) -> Result<bool, InstallError> {
    let api = manifest.api(client);
    match api
        .delete(manifest.name(), &DeleteParams::background())
        .await
    {
        Ok(_) => Ok(true),
        Err(error) if is_gone(&error) => Ok(false),
        Err(error) => Err(InstallError::api("remove", manifest)(error)),
    }
}

/// An unknown kind is a 404 too, without the reason that a missing object has.
fn is_gone(error: &kube::Error) -> bool {
    const NOT_FOUND: u16 = 404;
    matches!(error, kube::Error::Api(status) if status.is_not_found() || status.code == NOT_FOUND)
}

async fn definition(
    client: &Client,
    manifest: &Manifest,
    of_istio_too: bool,
    progress: Progress<'_>,
) -> Result<(), InstallError> {
    let is_istios = manifest.name().ends_with(".istio.io");
    if is_anothers(client, manifest).await? {
        progress(&format!("left     {manifest}, which is not Isthmus's"));
    } else if is_istios && !of_istio_too {
        let there = manifest.api(client).get_opt(manifest.name()).await;
        if there
            .map_err(InstallError::api("look at", manifest))?
            .is_some()
        {
            progress(&format!(
                "left     {manifest}, with your policies in it; --crds removes both"
            ));
        }
    } else if delete(client, manifest).await? {
        progress(&format!("removed  {manifest}"));
    }
    Ok(())
}

async fn namespace(
    client: &Client,
    manifest: &Manifest,
    deadline: Deadline,
    progress: Progress<'_>,
) -> Result<(), InstallError> {
    if !delete(client, manifest).await? {
        return Ok(());
    }
    progress(&format!(
        "waiting  for {manifest}, with the authority and its keys"
    ));
    let judge = |object: Option<&DynamicObject>| match object {
        None => Verdict::So(()),
        Some(object) => {
            let conditions = object.data["status"]["conditions"].as_array();
            let blocked = conditions
                .into_iter()
                .flatten()
                .filter(|it| it["status"] == "True");
            let said: Vec<&str> = blocked.filter_map(|it| it["message"].as_str()).collect();
            Verdict::NotYet(match said.is_empty() {
                true => "it is being removed".to_owned(),
                false => said.join("; "),
            })
        }
    };
    let waited_for = format!("until {manifest} is gone");
    deadline
        .wait(manifest.api(client), manifest.name(), &waited_for, judge)
        .await?;
    progress(&format!("removed  {manifest}"));
    Ok(())
}

/// Says which namespaces still ask to be in a mesh: their labels are the user's.
async fn labels(client: &Client, progress: Progress<'_>) -> Result<(), InstallError> {
    let api: Api<Namespace> = Api::all(client.clone());
    let asked = ListParams::default().labels("isthmus.dev/mesh");
    let left = api.list(&asked).await;
    let left = left.map_err(InstallError::of("list", "namespaces".to_owned()))?;
    for namespace in left {
        let name = namespace.metadata.name.unwrap_or_default();
        progress(&format!(
            "left     the label isthmus.dev/mesh on Namespace {name}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use http::Method;
    use serde_json::json;

    use super::*;
    use crate::kubernetes::testing::{FakeApi, Reply, list};

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_does_not_end_is_told_by_its_node() {
        // The controller counts no more once its object is being deleted: two, whoever is left.
        let set = json!({"apiVersion": "apps/v1", "kind": "DaemonSet",
            "metadata": {"name": AGENT, "namespace": NAMESPACE, "resourceVersion": "1",
                "deletionTimestamp": "2026-01-01T00:00:00Z"},
            "status": {"currentNumberScheduled": 2, "desiredNumberScheduled": 2,
                "numberMisscheduled": 0, "numberReady": 0}});
        let left = json!({"metadata": {"name": "isthmus-agent-x"},
            "spec": {"nodeName": "n2", "containers": []}});
        let api = FakeApi::new(move |asked| match &asked.method {
            method if *method == Method::DELETE => Reply::Json(set.clone()),
            _ if asked.path.ends_with("/pods") => {
                Reply::Json(list("Pod", std::slice::from_ref(&left)))
            }
            _ if asked.query.contains("watch=") => Reply::Never,
            _ => Reply::Json(list("DaemonSet", std::slice::from_ref(&set))),
        });
        let options = RemoveOptions {
            definitions: false,
            timeout: Duration::from_secs(8),
        };
        let told = std::sync::Mutex::new(Vec::new());
        let progress = |line: &str| told.lock().unwrap().push(line.to_owned());
        let error = remove(&api.client(), options, &progress).await.unwrap_err();
        let said = error.to_string();
        assert!(
            said.contains("are left on nodes n2; is their kubelet up?"),
            "{said}"
        );
        let told = told.into_inner().unwrap();
        assert!(
            told.iter()
                .chain([&said])
                .all(|it| !it.contains("2 agents") && !it.contains("2 left")),
            "{told:?} {said}"
        );
    }
}
