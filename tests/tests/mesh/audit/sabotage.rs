//! What somebody with the powers of root could take away behind the agent's back, with
//! `bpftool`, `ss` and bpf(2).

#![expect(unsafe_code, reason = "bpf(2) takes raw pointers")]

use std::ffi::CString;
use std::fs;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use isthmus_tests::mesh::{Node, Pod};
use isthmus_tests::process::run;
use serde_json::Value;

type Act = fn(&Node, &Pod) -> Result<()>;

/// One act, and what the repair of it is counted as.
pub(super) struct Sabotage {
    pub(super) name: &'static str,
    pub(super) what: &'static str,
    pub(super) act: Act,
}

/// Against programs, links and pins.
pub(super) fn programs() -> Vec<Sabotage> {
    let detached: [(&str, Act); 7] = [
        ("the guard's ingress is detached", |node, _| {
            detach(node, "ingress")
        }),
        ("the guard's egress is detached", |node, _| {
            detach(node, "egress")
        }),
        ("sock_ops is detached", |node, _| detach(node, "sock_ops")),
        ("getpeername4 is detached", |node, _| {
            detach(node, "getpeername4")
        }),
        ("getpeername6 is detached", |node, _| {
            detach(node, "getpeername6")
        }),
        ("connect4 is detached", |node, _| detach(node, "connect4")),
        ("connect6 is detached", |node, _| detach(node, "connect6")),
    ];
    let detached = detached.map(|(name, act)| Sabotage {
        name,
        what: "program",
        act,
    });
    let others: [(&str, &str, Act); 9] = [
        ("the pod gets another device", "device", |_, pod| {
            pod.netns().ip("link add net1 type veth peer name net1-end")
        }),
        ("sk_lookup is detached", "sk_lookup", |node, pod| {
            detach(node, &lookup_pin(node, pod)?)
        }),
        ("sk_lookup is unpinned", "pin", |node, pod| {
            unpin(node, &format!("links/{}", lookup_pin(node, pod)?))
        }),
        ("connect4 is unpinned", "pin", |node, _| {
            unpin(node, "links/connect4")
        }),
        ("the guard is unpinned", "pin", |node, _| {
            unpin(node, "links/egress")
        }),
        ("a map is unpinned", "pin", |node, _| {
            unpin(node, "maps/isthmus_pods")
        }),
        ("all pins are removed", "pin", |node, _| {
            Ok(fs::remove_dir_all(node.pin_dir())?)
        }),
        ("connect6 is replaced", "program_replaced", |node, _| {
            replace(node, "connect6", "connect4")
        }),
        ("the guard is replaced", "program_replaced", |node, _| {
            replace(node, "ingress", "egress")
        }),
    ];
    let others = others.map(|(name, what, act)| Sabotage { name, what, act });
    detached.into_iter().chain(others).collect()
}

/// Against what the maps hold, and the listener.
pub(super) fn state() -> Vec<Sabotage> {
    let all: [(&str, &str, Act); 7] = [
        ("the pod's entry is deleted", "pod_entry", |node, pod| {
            remove_entry(node, "isthmus_pods", pod)
        }),
        ("the pod's port is changed", "pod_entry", |node, pod| {
            change(node, "isthmus_pods", pod, |value| value[48] ^= 1)
        }),
        (
            "the guard's entry is deleted",
            "guard_entry",
            |node, pod| remove_entry(node, "isthmus_cgroups", pod),
        ),
        ("the guard is made PERMISSIVE", "mode", |node, pod| {
            change(node, "isthmus_cgroups", pod, |value| value[8] = 0)
        }),
        ("the slots are emptied", "slot", |node, pod| {
            pod.addresses()
                .iter()
                .try_for_each(|address| empty_slot(node, *address))
        }),
        ("the level is changed", "settings", |node, pod| {
            change(node, "isthmus_meta", pod, |value| value[12] = 9)
        }),
        ("the listener is closed", "listener", close_listener),
    ];
    let all = all.map(|(name, what, act)| Sabotage { name, what, act });
    all.into()
}

fn detach(node: &Node, link: &str) -> Result<()> {
    let pin = node.pin_dir().join("links").join(link);
    bpftool(&["link", "detach", "pinned", text(&pin)?]).map(drop)
}

fn unpin(node: &Node, pin: &str) -> Result<()> {
    Ok(fs::remove_file(node.pin_dir().join(pin))?)
}

/// Takes all filters off the pod's device, with the place that they are in.
pub(super) fn remove_filters(pod: &Pod) -> Result<()> {
    let mut command = Command::new("tc");
    command.args(["-n", pod.netns().name()]);
    command.args(["qdisc", "del", "dev", "eth0", "clsact"]);
    run(command)?.success().map(drop)
}

/// The pin of the one link to the pod's namespace.
fn lookup_pin(node: &Node, pod: &Pod) -> Result<String> {
    let cookie = key(node, "isthmus_pods", pod)?;
    let cookie: [u8; 8] = cookie[..].try_into()?;
    Ok(format!("sk_lookup_{}", u64::from_ne_bytes(cookie)))
}

/// Removes the pod's entry of a map.
pub(super) fn remove_entry(node: &Node, map: &str, pod: &Pod) -> Result<()> {
    let pin = node.pin_dir().join("maps").join(map);
    let key = hex(&key(node, map, pod)?);
    let mut words = vec!["map", "delete", "pinned", text(&pin)?, "key", "hex"];
    words.extend(key.iter().map(String::as_str));
    bpftool(&words).map(drop)
}

