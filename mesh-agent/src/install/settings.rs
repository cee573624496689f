//! What a person may choose of an installation, written into the manifests.

use serde_json::{Value, json};

use super::kustomize::{BuildError, build};
use super::manifest::Manifest;
use super::platform::Platform;
use super::{AGENT, AUTHORITY, NAMESPACE};
use crate::identity::TrustDomain;

/// The choices; each `None` leaves what `deploy/` has.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Whose overlay is taken.
    pub platform: Platform,
    /// The image of agent and authority.
    pub image: Option<String>,
    /// The SPIFFE trust domain, for the authority and the `MeshConfig`.
    pub trust_domain: Option<TrustDomain>,
    /// Folder of the nodes' CNI configurations.
    pub cni_conf_dir: Option<String>,
    /// Folder of the nodes' CNI plugins.
    pub cni_bin_dir: Option<String>,
}

impl Settings {
    /// The manifests of an installation.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn manifests(&self) -> Result<Vec<Manifest>, BuildError> {
        let mut manifests = build(self.platform.folder())?;
        for manifest in &mut manifests {
            match (manifest.kind(), manifest.name()) {
                ("DaemonSet", AGENT) => {
                    let volumes = [
                        ("cni-conf", &self.cni_conf_dir),
                        ("cni-bin", &self.cni_bin_dir),
                    ];
                    for (volume, path) in volumes {
                        if let Some(path) = path {
                            set_host_path(manifest.value_mut(), volume, path);
                        }
                    }
                    self.set_image(manifest.value_mut());
                }
                ("Deployment", AUTHORITY) => {
                    self.set_image(manifest.value_mut());
                    if let Some(trust_domain) = &self.trust_domain {
                        let value = trust_domain.to_string();
                        set_option(manifest.value_mut(), "--trust-domain", &value);
                    }
                }
                _ => {}
            }
        }
        manifests.extend(self.trust_domain.as_ref().map(mesh_config));
        Ok(manifests)
    }

    fn set_image(&self, workload: &mut Value) {
        let Some(image) = &self.image else {
            return;
        };
        for container in named(workload, "/spec/template/spec/containers") {
            container["image"] = image.as_str().into();
        }
    }
}

fn mesh_config(trust_domain: &TrustDomain) -> Manifest {
    let value = json!({
        "apiVersion": "isthmus.dev/v1alpha1",
        "kind": "MeshConfig",
        "metadata": {"name": "mesh", "namespace": NAMESPACE},
        "spec": {"trustDomain": trust_domain.to_string()},
    });
    Manifest::new(value).expect("it has all that is asked for")
}

fn named<'a>(value: &'a mut Value, list: &str) -> impl Iterator<Item = &'a mut Value> {
    let list = value.pointer_mut(list).and_then(Value::as_array_mut);
    list.into_iter().flatten()
}

fn set_host_path(workload: &mut Value, volume: &str, path: &str) {
    for it in named(workload, "/spec/template/spec/volumes").filter(|it| it["name"] == volume) {
        it["hostPath"]["path"] = path.into();
    }
}

/// Gives the option another value, in every container that has it.
fn set_option(workload: &mut Value, option: &str, value: &str) {
    let prefix = format!("{option}=");
    for container in named(workload, "/spec/template/spec/containers") {
        for argument in named(container, "/args") {
            if argument.as_str().is_some_and(|it| it.starts_with(&prefix)) {
                *argument = format!("{prefix}{value}").into();
            }
        }
    }
}
