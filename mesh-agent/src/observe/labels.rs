//! What is said of the two ends of a connection: resolved once a pod or once a
//! handshake, shared by reference afterwards. The proxy builds these values.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Which way a connection goes, seen from the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// The pod's application opened it.
    Outbound,
    /// It came to the pod from elsewhere.
    Inbound,
}

impl Direction {
    /// `outbound` or `inbound`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }

    /// The value of Istio's `reporter` label.
    pub fn reporter(self) -> &'static str {
        match self {
            Self::Outbound => "source",
            Self::Inbound => "destination",
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A workload, as logs and metrics name it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodLabels {
    /// Name of the pod.
    pub name: Arc<str>,
    /// Namespace of the pod.
    pub namespace: Arc<str>,
    /// Name of what owns the pod (a Deployment, say), or the pod's own name when nothing does.
    /// The metrics carry this instead of `name`, so that a rollout does not multiply them.
    pub workload: Arc<str>,
    /// SPIFFE URI of the pod.
    pub identity: Arc<str>,
    /// Label `app`, or `app.kubernetes.io/name`.
    pub app: Option<Arc<str>>,
    /// Label `version`, or `app.kubernetes.io/version`.
    pub version: Option<Arc<str>>,
}

impl fmt::Display for PodLabels {
    /// `namespace/name`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// How the bytes travel between the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Security {
    /// In an HBONE tunnel whose two ends showed their certificates.
    MutualTls {
        /// `TLSv1.3`.
        version: &'static str,
        /// The cipher suite by its IANA name, such as `TLS_AES_256_GCM_SHA384`.
        suite: &'static str,
    },
    /// As plain TCP.
    Plaintext,
}

impl Security {
    /// What a finished handshake settled on.
    pub fn of(connection: &rustls::CommonState) -> Self {
        let version = match connection.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
            Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "unknown",
        };
        let suite = connection
            .negotiated_cipher_suite()
            .and_then(|suite| suite.suite().as_str())
            .unwrap_or("unknown");
        // rustls names TLS 1.3 suites TLS13_…; IANA (RFC 8446, B.4) has TLS_….
        let suite = match suite {
            "TLS13_AES_128_GCM_SHA256" => "TLS_AES_128_GCM_SHA256",
            "TLS13_AES_256_GCM_SHA384" => "TLS_AES_256_GCM_SHA384",
            "TLS13_CHACHA20_POLY1305_SHA256" => "TLS_CHACHA20_POLY1305_SHA256",
            other => other,
        };
        Self::MutualTls { version, suite }
    }

    /// `mutual_tls` or `plaintext`: the value of `security` in logs and listings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MutualTls { .. } => "mutual_tls",
            Self::Plaintext => "plaintext",
        }
    }

    /// The value of Istio's `connection_security_policy` label, which has `none` for plaintext.
    pub fn policy(self) -> &'static str {
        match self {
            Self::MutualTls { .. } => "mutual_tls",
            Self::Plaintext => "none",
        }
    }

    /// TLS version and cipher suite, when there are any.
    pub fn tls(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::MutualTls { version, suite } => Some((version, suite)),
            Self::Plaintext => None,
        }
    }
}
