//! From one object as it is written to the typed one, or to everything that is wrong with
//! it. Used by the parent module for every object of a file, and for those of the API.

use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::networking::v1 as networking;
use serde::de::DeserializeOwned;
use serde_yaml_ng::{Mapping, Value};

use super::super::unread;
use super::Rejected;
use crate::model::{Objects, Origin, Pod, Problem, Severity, Sourced, Unenforced, UnreadPolicy};

/// API groups whose resources change what a mesh does with traffic, so that
/// passing over one in silence would be a false promise.
pub(in crate::config) const UNENFORCED_GROUPS: [&str; 5] = [
    "security.istio.io",
    "networking.istio.io",
    "telemetry.istio.io",
    "extensions.istio.io",
    "gateway.networking.k8s.io",
];

/// What is read.
#[derive(Clone, Copy)]
pub(super) enum Source {
    File,
    Api,
}

/// Collects the objects of one file, or one object of the API.
pub(super) struct Reader {
    file: Arc<Path>,
    source: Source,
    /// Objects seen so far.
    count: usize,
    objects: Objects,
    problems: Vec<Problem>,
    /// Every policy seen, read or not.
    policies: Vec<Sourced<UnreadPolicy>>,
}

impl Reader {
    pub(super) fn new(origin: Origin, source: Source) -> Self {
        Self {
            file: origin.file,
            source,
            count: 0,
            objects: Objects::default(),
            problems: Vec::new(),
            policies: Vec::new(),
        }
    }

    pub(super) fn done(self) -> Result<Objects, Rejected> {
        if self.problems.is_empty() {
            Ok(self.objects)
        } else {
            Err(Rejected {
                problems: self.problems,
                policies: self.policies,
            })
        }
    }

    /// Of the object that is being read.
    fn origin(&self) -> Origin {
        Origin {
            file: Arc::clone(&self.file),
            document: match self.source {
                Source::File => self.count,
                Source::Api => 0,
            },
        }
    }

    /// One document, or one item of a list.
    pub(super) fn value(&mut self, value: Value) {
        let mapping = match value {
            // Nothing between two separators, or only a comment.
            Value::Null => return,
            Value::Mapping(mapping) => mapping,
            _ => {
                self.count += 1;
                return self.problem(
                    None,
                    "",
                    "it is not an object",
                    "write apiVersion, kind, metadata",
                );
            }
        };
        match (text(&mapping, "apiVersion"), text(&mapping, "kind")) {
            (Some(version), Some(kind))
                if kind.ends_with("List") && mapping.contains_key("items") =>
            {
                self.list(mapping, &version, &kind);
            }
            (Some(version), Some(kind)) => {
                self.count += 1;
                self.object(mapping, &version, &kind);
            }
            (version, _) => {
                self.count += 1;
                let field = if version.is_none() {
                    "apiVersion"
                } else {
                    "kind"
                };
                let object = describe(&mapping, text(&mapping, "kind").as_deref());
                let message = "it is missing or not a text, so the object cannot be read";
                self.problem(object, field, message, "write it as kubectl shows it");
            }
        }
    }

    /// A `List`, or the `PodList` and its like that an API server answers with, whose
    /// items may leave their version and kind to the list.
    fn list(&mut self, mut list: Mapping, version: &str, kind: &str) {
        let items = match list.remove("items") {
            Some(Value::Sequence(items)) => items,
            Some(Value::Null) | None => return,
            Some(_) => {
                let kind = Some(kind.to_owned());
                return self.problem(kind, "items", "it is not a list", "write a list of objects");
            }
        };
        let item_kind = kind.trim_end_matches("List");
        for mut item in items {
            if let (Value::Mapping(item), false) = (&mut item, item_kind.is_empty()) {
                for (field, value) in [("apiVersion", version), ("kind", item_kind)] {
                    item.entry(field.into()).or_insert_with(|| value.into());
                }
            }
            self.value(item);
        }
    }

