//! The plugin's side: one run answers one question of the container runtime. Called by
//! `main` before anything that the agent itself needs is set up, so it blocks and has no
//! runtime; what could block for ever is done on a thread of its own, within a deadline.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::spec::{self, Code, Failure, NetConf, Operation};
use super::wire::{Answer, MAX, Question};
use super::{PodSandbox, SOCKET};

/// Namespaces whose pods start without the agent, unless the configuration says otherwise:
/// the agent itself and what it stands on could not start before it.
pub const EXCLUDED: [&str; 2] = ["kube-system", "isthmus-system"];

/// Time for the agent to answer, unless the configuration says otherwise. The agent's gate
/// takes 10 s before it refuses; the kubelet gives the whole sandbox four minutes.
pub const TIMEOUT: Duration = Duration::from_secs(15);
/// The longest that the configuration can ask for, in seconds.
const MAX_TIMEOUT: u64 = 60;
/// Time for the runtime to hand over the configuration, which it has at hand.
const INPUT_LIMIT: Duration = Duration::from_secs(10);
/// Bytes of a network configuration with the result of the plugins before.
const MAX_INPUT: u64 = 4 << 20;

/// What the plugin's process is to print, and how it is to end.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// For standard output; empty where the specification wants nothing there.
    pub stdout: String,
    /// What the person who reads the runtime's log is to know.
    pub stderr: String,
    /// The exit code.
    pub code: u8,
}

/// Answers the question that these environment variables (`CNI_*`) and `input` ask.
pub fn run(environment: &HashMap<String, String>, input: impl Read + Send + 'static) -> Outcome {
    let (mut version, mut notes) = (spec::NEWEST.to_owned(), String::new());
    let answered = operation(environment).and_then(|operation| {
        let input = read(input)?;
        if operation == Operation::Version {
            return Ok(Some(spec::versions(&input)));
        }
        let config = NetConf::read(&input)?;
        version.clone_from(&config.cni_version);
        answer(operation, environment, &config, &mut notes)
    });
    let (stdout, code) = match answered {
        Ok(Some(value)) => (value.to_string(), 0),
        Ok(None) => (String::new(), 0),
        Err(failure) => (failure.to_json(&version).to_string(), 1),
    };
    Outcome {
        stdout,
        stderr: notes,
        code,
    }
}

fn answer(
    operation: Operation,
    environment: &HashMap<String, String>,
    config: &NetConf,
    notes: &mut String,
) -> Result<Option<Value>, Failure> {
    match operation {
        Operation::Add => {
            let result = previous(config)?;
            admit(&sandbox(environment, config)?, config, notes)?;
            let mut result = result.clone();
            if let Some(result) = result.as_object_mut() {
                // The runtime wants the version that it asked in.
                result.insert("cniVersion".into(), config.cni_version.clone().into());
            }
            Ok(Some(result))
        }
        Operation::Check => {
            previous(config)?;
            admit(&sandbox(environment, config)?, config, notes)?;
            Ok(None)
        }
        Operation::Del => {
            // Whatever is wrong, the pod must be able to go: the agent finds out by itself.
            match sandbox(environment, config).map(Question::Leave) {
                Ok(question) => {
                    if let Err(away) = ask(config, question) {
                        *notes =
                            format!("isthmus: the agent was not told of a pod's end: {away}\n");
                    }
                }
                Err(failure) => *notes = format!("{}\n", failure.msg),
            }
            Ok(None)
        }
        // That the plugin can run is all that it says. To tell of an agent that is away would be
        // worse than that: containerd 2 and later makes the node NotReady then, and after five
        // minutes its pods are evicted, those too that the mesh is nothing to. ADD refuses.
        // And the plugin keeps nothing by itself, and the agent looks after its pods.
        Operation::Status | Operation::Gc | Operation::Version => Ok(None),
    }
}

/// Returns when the pod may start.
fn admit(pod: &PodSandbox, config: &NetConf, notes: &mut String) -> Result<(), Failure> {
    // No pod of Kubernetes: something else that the runtime runs on the same network.
    if pod.namespace.is_empty() || pod.name.is_empty() {
        return Ok(());
    }
    let excluded = match &config.exclude_namespaces {
        Some(given) => given.contains(&pod.namespace),
        None => EXCLUDED.contains(&pod.namespace.as_str()),
    };
    if excluded {
        return Ok(());
    }
    let refused = match ask(config, Question::Admit(pod.clone())) {
        Ok(Answer::Admitted(_)) => return Ok(()),
        Ok(Answer::Refused(reason)) => format!(
            "isthmus: the node's agent does not let the pod start ({reason}); the pod is tried again"
        ),
        Ok(Answer::Done) => "isthmus: the node's agent gave an answer to another question: is it \
             of another version than the plugin? The pod is tried again"
            .to_owned(),
        Err(away) => {
            format!("isthmus: the node's agent is not ready ({away}); the pod is tried again")
        }
    };
    if config.fail_open {
        let (namespace, name) = (&pod.namespace, &pod.name);
        *notes = format!(
            "{refused}: no, failOpen is set: pod {namespace}/{name} starts OUTSIDE the mesh\n"
        );
        return Ok(());
    }
    Err(Failure::new(Code::TryAgainLater, refused, ""))
}

