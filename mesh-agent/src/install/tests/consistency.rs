//! That the manifests fit together, and fit the binary that they start.

use clap::Parser;
use serde_json::Value;

use super::*;
use crate::cli::{Cli, Command, Tool};

const TEMPLATE: &str = "/spec/template/spec";

fn template(manifest: &Manifest) -> &Value {
    manifest.value().pointer(TEMPLATE).unwrap()
}

fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().map_or(&[], Vec::as_slice)
}

fn workloads(manifests: &[Manifest]) -> impl Iterator<Item = &Manifest> {
    let with_pods = |it: &&Manifest| it.value().pointer(TEMPLATE).is_some();
    manifests.iter().filter(with_pods)
}

#[test]
fn every_object_is_labelled_and_in_its_place() {
    // Kinds that belong to no namespace; the installer tells by the manifest alone.
    let of_the_cluster = [
        "ClusterRole",
        "ClusterRoleBinding",
        "CustomResourceDefinition",
        "Namespace",
        "SecurityContextConstraints",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
    ];
    for (folder, manifests) in all_builds() {
        for manifest in &manifests {
            let label = &manifest.value()["metadata"]["labels"]["app.kubernetes.io/part-of"];
            assert_eq!(label, "isthmus", "deploy/{folder}: {manifest}");
            let namespace = (!of_the_cluster.contains(&manifest.kind())).then_some(NAMESPACE);
            assert_eq!(
                manifest.namespace(),
                namespace,
                "deploy/{folder}: {manifest}"
            );
        }
    }
}

#[test]
fn selectors_and_references_meet_what_they_mean() {
    for (folder, manifests) in all_builds() {
        for workload in workloads(&manifests) {
            let labels = &workload.value()["spec"]["template"]["metadata"]["labels"];
            let selector = workload.value()["spec"]["selector"]["matchLabels"].as_object();
            for (key, value) in selector.unwrap() {
                assert_eq!(&labels[key], value, "deploy/{folder}: {workload}");
            }
            let pod = template(workload);
            find(
                &manifests,
                "ServiceAccount",
                pod["serviceAccountName"].as_str().unwrap(),
            );
            for volume in list(pod, "volumes") {
                if let Some(claim) = volume["persistentVolumeClaim"]["claimName"].as_str() {
                    find(&manifests, "PersistentVolumeClaim", claim);
                }
                if let Some(map) = volume["configMap"]["name"].as_str() {
                    assert_eq!(
                        map, ROOTS,
                        "the authority writes this one, and no other is there"
                    );
                }
            }
            for container in list(pod, "containers") {
                for mount in list(container, "volumeMounts") {
                    let mut volumes = list(pod, "volumes").iter();
                    assert!(volumes.any(|it| it["name"] == mount["name"]), "{mount}");
                }
            }
        }
        for binding in manifests.iter().filter(|it| it.kind().ends_with("Binding")) {
            let role = &binding.value()["roleRef"];
            if let (Some(kind), Some(name)) = (role["kind"].as_str(), role["name"].as_str()) {
                find(&manifests, kind, name);
            }
            for subject in list(binding.value(), "subjects") {
                assert_eq!(subject["namespace"], NAMESPACE);
                find(
                    &manifests,
                    "ServiceAccount",
                    subject["name"].as_str().unwrap(),
                );
            }
        }
        let service = find(&manifests, "Service", AUTHORITY).value();
        let authority = find(&manifests, "Deployment", AUTHORITY).value();
        let labels = &authority["spec"]["template"]["metadata"]["labels"];
        for (key, value) in service["spec"]["selector"].as_object().unwrap() {
            assert_eq!(&labels[key], value, "deploy/{folder}");
        }
    }
}

#[test]
fn ports_by_name_are_the_containers() {
    let manifests = build("").unwrap();
    let authority = template(find(&manifests, "Deployment", AUTHORITY));
    let names: Vec<&str> = list(&authority["containers"][0], "ports")
        .iter()
        .map(|port| port["name"].as_str().unwrap())
        .collect();
    let service = find(&manifests, "Service", AUTHORITY).value();
    let policy = find(&manifests, "NetworkPolicy", AUTHORITY).value();
    let container = &authority["containers"][0];
    let used = [
        &service["spec"]["ports"][0]["targetPort"],
        &policy["spec"]["ingress"][0]["ports"][0]["port"],
        &policy["spec"]["ingress"][0]["ports"][1]["port"],
        &container["readinessProbe"]["httpGet"]["port"],
        &container["livenessProbe"]["httpGet"]["port"],
    ];
    for port in used {
        assert!(
            names.contains(&port.as_str().unwrap()),
            "{port} of {names:?}"
        );
    }
}