/// Writes the pod's entry of a map anew, changed.
fn change(node: &Node, map: &str, pod: &Pod, change: impl Fn(&mut [u8])) -> Result<()> {
    let pin = node.pin_dir().join("maps").join(map);
    let (key, mut value) = entry(node, map, pod)?;
    change(&mut value);
    let (key, value) = (hex(&key), hex(&value));
    let mut words = vec!["map", "update", "pinned", text(&pin)?, "key", "hex"];
    words.extend(key.iter().map(String::as_str));
    words.extend(["value", "hex"]);
    words.extend(value.iter().map(String::as_str));
    bpftool(&words).map(drop)
}

fn empty_slot(node: &Node, address: IpAddr) -> Result<()> {
    let pin = node.pin_dir().join("maps/isthmus_listen");
    let key = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    let key = hex(&key);
    let mut words = vec!["map", "delete", "pinned", text(&pin)?, "key", "hex"];
    words.extend(key.iter().map(String::as_str));
    bpftool(&words).map(drop)
}

/// Has the kernel close the agent's listener in the pod.
fn close_listener(node: &Node, pod: &Pod) -> Result<()> {
    let (_, value) = entry(node, "isthmus_pods", pod)?;
    let port = u16::from_ne_bytes([value[48], value[49]]);
    let filter = format!("sport = :{port}");
    let closed = pod
        .run("ss", &["-K", "-H", "-l", "-t", "-n", &filter])?
        .success()?;
    ensure!(
        closed.contains(&port.to_string()),
        "nothing was closed: {closed}"
    );
    Ok(())
}

fn key(node: &Node, map: &str, pod: &Pod) -> Result<Vec<u8>> {
    Ok(entry(node, map, pod)?.0)
}

/// The pod's entry: the one that holds its cgroup's id, or the only one there is.
fn entry(node: &Node, map: &str, pod: &Pod) -> Result<(Vec<u8>, Vec<u8>)> {
    use std::os::unix::fs::MetadataExt;
    let pin = node.pin_dir().join("maps").join(map);
    let id = fs::metadata(pod.cgroup().context("a cgroup")?.path())?.ino();
    let dump = bpftool(&["map", "dump", "pinned", text(&pin)?])?;
    let all = dump.as_array().context("a list of entries")?;
    let mut entries = Vec::new();
    for entry in all {
        entries.push((bytes(&entry["key"])?, bytes(&entry["value"])?));
    }
    let id = id.to_ne_bytes();
    let of_pod = |(key, value): &&(Vec<u8>, Vec<u8>)| key[..] == id || value.starts_with(&id);
    let only = entries.len() == 1;
    let found = entries
        .iter()
        .find(of_pod)
        .or_else(|| entries.first().filter(|_| only));
    found
        .cloned()
        .with_context(|| format!("no entry of the pod in {dump}"))
}

/// Puts the program of one link into another.
fn replace(node: &Node, link: &str, by: &str) -> Result<()> {
    /// `enum bpf_cmd` of uapi/linux/bpf.h.
    const LINK_UPDATE: i64 = 29;
    const PROG_GET_FD_BY_ID: i64 = 13;
    const OBJ_GET: i64 = 7;
    let pins = node.pin_dir().join("links");
    let shown = bpftool(&["link", "show", "pinned", text(&pins.join(by))?])?;
    let id = u32::try_from(shown["prog_id"].as_u64().context("a program")?)?;
    let path = CString::new(pins.join(link).as_os_str().as_bytes())?;
    let link = bpf_fd(OBJ_GET, &[path.as_ptr().addr() as u64, 0])?;
    let program = bpf_fd(PROG_GET_FD_BY_ID, &[u64::from(id), 0])?;
    let attr = [link.as_raw_fd() as u32, program.as_raw_fd() as u32, 0, 0];
    bpf(LINK_UPDATE, &attr).map(drop)
}

fn bpf_fd(command: i64, attr: &[u64; 2]) -> Result<OwnedFd> {
    let fd = bpf(command, attr)?;
    // SAFETY: these commands return a descriptor that is the caller's.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd)?) })
}

fn bpf<T>(command: i64, attr: &T) -> Result<i64> {
    // SAFETY: every `attr` here is a prefix of `union bpf_attr` for its command, and the
    // pointer in it, if any, is to a string that outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<T>()) };
    if result < 0 {
        return Err(std::io::Error::last_os_error()).context("bpf(2)");
    }
    Ok(result)
}

fn bpftool(words: &[&str]) -> Result<Value> {
    let mut command = Command::new("bpftool");
    command.arg("-j").args(words);
    let output = run(command)?
        .success()
        .with_context(|| format!("bpftool {words:?}"))?;
    if output.trim().is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_str(&output).with_context(|| format!("bpftool {words:?} said {output}"))
}

/// A dump's bytes, which are written as `"0x0a"`.
fn bytes(list: &Value) -> Result<Vec<u8>> {
    let list = list.as_array().context("a list of bytes")?;
    let byte = |text: &Value| {
        let text = text.as_str().context("a byte")?;
        Ok(u8::from_str_radix(text.trim_start_matches("0x"), 16)?)
    };
    list.iter().map(byte).collect()
}

fn hex(bytes: &[u8]) -> Vec<String> {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path in UTF-8")
}
