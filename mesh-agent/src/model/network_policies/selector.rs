//! Kubernetes' label selector, with its expressions.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;

/// Labels that a pod must have; one without requirements selects every pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Selector(Box<[Requirement]>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: Box<str>,
    operator: Operator,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Operator {
    In(Box<[Box<str>]>),
    NotIn(Box<[Box<str>]>),
    Exists,
    DoesNotExist,
    /// One that is not known: it selects nothing, so that no policy is named without cause.
    Unknown,
}

impl Selector {
    pub(super) fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|it| it.is_met(labels))
    }
}

impl Requirement {
    fn is_met(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&*self.key);
        let is_among = |values: &[Box<str>]| {
            value.is_some_and(|value| values.iter().any(|it| **it == **value))
        };
        match &self.operator {
            Operator::In(values) => is_among(values),
            Operator::NotIn(values) => !is_among(values),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Unknown => false,
        }
    }
}

impl From<meta::LabelSelector> for Selector {
    fn from(it: meta::LabelSelector) -> Self {
        let labels = it.match_labels.unwrap_or_default().into_iter();
        let labels = labels.map(|(key, value)| Requirement {
            key: key.into(),
            operator: Operator::In([value.into()].into()),
        });
        let expressions = it.match_expressions.unwrap_or_default().into_iter();
        let expressions = expressions.map(|it| {
            let values = it.values.unwrap_or_default().into_iter().map(Box::from);
            let values: Box<[Box<str>]> = values.collect();
            Requirement {
                key: it.key.into(),
                operator: match it.operator.as_str() {
                    "In" => Operator::In(values),
                    "NotIn" => Operator::NotIn(values),
                    "Exists" => Operator::Exists,
                    "DoesNotExist" => Operator::DoesNotExist,
                    _ => Operator::Unknown,
                },
            }
        });
        Self(labels.chain(expressions).collect())
    }
}
