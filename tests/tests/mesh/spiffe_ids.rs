//! SPIFFE IDs of another form than Istio's, as SPIRE writes them: in certificates from files and
//! in those of the embedded authority.

use anyhow::{Result, ensure};
use isthmus_tests::wait::wait_until;

use crate::file_certificates::{Files, certificate};
use crate::pair::{Pair, ensure_reset};

const SETTINGS: &str = "
apiVersion: isthmus.dev/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec: {spiffeIdTemplate: '/k8s/{namespace}/{serviceAccount}'}
";

fn id(account: &str) -> String {
    format!("spiffe://cluster.local/k8s/default/{account}")
}

/// A policy for the server, in the namespace of all pods.
fn policy(action: &str, source: &str) -> String {
    format!(
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: guests, namespace: default}}
spec: {{action: {action}, rules: [{{from: [{{source: {{{source}}}}}]}}]}}
"
    )
}

/// Both pods have file certificates whose IDs are of the template.
fn start() -> Result<Files> {
    let files = Files::prepare()?;
    files.pair.mesh.write("settings.yaml", SETTINGS)?;
    files.give(&files.client(), &format!("URI:{}", id("client")))?;
    files.give(&files.server(), &format!("URI:{}", id("server")))?;
    files.pair.start_agents()?;
    Ok(files)
}

/// Policies by namespace and service account hold as for other IDs, `principals` match the ID as
/// it is, and both nodes log it.
#[test]
fn spiffe_ids_of_a_template_are_matched_by_policies() -> Result<()> {
    let files = start()?;
    let Pair { a, b, mesh, .. } = &files.pair;
    let seen = files.try_connection()?;
    ensure!(seen["read"] == "x\n", "{seen}");
    for node in [a, b] {
        let line = node.wait_access("the connection", |line| line["outcome"] == "ok")?;
        ensure!(
            line["source_identity"] == id("client") && line["destination_identity"] == id("server"),
            "{line}"
        );
    }
    let principal = "principals: [cluster.local/k8s/default/client]";
    for (action, source, is_answered) in [
        ("ALLOW", "serviceAccounts: [client]", true),
        ("DENY", "serviceAccounts: [default/client]", false),
        ("ALLOW", "namespaces: [default]", true),
        ("ALLOW", "namespaces: [other]", false),
        ("ALLOW", principal, true),
        ("DENY", principal, false),
        (
            "ALLOW",
            "principals: [cluster.local/ns/default/sa/client]",
            false,
        ),
    ] {
        let policy = policy(action, source);
        a.after(|| b.after(|| mesh.write("guests.yaml", &policy)))?;
        let seen = files.try_connection()?;
        match is_answered {
            true => ensure!(seen["read"] == "x\n", "{action} {source}: {seen}"),
            false => ensure_reset(&seen)?,
        }
    }
    Ok(())
}

/// A certificate of Istio's form is another identity: the old one stays in force.
#[test]
fn spiffe_ids_of_istios_form_do_not_fit_a_template() -> Result<()> {
    let files = start()?;
    let standard = files.pair.server.identity();
    files.give(&files.server(), &format!("URI:{standard}"))?;
    wait_until("the certificate is refused", || {
        let error = certificate(&files.pair.b).unwrap_or_default()["error"].to_string();
        error.contains(&standard) && error.contains(&id("server"))
    })?;
    let seen = files.try_connection()?;
    ensure!(seen["read"] == "x\n", "{seen}");
    Ok(())
}

/// The embedded authority certifies by the template.
#[test]
fn spiffe_ids_of_a_template_are_issued_by_the_embedded_authority() -> Result<()> {
    let pair = Pair::prepare()?;
    pair.mesh.write("settings.yaml", SETTINGS)?;
    let _banner = pair.server.serve("serve banner blue")?;
    pair.start_agents()?;
    pair.ensure_blue()?;
    let line = pair
        .b
        .wait_access("the connection", |line| line["outcome"] == "ok")?;
    ensure!(
        line["source_identity"] == id("client") && line["destination_identity"] == id("server"),
        "{line}"
    );
    Ok(())
}
