//! Pods whose object is gone while their processes run: closed in both directions, guarded until
//! the processes have ended, and never taken for pods that left the mesh.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use isthmus_tests::mesh::{Mtls, Node, Pod, PodSpec};
use isthmus_tests::traffic::Talk;
use isthmus_tests::wait::wait_until;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::Value;

use crate::asked::{Crossing, crossing, live, wait_unknown};
use crate::pair::Pair;

/// Fails unless nothing enters or leaves the pod: plaintext from `outsider`, and what the pod
/// itself opens to it, of which no SYN crosses the bridge.
fn ensure_closed(pair: &Pair, pod: &Pod, outsider: &Pod) -> Result<()> {
    for to in [pod.v4(8080), pod.v6(8080)] {
        let seen = outsider.client(&format!("connect {to} --send x"))?;
        let errno = seen["errno"].as_str().unwrap_or_default();
        ensure!(
            ["ECONNREFUSED", "ECONNRESET"].contains(&errno) && seen["read"] != "x\n",
            "into the pod, to {to}: {seen}"
        );
    }
    let capture = pair.mesh.capture()?;
    for to in [outsider.v4(8080), outsider.v6(8080)] {
        let seen = pod.client(&format!("connect {to} --send marker-Q7x"))?;
        ensure!(
            seen["connected"] == false,
            "out of the pod, to {to}: {seen}"
        );
    }
    let recording = capture.stop()?;
    let syns = recording.syns();
    let own = syns
        .iter()
        .filter(|syn| pod.addresses().contains(&syn.from.ip()));
    let own: Vec<_> = own.collect();
    ensure!(own.is_empty(), "SYNs left the pod: {own:?}");
    Ok(())
}

/// Fails unless the kernel knows no pod of the node.
fn ensure_kernel_forgot(node: &Node, outside: &Pod) -> Result<()> {
    for map in ["isthmus_pods", "isthmus_cgroups"] {
        let path = node.pin_dir().join("maps").join(map);
        let path = path.to_str().context("a path in UTF-8")?;
        let dump = outside.run("bpftool", &["-j", "map", "dump", "pinned", path])?;
        let dump: Value = serde_json::from_str(&dump.success()?)?;
        ensure!(dump == serde_json::json!([]), "{map}: {dump}");
    }
    ensure!(lookups(node)? == 0, "a link to the namespace stayed");
    Ok(())
}

/// Waits until the agent has brought the node in line with its configuration.
fn wait_settled(node: &Node) -> Result<()> {
    let generation = node.cli("status")?["config"]["generation"].clone();
    wait_until("the configuration is in force", || {
        let is_it = |line: &Value| {
            line["message"] == "configuration in force" && line["generation"] == generation
        };
        node.log().is_ok_and(|lines| lines.iter().any(is_it))
    })
}

/// How many links to pods' namespaces are pinned.
fn lookups(node: &Node) -> Result<usize> {
    let links = fs::read_dir(node.pin_dir().join("links"))?;
    let names = links.flatten().map(|link| link.file_name());
    Ok(names
        .filter(|it| it.to_string_lossy().contains("lookup"))
        .count())
}

#[test]
fn core_orphan_is_closed_under_permissive() -> Result<()> {
    orphan_is_closed(Mtls::Permissive)
}

#[test]
fn orphan_is_closed_under_strict() -> Result<()> {
    orphan_is_closed(Mtls::Strict)
}

/// The object is removed while a process of the pod runs: the pod is closed, its connections are
/// cut with a reason, and its state is shown; when the process ends, the kernel knows nothing of
/// it any more.
fn orphan_is_closed(mode: Mtls) -> Result<()> {
    let mut pair = Pair::new(mode)?;
    let outsider = pair.mesh.outsider("outsider")?;
    let echo = pair.server.serve("serve echo")?;
    let _outside = outsider.serve("serve echo")?;
    let talk = Talk::open(&pair.client, pair.server.v4(8080))?;
    pair.server.forget()?;
    pair.b.wait_state(&pair.server.uid(), "orphaned")?;
    ensure!(talk.end()? == "ECONNRESET");
    let line = pair.b.wait_access("the connection that was cut", |line| {
        line["direction"] == "inbound" && line["outcome"] == "cut"
    })?;
    ensure!(line["reason"] == "POD_DELETED", "{line}");
    ensure_closed(&pair, &pair.server, &outsider)?;
    let uid = pair.server.uid();
    wait_until("the refusal is logged with its reason", || {
        let told = |line: &Value| {
            line["target"] == "kernel" && line["reason"] == "POD_DELETED" && line["pod"] == uid
        };
        pair.b.log().is_ok_and(|lines| lines.iter().any(told))
    })?;
    let problems = pair.b.cli("problems")?.to_string();
    ensure!(problems.contains("its processes run"), "{problems}");
    let audit = pair.b.cli("audit")?;
    ensure!(audit["pods"][0]["state"] == "orphaned", "{audit}");

    drop(echo);
    wait_unknown(&pair.b, &pair.server)?;
    ensure_kernel_forgot(&pair.b, &outsider)?;
    let problems = pair.b.cli("problems")?.to_string();
    ensure!(!problems.contains("its processes run"), "{problems}");
    Ok(())
}

