//! SPIFFE IDs of other forms than Istio's: a trust domain whose authority writes them by a
//! template, as SPIRE's does. The template is exact in both directions, so that an ID of the
//! domain is of one service account or of nobody.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::spiffe::{IdentityError, SpiffeId, TrustDomain, is_kubernetes_name};

/// Longest SPIFFE ID in bytes (SPIFFE-ID §2.3).
const MAX_ID: usize = 2048;

/// Longest trust domain and longest Kubernetes name in bytes.
const MAX_DOMAIN: usize = 255;
const MAX_NAME: usize = 253;

/// The paths of a trust domain's SPIFFE IDs, such as
/// `/k8s/{namespace}/{serviceAccount}/{podName}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdTemplate {
    text: Box<str>,
    segments: Box<[Segment]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Literal(Box<str>),
    /// One name between two texts, either of which may be empty.
    Name {
        before: Box<str>,
        name: Name,
        after: Box<str>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    Namespace,
    ServiceAccount,
    Pod,
}

/// Why a text is no template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// It is no path.
    #[error("{0:?} does not begin with a slash, or ends with one")]
    Slash(String),
    /// A segment that no SPIFFE ID has (SPIFFE-ID §2.2).
    #[error(
        "the segment {0:?} is none of a SPIFFE ID: use letters, digits, '.', '-', '_' and at most one of {{namespace}}, {{serviceAccount}}, {{podName}}"
    )]
    Segment(String),
    /// A name that is needed once.
    #[error("{{{0}}} is there {1} times: it must be there once")]
    Count(&'static str, usize),
    /// The pod's name more than once.
    #[error("{{podName}} is there {0} times: at most once")]
    Pods(usize),
    /// The longest names would make too long an ID.
    #[error("with the longest names an ID would be {0} bytes long, and SPIFFE allows {MAX_ID}")]
    TooLong(usize),
}

/// A SPIFFE ID of any form, for the command line and the records of an authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpiffeUri(Box<str>);

/// The templates by trust domain; a domain without one has IDs of Istio's form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdForms(BTreeMap<TrustDomain, Arc<IdTemplate>>);

impl Name {
    const ALL: [Self; 3] = [Self::Namespace, Self::ServiceAccount, Self::Pod];

    fn text(self) -> &'static str {
        match self {
            Self::Namespace => "namespace",
            Self::ServiceAccount => "serviceAccount",
            Self::Pod => "podName",
        }
    }
}

impl IdTemplate {
    /// Whether pods of one service account have different IDs.
    pub fn has_pod_name(&self) -> bool {
        self.count(Name::Pod) > 0
    }

    fn count(&self, wanted: Name) -> usize {
        let is = |it: &&Segment| matches!(it, Segment::Name { name, .. } if *name == wanted);
        self.segments.iter().filter(is).count()
    }

    /// Whether it is Istio's own form.
    fn is_standard(&self) -> bool {
        *self.text == *"/ns/{namespace}/sa/{serviceAccount}"
    }

    fn path(&self, namespace: &str, account: &str, pod: &str) -> String {
        let mut path = String::with_capacity(self.text.len());
        for segment in &self.segments {
            path.push('/');
            match segment {
                Segment::Literal(text) => path.push_str(text),
                Segment::Name {
                    before,
                    name,
                    after,
                } => {
                    path.push_str(before);
                    path.push_str(match name {
                        Name::Namespace => namespace,
                        Name::ServiceAccount => account,
                        Name::Pod => pod,
                    });
                    path.push_str(after);
                }
            }
        }
        path
    }

    /// Namespace and service account of a path that is of this form. `path` is without its
    /// first slash.
    fn names<'a>(&self, path: &'a str) -> Option<(&'a str, &'a str)> {
        let (mut namespace, mut account) = (None, None);
        let mut parts = path.split('/');
        for segment in &self.segments {
            let part = parts.next()?;
            match segment {
                Segment::Literal(text) if *part == **text => {}
                Segment::Literal(_) => return None,
                Segment::Name {
                    before,
                    name,
                    after,
                } => {
                    let value = part.strip_prefix(&**before)?.strip_suffix(&**after)?;
                    if !is_kubernetes_name(value) {
                        return None;
                    }
                    match name {
                        Name::Namespace => namespace = Some(value),
                        Name::ServiceAccount => account = Some(value),
                        Name::Pod => {}
                    }
                }
            }
        }
        if parts.next().is_some() {
            return None;
        }
        Some((namespace?, account?))
    }
}