#[test]
fn no_pod_has_more_than_it_needs() {
    for (folder, manifests) in all_builds() {
        for workload in workloads(&manifests) {
            for container in list(template(workload), "containers") {
                let context = &container["securityContext"];
                let of = format!("deploy/{folder}: {workload}");
                assert_ne!(context["privileged"], true, "{of}");
                assert_eq!(context["allowPrivilegeEscalation"], false, "{of}");
                assert_eq!(context["readOnlyRootFilesystem"], true, "{of}");
                assert_eq!(context["capabilities"]["drop"][0], "ALL", "{of}");
                let requests = &container["resources"]["requests"];
                assert!(
                    requests["cpu"].is_string() && requests["memory"].is_string(),
                    "{of}"
                );
            }
        }
        let authority = find(&manifests, "Deployment", AUTHORITY);
        assert_eq!(template(authority)["securityContext"]["runAsNonRoot"], true);
        let agent = template(find(&manifests, "DaemonSet", AGENT));
        assert!(
            list(&agent["containers"][0], "ports").is_empty(),
            "on the hosts' network a port is a hostPort, and two agents of a node share none"
        );
    }
}

/// The capabilities are those that the agent itself says it uses.
#[test]
fn the_agent_has_the_capabilities_that_it_checks_for() {
    let manifests = build("").unwrap();
    let agent = template(find(&manifests, "DaemonSet", AGENT));
    let added = list(
        &agent["containers"][0]["securityContext"]["capabilities"],
        "add",
    );
    let mut added: Vec<String> = added
        .iter()
        .map(|it| format!("CAP_{}", it.as_str().unwrap()))
        .collect();
    let mut used: Vec<&str> = crate::intercept::features::CAPABILITIES
        .iter()
        .map(|&(_, name, _)| name)
        .collect();
    added.sort();
    used.sort_unstable();
    assert_eq!(added, used);
}

#[test]
fn no_role_reaches_secrets_or_everything() {
    for manifest in build("").unwrap() {
        for rule in list(manifest.value(), "rules") {
            for field in ["apiGroups", "resources", "verbs"] {
                for word in list(rule, field) {
                    assert!(word != "*" && word != "secrets", "{manifest}: {rule}");
                }
            }
        }
    }
}

/// What a container is told, as the binary's command line.
fn command_line(manifest: &Manifest) -> Vec<String> {
    let container = &template(manifest)["containers"][0];
    let words = list(container, "command")
        .iter()
        .chain(list(container, "args"));
    words
        .map(|word| word.as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn why_a_container_ended_is_in_its_pods_status() {
    for (folder, manifests) in all_builds() {
        for workload in workloads(&manifests) {
            for container in list(template(workload), "containers") {
                let policy = &container["terminationMessagePolicy"];
                assert_eq!(
                    policy, "FallbackToLogsOnError",
                    "deploy/{folder}: {workload}"
                );
            }
        }
    }
}

#[test]
fn the_binary_understands_what_the_manifests_tell_it() {
    let manifests = build("").unwrap();
    let agent = find(&manifests, "DaemonSet", AGENT);
    let cli = Cli::try_parse_from(command_line(agent)).unwrap_or_else(|error| panic!("{error}"));
    let Command::Run(run) = cli.command else {
        panic!("the agent does not run")
    };
    let grace = &template(agent)["terminationGracePeriodSeconds"];
    assert_eq!(grace, run.drain_timeout + 15);
    let probe = &template(agent)["containers"][0]["readinessProbe"]["exec"]["command"];
    let probe = probe
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it.as_str().unwrap());
    let cli = Cli::try_parse_from(probe).unwrap_or_else(|error| panic!("{error}"));
    assert!(matches!(cli.command, Command::Tool(tool) if matches!(*tool, Tool::Ready(_))));
    let authority = find(&manifests, "Deployment", AUTHORITY);
    let cli = Cli::try_parse_from(command_line(authority));
    let cli = cli.unwrap_or_else(|error| panic!("{error}"));
    assert!(matches!(cli.command, Command::Tool(tool) if matches!(*tool, Tool::Ca(_))));
}

/// Agents ask the authority by a name in its certificate, at its Service and port.
#[test]
fn the_agents_find_the_authority() {
    let manifests = build("").unwrap();
    let authority = command_line(find(&manifests, "Deployment", AUTHORITY));
    let agent = command_line(find(&manifests, "DaemonSet", AGENT));
    let service = find(&manifests, "Service", AUTHORITY).value();
    let host = format!("{AUTHORITY}.{NAMESPACE}.svc");
    let port = &service["spec"]["ports"][0]["port"];
    assert!(
        agent.contains(&format!("--ca=https://{host}:{port}")),
        "{agent:?}"
    );
    assert!(
        authority.contains(&format!("--name={host}")),
        "{authority:?}"
    );
    assert!(
        authority.contains(&format!("--listen=[::]:{port}")),
        "{authority:?}"
    );
}
