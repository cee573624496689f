//! All objects as they last were, and the world that they make. Owned by the source, which
//! enters the changes; a world is made on a thread that may block.

mod pods;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::kinds::{self, POLICIES};
use super::read::{Change, Key, Read, Update};
use crate::config::{Loaded, PolicyVersion};
use crate::heap;
use crate::model::{self, LocalPod, Objects, Place, Problem, Seen, Sourced, Stage, World};
use crate::node::{Sandbox, Sandboxes};
use pods::Pods;

pub(super) struct Store {
    node: String,
    sandboxes: Arc<Sandboxes>,
    pods: Pods,
    /// By the kind's name.
    others: HashMap<Arc<str>, BTreeMap<Key, Entry>>,
    /// Needed kinds that were not listed yet.
    unlisted: HashSet<String>,
    /// Where the node's pods were last seen, by UID.
    places: HashMap<Arc<str>, Seen>,
    misses_some: bool,
    /// Whether a whole list was read since memory was last given back.
    listed: bool,
    world: Option<Arc<World>>,
    took: Duration,
}

/// One object: its last good version, and what is wrong with the current one.
#[derive(Default, PartialEq)]
struct Entry {
    /// Without a good version, [`Read::otherwise`].
    objects: Objects,
    ever_good: bool,
    problems: Vec<Problem>,
    /// Of the current version, as [`Read::generation`].
    generation: i64,
}

/// Kinds whose objects, when unreadable, leave open where connections may go. An
/// unreadable policy does not: it is feared by itself.
const DESTINATIONS: [&str; 3] = [
    "services",
    "endpointslices.discovery.k8s.io",
    "meshconfigs.isthmus.dev",
];

impl Store {
    pub(super) fn new(node: &str, sandboxes: Arc<Sandboxes>) -> Self {
        Self {
            node: node.to_owned(),
            sandboxes,
            pods: Pods::default(),
            others: HashMap::new(),
            unlisted: kinds::needed().collect(),
            places: HashMap::new(),
            misses_some: false,
            listed: false,
            world: None,
            took: Duration::ZERO,
        }
    }

    /// Whether everything was listed once.
    pub(super) fn is_synced(&self) -> bool {
        self.unlisted.is_empty()
    }

    /// Whether a pod of this node was not found on it.
    pub(super) fn misses_some(&self) -> bool {
        self.misses_some
    }

    /// How long it took to make the last world.
    pub(super) fn took(&self) -> Duration {
        self.took
    }

    /// Enters a change; true if something is different.
    pub(super) fn enter(&mut self, update: Update) -> bool {
        let (name, listed): (&str, bool) = match &update {
            Update::Pods(change) => ("pods", matches!(change, Change::Listed(_))),
            Update::Others(name, change) => (name, matches!(**change, Change::Listed(_))),
        };
        self.listed |= listed;
        // The first world is made of empty lists too.
        let first = listed && self.unlisted.remove(name);
        let changed = match update {
            Update::Pods(change) => self.pods.enter(change),
            Update::Others(name, change) => enter(self.others.entry(name).or_default(), *change),
        };
        first || changed
    }

    /// Makes the world; `None` if nothing is different: nothing was entered, and the
    /// node's pods are where they were. Blocks.
    pub(super) fn make(&mut self, dirty: bool) -> Option<Loaded> {
        let started = Instant::now();
        let moved = self.find_pods();
        if !dirty && !moved && self.world.is_some() {
            return None;
        }
        let entries = || self.others.values().flat_map(BTreeMap::values);
        let sources = entries().map(|entry| &entry.objects);
        let sources = sources.chain([&self.pods.objects]);
        let built = model::build(sources, &self.node, self.world.as_deref());
        let world = Arc::new(built.world);
        self.world = Some(Arc::clone(&world));
        let mut problems = built.problems;
        problems.extend(world.expired(SystemTime::now()));
        problems.extend(entries().flat_map(|entry| &entry.problems).cloned());
        problems.extend(self.pods.problems.values().flatten().cloned());
        problems.sort();
        let complete = built.complete && self.is_complete();
        self.took = started.elapsed();
        if std::mem::take(&mut self.listed) {
            heap::trim();
        }
        Some(Loaded {
            world,
            problems,
            complete,
            all_found: built.all_found && complete,
            policies: self.policies(),
        })
    }

