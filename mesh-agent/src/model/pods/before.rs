//! What the previous generation knows of the pods, so that of a whole cluster only what
//! changed is converted. Used by the parent module, which goes through the pods in order.

use std::cmp::Ordering;
use std::sync::Arc;

use super::super::workload::Workload;
use super::super::world::World;
use super::Scope;
use super::pod::{Pod, order};
use crate::identity::{IdForms, TrustDomain};

/// All that a workload was made of, beside the [`Basis`].
#[derive(Clone, Debug, Default)]
pub(in super::super) struct MadeOf {
    /// `None` of one that is to be made anew each time: something is wrong with it.
    pub(super) pod: Option<Arc<Pod>>,
    /// `None` where the Namespace object is absent.
    pub(super) namespace_meshed: Option<bool>,
}

/// What all workloads of a generation were made with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Basis {
    node: Box<str>,
    trust_domain: TrustDomain,
    foreign: Vec<TrustDomain>,
    id_forms: IdForms,
}

/// A walk through the previous generation beside the pods, both in the order of uids.
pub(super) struct Before<'a> {
    rest: &'a [Arc<Workload>],
    /// Of the same length; empty where nothing can be used again.
    made_of: &'a [MadeOf],
    current: Option<&'a Arc<Workload>>,
}

impl Scope<'_> {
    pub(super) fn basis(&self) -> Basis {
        let foreign = self.mesh.foreign.iter();
        Basis {
            node: self.node.into(),
            trust_domain: self.mesh.trust_domain.clone(),
            foreign: foreign.map(|it| it.bundle.trust_domain().clone()).collect(),
            id_forms: self.mesh.id_forms.clone(),
        }
    }
}

impl<'a> Before<'a> {
    pub(super) fn new(scope: &Scope<'a>, basis: &Basis) -> Self {
        let (mut rest, mut made_of): (&[_], &[_]) = (&[], &[]);
        if let Some(World {
            workloads,
            made_of: known,
            basis: with,
            ..
        }) = scope.previous
        {
            rest = workloads;
            if with.as_ref() == Some(basis) {
                made_of = known;
            }
        }
        Self {
            rest,
            made_of,
            current: None,
        }
    }

    /// Goes on to `pod`, which comes after the one before.
    pub(super) fn advance(&mut self, pod: &Pod) {
        self.current = None;
        while let [next, ..] = self.rest {
            match order((&next.namespace, &next.name), pod.names()) {
                Ordering::Less => {}
                Ordering::Equal => {
                    self.current = Some(next);
                    return;
                }
                Ordering::Greater => return,
            }
            self.rest = &self.rest[1..];
            self.made_of = self.made_of.get(1..).unwrap_or_default();
        }
    }

    /// What the pod was.
    pub(super) fn workload(&self) -> Option<&'a Arc<Workload>> {
        self.current
    }

    /// What the pod was, if it was made of the same.
    pub(super) fn made_of(&self, now: &MadeOf) -> Option<&'a Arc<Workload>> {
        let was = self.made_of.first()?;
        let same = match (&was.pod, &now.pod) {
            (Some(was), Some(now)) => Arc::ptr_eq(was, now),
            _ => false,
        };
        self.current
            .filter(|_| same && was.namespace_meshed == now.namespace_meshed)
    }

    /// The workload as it was where nothing changed.
    pub(super) fn shared(&self, workload: Arc<Workload>) -> Arc<Workload> {
        match self.current {
            Some(was) if **was == *workload => Arc::clone(was),
            _ => workload,
        }
    }
}
