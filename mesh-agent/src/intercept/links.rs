//! Attaching programs, and putting new ones in the place of old ones: every
//! attachment is a pinned link, so that it lasts while no agent runs, and an
//! existing one is updated, so that there is no instant without a program.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use mesh_common::names;

use super::error::{InterceptError, Tried};
use super::object::Programs;
use super::sys::{self, AttachType};
use super::{NetnsCookie, Options, pins};

/// Pinned links on the pods cgroup: pin, program, attach type. What guards
/// comes first, what redirects last.
pub(super) const ON_PODS: [(&str, &str, AttachType); 7] = [
    ("ingress", names::GUARD_INGRESS, AttachType::CgroupIngress),
    ("egress", names::GUARD_EGRESS, AttachType::CgroupEgress),
    ("sock_ops", names::SOCK_OPS, AttachType::CgroupSockOps),
    (
        "getpeername4",
        names::PEERNAME4,
        AttachType::CgroupGetpeername4,
    ),
    (
        "getpeername6",
        names::PEERNAME6,
        AttachType::CgroupGetpeername6,
    ),
    ("connect4", names::CONNECT4, AttachType::CgroupConnect4),
    ("connect6", names::CONNECT6, AttachType::CgroupConnect6),
];

/// One attachment of a program, as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The pin's name, or the program's where the link is not pinned.
    pub name: String,
    /// Whether the link exists and what it is attached to does too.
    pub attached: bool,
    /// The link's id; 0 when there is none.
    pub link_id: u32,
    /// The program's id; 0 when there is none.
    pub prog_id: u32,
    /// The program's name in the kernel.
    pub prog_name: String,
    /// The program's tag, as `bpftool` prints it.
    pub tag: String,
}

/// Descriptors of the links, so that a link whose pin is removed lives on and can be
/// pinned again without an instant in which nothing is attached.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// Those on the pods cgroup, by pin.
    pub(super) on_pods: HashMap<&'static str, OwnedFd>,
    /// Those to the pods' namespaces.
    pub(super) lookups: HashMap<NetnsCookie, OwnedFd>,
    /// That on the agent's cgroup, which lasts as long as the agent and is not pinned.
    pub(super) client_ops: Option<OwnedFd>,
}

/// Attaches the programs to the pods cgroup, or updates the links there; of those that
/// `which` picks by their pin. One that fails does not keep the others from it; the first
/// failure is returned.
pub(super) fn attach_to_pods(
    programs: &Programs,
    options: &Options,
    pods_cgroup_id: u64,
    held: &mut Held,
    which: impl Fn(&str) -> bool,
) -> Result<(), InterceptError> {
    let cgroup = open_directory(&options.pods_cgroup)?;
    let mut result = Ok(());
    for (pin, program, attach_type) in ON_PODS.into_iter().filter(|(pin, ..)| which(pin)) {
        let at = Place {
            path: options.pin_dir.join(names::LINKS_DIR).join(pin),
            program: programs.get(program)?,
            target: cgroup.as_fd(),
            attach_type,
            held: held.on_pods.get(pin).map(AsFd::as_fd),
        };
        let filled = at.fill(|info| info.cgroup_id == pods_cgroup_id);
        let pinned = filled.and_then(|(link, pinned)| {
            held.on_pods.insert(pin, link);
            pinned
        });
        result = result.and(pinned);
    }
    result
}

/// Attaches what publishes clients to the agent's cgroup.
pub(super) fn attach_to_agent(
    programs: &Programs,
    cgroup: &Path,
) -> Result<OwnedFd, InterceptError> {
    super::cgroup::id(cgroup)?;
    let directory = open_directory(cgroup)?;
    let program = programs.get(names::CLIENT_OPS)?;
    sys::link_create(program, directory.as_fd(), AttachType::CgroupSockOps)
        .tried(|| format!("attach {} to {}", names::CLIENT_OPS, cgroup.display()))
}

/// Attaches what writes the kubelet's connections down to its cgroup, or updates the link
/// there; a link that leads elsewhere is detached.
pub(super) fn attach_to_kubelet(
    programs: &Programs,
    options: &Options,
    cgroup: &Path,
    cgroup_id: u64,
    held: Option<BorrowedFd<'_>>,
) -> Result<OwnedFd, InterceptError> {
    let directory = open_directory(cgroup)?;
    let path = kubelet_pin(&options.pin_dir);
    let elsewhere =
        |link: BorrowedFd<'_>| sys::link_info(link).is_ok_and(|info| info.cgroup_id != cgroup_id);
    // What cannot be opened is no link of ours, and its pin is replaced.
    let pinned = sys::open_pin(&path).ok().flatten();
    for link in held.into_iter().chain(pinned.as_ref().map(AsFd::as_fd)) {
        if elsewhere(link) {
            detach(link).tried(|| format!("detach {}", path.display()))?;
        }
    }
    let at = Place {
        path,
        program: programs.get(names::KUBELET_OPS)?,
        target: directory.as_fd(),
        attach_type: AttachType::CgroupSockOps,
        held,
    };
    let (link, pinned) = at.fill(|info| info.cgroup_id == cgroup_id)?;
    pinned.map(|()| link)
}

