//! The control plane: its credentials, and its programs: etcd, the API server, controllers,
//! scheduler and DNS.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, Result};

use super::kubernetes;
use super::place::{CONTROL, CONTROL_V6, NODES, Place, SERVICES};
use super::service::{Machine, Service};
use crate::command::Run;

/// Where it is there, the API server writes down the requests that it names.
const AUDIT: &str = "audit.yaml";

/// Names and groups of those who talk to the API server, as its token file has them.
fn users() -> Vec<(String, String, &'static str)> {
    let mut users = vec![
        ("admin".to_owned(), "admin".to_owned(), "system:masters"),
        ("proxy".to_owned(), "system:kube-proxy".to_owned(), ""),
    ];
    for node in NODES {
        let name = node.name();
        users.push((name.clone(), format!("system:node:{name}"), "system:nodes"));
    }
    users
}

/// Writes certificates, tokens, kubeconfigs and the DNS server's configuration.
pub(super) fn prepare(place: &Place) -> Result<()> {
    let folder = place.folder()?;
    let openssl = |words: &str| {
        let words = format!(
            "req -x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256 -days 3650 {words}"
        );
        Run::new("openssl").words(&words).folder(&folder).output()
    };
    openssl("-keyout ca.key -out ca.crt -subj /CN=cluster")?;
    openssl(&format!(
        "-CA ca.crt -CAkey ca.key -keyout api.key -out api.crt -subj /CN=kube-apiserver -addext basicConstraints=critical,CA:FALSE -addext \
         subjectAltName=IP:{CONTROL},IP:{CONTROL_V6},IP:10.96.0.1,IP:fd96::1,DNS:kubernetes,DNS:kubernetes.default,\
DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local"
    ))?;
    Run::new("openssl")
        .words("genrsa -out tokens.key 2048")
        .folder(&folder)
        .output()?;
    let mut tokens = String::new();
    for (short, name, group) in users() {
        let token = fs::read_to_string("/proc/sys/kernel/random/uuid").context("making a token")?;
        let token = token.trim();
        tokens += &format!("{token},{name},{name},{group}\n");
        let file = folder.join(format!("{short}.kubeconfig"));
        secret(&file, &kubeconfig(&folder.join("ca.crt"), token)?)?;
    }
    secret(&folder.join("tokens.csv"), &tokens)?;
    let corefile = format!(
        ".:53 {{\n  errors\n  kubernetes cluster.local in-addr.arpa ip6.arpa {{\n    kubeconfig {}\n    pods verified\n    ttl 5\n  }}\n}}\n",
        folder.join("admin.kubeconfig").display()
    );
    fs::write(folder.join("Corefile"), corefile).context("writing the Corefile")?;
    script(&folder.join("kubectl"), &wrapper(place)?)?;
    script(&folder.join("cluster"), &commands(place)?)
}

fn script(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text)
        .and_then(|()| fs::set_permissions(file, fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("writing {}", file.display()))
}

/// The cluster's own commands (`stop api-server`, `reboot n1`), for the tests.
fn commands(place: &Place) -> Result<String> {
    let cache = super::place::cache()?;
    let base = cache.parent().unwrap_or(&cache);
    Ok(format!(
        "#!/bin/sh\n# `cargo xtask cluster` for the cluster `{name}`: stop, start, reboot, load.\n\
         export XDG_CACHE_HOME='{base}'\ntask=$1\nshift\nexec '{program}' cluster \"$task\" --name {name} \"$@\"\n",
        name = place.name(),
        base = base.display(),
        program = std::env::current_exe()?.display(),
    ))
}

/// A kubectl for any shell of this machine.
fn wrapper(place: &Place) -> Result<String> {
    Ok(format!(
        "#!/bin/sh\n# kubectl for the cluster `{}`, from any shell (as root).\nexec nsenter --net=/run/netns/{} -- '{}' --kubeconfig='{}' \"$@\"\n",
        place.name(),
        place.control_netns(),
        kubernetes::program("kubectl")?.display(),
        place.file("admin.kubeconfig")?.display(),
    ))
}

