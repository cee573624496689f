//! What a person sees with `bpftool`: names, types, pins, and one attachment for all pods.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use isthmus_tests::mesh::{Mtls, Node};
use serde_json::Value;

use crate::pair::Pair;

/// Every program and map bears the project's name, BTF that makes dumps legible, and a pin.
#[test]
fn maps_and_programs_read_well() -> Result<()> {
    let pair = Pair::new(Mtls::Strict)?;
    let _blue = pair.server.serve("serve banner blue")?;
    pair.client
        .client(&format!("connect {}", pair.server.v4(8080)))?;
    let maps = pair.a.pin_dir().join("maps");
    let mut types = Vec::new();
    for name in names(&maps)? {
        let map = bpftool(&pair, &["map", "show", "pinned", &text(&maps.join(&name))?])?;
        ensure!(map["name"] == name.as_str(), "{name} is called {map}");
        // The kernel takes no BTF for a sockhash.
        ensure!(
            map["btf_id"].as_u64().is_some_and(|id| id > 0) || map["type"] == "sockhash",
            "no BTF: {map}"
        );
        types.push((name, map["type"].as_str().unwrap_or_default().to_owned()));
    }
    let types: Vec<_> = types
        .iter()
        .map(|(a, b)| (a.as_str(), b.as_str()))
        .collect();
    ensure!(
        types
            == [
                ("isthmus_accept", "sk_storage"),
                ("isthmus_agent", "sk_storage"),
                ("isthmus_budget", "percpu_array"),
                ("isthmus_cgroups", "hash"),
                ("isthmus_client", "sk_storage"),
                ("isthmus_count", "percpu_array"),
                ("isthmus_dests", "hash"),
                ("isthmus_devices", "array"),
                ("isthmus_forward", "array"),
                ("isthmus_listen", "sockhash"),
                ("isthmus_meta", "array"),
                ("isthmus_orig", "sk_storage"),
                ("isthmus_peer", "sk_storage"),
                ("isthmus_pods", "hash"),
                ("isthmus_probes", "hash"),
                ("isthmus_realip", "hash"),
                ("isthmus_usage", "hash"),
            ],
        "{types:?}"
    );
    let pods = bpftool(
        &pair,
        &["map", "dump", "pinned", &text(&maps.join("isthmus_pods"))?],
    )?;
    ensure!(
        pods.as_array().is_some_and(|pods| pods.len() == 1),
        "{pods}"
    );
    let pod = &pods[0]["formatted"]["value"];
    let cgroup = pair.client.cgroup().context("a cgroup")?.path().to_owned();
    ensure!(
        pod["cgroup_id"] == std::fs::metadata(cgroup)?.ino(),
        "{pods}"
    );
    for field in ["depth", "flags", "port", "ipv4", "ipv6"] {
        ensure!(!pod[field].is_null(), "no field {field} in {pods}");
    }
    let guarded = text(&maps.join("isthmus_cgroups"))?;
    let guarded = bpftool(&pair, &["map", "dump", "pinned", &guarded])?;
    ensure!(
        guarded[0]["formatted"]["value"]["flags"] == 1
            && guarded[0]["formatted"]["key"] == pod["cgroup_id"],
        "{guarded}"
    );
    Ok(())
}

/// Each kind of program is attached once, to the parent of all pods' cgroups; the pods' own
/// cgroups have none, and one sk_lookup program serves all namespaces.
#[test]
fn one_attachment_serves_all_pods() -> Result<()> {
    let pair = Pair::new(Mtls::Strict)?;
    let more = [pair.a.pod("second")?, pair.a.pod("third")?];
    for pod in &more {
        pair.a.wait_state(&pod.uid(), "enrolled")?;
    }
    let cgroup = pair.client.cgroup().context("a cgroup")?.path();
    let parent = cgroup.parent().context("the pods cgroup")?;
    let parent_id = std::fs::metadata(parent)?.ino();
    let links = links(&pair, &pair.a)?;
    let mut on_parent = Vec::new();
    let mut lookups = Vec::new();
    for (pin, link) in &links {
        let program = bpftool(&pair, &["prog", "show", "id", &link["prog_id"].to_string()])?;
        let name = program["name"].as_str().unwrap_or_default().to_owned();
        ensure!(name.starts_with("isthmus_"), "{pin}: {program}");
        ensure!(
            program["btf_id"].as_u64().is_some_and(|id| id > 0),
            "{program}"
        );
        if link["type"] == "netns" {
            ensure!(pin.starts_with("sk_lookup_"), "{pin}: {link}");
            ensure!(link["attach_type"] == "sk_lookup", "{link}");
            lookups.push((link["prog_id"].clone(), link["netns_ino"].clone()));
        } else {
            ensure!(link["type"] == "cgroup", "{pin}: {link}");
            ensure!(link["cgroup_id"] == parent_id, "{pin} is elsewhere: {link}");
            on_parent.push((
                name,
                link["attach_type"].as_str().unwrap_or_default().to_owned(),
            ));
        }
    }
    on_parent.sort();
    let on_parent: Vec<_> = on_parent
        .iter()
        .map(|(a, b)| (a.as_str(), b.as_str()))
        .collect();
    ensure!(
        on_parent
            == [
                ("isthmus_conn4", "cgroup_inet4_connect"),
                ("isthmus_conn6", "cgroup_inet6_connect"),
                ("isthmus_egress", "cgroup_inet_egress"),
                ("isthmus_ingress", "cgroup_inet_ingress"),
                ("isthmus_peer4", "cgroup_inet4_getpeername"),
                ("isthmus_peer6", "cgroup_inet6_getpeername"),
                ("isthmus_sockops", "cgroup_sock_ops"),
            ],
        "{on_parent:?}"
    );
    ensure!(lookups.len() == 3, "{lookups:?}");
    ensure!(
        lookups.iter().all(|(program, _)| *program == lookups[0].0),
        "{lookups:?}"
    );
    for pod in [&pair.client, &more[0], &more[1]] {
        let inode = std::fs::metadata(pod.netns().path())?.ino();
        ensure!(
            lookups.iter().any(|(_, netns)| *netns == inode),
            "{lookups:?}"
        );
        let own = pod.cgroup().context("a cgroup")?.path();
        let own = bpftool(&pair, &["cgroup", "show", &text(own)?])?;
        ensure!(own.as_array().is_none_or(Vec::is_empty), "{own}");
    }
    Ok(())
}

/// The pinned links of a node, by the names of their pins.
fn links(pair: &Pair, node: &Node) -> Result<Vec<(String, Value)>> {
    let folder = node.pin_dir().join("links");
    names(&folder)?
        .into_iter()
        .map(|name| {
            let link = bpftool(
                pair,
                &["link", "show", "pinned", &text(&folder.join(&name))?],
            )?;
            Ok((name, link))
        })
        .collect()
}

pub(crate) fn bpftool(pair: &Pair, words: &[&str]) -> Result<Value> {
    let mut all = vec!["-j"];
    all.extend(words);
    // Wherever it runs: what it shows is the whole machine's.
    let output = pair.client.run("bpftool", &all)?.success()?;
    if output.trim().is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_str(&output).with_context(|| format!("bpftool {words:?} said {output}"))
}

fn names(folder: &Path) -> Result<Vec<String>> {
    let mut names = std::fs::read_dir(folder)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

pub(crate) fn text(path: &Path) -> Result<String> {
    Ok(path.to_str().context("a path in UTF-8")?.to_owned())
}
