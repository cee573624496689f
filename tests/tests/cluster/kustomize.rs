//! The installer makes of the manifests what `kubectl kustomize` makes of them.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use isthmus_tests::cluster::Cluster;
use isthmus_tests::process;
use serde::Deserialize;
use serde_json::Value;

#[test]
fn the_installer_makes_of_overlays_what_kubectl_does() -> Result<()> {
    let cluster = Cluster::attach()?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    let deploy = root
        .context("the tests lie in the repository")?
        .join("deploy");
    let mut platforms = vec![("generic".to_owned(), deploy.clone())];
    for overlay in deploy.join("overlays").read_dir()? {
        let overlay = overlay?;
        let name = overlay.file_name().to_string_lossy().into_owned();
        // Not a platform: what the installer chooses by looking at the cluster.
        if name != "istio-crds" {
            platforms.push((name, overlay.path()));
        }
    }
    ensure!(platforms.len() > 5, "only {platforms:?}");
    for (platform, folder) in platforms {
        let folder = folder.to_str().context("a path in UTF-8")?;
        let wanted = objects(&cluster.kubectl(&["kustomize", folder])?)?;
        let mut install = Command::new(process::own_program("mesh-agent")?);
        install.args(["install", "--dry-run", "--platform", &platform]);
        let made = objects(&process::run(install)?.success()?)?;
        ensure!(wanted.len() > 10, "{platform}: {wanted:#?}");
        let names = |all: &BTreeMap<_, _>| all.keys().cloned().collect::<Vec<String>>();
        ensure!(
            names(&made) == names(&wanted),
            "{platform}: installed are {:#?}, kustomize makes {:#?}",
            names(&made),
            names(&wanted)
        );
        for (name, object) in &wanted {
            ensure!(
                &made[name] == object,
                "{platform}: {name} is installed as {:#}, kustomize makes {object:#}",
                made[name]
            );
        }
    }
    Ok(())
}

/// The objects of a stream of YAML by kind, namespace and name.
fn objects(yaml: &str) -> Result<BTreeMap<String, Value>> {
    let mut all = BTreeMap::new();
    for document in serde_yaml_ng::Deserializer::from_str(yaml) {
        let mut object = Value::deserialize(document)?;
        if object.is_null() {
            continue;
        }
        // To the API, volumes are a map by name: a patch puts them first in one, last in the other.
        let volumes = object.pointer_mut("/spec/template/spec/volumes");
        if let Some(volumes) = volumes.and_then(Value::as_array_mut) {
            volumes.sort_by_key(|volume| volume["name"].to_string());
        }
        let meta = &object["metadata"];
        let name = format!("{} {}/{}", object["kind"], meta["namespace"], meta["name"]);
        ensure!(
            all.insert(name.clone(), object).is_none(),
            "{name} is there twice"
        );
    }
    Ok(all)
}