    fn object(&mut self, mapping: Mapping, version: &str, kind: &str) {
        let group = version.split_once('/').map_or("", |(group, _)| group);
        if group == "security.istio.io" {
            let origin = self.origin();
            let object = unread::of_object(&mapping, kind);
            self.policies
                .extend(object.map(|object| Sourced { object, origin }));
        }
        match (version, kind) {
            ("v1", "Namespace") => self.typed(mapping, kind, |o| &mut o.namespaces),
            ("v1", "Node") => self.typed(mapping, kind, |o| &mut o.nodes),
            ("v1", "Pod") => self.converted(
                mapping,
                kind,
                |pod: core::Pod| Arc::new(Pod::of_folder(pod)),
                |o| &mut o.pods,
            ),
            ("v1", "Service") => {
                self.converted(mapping, kind, core::Service::into, |o| &mut o.services);
            }
            ("discovery.k8s.io/v1", "EndpointSlice") => {
                let convert = discovery::EndpointSlice::into;
                self.converted(mapping, kind, convert, |o| &mut o.endpoint_slices);
            }
            ("security.istio.io/v1" | "security.istio.io/v1beta1", "PeerAuthentication") => {
                self.typed(mapping, kind, |o| &mut o.peer_authentications);
            }
            ("security.istio.io/v1" | "security.istio.io/v1beta1", "AuthorizationPolicy") => {
                self.typed(mapping, kind, |o| &mut o.authorization_policies);
            }
            ("isthmus.dev/v1alpha1", "MeshConfig") => {
                self.typed(mapping, kind, |o| &mut o.mesh_configs);
            }
            (_, "NetworkPolicy" | "ServiceCIDR") if group == "networking.k8s.io" => {
                self.networking(mapping, kind);
            }
            (_, "EndpointSlice") if group == "discovery.k8s.io" => {
                self.other_version(&mapping, version, kind, "discovery.k8s.io/v1");
            }
            (_, "PeerAuthentication" | "AuthorizationPolicy") if group == "security.istio.io" => {
                self.other_version(&mapping, version, kind, "security.istio.io/v1");
            }
            (_, "MeshConfig") => {
                self.other_version(&mapping, version, kind, "isthmus.dev/v1alpha1")
            }
            _ if group == "isthmus.dev" => {
                let message = format!("Isthmus knows no kind {kind} in {version}");
                let cure = "the only kind is MeshConfig, in isthmus.dev/v1alpha1";
                self.problem(describe(&mapping, Some(kind)), "kind", &message, cure);
            }
            _ if UNENFORCED_GROUPS.contains(&group) => self.unenforced(&mapping, kind),
            // Deployments, ConfigMaps and the rest: not the mesh's business.
            _ => {}
        }
    }

    /// A kind of the cluster's own network. In a folder it describes nothing that exists.
    fn networking(&mut self, mut mapping: Mapping, kind: &str) {
        if matches!(self.source, Source::File) {
            return;
        }
        // The fields that are read are the same in every version.
        mapping.insert("apiVersion".into(), "networking.k8s.io/v1".into());
        match kind {
            "NetworkPolicy" => self.converted(
                mapping,
                kind,
                |it: networking::NetworkPolicy| Arc::new(it.into()),
                |o| &mut o.network_policies,
            ),
            _ => self.converted(mapping, kind, networking::ServiceCIDR::into, |o| {
                &mut o.service_cidrs
            }),
        }
    }

    fn typed<T: DeserializeOwned>(
        &mut self,
        mapping: Mapping,
        kind: &str,
        place: impl FnOnce(&mut Objects) -> &mut Vec<Sourced<T>>,
    ) {
        self.converted(mapping, kind, |object: T| object, place);
    }

    /// [`typed`](Self::typed), kept in another form.
    fn converted<T: DeserializeOwned, K>(
        &mut self,
        mapping: Mapping,
        kind: &str,
        convert: impl FnOnce(T) -> K,
        place: impl FnOnce(&mut Objects) -> &mut Vec<Sourced<K>>,
    ) {
        let object = describe(&mapping, Some(kind));
        match serde_path_to_error::deserialize(Value::Mapping(mapping)) {
            Ok(object) => {
                let object = convert(object);
                let origin = self.origin();
                let place = place(&mut self.objects);
                place.push(Sourced { object, origin });
            }
            Err(error) => {
                let field = error.path().to_string();
                let message = error.into_inner().to_string();
                let whose = match self.source {
                    Source::File => "the file's",
                    Source::Api => "the object's",
                };
                let cure =
                    format!("correct it; until then {whose} last good version stays in force");
                self.problem(object, &field, &message, &cure);
            }
        }
    }

    fn other_version(&mut self, mapping: &Mapping, version: &str, kind: &str, expected: &str) {
        let message = format!("{kind} is not read in version {version}");
        let cure = format!("write it as {expected}");
        self.problem(describe(mapping, Some(kind)), "apiVersion", &message, &cure);
    }

    fn unenforced(&mut self, mapping: &Mapping, kind: &str) {
        let (namespace, name) = names(mapping);
        let object = Unenforced {
            kind: kind.to_owned(),
            namespace: namespace.unwrap_or_else(|| "default".to_owned()),
            name: name.unwrap_or_default(),
        };
        let origin = self.origin();
        self.objects.unenforced.push(Sourced { object, origin });
    }

    fn problem(&mut self, object: Option<String>, field: &str, message: &str, cure: &str) {
        let nth = || format!("object {}", self.count);
        self.problems.push(Problem {
            file: self.file.to_path_buf(),
            object: Some(object.unwrap_or_else(nth)),
            field: field.to_owned(),
            message: message.to_owned(),
            cure: cure.to_owned(),
            severity: Severity::Error,
        });
    }
}

fn text(mapping: &Mapping, field: &str) -> Option<String> {
    mapping.get(field)?.as_str().map(str::to_owned)
}

fn names(mapping: &Mapping) -> (Option<String>, Option<String>) {
    match mapping.get("metadata") {
        Some(Value::Mapping(meta)) => (text(meta, "namespace"), text(meta, "name")),
        _ => (None, None),
    }
}

/// `Kind namespace/name`, as far as the object says.
fn describe(mapping: &Mapping, kind: Option<&str>) -> Option<String> {
    let kind = kind?;
    Some(match names(mapping) {
        (Some(namespace), Some(name)) => format!("{kind} {namespace}/{name}"),
        (None, Some(name)) => format!("{kind} {name}"),
        (_, None) => kind.to_owned(),
    })
}
