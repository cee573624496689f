//! One Kubernetes object as it is written, and how the API is asked about it.

use std::fmt;

use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client};
use serde_json::Value;

/// An object with its `apiVersion`, `kind` and `metadata.name`.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    value: Value,
    gvk: GroupVersionKind,
    namespace: Option<String>,
    name: String,
}

impl Manifest {
    /// Takes an object.
    ///
    /// # Errors
    /// The field that is missing.
    pub fn new(value: Value) -> Result<Self, &'static str> {
        let text = |pointer| value.pointer(pointer).and_then(Value::as_str);
        let version = text("/apiVersion").ok_or("apiVersion")?;
        let (group, version) = version.rsplit_once('/').unwrap_or(("", version));
        let gvk = GroupVersionKind::gvk(group, version, text("/kind").ok_or("kind")?);
        let name = text("/metadata/name").ok_or("metadata.name")?.to_owned();
        let namespace = text("/metadata/namespace").map(str::to_owned);
        Ok(Self {
            value,
            gvk,
            namespace,
            name,
        })
    }

    /// `kind`
    pub fn kind(&self) -> &str {
        &self.gvk.kind
    }

    /// The group of `apiVersion`, empty for the core.
    pub fn group(&self) -> &str {
        &self.gvk.group
    }

    /// `metadata.name`
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `metadata.namespace`
    pub fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// The object.
    pub fn value(&self) -> &Value {
        &self.value
    }

    pub(super) fn value_mut(&mut self) -> &mut Value {
        &mut self.value
    }

    pub(super) fn into_value(self) -> Value {
        self.value
    }

    pub(super) fn is_same_object(&self, other: &Self) -> bool {
        let of = |it: &Self| (it.gvk.clone(), it.namespace.clone(), it.name.clone());
        of(self) == of(other)
    }

    /// The resource's name in URLs and permissions.
    pub fn plural(&self) -> String {
        self.resource().plural
    }

    fn resource(&self) -> ApiResource {
        match self.kind() {
            // The one kind here whose name is a plural already.
            "SecurityContextConstraints" => {
                ApiResource::from_gvk_with_plural(&self.gvk, "securitycontextconstraints")
            }
            _ => ApiResource::from_gvk(&self.gvk),
        }
    }

    pub(super) fn api(&self, client: &Client) -> Api<DynamicObject> {
        let resource = self.resource();
        match &self.namespace {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
            None => Api::all_with(client.clone(), &resource),
        }
    }
}

impl fmt::Display for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.gvk.kind, self.name),
            None => write!(f, "{} {}", self.gvk.kind, self.name),
        }
    }
}
