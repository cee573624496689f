use std::fs;

use super::*;
use crate::ca::tokens::{TokenFile, Which};
use crate::identity::fixtures::id;

/// Where callers call from.
const FROM: std::net::IpAddr = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn pod(name: &str, account: &str, node: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{nodeName: {node}, serviceAccountName: {account}}}\n\
         status: {{podIP: 10.0.0.{}}}\n",
        name.len()
    )
}

struct Mesh {
    ca: tempfile::TempDir,
    config: tempfile::TempDir,
}

impl Mesh {
    fn new() -> Self {
        let mesh = Self {
            ca: tempfile::tempdir().unwrap(),
            config: tempfile::tempdir().unwrap(),
        };
        mesh.write("web.yaml", &pod("web", "web", "node-1"));
        mesh
    }

    fn write(&self, name: &str, text: &str) {
        let new = self.config.path().join(".new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.config.path().join(name)).unwrap();
    }

    fn authorizer(&self) -> FolderAuthorizer {
        FolderAuthorizer::open(self.ca.path(), self.config.path()).unwrap()
    }
}

fn node(name: &str) -> Requester {
    Requester { node: name.into() }
}

#[tokio::test]
async fn a_node_gets_what_runs_on_it_and_nothing_else() {
    let mesh = Mesh::new();
    let authorizer = mesh.authorizer();
    authorizer
        .authorize(&node("node-1"), &id("web"))
        .await
        .unwrap();
    for (name, account) in [("node-2", "web"), ("node-1", "db"), ("", "web")] {
        let denied = authorizer.authorize(&node(name), &id(account)).await;
        assert!(
            matches!(denied, Err(Denial::NotOnNode { .. })),
            "{name} {account}"
        );
    }
}

#[tokio::test]
async fn a_pod_that_moves_takes_its_identity_along() {
    let mesh = Mesh::new();
    let authorizer = mesh.authorizer();
    authorizer
        .authorize(&node("node-1"), &id("web"))
        .await
        .unwrap();
    mesh.write("web.yaml", &pod("web", "web", "node-2"));
    // Asked before the folder source has told the change: it is waited for.
    authorizer
        .authorize(&node("node-2"), &id("web"))
        .await
        .unwrap();
    let denied = authorizer.authorize(&node("node-1"), &id("web")).await;
    assert!(matches!(denied, Err(Denial::NotOnNode { .. })));
}

#[tokio::test]
async fn tokens_are_believed_while_they_are_in_the_file() {
    let mesh = Mesh::new();
    let authorizer = mesh.authorizer();
    let file = TokenFile::new(mesh.ca.path());
    let token = file.create("node-1").unwrap();
    assert_eq!(
        authorizer.authenticate(&token.text, FROM).await.unwrap(),
        node("node-1")
    );
    let unknown = authorizer.authenticate("isthmus-node-1", FROM).await;
    assert!(matches!(unknown, Err(Denial::UnknownToken)));
    file.revoke(&Which::Id(token.id.clone())).unwrap();
    let revoked = authorizer.authenticate(&token.text, FROM).await;
    assert!(matches!(revoked, Err(Denial::UnknownToken)));
    fs::write(mesh.ca.path().join(crate::ca::tokens::FILE), "garbage").unwrap();
    let unreadable = authorizer.authenticate(&token.text, FROM).await;
    assert!(matches!(unreadable, Err(Denial::Unavailable(_))));
}
