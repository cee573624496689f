//! Which workload a certificate without a SPIFFE URI proves: by the DNS names that
//! the configuration gives to identities. Built from the model, asked by the
//! verifiers of [`crate::tls`] and by [`crate::identity::Svid::named`].
//!
//! This is how certificates from files worked in AWS App Mesh: one of the subject
//! alternative names had to match the virtual node's DNS service discovery name or a
//! configured `subjectAlternativeNames.match.exact`, and certificates could hold wild
//! cards such as `*.apps.local` (App Mesh user guide, "Transport Layer Security",
//! certificate requirements). The common name, which App Mesh also looked at, is not
//! compared here: RFC 9525 §2 rules it out.

use std::collections::HashMap;

use crate::identity::SpiffeId;

/// For each identity, the DNS names with which it may prove itself instead of a
/// SPIFFE URI. A configured name is one host's: wild cards are for certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameProofs {
    names: HashMap<SpiffeId, Vec<String>>,
    /// Whose a name is.
    holders: HashMap<String, Vec<SpiffeId>>,
    /// The same by what follows the name's first label, for wild cards.
    parents: HashMap<String, Vec<SpiffeId>>,
}

impl NameProofs {
    /// Takes the names of each identity; several entries of one identity add up.
    /// Letters of either case are the same (RFC 4343), and so is a name with a dot
    /// behind it. A name with a wild card is no host's and matches nothing.
    pub fn new(names: Vec<(SpiffeId, Vec<String>)>) -> Self {
        let mut proofs = Self::default();
        for (id, name) in names
            .into_iter()
            .flat_map(|(id, names)| names.into_iter().map(move |name| (id.clone(), name)))
        {
            let name = canonical(&name);
            if name.is_empty() || name.contains('*') {
                continue;
            }
            if let Some((_, parent)) = name.split_once('.') {
                add(&mut proofs.parents, parent, &id);
            }
            add(&mut proofs.holders, &name, &id);
            let known = proofs.names.entry(id).or_default();
            if !known.contains(&name) {
                known.push(name);
            }
        }
        proofs
    }

    /// The names of `id`, in lower case.
    pub fn names(&self, id: &SpiffeId) -> &[String] {
        self.names.get(id).map_or(&[], Vec::as_slice)
    }

    /// Whether a certificate with the DNS name `presented` proves `id`.
    pub(crate) fn prove(&self, id: &SpiffeId, presented: &str) -> bool {
        self.names(id).iter().any(|name| matches(presented, name))
    }

    /// The identities that a certificate with these DNS names proves, each once.
    /// Takes one look-up a name, since a stranger chooses how many there are.
    pub(crate) fn holders(&self, presented: &[&str]) -> Vec<SpiffeId> {
        let mut found: Vec<SpiffeId> = Vec::new();
        for name in presented {
            let name = canonical(name);
            let holders = match name.strip_prefix("*.") {
                Some(parent) => self.parents.get(parent),
                None => self.holders.get(&name),
            };
            found.extend(holders.into_iter().flatten().cloned());
        }
        found.sort();
        found.dedup();
        found
    }
}

/// Whether the DNS name in a certificate stands for the host `name`, which is
/// compared without regard to case. A wild card stands for the whole left-most
/// label and for one label only (RFC 6125 §6.4.3, as Envoy does it).
pub(crate) fn matches(presented: &str, name: &str) -> bool {
    let (presented, name) = (canonical(presented), canonical(name));
    if name.is_empty() || name.contains('*') {
        return false;
    }
    match presented.strip_prefix("*.") {
        Some(parent) => name
            .split_once('.')
            .is_some_and(|(label, rest)| !label.is_empty() && rest == parent),
        None => presented == name,
    }
}

fn canonical(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

fn add(index: &mut HashMap<String, Vec<SpiffeId>>, key: &str, id: &SpiffeId) {
    let ids = index.entry(key.to_owned()).or_default();
    if !ids.contains(id) {
        ids.push(id.clone());
    }
}

#[cfg(test)]
mod tests;
