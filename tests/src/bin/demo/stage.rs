//! The world of the demo: two nodes with a pod each, and two machines outside the mesh.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result};
use isthmus_tests::mesh::{Mesh, Mtls, Node, Pod, ServicePort};
use isthmus_tests::process::Finished;

use crate::nginx;

/// All of it, both agents running.
pub(crate) struct Stage {
    pub(crate) mesh: &'static Mesh,
    pub(crate) node_a: Node,
    pub(crate) node_b: Node,
    /// On node a; curl runs here.
    pub(crate) shop: Pod,
    /// On node b; nginx runs here.
    pub(crate) web: Pod,
    /// Outside the mesh; curl runs here.
    pub(crate) stranger: Pod,
    /// Outside the mesh; nginx runs here.
    pub(crate) plain: Pod,
    /// The cluster IP of the Service in front of `web`.
    pub(crate) service: Ipv4Addr,
    web_nginx: PathBuf,
}

impl Stage {
    /// Builds the world called `name`, and waits until both agents have enrolled their pods.
    pub(crate) fn build(name: &str) -> Result<Self> {
        // For good: its folder has the logs, which the outer run saves when a step fails.
        let mesh: &'static Mesh = Box::leak(Box::new(Mesh::named(name.to_owned())?));
        mesh.mtls(Mtls::Strict)?;
        let (node_a, node_b) = (mesh.node("node-a")?, mesh.node("node-b")?);
        let (shop, web) = (node_a.pod("shop")?, node_b.pod("web")?);
        let (stranger, plain) = (mesh.outsider("stranger")?, mesh.outsider("plain")?);
        let port = ServicePort {
            port: 80,
            target: nginx::PORT,
        };
        let (service, _) = mesh.service("web", &[port], &[(&web, true)])?;
        let web_nginx = nginx::start(&web, "web", mesh.folder())?;
        nginx::start(&plain, "plain", mesh.folder())?;
        node_a.start()?;
        node_b.start()?;
        let stage = Self {
            mesh,
            node_a,
            node_b,
            shop,
            web,
            stranger,
            plain,
            service,
            web_nginx,
        };
        stage.wait_enrolled()?;
        Ok(stage)
    }

    /// Waits until each agent has enrolled its pod.
    pub(crate) fn wait_enrolled(&self) -> Result<()> {
        self.node_a.wait_state(&self.shop.uid(), "enrolled")?;
        self.node_b.wait_state(&self.web.uid(), "enrolled")
    }

    /// All requests that `web`'s nginx has answered.
    pub(crate) fn nginx_log(&self) -> Result<String> {
        let file = self.web_nginx.join("access.log");
        fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))
    }

    /// `web`'s nginx by its pod's own IPv4 address.
    pub(crate) fn web(&self) -> SocketAddr {
        self.web.v4(nginx::PORT)
    }
}

/// A curl command: the words of the options that matter to the reader.
pub(crate) fn curl_words(to: &str, secret: &str) -> String {
    format!("curl http://{to}/ -H '{}: {secret}'", nginx::HEADER)
}

/// Runs that command inside `pod`, with no proxy, no settings of the user's and a time limit.
pub(crate) fn curl(pod: &Pod, to: &str, secret: &str) -> Result<Finished> {
    pod.run(
        "curl",
        &[
            "-q",
            "-sS",
            "--noproxy",
            "*",
            "--max-time",
            "20",
            "-H",
            &format!("{}: {secret}", nginx::HEADER),
            &format!("http://{to}/"),
        ],
    )
}
