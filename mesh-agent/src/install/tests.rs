//! The manifests as a whole, without a cluster: that each is what its type knows, that they
//! fit together, and that what they start understands its options.

mod consistency;
mod definitions;
mod types;

use std::path::{Path, PathBuf};

use super::*;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

/// What each overlay makes, beside its folder.
fn all_builds() -> Vec<(String, Vec<Manifest>)> {
    let overlays = FILES.iter().filter_map(|file| {
        let folder = file.path.strip_suffix("/kustomization.yaml")?;
        folder.starts_with("overlays/").then_some(folder)
    });
    let folders: Vec<&str> = [""].into_iter().chain(overlays).collect();
    assert!(folders.len() > 5, "{folders:?}");
    let built = folders
        .into_iter()
        .map(|folder| (folder.to_owned(), build(folder).unwrap()));
    built.collect()
}

fn find<'a>(manifests: &'a [Manifest], kind: &str, name: &str) -> &'a Manifest {
    let mut all = manifests.iter();
    all.find(|it| it.kind() == kind && it.name() == name)
        .unwrap_or_else(|| panic!("no {kind} {name}"))
}

#[test]
fn the_binary_has_every_file_of_the_folder() {
    fn walk(dir: &Path, root: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, root, found);
            } else {
                let path = path.strip_prefix(root).unwrap();
                found.push(path.to_str().unwrap().to_owned());
            }
        }
    }
    let mut there = Vec::new();
    walk(&folder(), &folder(), &mut there);
    there.sort();
    let embedded: Vec<&str> = FILES.iter().map(|file| file.path).collect();
    assert_eq!(embedded, there);
}

#[test]
fn every_file_is_of_some_overlay() {
    let used: String = FILES
        .iter()
        .filter(|file| file.path.ends_with("kustomization.yaml"))
        .map(|file| file.text)
        .collect();
    for file in FILES {
        let name = file.path.rsplit('/').next().unwrap();
        assert!(
            name == "kustomization.yaml" || used.contains(&format!(" {name}\n")),
            "{} is in no kustomization",
            file.path
        );
    }
}

#[test]
fn every_platform_has_its_overlay() {
    for platform in Platform::ALL {
        assert!(build(platform.folder()).is_ok(), "{platform}");
    }
}

#[test]
fn a_patch_changes_what_it_names_and_leaves_the_rest() {
    let generic = build("").unwrap();
    let k3s = build("overlays/k3s").unwrap();
    let path = |manifests: &[Manifest], volume: &str| {
        let agent = find(manifests, "DaemonSet", AGENT).value();
        let volumes = agent["spec"]["template"]["spec"]["volumes"]
            .as_array()
            .unwrap();
        let volume = volumes.iter().find(|it| it["name"] == volume).unwrap();
        volume["hostPath"]["path"].as_str().unwrap().to_owned()
    };
    assert_eq!(path(&generic, "cni-conf"), "/etc/cni/net.d");
    assert_eq!(
        path(&k3s, "cni-conf"),
        "/var/lib/rancher/k3s/agent/etc/cni/net.d"
    );
    assert_eq!(path(&k3s, "run"), path(&generic, "run"));
    let openshift = build("overlays/openshift").unwrap();
    let authority = find(&openshift, "Deployment", AUTHORITY).value();
    let context = &authority["spec"]["template"]["spec"]["securityContext"];
    assert!(context.get("runAsUser").is_none(), "null removes");
    assert_eq!(context["runAsNonRoot"], true);
}

#[test]
fn choices_go_into_the_manifests() {
    let settings = Settings {
        platform: Platform::Gke,
        image: Some("registry.example/mesh:2".into()),
        trust_domain: Some(crate::identity::TrustDomain::new("corp.example").unwrap()),
        cni_conf_dir: Some("/srv/net.d".into()),
        cni_bin_dir: None,
    };
    let manifests = settings.manifests().unwrap();
    let agent = find(&manifests, "DaemonSet", AGENT).value().to_string();
    let authority = find(&manifests, "Deployment", AUTHORITY)
        .value()
        .to_string();
    assert!(agent.contains(r#""path":"/srv/net.d""#) && !agent.contains("/etc/cni/net.d\",\"type"));
    assert!(agent.contains(r#""path":"/home/kubernetes/bin""#));
    for text in [&agent, &authority] {
        assert!(text.contains("registry.example/mesh:2") && !text.contains("isthmus/mesh-agent:"));
    }
    assert!(authority.contains("--trust-domain=corp.example"));
    let mesh = find(&manifests, "MeshConfig", "mesh").value();
    assert_eq!(mesh["spec"]["trustDomain"], "corp.example");
}
