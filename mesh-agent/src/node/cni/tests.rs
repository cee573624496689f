//! The plugin against its server, over a real socket.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use super::*;
use crate::node::cni::plugin::{Outcome, run};

/// A gate that writes down what it is asked.
#[derive(Default)]
struct Fake {
    refuses: Option<&'static str>,
    asked: Mutex<Vec<(&'static str, PodSandbox)>>,
}

impl Fake {
    fn note(&self, what: &'static str, pod: PodSandbox) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.push((what, pod));
    }

    fn asked(&self) -> Vec<(&'static str, PodSandbox)> {
        self.asked.lock().unwrap().clone()
    }
}

impl Gate for Fake {
    fn admit<'a>(&'a self, pod: PodSandbox) -> BoxFuture<'a, Result<Admitted, Refusal>> {
        Box::pin(async move {
            self.note("admit", pod);
            let refusal = self.refuses.map(|why| Refusal(why.to_owned()));
            refusal.map_or(Ok(Admitted::Enrolled), Err)
        })
    }

    fn leave<'a>(&'a self, pod: PodSandbox) -> BoxFuture<'a, ()> {
        Box::pin(async move { self.note("leave", pod) })
    }
}

/// A server, until dropped, and the folder of its socket.
struct Bed {
    run_dir: tempfile::TempDir,
    gate: Arc<Fake>,
    _runtime: tokio::runtime::Runtime,
}

impl Bed {
    fn new(refuses: Option<&'static str>) -> Self {
        let run_dir = tempfile::tempdir().unwrap();
        let gate = Arc::new(Fake {
            refuses,
            ..Fake::default()
        });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let server = {
            let _inside = runtime.enter();
            CniServer::bind(run_dir.path()).unwrap()
        };
        runtime.spawn(server.serve(Arc::clone(&gate) as Arc<dyn Gate>));
        Self {
            run_dir,
            gate,
            _runtime: runtime,
        }
    }

    fn socket(&self) -> PathBuf {
        self.run_dir.path().join(SOCKET)
    }

    fn run(&self, command: &str) -> Outcome {
        call(command, "shop", &config(&self.socket(), "1.0.0"))
    }
}

/// What the plugins before made of the pod.
fn result(version: &str) -> Value {
    json!({
        "cniVersion": version,
        "interfaces": [{"name": "veth1"}, {"name": "eth0", "sandbox": "/run/netns/cni-1"}],
        "ips": [
            {"interface": 1, "address": "10.1.0.5/16", "gateway": "10.1.0.1"},
            {"interface": 0, "address": "10.9.9.9/16"},
            {"address": "fd00::5/64"}
        ],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dns": {}
    })
}

fn config(socket: &Path, version: &str) -> Value {
    json!({
        "cniVersion": version, "name": "net", "type": "isthmus", "socket": socket,
        "timeoutSeconds": 5, "prevResult": result(version)
    })
}

fn call(command: &str, namespace: &str, config: &Value) -> Outcome {
    let arguments = format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME=web;\
         K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID=u1"
    );
    let environment = [
        ("CNI_COMMAND", command),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", "/var/run/netns/cni-1"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_ARGS", &arguments),
        ("CNI_PATH", "/opt/cni/bin"),
    ];
    call_with(&environment, config)
}

fn call_with(environment: &[(&str, &str)], config: &Value) -> Outcome {
    let environment = environment.iter();
    let environment: HashMap<_, _> = environment
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    run(&environment, std::io::Cursor::new(config.to_string()))
}

fn pod() -> PodSandbox {
    PodSandbox {
        namespace: "shop".into(),
        name: "web".into(),
        uid: "u1".into(),
        container_id: "c1".into(),
        netns: Some("/var/run/netns/cni-1".into()),
        addresses: vec!["10.1.0.5".parse().unwrap(), "fd00::5".parse().unwrap()],
    }
}

/// The error's code and message.
fn error(outcome: &Outcome) -> (u64, String) {
    let said: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(outcome.code, 1, "{outcome:?}");
    assert!(said["cniVersion"].is_string() && said["details"].is_string());
    (
        said["code"].as_u64().unwrap(),
        said["msg"].as_str().unwrap().to_owned(),
    )
}

#[test]
fn an_admitted_pod_gets_the_result_handed_on() {
    let bed = Bed::new(None);
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let outcome = call("ADD", "shop", &config(&bed.socket(), version));
        assert_eq!(outcome.code, 0, "{outcome:?}");
        let said: Value = serde_json::from_str(&outcome.stdout).unwrap();
        assert_eq!(said, result(version));
    }
    assert_eq!(bed.gate.asked()[0], ("admit", pod()));
    let outcome = bed.run("CHECK");
    assert_eq!((outcome.code, outcome.stdout.as_str()), (0, ""));
}

