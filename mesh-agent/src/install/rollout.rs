//! Waiting until what was applied runs, with a line for each step and, when it does not,
//! what its pods say.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{ContainerState, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::ListParams;
use kube::{Api, Client};

use super::deadline::{Deadline, Verdict};
use super::error::InstallError;
use super::{NAMESPACE, Progress};

/// Pods whose trouble is told, of many with the same.
const TOLD: usize = 5;

/// Waits for the authority's pod.
pub(super) async fn authority(
    client: &Client,
    name: &str,
    deadline: Deadline,
    progress: Progress<'_>,
) -> Result<(), InstallError> {
    progress("waiting  for the authority");
    let api: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let judge = |deployment: Option<&Deployment>| {
        let Some(deployment) = deployment else {
            return Verdict::NotYet("it was removed".to_owned());
        };
        let status = deployment.status.clone().unwrap_or_default();
        let wanted = deployment.spec.replicas.unwrap_or(1);
        let (new, up) = (status.updated_replicas, status.available_replicas);
        let (new, up) = (new.unwrap_or(0), up.unwrap_or(0));
        let is_seen = is_seen(&deployment.metadata, status.observed_generation);
        if is_seen && new == wanted && up == wanted && status.replicas == Some(wanted) {
            Verdict::So(())
        } else {
            Verdict::NotYet(format!("{up} of {wanted} pods are ready"))
        }
    };
    let waited_for = "until the authority is ready";
    let ended = deadline.wait(api, name, waited_for, judge).await;
    explained(ended, client, name).await
}

/// Waits for an agent of this version on every node.
pub(super) async fn agents(
    client: &Client,
    name: &str,
    deadline: Deadline,
    progress: Progress<'_>,
) -> Result<(), InstallError> {
    progress("waiting  for the agents");
    let api: Api<DaemonSet> = Api::namespaced(client.clone(), NAMESPACE);
    let mut last = String::new();
    let judge = |daemon_set: Option<&DaemonSet>| {
        let Some(daemon_set) = daemon_set else {
            return Verdict::NotYet("it was removed".to_owned());
        };
        let status = daemon_set.status.clone().unwrap_or_default();
        let wanted = status.desired_number_scheduled;
        let new = status.updated_number_scheduled.unwrap_or(0);
        let up = status.number_available.unwrap_or(0);
        let is_seen = is_seen(&daemon_set.metadata, status.observed_generation);
        let how = format!("{up} of {wanted} nodes have a ready agent, {new} of this version");
        if is_seen && how != last {
            progress(&format!("agents   {how}"));
            last.clone_from(&how);
        }
        if is_seen && wanted > 0 && new == wanted && up == wanted {
            Verdict::So(())
        } else {
            Verdict::NotYet(how)
        }
    };
    let waited_for = "until every node has a ready agent";
    let ended = deadline.wait(api, name, waited_for, judge).await;
    explained(ended, client, name).await
}

/// Whether the controller has seen the object as it is now.
fn is_seen(meta: &ObjectMeta, observed: Option<i64>) -> bool {
    observed >= meta.generation
}

/// Adds to a wait that ended in vain what the pods say.
async fn explained(
    ended: Result<(), InstallError>,
    client: &Client,
    name: &str,
) -> Result<(), InstallError> {
    match ended {
        Err(InstallError::Timeout {
            waited_for,
            seconds,
            found,
        }) => {
            let trouble = match pods(client, name).await {
                Ok(pods) => troubles(&pods),
                Err(error) => vec![super::error::said(&error)],
            };
            let look = format!("look at `kubectl -n {NAMESPACE} describe pods` and their logs");
            let parts = [vec![found], trouble, vec![look]].concat();
            Err(InstallError::Timeout {
                waited_for,
                seconds,
                found: parts.join("; "),
            })
        }
        other => other,
    }
}

/// The pods of a workload of ours.
pub(super) async fn pods(client: &Client, name: &str) -> Result<Vec<Pod>, kube::Error> {
    let api: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let of = ListParams::default().labels(&format!("app.kubernetes.io/name={name}"));
    Ok(api.list(&of).await?.items)
}

/// What keeps pods from being ready, each reason once, with the first pod that has it.
fn troubles(pods: &[Pod]) -> Vec<String> {
    let mut reasons: BTreeMap<String, (String, usize)> = BTreeMap::new();
    for pod in pods {
        if let Some(reason) = trouble(pod) {
            let name = pod.metadata.name.clone().unwrap_or_default();
            reasons.entry(reason).or_insert((name, 0)).1 += 1;
        }
    }
    let told = reasons.into_iter().take(TOLD);
    told.map(|(reason, (pod, count))| match count {
        1 => format!("pod {pod}: {reason}"),
        n => format!("pod {pod} and {} more: {reason}", n - 1),
    })
    .collect()
}

