//! One descriptor in reserve, so that a connection can be refused when the process has no other
//! left: without it the connection would wait in the pod's backlog. Used by `accept`.

use std::cell::RefCell;
use std::fs::File;

/// A worker's spare descriptor.
#[derive(Debug)]
pub(super) struct SpareDescriptor(RefCell<Option<File>>);

impl SpareDescriptor {
    /// Opens it; empty when that fails.
    pub(super) fn open() -> Self {
        Self(RefCell::new(open()))
    }

    /// Runs `accept` with the spare descriptor free to use, then opens it again. `None` when
    /// there was none, because the process is still out of descriptors.
    pub(super) fn lend<T>(&self, accept: impl FnOnce() -> T) -> Option<T> {
        let mut spare = self.0.borrow_mut();
        if spare.take().is_none() {
            *spare = open();
            return None;
        }
        let accepted = accept();
        *spare = open();
        Some(accepted)
    }
}

fn open() -> Option<File> {
    File::open("/dev/null").ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spare_descriptor_is_free_while_lent() {
        let spare = SpareDescriptor::open();
        let lent = spare.lend(|| spare.0.try_borrow().is_err());
        assert_eq!(lent, Some(true));
        assert!(spare.0.borrow().is_some(), "it is open again");
        spare.0.take();
        assert_eq!(spare.lend(|| ()), None);
        assert_eq!(spare.lend(|| ()), Some(()), "it was opened again");
    }
}
