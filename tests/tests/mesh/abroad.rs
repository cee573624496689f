//! Two meshes side by side: node `a` of `cluster.local`, node `b` of `partner.test`, each with
//! its own authority and its own configuration, which knows the other's pod.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use isthmus_tests::mesh::{Mesh, Node, Pod, PodSpec};
use isthmus_tests::process::{Process, own_program, run};
use serde_json::Value;

use crate::asked::{Crossing, crossing};

pub(crate) const HOME: &str = "cluster.local";
pub(crate) const AWAY: &str = "partner.test";

/// Whose roots the two authorities have.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Roots {
    /// Each its own.
    Separate,
    /// One off-line root, which signed both intermediates.
    Shared,
}

/// Fields go in this order: agents first, so that they do not complain of vanishing pods.
pub(crate) struct Abroad {
    /// Of [`HOME`]; its configuration and state are the mesh's.
    pub(crate) a: Node,
    /// Of [`AWAY`].
    pub(crate) b: Node,
    /// On node `a`.
    pub(crate) home: Pod,
    /// On node `b`.
    pub(crate) away: Pod,
    /// On port 8080 of both pods.
    _servers: [Process; 2],
    pub(crate) mesh: Mesh,
}

impl Abroad {
    /// Both authorities are there; neither trusts the other, and no agent runs.
    pub(crate) fn prepare(roots: Roots) -> Result<Self> {
        let mesh = Mesh::new()?;
        let (a, mut b) = (mesh.node("a")?, mesh.node("b")?);
        b.secede()?;
        for (node, domain) in [(&a, HOME), (&b, AWAY)] {
            let ca = node.state().join("ca");
            match roots {
                Roots::Separate => drop(authority("init", &ca, &["--trust-domain", domain])?),
                Roots::Shared => init_below(&mesh.folder().join("corporate"), &ca, domain)?,
            }
        }
        let home = a.pod("home")?;
        let away = b.pod_with(PodSpec::new("away").outside())?;
        let of = |domain| move |spec: PodSpec| spec.annotation("isthmus.dev/trust-domain", domain);
        mesh.write("pod-away", &away.yaml_with(of(AWAY))?)?;
        b.write("pod-away", &away.yaml()?)?;
        b.write("pod-home", &home.yaml_with(of(HOME))?)?;
        b.write("namespace-default", NAMESPACE)?;
        let abroad = Self {
            _servers: [home.serve("serve echo")?, away.serve("serve echo")?],
            a,
            b,
            home,
            away,
            mesh,
        };
        abroad.trust_at_home("")?;
        abroad.trust_away("")?;
        Ok(abroad)
    }

    /// Each trusts the other's roots, and both agents run.
    pub(crate) fn start(roots: Roots) -> Result<Self> {
        let abroad = Self::prepare(roots)?;
        abroad.trust_at_home(&trusting(AWAY, &abroad.roots_of(&abroad.b)?))?;
        abroad.trust_away(&trusting(HOME, &abroad.roots_of(&abroad.a)?))?;
        abroad.start_agents()?;
        Ok(abroad)
    }

    pub(crate) fn start_agents(&self) -> Result<()> {
        self.a.launch()?;
        self.b.launch()?;
        self.a.wait_ready()?;
        self.b.wait_ready()?;
        self.a.wait_enrolled(&self.home)?;
        self.b.wait_enrolled(&self.away)
    }

    /// What `ca bundle` says for a node's authority.
    pub(crate) fn roots_of(&self, node: &Node) -> Result<String> {
        authority("bundle", &node.state().join("ca"), &[])
    }

    /// Writes what the mesh at home says beside its trust domain.
    pub(crate) fn trust_at_home(&self, spec: &str) -> Result<()> {
        self.mesh.write("mesh", &mesh_config(HOME, spec))
    }

    /// Writes what the other mesh says beside its trust domain.
    pub(crate) fn trust_away(&self, spec: &str) -> Result<()> {
        self.b.write("mesh", &mesh_config(AWAY, spec))
    }