fn trouble(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let condition = |kind: &str| conditions.iter().find(|it| it.type_ == kind);
    if condition("Ready").is_some_and(|it| it.status == "True") {
        return None;
    }
    if let Some(unscheduled) = condition("PodScheduled").filter(|it| it.status == "False") {
        return Some(unscheduled.message.clone().unwrap_or_default());
    }
    let containers = status.container_statuses.as_deref().unwrap_or_default();
    let said = containers.iter().find_map(|container| {
        let now = container.state.as_ref().and_then(of_state);
        let before = container.last_state.as_ref().and_then(of_state);
        match (now, before) {
            (Some(now), Some(before)) if now != before => Some(format!("{now}, after it {before}")),
            // It ends so each time.
            (now, before) => now.or(before),
        }
    });
    let not_ready = || match status.phase.as_deref() {
        Some("Running") => "it runs and is not ready".to_owned(),
        _ => "its node has not started it yet".to_owned(),
    };
    Some(
        said.or_else(|| status.message.clone())
            .unwrap_or_else(not_ready),
    )
}

fn of_state(state: &ContainerState) -> Option<String> {
    if let Some(waiting) = &state.waiting {
        let reason = waiting.reason.as_deref().unwrap_or("waiting");
        return Some(match &waiting.message {
            Some(message) => format!("{reason} ({message})"),
            None => reason.to_owned(),
        });
    }
    let ended = state.terminated.as_ref()?;
    let code = ended.exit_code;
    Some(match ended.message.as_deref().and_then(last_words) {
        Some(said) => format!("ended with exit code {code}: {said}"),
        None => format!("ended with exit code {code}"),
    })
}

/// Why it ended, of the end of its log, which its last line tells.
fn last_words(log: &str) -> Option<String> {
    let last = log.lines().map(str::trim).rfind(|line| !line.is_empty())?;
    let line: serde_json::Value = serde_json::from_str(last).unwrap_or_default();
    let said = line["error"].as_str().or(line["message"].as_str());
    Some(said.unwrap_or(last).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, status: serde_json::Value) -> Pod {
        let object = json!({"metadata": {"name": name}, "status": status});
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn each_reason_is_told_once_and_ready_pods_are_not() {
        let pull = json!({"containerStatuses": [{
            "name": "agent", "image": "x", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}},
        }]});
        let full = json!({"conditions": [
            {"type": "PodScheduled", "status": "False", "message": "Insufficient memory"},
        ]});
        let ready = json!({"conditions": [{"type": "Ready", "status": "True"}]});
        let pods = [
            pod("a", pull.clone()),
            pod("b", full),
            pod("c", pull),
            pod("d", ready),
        ];
        assert_eq!(
            troubles(&pods),
            [
                "pod a and 1 more: ErrImagePull (no such image)",
                "pod b: Insufficient memory",
            ]
        );
    }

    #[test]
    fn a_crash_loop_is_told_with_its_exit_code() {
        let status = json!({"containerStatuses": [{
            "name": "agent", "image": "x", "imageID": "", "ready": false, "restartCount": 3,
            "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"exitCode": 1}},
        }]});
        assert_eq!(
            troubles(&[pod("a", status)]),
            ["pod a: CrashLoopBackOff, after it ended with exit code 1"]
        );
        let ended = json!({"terminated": {"exitCode": 1}});
        let status = json!({"containerStatuses": [{
            "name": "agent", "image": "x", "imageID": "", "ready": false, "restartCount": 3,
            "state": ended.clone(), "lastState": ended,
        }]});
        assert_eq!(
            troubles(&[pod("a", status)]),
            ["pod a: ended with exit code 1"]
        );
    }

    #[test]
    fn what_a_container_said_last_is_told() {
        let started = r#"{"level":"INFO","message":"starting"}"#;
        let error = r#"{"level":"ERROR","message":"the agent stops","error":"it is no bpffs"}"#;
        for (log, told) in [
            (format!("{started}\n{error}\n\n"), "it is no bpffs"),
            (started.to_owned(), "starting"),
            ("thread 'main' panicked\nat x.rs".to_owned(), "at x.rs"),
        ] {
            let status = json!({"containerStatuses": [{
                "name": "agent", "image": "x", "imageID": "", "ready": false, "restartCount": 1,
                "state": {"terminated": {"exitCode": 1, "message": log}},
            }]});
            let told = format!("pod a: ended with exit code 1: {told}");
            assert_eq!(troubles(&[pod("a", status)]), [told]);
        }
    }
}
