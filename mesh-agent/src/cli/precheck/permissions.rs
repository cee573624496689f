//! Whether the caller may apply what is to be applied.

use std::collections::BTreeSet;

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};

use super::super::check::Finding;
use super::super::install::ClusterError;
use crate::install::Manifest;

/// What a server-side apply asks for.
const VERBS: [&str; 2] = ["create", "patch"];

/// Asks the API server of each kind of the manifests. Whoever may not grant what the roles
/// hold learns of it when they are applied: no review tells.
pub(super) async fn finding(
    client: &Client,
    manifests: &[Manifest],
) -> Result<Finding, ClusterError> {
    let wanted: BTreeSet<_> = manifests
        .iter()
        .map(|it| (it.group(), it.plural(), it.namespace()))
        .collect();
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let mut refused = Vec::new();
    for (group, resource, namespace) in wanted {
        for verb in VERBS {
            let review = SelfSubjectAccessReview {
                spec: SelfSubjectAccessReviewSpec {
                    resource_attributes: Some(ResourceAttributes {
                        group: Some(group.to_owned()),
                        resource: Some(resource.clone()),
                        namespace: namespace.map(str::to_owned),
                        verb: Some(verb.to_owned()),
                        ..ResourceAttributes::default()
                    }),
                    ..SelfSubjectAccessReviewSpec::default()
                },
                ..SelfSubjectAccessReview::default()
            };
            let answer = reviews.create(&PostParams::default(), &review).await;
            let answer = answer.map_err(ClusterError::asking("ask what you may do"))?;
            if !answer.status.is_some_and(|status| status.allowed) {
                refused.push(format!("{verb} {resource}"));
            }
        }
    }
    Ok(Finding {
        name: "permissions".to_owned(),
        ok: refused.is_empty(),
        required: true,
        detail: match refused.is_empty() {
            true => "to apply everything".to_owned(),
            false => format!("you may not {}", refused.join(", ")),
        },
        cure: "use a kubeconfig of a cluster administrator".to_owned(),
    })
}
