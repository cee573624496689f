//! The pods as they last were, in the model's order. Part of the store, which enters the
//! changes and hands all of them to the model.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::read::{Change, Key, ReadPod};
use crate::model::{Objects, Origin, Pod, Problem, Sourced, order};

/// The pods.
#[derive(Default)]
pub(super) struct Pods {
    /// In the order in which the model goes through them, which is also how one is found.
    pub(super) objects: Objects,
    /// What is wrong with the current version of a pod, whether or not there is a good one.
    pub(super) problems: BTreeMap<Key, Vec<Problem>>,
}

impl Pods {
    /// True if something is different.
    pub(super) fn enter(&mut self, change: Change<ReadPod>) -> bool {
        match change {
            Change::Listed(list) => self.replace(list),
            Change::Applied(key, read) => self.apply(key, read),
            Change::Deleted(key) => self.delete(&key),
        }
    }

    /// These are all there are.
    fn replace(&mut self, list: Vec<(Key, ReadPod)>) -> bool {
        let bad_before = std::mem::take(&mut self.problems);
        let before = std::mem::take(&mut self.objects.pods);
        let count = before.len();
        let mut kept = 0;
        let mut different = false;
        let known = |key: &Key| {
            let place = before.binary_search_by(|it| order(it.object.names(), names(key)));
            place.ok().map(|i| &before[i].object)
        };
        let mut pods = Vec::with_capacity(list.len());
        for (key, read) in list {
            let was = known(&key);
            kept += usize::from(was.is_some());
            let pod = match read {
                Ok(pod) => {
                    let (pod, changed) = follow(was, pod);
                    different |= changed;
                    Some(pod)
                }
                Err(problems) => {
                    self.problems.insert(key, problems);
                    was.cloned()
                }
            };
            let origin = Origin::api();
            pods.extend(pod.map(|object| Sourced { object, origin }));
        }
        pods.sort_by(|one, two| one.object.order(&two.object));
        // Names are unique, but nothing here relies on the server for that.
        pods.dedup_by(|one, two| one.object.order(&two.object).is_eq());
        self.objects.pods = pods;
        different || kept != count || bad_before != self.problems
    }

    fn apply(&mut self, key: Key, read: Result<Arc<Pod>, Vec<Problem>>) -> bool {
        let pod = match read {
            Ok(pod) => pod,
            Err(problems) => {
                let known = self.problems.insert(key.clone(), problems);
                return known.as_ref() != self.problems.get(&key);
            }
        };
        let healed = self.problems.remove(&key).is_some();
        let pods = &mut self.objects.pods;
        match pods.binary_search_by(|it| it.object.order(&pod)) {
            Ok(i) => {
                let (pod, changed) = follow(Some(&pods[i].object), pod);
                pods[i].object = pod;
                healed || changed
            }
            Err(i) => {
                let origin = Origin::api();
                let object = pod;
                pods.insert(i, Sourced { object, origin });
                true
            }
        }
    }

    fn delete(&mut self, key: &Key) -> bool {
        let was_bad = self.problems.remove(key).is_some();
        match self.place(key) {
            Ok(i) => {
                self.objects.pods.remove(i);
                true
            }
            Err(_) => was_bad,
        }
    }

    /// Where the pod is, or would be.
    pub(super) fn place(&self, key: &Key) -> Result<usize, usize> {
        let pods = &self.objects.pods;
        pods.binary_search_by(|it| order(it.object.names(), names(key)))
    }
}

/// What to keep of a pod that was read again: the known one where nothing changed, so that
/// it is the same to the model. And whether something did.
fn follow(known: Option<&Arc<Pod>>, mut pod: Arc<Pod>) -> (Arc<Pod>, bool) {
    let Some(known) = known else {
        return (pod, true);
    };
    if known.kube_uid == pod.kube_uid && known.place != pod.place {
        Arc::make_mut(&mut pod).place = known.place.clone();
    }
    match *known == pod {
        true => (Arc::clone(known), false),
        false => (pod, true),
    }
}

fn names((namespace, name): &Key) -> (&Arc<str>, &Arc<str>) {
    (namespace, name)
}
