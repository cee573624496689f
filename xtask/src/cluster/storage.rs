//! Volumes for claims: folders on the nodes' disks, of the default storage class.

use std::fs;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::control;
use super::place::{NODES, Node, Place};

/// How many a node has, and where. Nobody empties one that was used, so there are some to spare.
const VOLUMES: std::ops::Range<u8> = 0..16;
const FOLDER: &str = "volumes";
const CLASS: &str = "node-disk";

/// Makes the folders on a node's disk.
pub(super) fn prepare(place: &Place, node: Node) -> Result<()> {
    for number in VOLUMES {
        let folder = place.disk(node)?.join(format!("var-lib/{FOLDER}/{number}"));
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    }
    Ok(())
}

/// Tells the API server of them.
pub(super) fn publish(place: &Place) -> Result<()> {
    let volumes = NODES
        .into_iter()
        .flat_map(|node| VOLUMES.map(move |number| volume(node, number)));
    let items: Vec<_> = std::iter::once(class()).chain(volumes).collect();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
    let file = place.file("storage.json")?;
    fs::write(&file, list.to_string()).with_context(|| format!("writing {}", file.display()))?;
    control::kubectl(place)?
        .words("apply --filename")
        .arg(file)
        .output()
        .map(drop)
}

fn class() -> Value {
    json!({
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": CLASS, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer",
    })
}

fn volume(node: Node, number: u8) -> Value {
    let name = node.name();
    let expression = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": [&name]});
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": format!("{name}-{number}")},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": CLASS,
            "local": {"path": format!("/var/lib/{FOLDER}/{number}")},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}},
        },
    })
}
