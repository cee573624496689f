//! One copy of each text and set of labels that many pods have. Used where pods are read.

use std::collections::{BTreeMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

/// Below this many nothing is thrown away.
const FEW: usize = 1024;

#[derive(Default)]
pub(super) struct Interner {
    texts: Shared<str>,
    labels: Shared<BTreeMap<String, String>>,
}

impl Interner {
    pub(super) fn text(&mut self, text: &str) -> Arc<str> {
        match self.texts.known.get(text) {
            Some(known) => Arc::clone(known),
            None => self.texts.add(text.into()),
        }
    }

    pub(super) fn labels(
        &mut self,
        labels: BTreeMap<String, String>,
    ) -> Arc<BTreeMap<String, String>> {
        match self.labels.known.get(&labels) {
            Some(known) => Arc::clone(known),
            None => self.labels.add(Arc::new(labels)),
        }
    }
}

struct Shared<T: ?Sized> {
    known: HashSet<Arc<T>>,
    /// At how many to look for what nobody else has any more.
    full: usize,
}

impl<T: ?Sized> Default for Shared<T> {
    fn default() -> Self {
        Self {
            known: HashSet::new(),
            full: FEW,
        }
    }
}

impl<T: ?Sized + Eq + Hash> Shared<T> {
    fn add(&mut self, value: Arc<T>) -> Arc<T> {
        if self.known.len() >= self.full {
            self.known.retain(|value| Arc::strong_count(value) > 1);
            self.full = FEW.max(self.known.len() * 2);
        }
        self.known.insert(Arc::clone(&value));
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_shared_and_the_unused_forgotten() {
        let mut interner = Interner::default();
        let (a, b) = (interner.text("shop"), interner.text("shop"));
        assert!(Arc::ptr_eq(&a, &b));
        for i in 0..10 * FEW {
            interner.text(&i.to_string());
        }
        assert!(interner.texts.known.len() <= FEW);
        assert!(Arc::ptr_eq(&a, &interner.text("shop")));
    }
}
