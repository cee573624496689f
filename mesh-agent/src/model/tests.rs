//! Tables of the model: what objects mean, and what is said of those that mean
//! nothing. The objects are written as a user writes them.

mod aliases;
mod claims;
mod id_forms;
mod members;
mod order;
mod problems;
mod ranges;
mod resolve;
mod services;
mod settings;
mod strangers;
mod trust;

use std::path::Path;

use super::{Built, Objects, World, build};
use crate::config::read_objects;

const SHOP: &str = include_str!("testdata/shop.yaml");
const NODE: &str = "node-a";

fn objects(file: &str, yaml: &str) -> Objects {
    read_objects(Path::new(file), yaml).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

/// The world of one file, as node-a sees it.
fn built(yaml: &str) -> Built {
    build([&objects("mesh.yaml", yaml)], NODE, None)
}

/// The next generation, after `yaml` has replaced everything.
fn rebuilt(before: &World, yaml: &str) -> Built {
    build([&objects("mesh.yaml", yaml)], NODE, Some(before))
}

/// A meshed pod of node-a with one address and paths of its own name.
fn pod(name: &str, ip: &str) -> String {
    pod_with(name, ip, name, "default")
}

fn pod_with(name: &str, ip: &str, paths: &str, service_account: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: shop
  labels: {{isthmus.dev/mesh: enabled}}
  annotations: {{isthmus.dev/netns: /run/netns/{paths}, isthmus.dev/cgroup: /cg/{paths}}}
spec: {{nodeName: node-a, serviceAccountName: {service_account}}}
status: {{podIP: {ip}}}
"
    )
}

/// `object: field: message` of every problem.
fn complaints(built: &Built) -> Vec<String> {
    let problems = built.problems.iter();
    problems
        .map(|it| {
            let object = it.object.as_deref().unwrap_or_default();
            format!("{object}: {}: {}", it.field, it.message)
        })
        .collect()
}