    fn policies(&self) -> Arc<[PolicyVersion]> {
        let kinds = POLICIES
            .iter()
            .filter_map(|(name, kind)| Some((kind, self.others.get(*name)?)));
        let versions = kinds.flat_map(|(kind, entries)| {
            entries
                .iter()
                .map(|((namespace, name), entry)| PolicyVersion {
                    kind: *kind,
                    namespace: Arc::clone(namespace),
                    name: Arc::clone(name),
                    generation: entry.generation,
                    unread: entry.problems.clone(),
                })
        });
        versions.collect()
    }

    fn is_complete(&self) -> bool {
        let of = |kind: &&str| self.others.get(*kind);
        let mut destinations = DESTINATIONS
            .iter()
            .filter_map(of)
            .flat_map(BTreeMap::values);
        let pods = &self.pods;
        let mut bad_pods = pods.problems.keys();
        destinations.all(|entry| entry.ever_good) && bad_pods.all(|key| pods.place(key).is_ok())
    }

    /// Asks where the pods of this node are. True if one is where it was not.
    fn find_pods(&mut self) -> bool {
        let Self {
            node,
            sandboxes,
            pods,
            others,
            places,
            ..
        } = self;
        let namespaces = others.get("namespaces");
        let namespaces = namespaces.into_iter().flat_map(BTreeMap::values);
        let namespaces = namespaces.flat_map(|entry| &entry.objects.namespaces);
        let meshed: HashMap<&str, bool> = namespaces
            .filter_map(|it| {
                let metadata = &it.object.metadata;
                let asks = model::asks_for_mesh(metadata.labels.as_ref()) == Some(true);
                Some((metadata.name.as_deref()?, asks))
            })
            .collect();
        let (mut moved, mut misses_some) = (false, false);
        let mut here = HashSet::new();
        for Sourced { object: pod, .. } in &mut pods.objects.pods {
            let is_local = *pod.node == **node && !pod.host_network && pod.stage != Stage::Finished;
            let asked = || model::asks_for_mesh(Some(&pod.labels));
            let of_namespace = || meshed.get(&*pod.namespace).copied();
            // Without its Namespace object a pod stays what it was.
            let was = || matches!(pod.place, Place::Seen(Some(_)));
            let meshed = is_local && asked().or_else(of_namespace).unwrap_or_else(was);
            let seen = match pod.kube_uid.as_ref().filter(|_| meshed) {
                None => None,
                Some(uid) => {
                    here.insert(Arc::clone(uid));
                    // One that is not found stays where it was: it may be a matter of a
                    // moment, and to forget its place would be to let its traffic out.
                    if let Some(sandbox) = sandboxes.find(uid) {
                        places.insert(Arc::clone(uid), seen(sandbox));
                    } else {
                        misses_some = true;
                    }
                    places.get(uid).cloned().map(Box::new)
                }
            };
            let place = Place::Seen(seen);
            if pod.place != place {
                Arc::make_mut(pod).place = place;
                moved = true;
            }
        }
        places.retain(|uid, _| here.contains(uid));
        self.misses_some = misses_some;
        moved
    }
}

fn seen(sandbox: Sandbox) -> Seen {
    let Sandbox {
        cgroup,
        netns,
        addresses,
    } = sandbox;
    Seen {
        local: LocalPod { netns, cgroup },
        addresses,
    }
}

/// True if something is different.
fn enter(entries: &mut BTreeMap<Key, Entry>, change: Change<Read>) -> bool {
    match change {
        Change::Listed(list) => {
            let mut before = std::mem::take(entries);
            let mut different = before.len() != list.len();
            for (key, read) in list {
                let old = before.remove(&key);
                different |= old.is_none();
                let mut entry = old.unwrap_or_default();
                different |= entry.take(read);
                entries.insert(key, entry);
            }
            different
        }
        Change::Applied(key, read) => entries.entry(key).or_default().take(read),
        Change::Deleted(key) => entries.remove(&key).is_some(),
    }
}

impl Entry {
    /// True if something is different.
    fn take(&mut self, read: Read) -> bool {
        let Read {
            objects,
            otherwise,
            problems,
            generation,
        } = read;
        let mut different = std::mem::replace(&mut self.problems, problems) != self.problems;
        different |= std::mem::replace(&mut self.generation, generation) != generation;
        let objects = match objects {
            Some(good) => {
                different |= !std::mem::replace(&mut self.ever_good, true);
                good
            }
            None if self.ever_good => return different,
            None => *otherwise,
        };
        different |= self.objects != objects;
        self.objects = objects;
        different
    }
}
