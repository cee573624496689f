//! Attaching programs, and putting new ones in the place of old ones: every
//! attachment is a pinned link, so that it lasts while no agent runs, and an
//! existing one is updated, so that there is no instant without a program.

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
const ON_PODS: [(&str, &str, AttachType); 7] = [
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

/// Attaches the programs to the pods cgroup, or updates the links there.
pub(super) fn attach_to_pods(
    programs: &Programs,
    options: &Options,
    pods_cgroup_id: u64,
) -> Result<(), InterceptError> {
    let cgroup = open_directory(&options.pods_cgroup)?;
    for (pin, program, attach_type) in ON_PODS {
        let path = options.pin_dir.join(names::LINKS_DIR).join(pin);
        let program = programs.get(program)?;
        place(&path, program, cgroup.as_fd(), attach_type, |info| {
            info.cgroup_id == pods_cgroup_id
        })?;
    }
    Ok(())
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

/// Links the lookup program to a pod's namespace, or updates the link there.
pub(super) fn attach_to_netns(
    programs: &Programs,
    pin_dir: &Path,
    cookie: NetnsCookie,
    netns: BorrowedFd<'_>,
) -> Result<(), InterceptError> {
    let file = netns
        .try_clone_to_owned()
        .map(File::from)
        .tried(|| "duplicate the descriptor of a network namespace".to_owned())?;
    let inode = file
        .metadata()
        .tried(|| "look at a network namespace".to_owned())?
        .ino();
    let path = lookup_pin(pin_dir, cookie);
    let program = programs.get(names::SK_LOOKUP)?;
    place(&path, program, netns, AttachType::SkLookup, |info| {
        u64::from(info.netns_ino) == inode
    })
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

/// Detaches a pinned link, whoever else holds it, and removes the pin.
pub(super) fn remove(path: &Path) -> Result<(), InterceptError> {
    let link = sys::open_pin(path).tried(|| format!("open {}", path.display()))?;
    if let Some(link) = link {
        match sys::link_detach(link.as_fd()) {
            // What it was attached to is gone, and so it is detached.
            Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {}
            other => other.tried(|| format!("detach {}", path.display()))?,
        }
    }
    pins::gone(fs::remove_file(path)).tried(|| format!("remove {}", path.display()))
}

/// Whether the last link of [`ON_PODS`] runs another program than ours: links are
/// updated in that order, so the one who did it has all of them. A link that is
/// missing was removed, not taken over.
pub(super) fn is_superseded(programs: &Programs, pin_dir: &Path) -> Result<bool, InterceptError> {
    let (pin, program, _) = ON_PODS[ON_PODS.len() - 1];
    let path = pin_dir.join(names::LINKS_DIR).join(pin);
    let tried = || format!("look at {}", path.display());
    let Some(link) = sys::open_pin(&path).tried(tried)? else {
        return Ok(false);
    };
    let attached = sys::link_info(link.as_fd()).tried(tried)?.prog_id;
    let ours = sys::prog_info(programs.get(program)?).tried(tried)?.id;
    Ok(attached != ours)
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
            Ok(None) | Err(_) => Attachment {
                name: (*pin).to_owned(),
                attached: false,
                link_id: 0,
                prog_id: 0,
                prog_name: String::new(),
                tag: String::new(),
            },
        })
        .collect()
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
        tag: program.map_or_else(String::new, |program| {
            program
                .tag
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect()
        }),
    }
}

/// Puts `program` at the link pinned at `path`, which is made when it is absent
/// or attached to something that is gone.
fn place(
    path: &Path,
    program: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    attach_type: AttachType,
    is_at_target: impl FnOnce(&sys::LinkInfo) -> bool,
) -> Result<(), InterceptError> {
    let tried = || format!("attach a program as {}", path.display());
    if let Some(link) = sys::open_pin(path).tried(tried)? {
        let info = sys::link_info(link.as_fd()).tried(tried)?;
        if is_at_target(&info) {
            return sys::link_update(link.as_fd(), program).tried(tried);
        }
        remove(path)?;
    }
    let link = sys::link_create(program, target, attach_type).tried(tried)?;
    sys::pin(link.as_fd(), path).tried(tried)
}

fn open_directory(path: &Path) -> Result<File, InterceptError> {
    File::open(path)
        .map_err(|error| io::Error::new(error.kind(), error))
        .tried(|| format!("open {}", path.display()))
}
