//! The `baggage` header (W3C Baggage) with Istio's keys, by which a tunnel
//! tells which workload asked. The outbound proxy builds one for each local
//! workload, once; the request carries it; the inbound proxy logs it. It is a
//! claim and never decides anything.

use std::sync::Arc;

use http::header::{GetAll, HeaderValue};

/// Longest header that is looked at, in bytes (W3C Baggage §3.3.2).
const MAX_LEN: usize = 8192;
/// Most members that are looked at (W3C Baggage §3.3.2).
const MAX_MEMBERS: usize = 64;
/// Longest value that is kept, in bytes: no Kubernetes name is longer.
const MAX_VALUE: usize = 253;

/// What a workload says about itself; see [`Baggage`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BaggageFields {
    /// `k8s.cluster.name`
    pub cluster: Option<Arc<str>>,
    /// `k8s.namespace.name`
    pub namespace: Option<Arc<str>>,
    /// `k8s.<kind>.name`
    pub workload: Option<(WorkloadKind, Arc<str>)>,
    /// `service.name`
    pub service: Option<Arc<str>>,
    /// `service.version`
    pub version: Option<Arc<str>>,
    /// `cloud.region`
    pub region: Option<Arc<str>>,
    /// `cloud.availability_zone`
    pub zone: Option<Arc<str>>,
}

/// The kind of object that owns a workload's pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkloadKind {
    /// A Deployment.
    Deployment,
    /// A CronJob.
    CronJob,
    /// A Job.
    Job,
    /// A Pod that nothing owns.
    Pod,
}

/// Fields and their header, encoded once. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Baggage {
    fields: Arc<BaggageFields>,
    header: HeaderValue,
}

impl WorkloadKind {
    const ALL: [Self; 4] = [Self::Deployment, Self::CronJob, Self::Job, Self::Pod];

    fn key(self) -> &'static str {
        match self {
            Self::Deployment => "k8s.deployment.name",
            Self::CronJob => "k8s.cronjob.name",
            Self::Job => "k8s.job.name",
            Self::Pod => "k8s.pod.name",
        }
    }
}

impl Baggage {
    /// The header of these fields; `None` when all are empty.
    pub fn new(fields: BaggageFields) -> Option<Self> {
        let members: Vec<String> = fields
            .members()
            .into_iter()
            .filter_map(|(key, value)| Some(format!("{key}={}", encode(value?))))
            .collect();
        if members.is_empty() {
            return None;
        }
        let header = HeaderValue::try_from(members.join(",")).ok()?;
        Some(Self {
            fields: Arc::new(fields),
            header,
        })
    }

    /// Reads a peer's headers. Unknown and garbled members are left out;
    /// `None` when nothing is left, or when the headers are too long.
    pub fn parse(headers: GetAll<'_, HeaderValue>) -> Option<Self> {
        if headers.iter().map(HeaderValue::len).sum::<usize>() > MAX_LEN {
            return None;
        }
        let mut fields = BaggageFields::default();
        let texts = headers.iter().filter_map(|value| value.to_str().ok());
        for member in texts.flat_map(|text| text.split(',')).take(MAX_MEMBERS) {
            // Properties after ';' are metadata that Istio does not use.
            let pair = member.split(';').next().unwrap_or_default();
            if let Some((key, value)) = pair.split_once('=')
                && let Some(value) = decode(value.trim())
            {
                fields.set(key.trim(), value);
            }
        }
        Self::new(fields)
    }

    /// The fields.
    pub fn fields(&self) -> &BaggageFields {
        &self.fields
    }

    pub(super) fn header(&self) -> &HeaderValue {
        &self.header
    }
}

impl BaggageFields {
    /// In the order in which ztunnel writes them.
    fn members(&self) -> [(&'static str, Option<&Arc<str>>); 7] {
        let kind = self.workload.as_ref().map(|(kind, _)| *kind);
        let workload = self.workload.as_ref().map(|(_, name)| name);
        [
            ("k8s.cluster.name", self.cluster.as_ref()),
            ("k8s.namespace.name", self.namespace.as_ref()),
            (kind.map_or("", WorkloadKind::key), workload),
            ("service.name", self.service.as_ref()),
            ("service.version", self.version.as_ref()),
            ("cloud.region", self.region.as_ref()),
            ("cloud.availability_zone", self.zone.as_ref()),
        ]
    }

    fn set(&mut self, key: &str, value: Arc<str>) {
        let field = match key {
            "k8s.cluster.name" => &mut self.cluster,
            "k8s.namespace.name" => &mut self.namespace,
            "service.name" => &mut self.service,
            "service.version" => &mut self.version,
            "cloud.region" => &mut self.region,
            "cloud.availability_zone" => &mut self.zone,
            _ => {
                let kind = WorkloadKind::ALL.into_iter().find(|kind| kind.key() == key);
                if let Some(kind) = kind {
                    self.workload = Some((kind, value));
                }
                return;
            }
        };
        *field = Some(value);
    }
}

/// Percent-encodes what W3C Baggage §3.3.1.3 does not allow in a value, and
/// '%' itself. Kubernetes names come out as they are.
fn encode(value: &str) -> String {
    let mut encoded = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_graphic() && !b"\",;\\%".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

fn decode(value: &str) -> Option<Arc<str>> {
    let mut decoded = Vec::with_capacity(value.len().min(MAX_VALUE));
    let mut bytes = value.bytes();
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'%' => {
                let high = char::from(bytes.next()?).to_digit(16)?;
                let low = char::from(bytes.next()?).to_digit(16)?;
                u8::try_from(high << 4 | low).ok()?
            }
            byte => byte,
        };
        decoded.push(byte);
        if decoded.len() > MAX_VALUE {
            return None;
        }
    }
    let text = String::from_utf8(decoded).ok()?;
    // A log line is no place for a peer's control characters.
    let clean = !text.is_empty() && !text.chars().any(char::is_control);
    clean.then(|| text.into())
}

#[cfg(test)]
mod tests;