/// Under PERMISSIVE, connections that are older than the enrolment end with the object too.
#[test]
fn orphan_loses_connections_older_than_its_enrolment() -> Result<()> {
    let pair = Pair::start()?;
    let outsider = pair.mesh.outsider("outsider")?;
    let mut late = pair.b.pod_with(PodSpec::new("late").outside())?;
    let _echo = (late.serve("serve echo")?, outsider.serve("serve echo")?);
    let old = [
        Talk::open(&outsider, late.v4(8080))?,
        Talk::open(&late, outsider.v6(8080))?,
    ];
    late.configure()?;
    pair.b.wait_enrolled(&late)?;
    old.iter().try_for_each(Talk::ask)?;
    late.forget()?;
    for talk in &old {
        let end = talk.end()?;
        let reset = ["ECONNABORTED", "ECONNRESET"].contains(&end.as_str());
        ensure!(reset, "it ended as {end}");
    }
    pair.b.wait_state(&late.uid(), "orphaned")
}

/// An orphan leaves the mesh when its object comes back and says so, and is enrolled again when
/// it comes back as it was.
#[test]
fn orphan_follows_its_object_when_that_comes_back() -> Result<()> {
    let mut pair = Pair::start()?;
    let _echo = pair.server.serve("serve echo")?;
    pair.server.forget()?;
    pair.b.wait_state(&pair.server.uid(), "orphaned")?;
    pair.server.configure()?;
    pair.b.wait_enrolled(&pair.server)?;
    pair.a.wait_state(&pair.server.uid(), "remote")?;
    ensure!(crossing(&pair.mesh, &pair.client, &pair.server)? == Crossing::Encrypted);

    pair.server.forget()?;
    pair.b.wait_state(&pair.server.uid(), "orphaned")?;
    pair.server.leave()?;
    pair.b.wait_state(&pair.server.uid(), "outside-mesh")?;
    pair.a.wait_state(&pair.server.uid(), "outside-mesh")?;
    ensure!(crossing(&pair.mesh, &pair.client, &pair.server)? == Crossing::Plain);
    let outsider = pair.mesh.outsider("outsider")?;
    ensure_kernel_forgot(&pair.b, &outsider)
}

/// A pod that an earlier agent enrolled and that no object names when the next one starts: it
/// stays guarded, is shown, and is released when its process ends.
#[test]
fn orphan_of_an_earlier_agent_stays_guarded() -> Result<()> {
    let mut pair = Pair::start()?;
    let outsider = pair.mesh.outsider("outsider")?;
    let echo = pair.server.serve("serve echo")?;
    let _outside = outsider.serve("serve echo")?;
    pair.b.kill9()?;
    pair.server.forget()?;
    pair.b.start()?;
    let orphans = || -> Result<Vec<Value>> {
        let all = pair.b.cli("workloads")?;
        let all = all.as_array().context("a list")?.clone();
        let orphaned = all.into_iter().filter(|it| it["state"] == "orphaned");
        Ok(orphaned.collect())
    };
    ensure!(orphans()?.len() == 1, "{:?}", orphans());
    ensure_closed(&pair, &pair.server, &outsider)?;
    drop(echo);
    wait_until("it is released", || {
        orphans().is_ok_and(|orphans| orphans.is_empty())
    })?;
    ensure_kernel_forgot(&pair.b, &outsider)
}

/// The Namespace object is removed: that does not say that its pods leave the mesh.
#[test]
fn namespace_object_that_is_gone_releases_no_pod() -> Result<()> {
    let pair = Pair::start()?;
    let _echo = pair.server.serve("serve echo")?;
    let talk = Talk::open(&pair.client, pair.server.v4(8080))?;
    pair.a
        .after(|| pair.b.after(|| pair.mesh.remove("namespace-default")))?;
    talk.ask()?;
    pair.wait_enrolled()?;
    ensure!(crossing(&pair.mesh, &pair.client, &pair.server)? == Crossing::Encrypted);
    talk.close()
}

/// Another path of a network namespace; removed on drop.
struct Alias(PathBuf);

impl Alias {
    fn of(pod: &Pod, pair: &Pair) -> Result<Self> {
        let path = pair.mesh.scratch().join("alias");
        fs::write(&path, "")?;
        let none = None::<&str>;
        mount(
            Some(pod.netns().path()),
            &path,
            none,
            MsFlags::MS_BIND,
            none,
        )?;
        Ok(Self(path))
    }
}

