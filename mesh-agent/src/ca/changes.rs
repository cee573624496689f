//! Tells when the authority's directory may have changed, by inotify.

/// Changes of an authority's directory.
#[derive(Debug)]
pub struct Changes {}

impl Changes {
    /// Completes when roots, lists or issuer may have changed. May be dropped at
    /// any time without losing a change.
    pub async fn changed(&mut self) {
        todo!()
    }
}