/// Where the link to the kubelet's cgroup is pinned.
pub(super) fn kubelet_pin(pin_dir: &Path) -> PathBuf {
    pin_dir.join(names::LINKS_DIR).join(names::KUBELET_LINK)
}

/// Gives the pods' namespaces that have a link already the new program. Links
/// whose namespace is gone stay until their pod is released.
pub(super) fn update_lookups(programs: &Programs, options: &Options) -> Result<(), InterceptError> {
    let program = programs.get(names::SK_LOOKUP)?;
    for (_, path) in lookup_pins(&options.pin_dir) {
        let link = sys::open_pin(&path).tried(|| format!("open {}", path.display()))?;
        let Some(link) = link else { continue };
        match sys::link_update(link.as_fd(), program) {
            Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {}
            other => other.tried(|| format!("update {}", path.display()))?,
        }
    }
    Ok(())
}

/// Links the lookup program to a pod's namespace, or updates the link there. The second
/// result says whether it could be pinned.
pub(super) fn attach_to_netns(
    programs: &Programs,
    pin_dir: &Path,
    cookie: NetnsCookie,
    netns: BorrowedFd<'_>,
    held: Option<BorrowedFd<'_>>,
) -> Result<(OwnedFd, Result<(), InterceptError>), InterceptError> {
    let file = netns
        .try_clone_to_owned()
        .map(File::from)
        .tried(|| "duplicate the descriptor of a network namespace".to_owned())?;
    let inode = file
        .metadata()
        .tried(|| "look at a network namespace".to_owned())?
        .ino();
    let at = Place {
        path: lookup_pin(pin_dir, cookie),
        program: programs.get(names::SK_LOOKUP)?,
        target: netns,
        attach_type: AttachType::SkLookup,
        held,
    };
    at.fill(|info| u64::from(info.netns_ino) == inode)
}

/// Where the link to a pod's namespace is pinned.
pub(super) fn lookup_pin(pin_dir: &Path, cookie: NetnsCookie) -> PathBuf {
    let name = format!("{}{cookie}", names::LOOKUP_LINK_PREFIX);
    pin_dir.join(names::LINKS_DIR).join(name)
}

/// Every pinned link to a pod's namespace.
pub(super) fn lookup_pins(pin_dir: &Path) -> Vec<(NetnsCookie, PathBuf)> {
    let cookie_of = |path: &Path| {
        let name = path.file_name()?.to_str()?;
        let cookie = name.strip_prefix(names::LOOKUP_LINK_PREFIX)?;
        cookie.parse().ok().map(NetnsCookie)
    };
    pins::entries(&pin_dir.join(names::LINKS_DIR))
        .into_iter()
        .filter_map(|path| Some((cookie_of(&path)?, path)))
        .collect()
}

/// Detaches a link, whoever else holds it.
pub(super) fn detach(link: BorrowedFd<'_>) -> io::Result<()> {
    match sys::link_detach(link) {
        // What it was attached to is gone, and so it is detached.
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => Ok(()),
        other => other,
    }
}

/// Detaches a pinned link, whoever else holds it, and removes the pin.
pub(super) fn remove(path: &Path) -> Result<(), InterceptError> {
    let link = sys::open_pin(path).tried(|| format!("open {}", path.display()))?;
    if let Some(link) = link {
        detach(link.as_fd()).tried(|| format!("detach {}", path.display()))?;
    }
    pins::gone(fs::remove_file(path)).tried(|| format!("remove {}", path.display()))
}

/// Whether every link of [`ON_PODS`] runs another program than ours: an agent that takes
/// over puts its programs into all of them. A link that is missing was removed, not taken
/// over, and one that alone runs something else was tampered with.
pub(super) fn is_superseded(
    programs: &Programs,
    pin_dir: &Path,
    held: &Held,
) -> Result<bool, InterceptError> {
    let mut seen = false;
    // The last one first: it is the last to be taken over, and mostly the only one to ask.
    for (pin, program, _) in ON_PODS.into_iter().rev() {
        let path = pin_dir.join(names::LINKS_DIR).join(pin);
        let tried = || format!("look at {}", path.display());
        let pinned = sys::open_pin(&path).ok().flatten();
        let held = held.on_pods.get(pin).map(AsFd::as_fd);
        let Some(link) = pinned.as_ref().map(AsFd::as_fd).or(held) else {
            continue;
        };
        // A pin of something else than a link is tampering too.
        let attached = sys::link_info(link).or_else(|error| match held {
            Some(held) => sys::link_info(held),
            None => Err(error),
        });
        let attached = attached.tried(tried)?.prog_id;
        if attached == sys::prog_info(programs.get(program)?).tried(tried)?.id {
            return Ok(false);
        }
        seen = true;
    }
    Ok(seen)
}

