//! Which mode a port has, from all PeerAuthentications: port over workload over
//! namespace over mesh, the oldest among equals.
//! <https://istio.io/latest/docs/reference/config/security/peer_authentication/>
//! and <https://istio.io/latest/docs/concepts/security/#peer-authentication>

use std::collections::HashMap;
use std::sync::Arc;

use super::denial::{ModeSource, PolicyRef};
use super::set::{Labels, Scope};
use crate::model::{MtlsMode, Workload};

/// What a port takes, and who says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EffectiveMode {
    /// The mode.
    pub mode: MtlsMode,
    /// Where it was read.
    pub from: ModeSource,
}

/// One PeerAuthentication.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PeerRule {
    pub(crate) name: PolicyRef,
    /// The labels that it selects by; `None` for all workloads of its namespace.
    pub(crate) labels: Option<Labels>,
    /// `None` inherits (UNSET).
    pub(crate) mode: Option<MtlsMode>,
    /// Ports whose mode is another; UNSET ones are left out.
    pub(crate) ports: Box<[(u16, MtlsMode)]>,
}

/// All PeerAuthentications.
#[derive(Debug, Default)]
pub(crate) struct PeerRules {
    /// Of the root namespace, for all workloads. The oldest.
    pub(crate) mesh: Option<Arc<PeerRule>>,
    /// Of each other namespace, the oldest first.
    pub(crate) others: HashMap<Box<str>, Vec<Arc<PeerRule>>>,
    /// What may ask for STRICT and cannot be read.
    pub(crate) unusable: Vec<(PolicyRef, Scope)>,
}

/// The modes of one workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Modes {
    pub(super) base: EffectiveMode,
    pub(super) ports: Box<[(u16, EffectiveMode)]>,
}

impl Default for EffectiveMode {
    fn default() -> Self {
        Self {
            mode: MtlsMode::Permissive,
            from: ModeSource::Default,
        }
    }
}

impl PeerRule {
    fn says(&self, mode: MtlsMode) -> EffectiveMode {
        let from = ModeSource::Policy(self.name.clone());
        EffectiveMode { mode, from }
    }
}

impl PeerRules {
    /// The mode of what no namespace and no selector speaks of.
    pub(crate) fn of_mesh(&self) -> EffectiveMode {
        let unusable = self
            .unusable
            .iter()
            .find(|(_, scope)| scope.is_everything());
        if let Some((name, _)) = unusable {
            let (mode, from) = (MtlsMode::Strict, ModeSource::Unusable(name.clone()));
            return EffectiveMode { mode, from };
        }
        let said = self.mesh.as_ref();
        said.and_then(|rule| Some(rule.says(rule.mode?)))
            .unwrap_or_default()
    }

    pub(super) fn of(&self, workload: &Workload) -> Modes {
        let unusable = self
            .unusable
            .iter()
            .find(|(_, scope)| scope.selects(workload));
        if let Some((name, _)) = unusable {
            let (mode, from) = (MtlsMode::Strict, ModeSource::Unusable(name.clone()));
            return Modes {
                base: EffectiveMode { mode, from },
                ports: [].into(),
            };
        }
        let own = self.others.get(&*workload.namespace);
        let own = own.map(Vec::as_slice).unwrap_or_default();
        let namespace = own.iter().find(|rule| rule.labels.is_none());
        let selecting = own.iter().find(|rule| {
            let labels = rule.labels.as_ref();
            labels.is_some_and(|labels| labels.match_all(workload))
        });
        let said = |rule: Option<&Arc<PeerRule>>| rule.and_then(|rule| Some(rule.says(rule.mode?)));
        let base = said(selecting)
            .or_else(|| said(namespace))
            .unwrap_or_else(|| self.of_mesh());
        let ports = selecting.iter().flat_map(|rule| {
            let ports = rule.ports.iter();
            ports.map(|(port, mode)| (*port, rule.says(*mode)))
        });
        Modes {
            base,
            ports: ports.collect(),
        }
    }
}

impl Modes {
    pub(super) fn of(&self, port: u16) -> &EffectiveMode {
        let own = self.ports.iter().find(|(number, _)| *number == port);
        own.map_or(&self.base, |(_, mode)| mode)
    }

    pub(super) fn strictest(&self) -> &EffectiveMode {
        let mut all = self.ports.iter().map(|(_, mode)| mode);
        if self.base.mode == MtlsMode::Strict {
            return &self.base;
        }
        all.find(|it| it.mode == MtlsMode::Strict)
            .unwrap_or(&self.base)
    }
}