impl FromStr for IdTemplate {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let slash = || TemplateError::Slash(text.to_owned());
        let path = text.strip_prefix('/').ok_or_else(slash)?;
        if path.is_empty() || path.ends_with('/') {
            return Err(slash());
        }
        let segments = path.split('/').map(segment);
        let template = Self {
            text: text.into(),
            segments: segments.collect::<Result<_, _>>()?,
        };
        for name in [Name::Namespace, Name::ServiceAccount] {
            let count = template.count(name);
            if count != 1 {
                return Err(TemplateError::Count(name.text(), count));
            }
        }
        let pods = template.count(Name::Pod);
        if pods > 1 {
            return Err(TemplateError::Pods(pods));
        }
        let longest = "n".repeat(MAX_NAME);
        let path = template.path(&longest, &longest, &longest);
        let length = "spiffe://".len() + MAX_DOMAIN + path.len();
        if length > MAX_ID {
            return Err(TemplateError::TooLong(length));
        }
        Ok(template)
    }
}

fn segment(text: &str) -> Result<Segment, TemplateError> {
    let error = || TemplateError::Segment(text.to_owned());
    let allowed = |text: &str| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        text.bytes().all(allowed)
    };
    let Some((before, rest)) = text.split_once('{') else {
        let is_one = !text.is_empty() && text != "." && text != ".." && allowed(text);
        return is_one
            .then(|| Segment::Literal(text.into()))
            .ok_or_else(error);
    };
    let (name, after) = rest.split_once('}').ok_or_else(error)?;
    let name = Name::ALL.into_iter().find(|it| it.text() == name);
    let name = name.ok_or_else(error)?;
    if !(allowed(before) && allowed(after)) {
        return Err(error());
    }
    Ok(Segment::Name {
        before: before.into(),
        name,
        after: after.into(),
    })
}

impl IdForms {
    /// Gives a trust domain a template, in place of an earlier one.
    pub fn set(&mut self, domain: TrustDomain, template: IdTemplate) {
        if template.is_standard() {
            self.0.remove(&domain);
        } else {
            self.0.insert(domain, Arc::new(template));
        }
    }

    /// The template of a trust domain; `None` for Istio's form.
    pub fn template(&self, domain: &TrustDomain) -> Option<&Arc<IdTemplate>> {
        self.0.get(domain)
    }

    /// The ID of a pod.
    ///
    /// # Errors
    /// A name that is none of Kubernetes.
    pub(crate) fn identity(
        &self,
        domain: TrustDomain,
        namespace: Arc<str>,
        account: Arc<str>,
        pod: &str,
    ) -> Result<SpiffeId, IdentityError> {
        let Some(template) = self.0.get(&domain) else {
            return SpiffeId::of(domain, namespace, account);
        };
        if template.has_pod_name() && !is_kubernetes_name(pod) {
            return Err(IdentityError::Name(pod.to_owned()));
        }
        let path = template.path(&namespace, &account, pod);
        Ok(SpiffeId::of(domain, namespace, account)?.with_path(path))
    }

    /// The workload that a URI names, by the form of its trust domain and by no other.
    ///
    /// # Errors
    /// A URI of another form, or of none.
    pub fn parse(&self, uri: &str) -> Result<SpiffeId, IdentityError> {
        let rest = uri.strip_prefix("spiffe://");
        let parts = rest.and_then(|rest| rest.split_once('/'));
        let Some((domain, path)) = parts.filter(|_| uri.len() <= MAX_ID) else {
            return Err(IdentityError::Shape(uri.to_owned()));
        };
        let domain = TrustDomain::new(domain)?;
        let Some(template) = self.0.get(&domain) else {
            return uri.parse();
        };
        let Some((namespace, account)) = template.names(path) else {
            return Err(IdentityError::Form {
                uri: uri.to_owned(),
                form: format!("spiffe://{domain}{template}"),
            });
        };
        let id = SpiffeId::new(domain, namespace, account)?;
        Ok(id.with_path(format!("/{path}")))
    }
}

impl FromStr for SpiffeUri {
    type Err = IdentityError;

    /// SPIFFE-ID §2: a trust domain, and a path of segments.
    fn from_str(uri: &str) -> Result<Self, Self::Err> {
        let rest = uri.strip_prefix("spiffe://");
        let Some((domain, path)) = rest.and_then(|rest| rest.split_once('/')) else {
            return Err(IdentityError::Shape(uri.to_owned()));
        };
        TrustDomain::new(domain)?;
        let literal = |text| matches!(segment(text), Ok(Segment::Literal(_)));
        if uri.len() > MAX_ID || !path.split('/').all(literal) {
            return Err(IdentityError::Shape(uri.to_owned()));
        }
        Ok(Self(uri.into()))
    }
}

impl fmt::Display for SpiffeUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for IdTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests;