impl Drop for Alias {
    fn drop(&mut self) {
        let unmounted = umount2(&self.0, MntFlags::MNT_DETACH);
        if let Err(error) = unmounted
            .map_err(Into::into)
            .and_then(|()| fs::remove_file(&self.0))
        {
            eprintln!("{} stays behind: {error}", self.0.display());
        }
    }
}

/// The inodes of the pinned links to namespaces: one that is made again has another.
fn lookup_inodes(node: &Node) -> Result<Vec<u64>> {
    use std::os::unix::fs::MetadataExt;
    let links = fs::read_dir(node.pin_dir().join("links"))?;
    let lookups = links.flatten().map(|link| link.path());
    let lookups = lookups.filter(|path| path.to_string_lossy().contains("lookup"));
    lookups.map(|path| Ok(fs::metadata(path)?.ino())).collect()
}

/// The same namespace under another path is the same pod: nothing is released, and its
/// connections go on.
#[test]
fn pod_with_another_path_of_its_namespace_is_enrolled_in_place() -> Result<()> {
    let pair = Pair::start()?;
    let _echo = pair.server.serve("serve echo")?;
    let talk = Talk::open(&pair.client, pair.server.v4(8080))?;
    let before = (live(&pair.a, "outbound")?, lookup_inodes(&pair.a)?);
    let alias = Alias::of(&pair.client, &pair)?;
    let own = pair.client.netns().path().display().to_string();
    let moved = pair
        .client
        .yaml()?
        .replace(&own, &alias.0.display().to_string());
    pair.a
        .after(|| pair.mesh.write("pod-default-client", &moved))?;
    wait_settled(&pair.a)?;
    talk.ask()?;
    let after = (live(&pair.a, "outbound")?, lookup_inodes(&pair.a)?);
    ensure!(after.0["id"] == before.0["id"], "{before:?} {after:?}");
    ensure!(
        after.1 == before.1,
        "released in between: {before:?} {after:?}"
    );
    pair.a.wait_enrolled(&pair.client)?;
    ensure!(crossing(&pair.mesh, &pair.client, &pair.server)? == Crossing::Encrypted);
    pair.client.configure_again()?;
    pair.a.wait_enrolled(&pair.client)?;
    talk.close()
}

/// A pod whose object names another namespace: the new one is enrolled, and the old one stays
/// closed until nothing runs in it.
#[test]
fn pod_with_another_namespace_leaves_the_old_one_closed() -> Result<()> {
    let pair = Pair::start()?;
    let outsider = pair.mesh.outsider("outsider")?;
    let _outside = outsider.serve("serve echo")?;
    let next = pair.b.pod_with(PodSpec::new("next").outside())?;
    let old = pair.server.serve("serve echo")?;
    let _new = next.serve("serve echo")?;
    let moved = next.yaml()?.replace("name: next", "name: server");
    let moved = moved.replace("serviceAccountName: next", "serviceAccountName: server");
    pair.b.after(|| {
        pair.a
            .after(|| pair.mesh.write("pod-default-server", &moved))
    })?;
    wait_settled(&pair.b)?;
    pair.b.wait_enrolled(&pair.server)?;
    ensure!(lookups(&pair.b)? == 2);
    ensure_closed(&pair, &pair.server, &outsider)?;
    ensure!(crossing(&pair.mesh, &pair.client, &next)? == Crossing::Encrypted);
    drop(old);
    wait_until("the old namespace is released", || {
        lookups(&pair.b).is_ok_and(|links| links == 1)
    })?;
    ensure!(crossing(&pair.mesh, &pair.client, &next)? == Crossing::Encrypted);
    Ok(())
}

/// An orphan's addresses are given to another pod of the node: that one is enrolled and reached,
/// before and after the orphan is released.
#[test]
fn orphan_shares_no_listener_with_the_next_pod_of_its_addresses() -> Result<()> {
    let mut pair = Pair::start()?;
    let echo = pair.server.serve("serve echo")?;
    pair.server.forget()?;
    pair.b.wait_state(&pair.server.uid(), "orphaned")?;
    // Only one of the two answers for the addresses.
    pair.server.netns().ip("link set eth0 down")?;
    let spec = PodSpec::new("newcomer").addresses(pair.server.addresses());
    let newcomer = pair.b.pod_with(spec)?;
    pair.b.wait_enrolled(&newcomer)?;
    pair.a.wait_state(&newcomer.uid(), "remote")?;
    pair.client.netns().ip("neigh flush all")?;
    let _echo = newcomer.serve("serve echo")?;
    ensure!(crossing(&pair.mesh, &pair.client, &newcomer)? == Crossing::Encrypted);
    drop(echo);
    wait_unknown(&pair.b, &pair.server)?;
    ensure!(crossing(&pair.mesh, &pair.client, &newcomer)? == Crossing::Encrypted);
    Ok(())
}