#[test]
fn a_refusal_carries_its_reason_into_the_pods_events() {
    let bed = Bed::new(Some("its certificate is missing"));
    let (code, msg) = error(&bed.run("ADD"));
    assert_eq!(code, 11);
    assert!(
        msg.contains("(its certificate is missing); the pod is tried again"),
        "{msg}"
    );
    // Said of the plugin, it would turn the whole node NotReady.
    assert_eq!(bed.run("STATUS").code, 0);
}

#[test]
fn without_an_agent_pods_do_not_start_and_can_go() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(&folder.path().join(SOCKET), "1.1.0");
    let (code, msg) = error(&call("ADD", "shop", &config));
    assert_eq!(code, 11);
    assert!(
        msg.starts_with("isthmus: the node's agent is not ready (nobody answers"),
        "{msg}"
    );
    for command in ["DEL", "GC", "STATUS"] {
        let outcome = call(command, "shop", &config);
        assert_eq!(
            (outcome.code, outcome.stdout.as_str()),
            (0, ""),
            "{command}"
        );
    }
    // The runtime does not know the namespace any more, and has no result.
    let ended = json!({"cniVersion": "0.4.0", "name": "net", "socket": folder.path()});
    let environment = [("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "c1")];
    assert_eq!(call_with(&environment, &ended).code, 0);
}

#[test]
fn who_starts_without_the_agent() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(&folder.path().join(SOCKET), "1.0.0");
    for namespace in plugin::EXCLUDED {
        assert_eq!(call("ADD", namespace, &config).code, 0);
    }
    // Not of Kubernetes.
    assert_eq!(call("ADD", "", &config).code, 0);
    config["excludeNamespaces"] = json!(["shop"]);
    assert_eq!(call("ADD", "shop", &config).code, 0);
    assert_eq!(call("ADD", "kube-system", &config).code, 1);
    config["failOpen"] = json!(true);
    let outcome = call("ADD", "kube-system", &config);
    assert_eq!(outcome.code, 0);
    assert!(
        outcome
            .stderr
            .contains("pod kube-system/web starts OUTSIDE"),
        "{outcome:?}"
    );
    assert_eq!(call("STATUS", "", &config).code, 0);
}

#[test]
fn an_agent_that_does_not_answer_hangs_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join(SOCKET);
    // The kernel takes the connection; nobody accepts it.
    let _deaf = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let mut config = config(&socket, "1.0.0");
    config["timeoutSeconds"] = json!(1);
    let (code, msg) = error(&call("ADD", "shop", &config));
    assert_eq!(code, 11);
    assert!(msg.contains("no answer from"), "{msg}");
    assert_eq!(call("DEL", "shop", &config).code, 0);
}

#[test]
fn what_is_asked_wrongly_is_answered_by_the_specifications_codes() {
    let config = config(Path::new("/nowhere"), "1.0.0");
    let asked =
        |environment: &[(&str, &str)], config: &Value| error(&call_with(environment, config)).0;
    let add = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c"),
        ("CNI_NETNS", "/n"),
    ];
    assert_eq!(asked(&[], &config), 4);
    assert_eq!(asked(&[("CNI_COMMAND", "TRY")], &config), 4);
    assert_eq!(asked(&[("CNI_COMMAND", "ADD")], &config), 4);
    assert_eq!(asked(&add, &json!({"cniVersion": "9.0.0"})), 1);
    assert_eq!(asked(&add, &json!({"cniVersion": "1.0.0"})), 7);
    assert_eq!(
        asked(&add, &json!({"cniVersion": "1.0.0", "prevResult": 1})),
        7
    );
    assert_eq!(asked(&add, &json!([])), 6);
}

#[test]
fn versions_are_told_in_the_askers() {
    let environment = [("CNI_COMMAND", "VERSION")];
    for (asked, answered) in [("0.4.0", "0.4.0"), ("7", "1.1.0")] {
        let outcome = call_with(&environment, &json!({"cniVersion": asked}));
        let said: Value = serde_json::from_str(&outcome.stdout).unwrap();
        assert_eq!(said["cniVersion"], answered);
        assert_eq!(
            said["supportedVersions"],
            json!(["0.3.1", "0.4.0", "1.0.0", "1.1.0"])
        );
    }
}

#[test]
fn a_question_that_is_none_is_refused() {
    use std::io::{Read, Write};
    let bed = Bed::new(None);
    let huge = "x".repeat(1 << 17);
    for question in ["\n", "{}\n", "{\"admit\":{}}\n", &huge] {
        let mut stream = std::os::unix::net::UnixStream::connect(bed.socket()).unwrap();
        // The server may have answered and left before it took all of it.
        let _ = stream.write_all(question.as_bytes());
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = String::new();
        let read = stream.read_to_string(&mut answer);
        assert!(answer.contains("refused") || read.is_err(), "{answer:?}");
    }
    assert!(bed.gate.asked().is_empty());
    assert_eq!(bed.run("ADD").code, 0);
}