    /// A request crosses in each direction, encrypted.
    pub(crate) fn ensure_both_ways(&self) -> Result<()> {
        for (client, server) in [(&self.home, &self.away), (&self.away, &self.home)] {
            let crossing = crossing(&self.mesh, client, server)?;
            ensure!(crossing == Crossing::Encrypted, "it was sent in the clear");
        }
        Ok(())
    }
}

/// The identity of a workload of `default`.
pub(crate) fn identity(domain: &str, account: &str) -> String {
    format!("spiffe://{domain}/ns/default/sa/{account}")
}

/// `caCertificates` with roots for one trust domain.
pub(crate) fn trusting(domain: &str, roots: &str) -> String {
    format!(
        "  caCertificates:\n  - trustDomains: [{domain}]\n    pem: |\n{}",
        block(roots)
    )
}

/// The same with revocation lists.
pub(crate) fn trusting_with_lists(domain: &str, roots: &str, lists: &str) -> String {
    format!("{}    crl: |\n{}", trusting(domain, roots), block(lists))
}

/// What a node's status says of a trust domain.
pub(crate) fn trust(node: &Node, domain: &str) -> Result<Value> {
    let status = node.cli("status")?;
    let all = status["trust"].as_array().context("no trust")?;
    let found = all.iter().find(|it| it["trust_domain"] == domain);
    found
        .cloned()
        .with_context(|| format!("{domain} is not in {status}"))
}

/// `mesh-agent ca WORDS --dir DIR MORE`
pub(crate) fn authority(words: &str, dir: &Path, more: &[&str]) -> Result<String> {
    let mut command = Command::new(own_program("mesh-agent")?);
    command.arg("ca").args(words.split(' '));
    command.arg("--dir").arg(dir).args(more);
    run(command)?
        .success()
        .with_context(|| format!("ca {words} {more:?}"))
}

/// An authority whose intermediate a root of OpenSSL's in `corporate` signs, which is made first
/// if it is not there.
fn init_below(corporate: &Path, ca: &Path, domain: &str) -> Result<()> {
    if !corporate.exists() {
        fs::create_dir(corporate)?;
        openssl(
            corporate,
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out roots.pem \
             -days 3650 -subj /O=Corporate/CN=Root -addext keyUsage=critical,keyCertSign,cRLSign",
        )?;
        fs::write(
            corporate.join("copy"),
            "[ext]\nsubjectKeyIdentifier = hash\n",
        )?;
    }
    let request = authority("init --csr", ca, &["--trust-domain", domain])?;
    fs::write(corporate.join("request.pem"), request)?;
    openssl(
        corporate,
        "x509 -req -in request.pem -CA roots.pem -CAkey key.pem -CAcreateserial -days 400 \
         -copy_extensions copy -extfile copy -extensions ext -out chain.pem",
    )?;
    let file = |name: &str| corporate.join(name).display().to_string();
    let files = ["--chain", &file("chain.pem"), "--roots", &file("roots.pem")];
    authority("init", ca, &files).map(drop)
}

/// Runs OpenSSL in a folder.
pub(crate) fn openssl(folder: &Path, words: &str) -> Result<String> {
    let mut command = Command::new("openssl");
    command.args(words.split_whitespace()).current_dir(folder);
    run(command)?
        .success()
        .with_context(|| format!("openssl {words}"))
}

const NAMESPACE: &str = "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: default\n  labels:\n    isthmus.dev/mesh: enabled\n";

/// `spec` is indented by two.
fn mesh_config(domain: &str, spec: &str) -> String {
    format!(
        "apiVersion: isthmus.dev/v1alpha1\nkind: MeshConfig\nmetadata:\n  name: mesh\nspec:\n  trustDomain: {domain}\n{spec}"
    )
}

/// A text as a block of YAML.
fn block(text: &str) -> String {
    text.lines().map(|line| format!("      {line}\n")).collect()
}
