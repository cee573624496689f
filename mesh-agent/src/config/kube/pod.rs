//! From a pod as it arrives to the model's. Only what the model reads is ever built: the
//! rest of it, most of all its containers and managed fields, is passed over in the text.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

use super::intern::Interner;
use super::received::{Body, Items, Leaf, Part};
use crate::model::{self, Origin, Place, Pod, Problem, Severity, Stage};

/// Where the kubelet writes, on the object that mirrors a pod of its own files, the UID
/// by which it knows that pod.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// Where it writes the same UID on every pod of its files.
const HASH: &str = "kubernetes.io/config.hash";
/// Where it writes how it came to know a pod.
const SOURCE: &str = "kubernetes.io/config.source";

/// A pod's fields.
pub(super) type PodBody = Part<Fields>;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Fields {
    metadata: Part<Metadata>,
    spec: Part<Spec>,
    status: Part<Status>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metadata {
    name: Leaf<String>,
    namespace: Leaf<String>,
    uid: Leaf<String>,
    resource_version: Leaf<String>,
    deletion_timestamp: Leaf<String>,
    labels: Leaf<BTreeMap<String, String>>,
    annotations: Leaf<BTreeMap<String, String>>,
    owner_references: Leaf<Vec<OwnerReference>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct OwnerReference {
    kind: String,
    name: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    node_name: Leaf<String>,
    service_account_name: Leaf<String>,
    host_network: Leaf<bool>,
    containers: Items<Part<Container>>,
}

/// Of a container, the ports that it names.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Container {
    ports: Items<Part<ContainerPort>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ContainerPort {
    name: Leaf<String>,
    container_port: Leaf<i32>,
    protocol: Leaf<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    phase: Leaf<String>,
    #[serde(rename = "podIP")]
    pod_ip: Leaf<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Leaf<Vec<PodIp>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct PodIp {
    ip: String,
}

impl Body for PodBody {
    fn meta(&self) -> ObjectMeta {
        let meta = &self.0.metadata.0;
        ObjectMeta {
            name: meta.name.good().cloned(),
            namespace: meta.namespace.good().cloned(),
            resource_version: meta.resource_version.good().cloned(),
            ..ObjectMeta::default()
        }
    }
}

/// The pod, or everything that is wrong with it.
pub(super) fn read(body: PodBody, interner: &mut Interner) -> Result<Pod, Vec<Problem>> {
    let Part(Fields {
        metadata: Part(meta),
        spec: Part(spec),
        status: Part(status),
    }) = body;
    let name = meta.name.good().cloned().unwrap_or_default();
    let namespace = meta.namespace.good().map_or("default", String::as_str);
    let mut wrong = Wrong {
        object: format!("Pod {namespace}/{name}"),
        problems: Vec::new(),
    };
    let namespace = interner.text(namespace);
    wrong.take("metadata.namespace", meta.namespace);
    if wrong
        .take("metadata.name", meta.name)
        .is_none_or(|name| name.is_empty())
    {
        wrong.add("metadata.name", "it is missing".to_owned());
    }
    let annotations = wrong.take("metadata.annotations", meta.annotations);
    let annotations = annotations.unwrap_or_default();
    let owners = meta.owner_references.good().map_or(&[][..], Vec::as_slice);
    let of_node = spec.node_name.good();
    let uid = of_node.and_then(|node| mirrored(&annotations, owners, node));
    let uid = uid.cloned();
    let uid = wrong
        .take("metadata.uid", meta.uid)
        .map(|own| uid.unwrap_or(own));
    let deleted = wrong
        .take("metadata.deletionTimestamp", meta.deletion_timestamp)
        .is_some();
    let labels = wrong
        .take("metadata.labels", meta.labels)
        .unwrap_or_default();
    let account = wrong.take("spec.serviceAccountName", spec.service_account_name);
    let account = account.filter(|account| !account.is_empty());
    let node = wrong
        .take("spec.nodeName", spec.node_name)
        .unwrap_or_default();
    let host_network = wrong.take("spec.hostNetwork", spec.host_network);
    let ports = spec.containers.0.into_iter().flat_map(|it| it.0.ports.0);
    let hbone_ports = model::hbone_ports(ports.filter_map(|Part(it)| {
        Some(model::ContainerPort {
            name: it.name.good().cloned(),
            container_port: *it.container_port.good()?,
            protocol: it.protocol.good().cloned(),
        })
    }));
    let phase = wrong.take("status.phase", status.phase);
    let single = wrong.take("status.podIP", status.pod_ip);
    let several = wrong
        .take("status.podIPs", status.pod_ips)
        .unwrap_or_default();
    if !wrong.problems.is_empty() {
        return Err(wrong.problems);
    }
    let single = single.filter(|ip| !ip.is_empty());
    let several_texts = several.iter().map(|it| it.ip.as_str());
    let (addresses, bad_addresses) = model::addresses(several_texts, single.as_deref());
    let has_ip = single.is_some() || !several.is_empty();
    Ok(Pod {
        name: name.into(),
        namespace,
        kube_uid: uid.map(Arc::from),
        labels: interner.labels(labels),
        annotations: model::ours(annotations),
        service_account: interner.text(account.as_deref().unwrap_or("default")),
        node: interner.text(&node),
        host_network: host_network == Some(true),
        stage: Stage::of(phase.as_deref(), deleted, has_ip),
        terminating: deleted,
        addresses,
        bad_addresses,
        place: Place::Seen(None),
        hbone_ports,
    })
}

/// The UID of the pod of the kubelet's own files that an object mirrors. The annotation counts
/// only with all that the kubelet writes beside it: the node as the one owner, without which the
/// API server takes no such object from a kubelet, a source that is not the API, and the hash.
fn mirrored<'a>(
    annotations: &'a BTreeMap<String, String>,
    owners: &[OwnerReference],
    node: &str,
) -> Option<&'a String> {
    let uid = annotations.get(MIRROR).filter(|uid| is_of_file(uid))?;
    let [owner] = owners else { return None };
    let of_node = owner.kind == "Node" && owner.name == node && !node.is_empty();
    let source = annotations.get(SOURCE).map(String::as_str);
    let of_files = matches!(source, Some("file" | "http"));
    let same = annotations.get(HASH) == Some(uid);
    (of_node && of_files && same).then_some(uid)
}

/// Whether a UID is one that the kubelet gives to a pod of its files: 32 hexadecimal
/// digits, which no pod of the API has. So nobody can write a pod that passes for another.
fn is_of_file(uid: &str) -> bool {
    let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    uid.len() == 32 && uid.bytes().all(digit)
}

struct Wrong {
    object: String,
    problems: Vec<Problem>,
}

impl Wrong {
    fn take<T>(&mut self, field: &str, leaf: Leaf<T>) -> Option<T> {
        match leaf {
            Leaf::Absent => None,
            Leaf::Good(value) => Some(value),
            Leaf::Bad(message) => {
                self.add(field, message);
                None
            }
        }
    }

    fn add(&mut self, field: &str, message: String) {
        self.problems.push(Problem {
            file: Origin::API.into(),
            object: Some(self.object.clone()),
            field: field.to_owned(),
            message,
            cure: "correct it; until then the object's last good version stays in force".to_owned(),
            severity: Severity::Error,
        });
    }
}
