//! How the mesh does TLS: versions, cipher suites and key exchanges, from the
//! settings in force. The configuration's reader makes [`TlsSettings`], the agent
//! puts them into the [`ParametersStore`], and [`crate::identity::Credential`]
//! sets TLS up anew when they change.

mod error;
pub(super) mod names;
mod settings;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::time_provider::TimeProvider;
use rustls::{
    ClientConfig, ConfigBuilder, Error, ServerConfig, SupportedProtocolVersion, WantsVerifier,
    version,
};
use tokio::sync::watch;

use super::provider;

pub use error::TlsSettingError;
pub use settings::{TlsSettings, TlsVersion, TlsWords};

/// [`TlsSettings`] as TLS takes them. Two are equal when their settings are.
#[derive(Clone)]
pub struct Parameters {
    settings: TlsSettings,
    number: u64,
    provider: Arc<CryptoProvider>,
}

/// The parameters in force, exchanged as a whole. Read without a lock.
pub struct ParametersStore {
    current: ArcSwap<Parameters>,
    /// Serialises writers; readers never take it.
    writing: Mutex<()>,
    changes: watch::Sender<u64>,
}

impl Parameters {
    /// Looks up what the settings name.
    pub fn new(settings: TlsSettings) -> Self {
        let suite = |wanted| provider::suites().find(|suite| suite.suite() == wanted);
        let group = |wanted| provider::groups().find(|group| group.name() == wanted);
        // The settings name nothing that the library does not have.
        let provider = CryptoProvider {
            cipher_suites: settings.suites.iter().copied().filter_map(suite).collect(),
            kx_groups: settings.groups.iter().copied().filter_map(group).collect(),
            ..CryptoProvider::clone(provider::provider())
        };
        Self {
            settings,
            number: 0,
            provider: Arc::new(provider),
        }
    }

    /// What they were made of.
    pub fn settings(&self) -> &TlsSettings {
        &self.settings
    }

    /// Counts the parameters of a [`ParametersStore`], from 0 for the first.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Whether the library says of every part that it is in its validated module.
    pub fn fips(&self) -> bool {
        self.provider.fips()
    }

    /// Begins a server's configuration. The caller sets
    /// [`ServerConfig::require_ems`] on what comes of it: without the extended
    /// master secret a TLS 1.2 session is not bound to its handshake (RFC 7627).
    pub(super) fn server(
        &self,
        time: Arc<dyn TimeProvider>,
    ) -> Result<ConfigBuilder<ServerConfig, WantsVerifier>, Error> {
        ServerConfig::builder_with_details(Arc::clone(&self.provider), time)
            .with_protocol_versions(self.versions())
    }

    /// Begins a client's configuration; see [`Self::server`].
    pub(super) fn client(
        &self,
        time: Arc<dyn TimeProvider>,
    ) -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, Error> {
        ClientConfig::builder_with_details(Arc::clone(&self.provider), time)
            .with_protocol_versions(self.versions())
    }

    fn versions(&self) -> &'static [&'static SupportedProtocolVersion] {
        static ALL: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];
        match self.settings.minimum {
            TlsVersion::Tls13 => &ALL[..1],
            TlsVersion::Tls12 => &ALL,
        }
    }
}

impl Default for Parameters {
    /// TLS 1.3 only, all its suites, the post-quantum hybrid first.
    fn default() -> Self {
        Self::new(TlsSettings::default())
    }
}

impl PartialEq for Parameters {
    fn eq(&self, other: &Self) -> bool {
        self.settings == other.settings
    }
}

impl Eq for Parameters {}

impl ParametersStore {
    /// A store with these settings in force.
    pub fn new(settings: TlsSettings) -> Arc<Self> {
        Arc::new(Self {
            current: ArcSwap::from_pointee(Parameters::new(settings)),
            writing: Mutex::default(),
            changes: watch::Sender::new(0),
        })
    }

    /// What is in force.
    pub fn current(&self) -> Arc<Parameters> {
        self.current.load_full()
    }

    /// Takes settings into force for handshakes from now on. The same again is no
    /// change.
    pub fn set(&self, settings: TlsSettings) {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let was = self.current.load();
        if was.settings == settings {
            return;
        }
        let number = was.number + 1;
        let parameters = Parameters::new(settings);
        self.current.store(Arc::new(Parameters {
            number,
            ..parameters
        }));
        self.changes.send_replace(number);
    }

    /// Tells the number of all parameters that come into force.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

impl fmt::Debug for Parameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parameters")
            .field("number", &self.number)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ParametersStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ParametersStore")
            .field("current", &*self.current.load())
            .finish_non_exhaustive()
    }
}
