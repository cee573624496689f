//! Putting back what the comparison missed. Whoever repairs holds the lock of the pin
//! directory and was not superseded, so that two agents never undo each other's work.

use std::fs::File;

use mesh_common::names;
use nix::fcntl::Flock;

use super::Fault;
use crate::intercept::error::InterceptError;
use crate::intercept::{ClosedPod, Enrolment, Interceptor, cgroup, links, pins, pods};

/// Leave to put back what is missing. While it is held, no other agent takes over.
#[derive(Debug)]
pub struct Repairs<'a> {
    interceptor: &'a Interceptor,
    _lock: Flock<File>,
}

impl Interceptor {
    /// Leave to repair; `None` while another agent takes over or once it has.
    ///
    /// # Errors
    /// When the pin directory cannot be made or locked.
    pub fn repairs(&self) -> Result<Option<Repairs<'_>>, InterceptError> {
        let Some(lock) = pins::try_lock(&self.options.pin_dir)? else {
            return Ok(None);
        };
        let leave = Repairs {
            interceptor: self,
            _lock: lock,
        };
        Ok((!self.is_superseded()?).then_some(leave))
    }
}

impl Repairs<'_> {
    /// Puts back what all pods depend on: those links and pins that `faults` name.
    ///
    /// # Errors
    /// The first step that failed; the steps after it were taken all the same.
    pub fn node(&self, faults: &[Fault]) -> Result<(), InterceptError> {
        let mut result = self.links(faults);
        for step in [
            self.own_link(faults),
            self.map_pins(),
            self.settings(faults),
        ] {
            result = result.and(step);
        }
        result
    }

    /// Puts a pod's entries, slots and link back. The guard comes first: what is not handed
    /// to the agent must not go around it meanwhile.
    ///
    /// # Errors
    /// The step that failed. Nothing is taken away then.
    pub fn pod(&self, wanted: &Enrolment<'_>) -> Result<(), InterceptError> {
        let kernel = self.interceptor;
        let netns = wanted.netns_cookie;
        let pod = kernel.pod_entry(wanted)?;
        let addresses = pods::addresses(&pod);
        let mut index = kernel.index();
        let before = kernel.pod(netns)?;
        kernel.add_depth(pod.depth)?;
        kernel.guard(netns, pod.cgroup_id, wanted.strict)?;
        kernel.enrol_in_order(wanted, &pod, &addresses)?;
        if let Some(before) = before {
            kernel.drop_outdated(&before, &pod)?;
        }
        index.set(netns, &addresses);
        Ok(())
    }

    /// Closes a pod again whose object is gone.
    ///
    /// # Errors
    /// The step that failed.
    pub fn closed(&self, closed: &ClosedPod) -> Result<(), InterceptError> {
        self.interceptor.close_again(closed)
    }

    fn links(&self, faults: &[Fault]) -> Result<(), InterceptError> {
        let kernel = self.interceptor;
        let at_fault = |pin: &str| {
            let Some((_, program, _)) = links::ON_PODS.iter().find(|(known, ..)| *known == pin)
            else {
                return false;
            };
            faults.iter().any(|fault| match fault {
                Fault::Detached(name) => name == program,
                Fault::Replaced { link, .. } => *link == pin,
                Fault::Unpinned(what) => *what == format!("the link {pin}"),
                _ => false,
            })
        };
        let id = cgroup::id(&kernel.options.pods_cgroup)?;
        let mut held = kernel.links();
        links::attach_to_pods(&kernel.programs, &kernel.options, id, &mut held, at_fault)
    }

    fn own_link(&self, faults: &[Fault]) -> Result<(), InterceptError> {
        let kernel = self.interceptor;
        if faults.contains(&Fault::Detached(names::CLIENT_OPS)) {
            let link = links::attach_to_agent(&kernel.programs, &kernel.agent_cgroup)?;
            kernel.links().client_ops = Some(link);
        }
        Ok(())
    }

    fn map_pins(&self) -> Result<(), InterceptError> {
        let kernel = self.interceptor;
        let maps_dir = kernel.options.pin_dir.join(names::MAPS_DIR);
        let mut result = Ok(());
        for (name, map) in kernel.maps.all() {
            result = result.and(pins::pin_map(map, &maps_dir.join(name)));
        }
        result
    }

    fn settings(&self, faults: &[Fault]) -> Result<(), InterceptError> {
        let kernel = self.interceptor;
        if !faults
            .iter()
            .any(|fault| matches!(fault, Fault::Settings(_)))
        {
            return Ok(());
        }
        let mut meta = kernel.wanted_meta(kernel.maps.meta()?.depths, 0)?;
        for (_, pod) in pods::all(&kernel.maps)? {
            meta.depths |= 1 << pod.depth;
        }
        // The programs find the level anew, as they did at the first packet.
        kernel.maps.set_meta(&meta)
    }
}
