//! All policies of a generation, by the workloads that they select. Made by `model`
//! together with the rest of the world, and never changed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::bucket::{Bucket, Policy};
use super::denial::ModeSource;
use super::mtls::{EffectiveMode, Modes, PeerRule, PeerRules};
use crate::model::{MtlsMode, TargetRef, Workload};

/// The policies of one generation.
#[derive(Debug, Default)]
pub struct Policies {
    /// False in the one that stands for "nothing was read yet".
    synced: bool,
    /// By uid, for the workloads of the generation.
    by_workload: HashMap<Arc<str>, Arc<Selected>>,
    index: Index,
    peers: PeerRules,
    /// The usable policies by `<namespace>/<name>`: what is kept should the next
    /// version of one be unusable.
    pub(crate) known: Known,
}

/// Policies as they were compiled, by `<namespace>/<name>`.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(crate) authorization: BTreeMap<Box<str>, LastGood>,
    pub(crate) peers: BTreeMap<Box<str>, Arc<PeerRule>>,
}

/// A policy that could be used.
#[derive(Clone, Debug)]
pub(crate) struct LastGood {
    pub(crate) policy: Arc<Policy>,
    pub(crate) scope: Scope,
    /// Where there are any, the scope is to be found anew.
    pub(crate) targets: Box<[TargetRef]>,
}

/// The workloads that a policy holds for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    /// Those of one namespace, or of all with `None`, that have all the labels.
    Labels {
        namespace: Option<Box<str>>,
        labels: Labels,
    },
    /// These, by uid, each at the ports given.
    Workloads(BTreeMap<Arc<str>, Ports>),
}

/// Labels that a workload must have, sorted by key.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Labels(pub(crate) Box<[(Box<str>, Box<str>)]>);

/// Ports of a workload; `None` for all.
pub(crate) type Ports = Option<Arc<[u16]>>;

/// Finds the buckets that select a workload without looking at the others.
#[derive(Debug, Default)]
struct Index {
    /// Selections without labels, by namespace; `None` for the whole mesh.
    whole: HashMap<Option<Box<str>>, Arc<Bucket>>,
    /// The others, by namespace and their first label.
    labelled: HashMap<Option<Box<str>>, ByLabel>,
    /// By uid.
    workloads: HashMap<Arc<str>, Vec<(Arc<Bucket>, Ports)>>,
}

type ByLabel = HashMap<Box<str>, HashMap<Box<str>, Vec<(Labels, Arc<Bucket>)>>>;

/// What holds for one workload.
#[derive(Debug)]
pub(super) struct Selected {
    buckets: Box<[(Arc<Bucket>, Ports)]>,
    pub(super) modes: Modes,
}

impl Labels {
    pub(crate) fn match_all(&self, workload: &Workload) -> bool {
        let Self(labels) = self;
        labels.iter().all(|(key, value)| {
            workload
                .labels
                .get(&**key)
                .is_some_and(|it| **it == **value)
        })
    }
}

impl Scope {
    pub(super) fn is_everything(&self) -> bool {
        matches!(self, Self::Labels { namespace: None, labels } if labels.0.is_empty())
    }

    pub(super) fn selects(&self, workload: &Workload) -> bool {
        match self {
            Self::Labels { namespace, labels } => {
                let namespace = namespace.as_deref();
                namespace.is_none_or(|it| *it == *workload.namespace) && labels.match_all(workload)
            }
            Self::Workloads(workloads) => workloads.contains_key(&workload.uid),
        }
    }
}

