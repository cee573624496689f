//! Each manifest goes through the type that the API server has for it and comes out as it
//! was: what is misspelt, or of a wrong type, does not.

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{
    Namespace, PersistentVolumeClaim, ResourceQuota, Service, ServiceAccount,
};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::*;

/// Where the two differ; `None` if the second lacks nothing of the first.
fn lost(written: &Value, read: &Value, path: &str) -> Option<String> {
    match (written, read) {
        (Value::Object(written), Value::Object(read)) => written.iter().find_map(|(key, value)| {
            let path = format!("{path}.{key}");
            match read.get(key) {
                Some(read) => lost(value, read, &path),
                // An empty value is as good as none.
                None if is_empty(value) => None,
                None => Some(path),
            }
        }),
        (Value::Array(written), Value::Array(read)) if written.len() == read.len() => written
            .iter()
            .zip(read)
            .enumerate()
            .find_map(|(i, (written, read))| lost(written, read, &format!("{path}[{i}]"))),
        (written, read) if written == read => None,
        _ => Some(path.to_owned()),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

fn through<T: Serialize + DeserializeOwned>(value: &Value) -> Result<(), String> {
    let typed: T = serde_json::from_value(value.clone()).map_err(|error| error.to_string())?;
    let read = serde_json::to_value(typed).map_err(|error| error.to_string())?;
    lost(value, &read, "").map_or(Ok(()), |path| Err(format!("{path} is not of this kind")))
}

fn check(manifest: &Manifest) -> Result<(), String> {
    let value = manifest.value();
    match (value["apiVersion"].as_str().unwrap(), manifest.kind()) {
        ("v1", "Namespace") => through::<Namespace>(value),
        ("v1", "ServiceAccount") => through::<ServiceAccount>(value),
        ("v1", "Service") => through::<Service>(value),
        ("v1", "PersistentVolumeClaim") => through::<PersistentVolumeClaim>(value),
        ("v1", "ResourceQuota") => through::<ResourceQuota>(value),
        ("apps/v1", "DaemonSet") => through::<DaemonSet>(value),
        ("apps/v1", "Deployment") => through::<Deployment>(value),
        ("networking.k8s.io/v1", "NetworkPolicy") => through::<NetworkPolicy>(value),
        ("rbac.authorization.k8s.io/v1", "ClusterRole") => through::<ClusterRole>(value),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => {
            through::<ClusterRoleBinding>(value)
        }
        ("rbac.authorization.k8s.io/v1", "Role") => through::<Role>(value),
        ("rbac.authorization.k8s.io/v1", "RoleBinding") => through::<RoleBinding>(value),
        ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy") => {
            through::<ValidatingAdmissionPolicy>(value)
        }
        ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding") => {
            through::<ValidatingAdmissionPolicyBinding>(value)
        }
        ("apiextensions.k8s.io/v1", "CustomResourceDefinition") => {
            through::<CustomResourceDefinition>(value)
        }
        // OpenShift's, of which there is no type here.
        ("security.openshift.io/v1", "SecurityContextConstraints") => Ok(()),
        (version, kind) => Err(format!("{kind} of {version} is checked by nothing")),
    }
}

#[test]
fn no_field_is_lost_on_the_way_through_its_type() {
    for (folder, manifests) in all_builds() {
        for manifest in &manifests {
            if let Err(error) = check(manifest) {
                panic!("deploy/{folder}: {manifest}: {error}");
            }
        }
    }
}

#[test]
fn a_misspelt_field_is_seen() {
    let manifests = build("").unwrap();
    let mut agent = find(&manifests, "DaemonSet", AGENT).clone();
    agent.value_mut()["spec"]["template"]["spec"]["hostNetwrok"] = true.into();
    assert_eq!(
        check(&agent).unwrap_err(),
        ".spec.template.spec.hostNetwrok is not of this kind"
    );
    let mut agent = find(&manifests, "DaemonSet", AGENT).clone();
    agent.value_mut()["spec"]["template"]["spec"]["hostPID"] = "yes".into();
    assert!(check(&agent).is_err());
}