/// The authority lies in the file, so that it is of use in any mount namespace.
fn kubeconfig(authority: &Path, token: &str) -> Result<String> {
    let encoded = Run::new("base64").arg("--wrap=0").arg(authority).output()?;
    Ok(format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: cluster\n\
         contexts:\n- {{name: cluster, context: {{cluster: cluster, user: user}}}}\n\
         clusters:\n- name: cluster\n  cluster: {{server: \"https://{CONTROL}:6443\", certificate-authority-data: {}}}\n\
         users:\n- {{name: user, user: {{token: {token}}}}}\n",
        encoded.trim()
    ))
}

fn secret(file: &Path, text: &str) -> Result<()> {
    fs::OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(file)
        .and_then(|mut open| open.write_all(text.as_bytes()))
        .with_context(|| format!("writing {}", file.display()))
}

/// Has the API server write each request of this user into `audit.log`.
pub(super) fn audit(place: &Place, user: &str) -> Result<()> {
    let policy = format!(
        "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [ResponseStarted, ResponseComplete]\n\
         rules:\n- {{level: Metadata, users: ['{user}']}}\n- {{level: None}}\n"
    );
    fs::write(place.file(AUDIT)?, policy).context("writing what is audited")
}

/// etcd comes first, and the API server next: everything else waits for it.
pub(super) fn services(place: &Place) -> Result<Vec<Service>> {
    let folder = place.folder()?;
    let at = |name: &str| folder.join(name).display().to_string();
    let admin = format!("--kubeconfig={}", at("admin.kubeconfig"));
    let service = |name: &str, program: &str, arguments: &[String]| -> Result<Service> {
        let program = kubernetes::program(program)?.display().to_string();
        Ok(Service {
            name: name.to_owned(),
            machine: Machine::Control,
            command: [&[program], arguments].concat(),
        })
    };
    let etcd = "http://127.0.0.1:2379";
    let audit = match folder.join(AUDIT).exists() {
        true => vec![
            format!("--audit-policy-file={}", at(AUDIT)),
            format!("--audit-log-path={}", at("audit.log")),
        ],
        false => Vec::new(),
    };
    let peers = "http://127.0.0.1:2380";
    Ok(vec![
        service(
            "etcd",
            "etcd",
            &[
                format!("--data-dir={}", at("etcd")),
                // A cluster that dies with this machine may lose its last writes.
                "--unsafe-no-fsync".to_owned(),
                format!("--listen-client-urls={etcd}"),
                format!("--advertise-client-urls={etcd}"),
                format!("--listen-peer-urls={peers}"),
                format!("--initial-advertise-peer-urls={peers}"),
                format!("--initial-cluster=default={peers}"),
            ],
        )?,
        service(
            "api-server",
            "kube-apiserver",
            &[
                audit,
                vec![
                    format!("--etcd-servers={etcd}"),
                    format!("--bind-address={CONTROL}"),
                    format!("--advertise-address={CONTROL}"),
                    "--secure-port=6443".to_owned(),
                    format!("--tls-cert-file={}", at("api.crt")),
                    format!("--tls-private-key-file={}", at("api.key")),
                    format!("--token-auth-file={}", at("tokens.csv")),
                    "--authorization-mode=Node,RBAC".to_owned(),
                    "--enable-admission-plugins=NodeRestriction".to_owned(),
                    "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
                    format!("--service-account-key-file={}", at("tokens.key")),
                    format!("--service-account-signing-key-file={}", at("tokens.key")),
                    format!("--service-cluster-ip-range={SERVICES}"),
                    "--allow-privileged=true".to_owned(),
                    // Nodes' names are known to no DNS.
                    "--kubelet-preferred-address-types=InternalIP".to_owned(),
                ],
            ]
            .concat(),
        )?,
        service(
            "controllers",
            "kube-controller-manager",
            &[
                admin.clone(),
                format!("--service-account-private-key-file={}", at("tokens.key")),
                format!("--root-ca-file={}", at("ca.crt")),
                "--use-service-account-credentials=true".to_owned(),
                "--leader-elect=false".to_owned(),
            ],
        )?,
        service(
            "scheduler",
            "kube-scheduler",
            &[admin, "--leader-elect=false".to_owned()],
        )?,
        service("dns", "coredns", &[format!("-conf={}", at("Corefile"))])?,
    ])
}

/// Whether the API server answers that it is ready.
pub(super) fn is_ready(place: &Place) -> Result<bool> {
    Ok(kubectl(place)?.words("get --raw /readyz").succeeds())
}

/// kubectl with the rights of an administrator.
pub(super) fn kubectl(place: &Place) -> Result<Run> {
    Ok(Run::new(place.file("kubectl")?))
}
