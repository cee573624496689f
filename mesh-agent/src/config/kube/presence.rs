//! Whether a kind is installed that the server's discovery does not list. The discovery of a
//! server that starts is incomplete for a while, so its answer alone proves no absence. The proof
//! is that the kind's own list answers 404 and, for kinds that are acted on, that their
//! CustomResourceDefinition is gone. Called by the discovery.

use http::Request;
use kube::{Client, Error};
use serde::de::IgnoredAny;

use super::follow::describe;
use super::kinds::Kind;

/// The health's name for definitions, which are read only where a kind seems to be gone.
pub(super) const DEFINITIONS: &str = "customresourcedefinitions.apiextensions.k8s.io";

/// Whether a kind is installed.
#[derive(Debug)]
pub(super) enum Presence {
    /// The server lists it in this version.
    Served(Kind),
    /// It is not installed, and so has no objects.
    Absent,
    /// Neither is proven.
    Unknown(Unproven),
}

/// Why the absence of a kind is not proven.
#[derive(Debug)]
pub(super) struct Unproven {
    pub(super) reason: String,
    /// Whether the definition could not be read: a fault that lasts until the permission or the
    /// server is repaired.
    pub(super) is_unreadable: bool,
}

/// Lists the kind in each of `versions`. Where none is there, reads its definition if
/// `is_acted_on`. A kind that is only reported counts as absent without that.
pub(super) async fn examine(client: &Client, versions: &[Kind], is_acted_on: bool) -> Presence {
    for kind in versions {
        match list(client, kind).await {
            Ok(()) => return Presence::Served(kind.clone()),
            Err(Error::Api(status)) if status.code == 404 => {}
            // Without permission a kind that is only reported is of no use, installed or not.
            Err(Error::Api(status)) if status.code == 403 && !is_acted_on => {}
            Err(error) => {
                return Presence::Unknown(Unproven {
                    reason: format!("it cannot be listed: {}", describe(&error)),
                    is_unreadable: false,
                });
            }
        }
    }
    match versions.first() {
        Some(kind) if is_acted_on => examine_definition(client, &kind.name()).await,
        _ => Presence::Absent,
    }
}

async fn examine_definition(client: &Client, name: &str) -> Presence {
    let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}");
    let unproven = |reason, is_unreadable| {
        Presence::Unknown(Unproven {
            reason,
            is_unreadable,
        })
    };
    match get(client, &path).await {
        Ok(()) => unproven(
            "its definition is installed, and the server does not serve it".to_owned(),
            false,
        ),
        Err(Error::Api(status)) if status.code == 404 && is_about(&status, name) => {
            Presence::Absent
        }
        Err(error) => unproven(
            format!(
                "the server does not serve it, and its definition cannot be read: {}",
                describe(&error)
            ),
            true,
        ),
    }
}

/// Whether a 404 is about the object and not about the path: a server that does not serve
/// definitions yet answers 404 too.
fn is_about(status: &kube::core::Status, name: &str) -> bool {
    let details = status.details.as_ref();
    details.is_some_and(|it| it.name == name && it.kind == "customresourcedefinitions")
}

async fn list(client: &Client, kind: &Kind) -> Result<(), Error> {
    let path = format!("/apis/{}/{}?limit=1", kind.api_version(), kind.plural);
    get(client, &path).await
}

async fn get(client: &Client, path: &str) -> Result<(), Error> {
    let request = Request::get(path).body(Vec::new());
    let request = request.map_err(|error| Error::Service(error.into()))?;
    client.request::<IgnoredAny>(request).await.map(drop)
}