/// Whether any program is attached to a living pods cgroup.
pub(super) fn any_attached(pin_dir: &Path) -> bool {
    attachments(pin_dir).iter().any(|link| link.attached)
}

/// The attachments to the pods cgroup, those that are absent included.
pub(super) fn attachments(pin_dir: &Path) -> Vec<Attachment> {
    let links_dir = pin_dir.join(names::LINKS_DIR);
    ON_PODS
        .iter()
        .map(|(pin, ..)| match sys::open_pin(&links_dir.join(pin)) {
            Ok(Some(link)) => describe(pin, link.as_fd()),
            Ok(None) | Err(_) => absent(pin),
        })
        .collect()
}

/// The attachments through the descriptors that are held, whatever became of the pins.
pub(super) fn held_attachments(held: &Held) -> Vec<Attachment> {
    let on_pods = ON_PODS
        .iter()
        .map(|(pin, ..)| (*pin, held.on_pods.get(pin)));
    let all = on_pods.chain([(names::CLIENT_OPS, held.client_ops.as_ref())]);
    all.map(|(name, link)| match link {
        Some(link) => describe(name, link.as_fd()),
        None => absent(name),
    })
    .collect()
}

fn absent(name: &str) -> Attachment {
    Attachment {
        name: name.to_owned(),
        attached: false,
        link_id: 0,
        prog_id: 0,
        prog_name: String::new(),
        tag: String::new(),
    }
}

/// What the kernel says of a link to a cgroup.
pub(super) fn describe(name: &str, link: BorrowedFd<'_>) -> Attachment {
    let info = sys::link_info(link).ok();
    let program = info.and_then(|info| sys::prog_info_by_id(info.prog_id).ok());
    Attachment {
        name: name.to_owned(),
        attached: info.is_some_and(|info| info.cgroup_id != 0),
        link_id: info.map_or(0, |info| info.id),
        prog_id: info.map_or(0, |info| info.prog_id),
        prog_name: program
            .as_ref()
            .map_or_else(String::new, |p| p.name.clone()),
        tag: program.map_or_else(String::new, |program| tag(&program.tag)),
    }
}

/// A tag as `bpftool` prints it.
pub(super) fn tag(bytes: &[u8; 8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Where a link belongs.
struct Place<'a> {
    path: PathBuf,
    program: BorrowedFd<'a>,
    target: BorrowedFd<'a>,
    attach_type: AttachType,
    /// The link that was put there last, by this agent.
    held: Option<BorrowedFd<'a>>,
}

impl Place<'_> {
    /// Sees to it that the link is attached to the target, runs the program and is pinned.
    /// A link is made only where there is none, or one that is attached to something that
    /// is gone. The link counts also when it cannot be pinned, which the second result says.
    fn fill(
        &self,
        is_at_target: impl Fn(&sys::LinkInfo) -> bool,
    ) -> Result<(OwnedFd, Result<(), InterceptError>), InterceptError> {
        let tried = || format!("attach a program as {}", self.path.display());
        let held = self.held.map(|held| held.try_clone_to_owned());
        let held = held.transpose().tried(tried)?;
        // What cannot be opened is no link of ours.
        let pinned = sys::open_pin(&self.path).ok().flatten();
        for link in held.into_iter().chain(pinned) {
            let info = sys::link_info(link.as_fd());
            if info.is_ok_and(|info| is_at_target(&info)) {
                sys::link_update(link.as_fd(), self.program).tried(tried)?;
                let pinned = self.pin(&link);
                return Ok((link, pinned));
            }
        }
        let link = sys::link_create(self.program, self.target, self.attach_type).tried(tried)?;
        let pinned = self.pin(&link);
        Ok((link, pinned))
    }

    /// Pins the link, unless it is, in the place of whatever is pinned there.
    fn pin(&self, link: &OwnedFd) -> Result<(), InterceptError> {
        let tried = || format!("pin a link as {}", self.path.display());
        let id = sys::link_info(link.as_fd()).tried(tried)?.id;
        if pinned_link(&self.path) == Some(id) {
            return Ok(());
        }
        pins::gone(fs::remove_file(&self.path)).tried(tried)?;
        sys::pin(link.as_fd(), &self.path).tried(tried)
    }
}

/// The id of the link pinned at `path`; `None` when no link is, or none that can be opened.
pub(super) fn pinned_link(path: &Path) -> Option<u32> {
    let pin = sys::open_pin(path).ok().flatten()?;
    sys::link_info(pin.as_fd()).ok().map(|info| info.id)
}

fn open_directory(path: &Path) -> Result<File, InterceptError> {
    File::open(path)
        .map_err(|error| io::Error::new(error.kind(), error))
        .tried(|| format!("open {}", path.display()))
}
