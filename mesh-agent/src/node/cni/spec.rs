//! The words of the CNI specification (github.com/containernetworking/cni, SPEC.md 1.1.0):
//! what the runtime gives a plugin and how a plugin answers.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Value, json};

/// Versions that are understood, oldest first. What the plugin reads of a result has had one
/// form since 0.3.
const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// The version of an answer when the runtime's own is not known.
pub(super) const NEWEST: &str = "1.1.0";

/// What the runtime asks for (`CNI_COMMAND`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Add,
    Del,
    Check,
    Status,
    Gc,
    Version,
}

impl Operation {
    pub(super) fn of(command: &str) -> Option<Self> {
        Some(match command {
            "ADD" => Self::Add,
            "DEL" => Self::Del,
            "CHECK" => Self::Check,
            "STATUS" => Self::Status,
            "GC" => Self::Gc,
            "VERSION" => Self::Version,
            _ => return None,
        })
    }
}

/// Codes of errors, as the specification numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    IncompatibleVersion = 1,
    InvalidEnvironment = 4,
    Io = 5,
    Undecodable = 6,
    InvalidConfiguration = 7,
    TryAgainLater = 11,
}

/// An answer that says no.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) code: Code,
    pub(super) msg: String,
    pub(super) details: String,
}

impl Failure {
    pub(super) fn new(code: Code, msg: impl Into<String>, details: impl Into<String>) -> Self {
        let (msg, details) = (msg.into(), details.into());
        Self { code, msg, details }
    }

    pub(super) fn to_json(&self, version: &str) -> Value {
        let code = self.code as u32;
        json!({"cniVersion": version, "code": code, "msg": self.msg, "details": self.details})
    }
}

/// The network configuration on standard input: what the runtime adds to it, and what the
/// keeper of the chain wrote.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NetConf {
    #[serde(default)]
    pub(super) cni_version: String,
    pub(super) prev_result: Option<Value>,
    #[serde(default)]
    pub(super) socket: Option<PathBuf>,
    #[serde(default)]
    pub(super) fail_open: bool,
    #[serde(default)]
    pub(super) exclude_namespaces: Option<Vec<String>>,
    #[serde(default)]
    pub(super) timeout_seconds: Option<u64>,
}

impl NetConf {
    pub(super) fn read(input: &[u8]) -> Result<Self, Failure> {
        let config: Self = serde_json::from_slice(input).map_err(|error| {
            Failure::new(
                Code::Undecodable,
                "isthmus: the network configuration cannot be read",
                error.to_string(),
            )
        })?;
        if !VERSIONS.contains(&config.cni_version.as_str()) {
            let known = VERSIONS.join(", ");
            return Err(Failure::new(
                Code::IncompatibleVersion,
                format!(
                    "isthmus: cniVersion {:?} is not supported",
                    config.cni_version
                ),
                format!("set cniVersion of the network configuration to one of {known}"),
            ));
        }
        Ok(config)
    }
}

/// The answer to `VERSION`, in the asker's version where it says one that is known.
pub(super) fn versions(input: &[u8]) -> Value {
    let asked = serde_json::from_slice::<Value>(input).ok();
    let asked = asked
        .as_ref()
        .and_then(|asked| asked["cniVersion"].as_str());
    let version = asked
        .filter(|asked| VERSIONS.contains(asked))
        .unwrap_or(NEWEST);
    json!({"cniVersion": version, "supportedVersions": VERSIONS})
}

/// `CNI_ARGS`: `K=V;K=V`.
pub(super) fn arguments(text: &str) -> HashMap<&str, &str> {
    text.split(';')
        .filter_map(|pair| pair.split_once('='))
        .collect()
}

/// The addresses inside the pod that a result lists: those on an interface of its sandbox,
/// or on none that the result names.
pub(super) fn addresses(result: &Value) -> Vec<IpAddr> {
    let inside = |ip: &Value| {
        let Some(index) = ip["interface"]
            .as_u64()
            .and_then(|at| usize::try_from(at).ok())
        else {
            return true;
        };
        result["interfaces"][index]["sandbox"]
            .as_str()
            .is_some_and(|sandbox| !sandbox.is_empty())
    };
    let ips = result["ips"].as_array().into_iter().flatten();
    ips.filter(|ip| inside(ip))
        .filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok())
        .collect()
}