impl Policies {
    /// The policies of a world with these `workloads`.
    pub(crate) fn new<'a>(
        workloads: impl Iterator<Item = &'a Arc<Workload>>,
        authorization: &[(Arc<Policy>, Scope)],
        peers: PeerRules,
        known: Known,
    ) -> Self {
        let mut policies = Self {
            synced: true,
            by_workload: HashMap::new(),
            index: Index::new(authorization),
            peers,
            known,
        };
        // The pods of one Deployment have all their labels in common, and share them.
        let mut alike: HashMap<_, Arc<Selected>> = HashMap::new();
        let mut by_workload = HashMap::new();
        for workload in workloads.filter(|workload| workload.meshed) {
            let selected = if policies.index.workloads.contains_key(&workload.uid) {
                Arc::new(policies.select(workload))
            } else {
                let key = (&*workload.namespace, Arc::as_ptr(&workload.labels));
                let select = || Arc::new(policies.select(workload));
                Arc::clone(alike.entry(key).or_insert_with(select))
            };
            by_workload.insert(Arc::clone(&workload.uid), selected);
        }
        policies.by_workload = by_workload;
        policies
    }

    /// Whether a configuration was read at all; until then everything is refused.
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// What `port` of a workload takes from a peer, by Istio's precedence.
    pub fn mtls_mode(&self, workload: &Workload, port: u16) -> EffectiveMode {
        self.selected(workload).modes.of(port).clone()
    }

    /// STRICT if any port of the workload is, else the mode of its other ports.
    ///
    /// For the kernel's guard, which knows no ports and under STRICT drops what goes
    /// around the agent: connections that are older than the pod's enrolment. What it
    /// drops beyond need is an old connection to a port that would have taken it; what it
    /// would otherwise let through is plaintext to a port that must not have it. New
    /// plaintext connections to the other ports go through the agent and over the
    /// loopback interface, where the guard does not look.
    pub fn strictest_mode(&self, workload: &Workload) -> EffectiveMode {
        self.selected(workload).modes.strictest().clone()
    }

    /// The mode of workloads that no narrower PeerAuthentication speaks of.
    pub fn mesh_mode(&self) -> EffectiveMode {
        self.peers.of_mesh()
    }

    /// What holds for a workload. That of another generation is looked up anew.
    pub(super) fn selected(&self, workload: &Workload) -> Arc<Selected> {
        match self.by_workload.get(&workload.uid) {
            Some(selected) => Arc::clone(selected),
            None => Arc::new(self.select(workload)),
        }
    }

    fn select(&self, workload: &Workload) -> Selected {
        let modes = if self.synced {
            self.peers.of(workload)
        } else {
            let (mode, from) = (MtlsMode::Strict, ModeSource::NotSynced);
            Modes {
                base: EffectiveMode { mode, from },
                ports: [].into(),
            }
        };
        let buckets = self.index.of(workload);
        Selected { buckets, modes }
    }
}

impl Selected {
    /// The policies that hold at a port.
    pub(super) fn at(&self, port: u16) -> impl Iterator<Item = &Bucket> + Clone {
        let holds = move |ports: &Ports| ports.as_ref().is_none_or(|ports| ports.contains(&port));
        let buckets = self.buckets.iter();
        buckets
            .filter(move |(_, ports)| holds(ports))
            .map(|(bucket, _)| &**bucket)
    }
}

impl Index {
    fn new(policies: &[(Arc<Policy>, Scope)]) -> Self {
        let mut buckets: BTreeMap<&Scope, Bucket> = BTreeMap::new();
        for (policy, scope) in policies {
            buckets.entry(scope).or_default().add(policy);
        }
        let mut index = Self::default();
        for (scope, bucket) in buckets {
            let bucket = Arc::new(bucket);
            match scope {
                Scope::Labels { namespace, labels } => match labels.0.first() {
                    None => {
                        index.whole.insert(namespace.clone(), bucket);
                    }
                    Some((key, value)) => {
                        let by_key = index.labelled.entry(namespace.clone()).or_default();
                        let by_value = by_key.entry(key.clone()).or_default();
                        let filed = by_value.entry(value.clone()).or_default();
                        filed.push((labels.clone(), bucket));
                    }
                },
                Scope::Workloads(workloads) => {
                    for (uid, ports) in workloads {
                        let of_pod = index.workloads.entry(Arc::clone(uid)).or_default();
                        of_pod.push((Arc::clone(&bucket), ports.clone()));
                    }
                }
            }
        }
        index
    }

    fn of(&self, workload: &Workload) -> Box<[(Arc<Bucket>, Ports)]> {
        let mut found = Vec::new();
        for namespace in [None, Some(Box::from(&*workload.namespace))] {
            found.extend(self.whole.get(&namespace).map(|it| (Arc::clone(it), None)));
            let Some(by_key) = self.labelled.get(&namespace) else {
                continue;
            };
            for (key, value) in workload.labels.iter() {
                let by_value = by_key.get(&**key).and_then(|values| values.get(&**value));
                let matching = by_value.into_iter().flatten();
                let matching = matching.filter(|(labels, _)| labels.match_all(workload));
                found.extend(matching.map(|(_, bucket)| (Arc::clone(bucket), None)));
            }
        }
        found.extend(
            self.workloads
                .get(&workload.uid)
                .into_iter()
                .flatten()
                .cloned(),
        );
        found.into()
    }
}
