//! The kernel object that the build embedded, and its way into the kernel.
//! Called by `Interceptor::open`; the only place that uses the loader library.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use aya::EbpfLoader;
use aya::maps::{MapData, RingBuf};
use aya::programs::{Program, ProgramError};
use mesh_common::names;

use super::error::{InterceptError, Tried};

/// Programs, in the order in which they are attached: what guards first.
pub(super) const PROGRAMS: [&str; 12] = [
    names::GUARD_INGRESS,
    names::GUARD_EGRESS,
    names::SOCK_OPS,
    names::CLIENT_OPS,
    names::KUBELET_OPS,
    names::PEERNAME4,
    names::PEERNAME6,
    names::SK_LOOKUP,
    names::CONNECT4,
    names::CONNECT6,
    names::DEVICE_INGRESS,
    names::DEVICE_EGRESS,
];

/// The loader reads the object as ELF structures, so it must be aligned.
#[repr(C, align(32))]
struct Aligned<T: ?Sized>(T);

static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/mesh-ebpf.o")));

/// Whether the build embedded the kernel programs.
pub fn is_embedded() -> bool {
    !OBJECT.0.is_empty()
}

/// The programs in the kernel.
#[derive(Debug)]
pub(super) struct Programs(Vec<(&'static str, OwnedFd)>);

impl Programs {
    /// The program of this name.
    pub(super) fn get(&self, name: &'static str) -> Result<BorrowedFd<'_>, InterceptError> {
        self.0
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, fd)| fd.as_fd())
            .ok_or(InterceptError::Object(name))
    }
}

/// Loads the embedded object, and returns its programs, attached to nothing
/// yet, and their ring of events. Maps that are pinned in `maps_dir` are taken
/// as they are; the others are made and pinned there.
pub(super) fn load(maps_dir: &Path) -> Result<(Programs, RingBuf<MapData>), InterceptError> {
    let mut loader = EbpfLoader::new();
    for name in names::PINNED_MAPS {
        loader.map_pin_path(name, maps_dir.join(name));
    }
    let mut object = loader.load(&OBJECT.0)?;
    let mut programs = Vec::with_capacity(PROGRAMS.len());
    for name in PROGRAMS {
        let program = object
            .program_mut(name)
            .ok_or(InterceptError::Object(name))?;
        let fd = load_program(program).map_err(|source| InterceptError::Program {
            name,
            source: Box::new(source),
        })?;
        programs.push((
            name,
            fd.tried(|| format!("duplicate the descriptor of {name}"))?,
        ));
    }
    let events = object
        .take_map(names::EVENTS)
        .ok_or(InterceptError::Object(names::EVENTS))?;
    let events = RingBuf::try_from(events).map_err(|source| InterceptError::Map {
        name: names::EVENTS,
        source: Box::new(source),
    })?;
    Ok((Programs(programs), events))
}

fn load_program(program: &mut Program) -> Result<io::Result<OwnedFd>, ProgramError> {
    match program {
        Program::CgroupSkb(program) => program.load()?,
        Program::CgroupSockAddr(program) => program.load()?,
        Program::SockOps(program) => program.load()?,
        Program::SkLookup(program) => program.load()?,
        Program::SchedClassifier(program) => program.load()?,
        _ => return Err(ProgramError::UnexpectedProgramType),
    }
    Ok(program.fd()?.as_fd().try_clone_to_owned())
}