fn operation(environment: &HashMap<String, String>) -> Result<Operation, Failure> {
    let command = environment.get("CNI_COMMAND").map_or("", String::as_str);
    Operation::of(command).ok_or_else(|| {
        Failure::new(
            Code::InvalidEnvironment,
            format!("isthmus: CNI_COMMAND is {command:?}"),
            "it must be ADD, DEL, CHECK, STATUS, GC or VERSION: this is a CNI plugin, which \
             container runtimes run",
        )
    })
}

fn previous(config: &NetConf) -> Result<&Value, Failure> {
    config
        .prev_result
        .as_ref()
        .filter(|result| result.is_object())
        .ok_or_else(|| {
            Failure::new(
                Code::InvalidConfiguration,
                "isthmus: prevResult is missing",
                "isthmus is a chained plugin: put it after the one that wires the pods, in the \
             plugins of a .conflist",
            )
        })
}

fn sandbox(environment: &HashMap<String, String>, config: &NetConf) -> Result<PodSandbox, Failure> {
    let variable = |name: &str| environment.get(name).map_or("", String::as_str);
    let arguments = spec::arguments(variable("CNI_ARGS"));
    let argument = |name: &str| (*arguments.get(name).unwrap_or(&"")).to_owned();
    let deleting = variable("CNI_COMMAND") == "DEL";
    let netns = Some(variable("CNI_NETNS")).filter(|path| !path.is_empty());
    if variable("CNI_CONTAINERID").is_empty() || (netns.is_none() && !deleting) {
        return Err(Failure::new(
            Code::InvalidEnvironment,
            "isthmus: CNI_CONTAINERID or CNI_NETNS is missing",
            "the container runtime must set both",
        ));
    }
    let container_id = match argument("K8S_POD_INFRA_CONTAINER_ID") {
        id if id.is_empty() => variable("CNI_CONTAINERID").to_owned(),
        id => id,
    };
    Ok(PodSandbox {
        namespace: argument("K8S_POD_NAMESPACE"),
        name: argument("K8S_POD_NAME"),
        uid: argument("K8S_POD_UID"),
        container_id,
        netns: netns.map(PathBuf::from),
        addresses: config
            .prev_result
            .as_ref()
            .map(spec::addresses)
            .unwrap_or_default(),
    })
}

fn read(input: impl Read + Send + 'static) -> Result<Vec<u8>, Failure> {
    let all = within(INPUT_LIMIT, move || {
        let mut all = Vec::new();
        input.take(MAX_INPUT).read_to_end(&mut all).map(|_| all)
    });
    let failed = |details: String| {
        let msg = "isthmus: the network configuration cannot be read from standard input";
        Failure::new(Code::Io, msg, details)
    };
    match all {
        Some(Ok(all)) => Ok(all),
        Some(Err(error)) => Err(failed(error.to_string())),
        None => Err(failed(format!("it did not end within {INPUT_LIMIT:?}"))),
    }
}

/// Asks the agent. The error says what is wrong with it.
fn ask(config: &NetConf, question: Question) -> Result<Answer, String> {
    let socket = match &config.socket {
        Some(socket) => socket.clone(),
        None => Path::new(crate::cli::DEFAULT_RUN_DIR).join(SOCKET),
    };
    let limit = config.timeout_seconds.map_or(TIMEOUT, |seconds| {
        Duration::from_secs(seconds.clamp(1, MAX_TIMEOUT))
    });
    let path = socket.display().to_string();
    match within(limit, move || exchange(&socket, &question)) {
        Some(Ok(answer)) => Ok(answer),
        Some(Err(error)) => Err(match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                format!("nobody answers at {path}")
            }
            _ => format!("asking at {path}: {error}"),
        }),
        None => Err(format!(
            "no answer from {path} within {} s",
            limit.as_secs()
        )),
    }
}

fn exchange(socket: &Path, question: &Question) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    let mut line = serde_json::to_vec(question)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = Vec::new();
    BufReader::new(stream.take(MAX)).read_until(b'\n', &mut answer)?;
    if answer.last() != Some(&b'\n') {
        return Err(io::Error::other("it ended without an answer"));
    }
    Ok(serde_json::from_slice(&answer)?)
}

/// Does `work` on another thread; `None` when it is not done within `limit`. The thread is
/// then left to end with the process.
fn within<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (done, wait) = mpsc::sync_channel(1);
    // Nobody may be waiting any more.
    thread::spawn(move || done.send(work()));
    wait.recv_timeout(limit).ok()
}
