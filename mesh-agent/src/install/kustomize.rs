//! What `kubectl kustomize` makes of a folder of `deploy/`, as far as these folders go:
//! resources, and patches that are files. Anything else in a kustomization is an error,
//! so that the installer and kubectl cannot come to differ unseen.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::embedded;
use super::manifest::Manifest;

/// Why a folder makes no manifests. Its files are in this binary, so it is the binary's fault.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BuildError {
    /// A kustomization names what is not there.
    #[error("deploy/{0} is missing from this binary")]
    Missing(String),
    /// A file is not what it should be.
    #[error("deploy/{path} cannot be read: {message}")]
    Unreadable {
        /// Which.
        path: String,
        /// What is wrong.
        message: String,
    },
    /// A patch is about an object that the folder does not have.
    #[error("deploy/{path} is a patch of {object}, which is not there")]
    NoTarget {
        /// The patch.
        path: String,
        /// Its kind, namespace and name.
        object: String,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Kustomization {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    resources: Vec<String>,
    #[serde(default)]
    patches: Vec<Patch>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Patch {
    path: String,
}

/// The manifests of a folder below `deploy/` (`""` is `deploy/` itself), in the order of
/// its resources.
///
/// # Errors
/// See [`BuildError`].
pub fn build(folder: &str) -> Result<Vec<Manifest>, BuildError> {
    let path = join(folder, "kustomization.yaml");
    let kustomization: Kustomization =
        serde_yaml_ng::from_str(text(&path)?).map_err(|error| unreadable(&path, &error))?;
    let mut manifests = Vec::new();
    for resource in &kustomization.resources {
        let path = join(folder, resource);
        if path.ends_with(".yaml") {
            manifests.extend(read(&path)?);
        } else {
            manifests.extend(build(&path)?);
        }
    }
    for patch in &kustomization.patches {
        let path = join(folder, &patch.path);
        for patch in read(&path)? {
            let target = manifests.iter_mut().find(|it| it.is_same_object(&patch));
            let target = target.ok_or_else(|| BuildError::NoTarget {
                path: path.clone(),
                object: patch.to_string(),
            })?;
            merge(target.value_mut(), patch.into_value());
        }
    }
    Ok(manifests)
}

/// The objects of one file.
pub(super) fn read(path: &str) -> Result<Vec<Manifest>, BuildError> {
    let documents = serde_yaml_ng::Deserializer::from_str(text(path)?);
    let object = |document| {
        let value = Value::deserialize(document).map_err(|error| unreadable(path, &error))?;
        Manifest::new(value).map_err(|missing| unreadable(path, &format!("it has no {missing}")))
    };
    documents.map(object).collect()
}

fn text(path: &str) -> Result<&'static str, BuildError> {
    embedded::text(path).ok_or_else(|| BuildError::Missing(path.to_owned()))
}

fn unreadable(path: &str, message: &dyn std::fmt::Display) -> BuildError {
    BuildError::Unreadable {
        path: path.to_owned(),
        message: message.to_string(),
    }
}

/// `folder/name`, with `..` resolved.
fn join(folder: &str, name: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in name.split('/') {
        match part {
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// A strategic merge as far as it goes by the rule that lists of named things are merged
/// by their names (containers, volumes, volumeMounts, env), all others replaced, and
/// `null` removes.
/// <https://kubernetes.io/docs/tasks/manage-kubernetes-objects/update-api-object-kubectl-patch/>
fn merge(target: &mut Value, patch: Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (key, value) in patch {
                if value.is_null() {
                    target.remove(&key);
                } else if let Some(there) = target.get_mut(&key) {
                    merge(there, value);
                } else {
                    target.insert(key, value);
                }
            }
        }
        (Value::Array(target), Value::Array(patch))
            if target.iter().chain(&patch).all(|item| name(item).is_some()) =>
        {
            // What the patch names comes first, in its order, as kustomize has it.
            for (place, item) in patch.into_iter().enumerate() {
                let item = match target.iter().position(|there| name(there) == name(&item)) {
                    Some(at) => {
                        let mut there = target.remove(at);
                        merge(&mut there, item);
                        there
                    }
                    None => item,
                };
                target.insert(place.min(target.len()), item);
            }
        }
        (target, patch) => *target = patch,
    }
}

fn name(item: &Value) -> Option<&str> {
    item.as_object()
        .and_then(|item: &Map<String, Value>| item.get("name"))
        .and_then(Value::as_str)
}
