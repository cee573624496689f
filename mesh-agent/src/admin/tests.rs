//! Both interfaces over real sockets: what they answer, refuse and withstand.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::api::{AuditReport, CertificateStatus, Status, WorkloadState, WorkloadStatus};
use super::client::{ClientError, get};
use super::serve::{HEADER_TIMEOUT, MAX_CONNECTIONS};
use super::*;

const LIMIT: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Fake {
    missing: Mutex<Vec<String>>,
    unknown: Mutex<Option<String>>,
}

impl AgentView for Fake {
    fn status(&self) -> Status {
        let certificate = |expires_in_s| CertificateStatus {
            expires_in_s,
            ..Default::default()
        };
        Status {
            node: "left".into(),
            tunnels: 3,
            certificates: vec![certificate(900), certificate(-5)],
            ..Default::default()
        }
    }

    fn workloads(&self) -> Vec<WorkloadStatus> {
        let workload = |state| WorkloadStatus {
            state,
            ..Default::default()
        };
        vec![
            workload(WorkloadState::Enrolled),
            workload(WorkloadState::Remote),
        ]
    }

    fn connections(&self) -> Vec<ConnectionInfo> {
        panic!("a defect in the view")
    }

    fn audit(&self, _probe: bool) -> Result<AuditReport, String> {
        Err("none is to be had here".into())
    }

    fn explain(&self, question: &Question) -> Result<Explanation, ExplainError> {
        Err(ExplainError::NoPod(format!("{question:?}")))
    }

    fn flows(&self) -> Vec<Flow> {
        Vec::new()
    }

    fn knows(&self) -> Result<(), String> {
        self.unknown.lock().unwrap().clone().map_or(Ok(()), Err)
    }

    fn ready(&self) -> Result<(), Vec<String>> {
        let missing = self.missing.lock().unwrap().clone();
        if missing.is_empty() {
            Ok(())
        } else {
            Err(missing)
        }
    }
}

struct Server {
    address: SocketAddr,
    view: Arc<Fake>,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

/// With one metric that names a workload.
fn registry() -> Registry {
    let registry = Registry::new();
    registry.named_gauge_at_scrape("isthmus_of_a_pod", "Something of a pod", || {
        vec![crate::observe::Sample {
            labels: vec![("pod", "shop-1".to_owned())],
            value: 1.0,
        }]
    });
    registry
}

async fn server() -> Server {
    server_with(MetricsAccess::default()).await
}

async fn server_with(access: MetricsAccess) -> Server {
    let view = Arc::new(Fake::default());
    let admin = Admin::new(
        Arc::clone(&view) as Arc<dyn AgentView>,
        Arc::new(registry()),
        access,
    );
    let listener = listen_node("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(async move {
        admin
            .serve_node(listener, async { drop(stopped.await) })
            .await;
    });
    Server {
        address,
        view,
        stop,
        task,
    }
}

/// Status, headers (lower case) and body.
type Reply = (u16, HashMap<String, String>, String);

async fn ask(address: SocketAddr, request: &str) -> Reply {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    let read = stream.read_to_string(&mut reply);
    tokio::time::timeout(LIMIT, read)
        .await
        .expect("an answer")
        .unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap_or((&reply, ""));
    let mut lines = head.lines();
    let status = lines
        .next()
        .unwrap()
        .split(' ')
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    let headers = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    (status, headers, body.to_owned())
}

fn request(method: &str, path: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
}

#[tokio::test]
async fn the_node_interface_answers_its_paths_and_refuses_others() {
    let server = server().await;
    for (method, path, status) in [
        ("GET", "/healthz", 200),
        ("GET", "/healthz?probe=1", 200),
        ("HEAD", "/healthz", 200),
        ("GET", "/readyz", 200),
        ("POST", "/readyz", 405),
        ("DELETE", "/metrics", 405),
        ("GET", "/", 404),
        ("GET", "/metrics/", 404),
        ("POST", "/nothing", 404),
        // What names single workloads is for the socket alone.
        ("GET", "/status", 404),
        ("GET", "/workloads", 404),
        ("GET", "/connections", 404),
        ("GET", "/flows", 404),
        ("GET", "/explain?connection=1", 404),
    ] {
        let (got, headers, body) = ask(server.address, &request(method, path)).await;
        assert_eq!(got, status, "{method} {path}: {body}");
        assert_eq!(headers.contains_key("allow"), status == 405);
        assert_eq!(body.is_empty(), method == "HEAD", "{method} {path}: {body}");
    }
}

#[tokio::test]
async fn metrics_hold_the_gauges_that_follow_from_the_status() {
    let server = server().await;
    let (status, headers, body) = ask(server.address, &request("GET", "/metrics")).await;
    assert_eq!(status, 200);
    assert!(headers["content-type"].starts_with("application/openmetrics-text"));
    for line in [
        "isthmus_tunnels_open 3.0",
        "isthmus_enrolled_pods 1.0",
        "isthmus_svid_expiry_seconds -5.0",
        "isthmus_config_problems 0.0",
        "isthmus_config_generation 0.0",
    ] {
        assert!(
            body.lines().any(|found| found == line),
            "no {line} in\n{body}"
        );
    }
}

#[tokio::test]
async fn metrics_name_workloads_to_authorized_callers_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "secret").unwrap();
    let access = MetricsAccess::new(MetricsIdentities::Authorized, Some(file));
    let server = server_with(access).await;
    let scrape = async |authorization: &str| {
        let request =
            format!("GET /metrics HTTP/1.1\r\nhost: a\r\n{authorization}connection: close\r\n\r\n");
        ask(server.address, &request).await
    };
    let (status, _, body) = scrape("").await;
    assert_eq!(status, 200);
    assert!(!body.contains("shop-1"), "{body}");
    assert!(body.ends_with("# EOF\n") && body.contains("isthmus_tunnels_open"));
    let (status, headers, body) = scrape("authorization: Bearer wrong\r\n").await;
    assert_eq!((status, &*headers["www-authenticate"]), (401, "Bearer"));
    assert!(!body.contains("shop-1"), "{body}");
    let (status, _, body) = scrape("authorization: Bearer secret\r\n").await;
    assert_eq!(status, 200);
    assert!(
        body.contains("isthmus_of_a_pod{pod=\"shop-1\"} 1.0"),
        "{body}"
    );
    assert!(body.ends_with("# EOF\n"));
}

#[tokio::test]
async fn metrics_over_the_socket_name_workloads() {
    let run = tempfile::tempdir().unwrap();
    let view = Arc::new(Fake::default());
    let admin = Admin::new(view, Arc::new(registry()), MetricsAccess::default());
    let socket = AdminSocket::bind(run.path()).unwrap();
    let serving = tokio::spawn(async move {
        admin.serve_socket(socket, std::future::pending()).await;
    });
    let body = client::get_raw(run.path(), "/metrics").await.unwrap();
    assert!(String::from_utf8_lossy(&body).contains("shop-1"));
    serving.abort();
}

#[tokio::test]
async fn readiness_says_what_is_missing() {
    let server = server().await;
    *server.view.missing.lock().unwrap() = vec!["no configuration yet".into()];
    let (status, _, body) = ask(server.address, &request("GET", "/readyz")).await;
    assert_eq!(status, 503);
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["ready"], false);
    assert_eq!(body["reasons"][0], "no configuration yet");
}

#[tokio::test]
async fn without_a_configuration_nothing_is_answered_out_of_one() {
    let run = tempfile::tempdir().unwrap();
    let view = Arc::new(Fake::default());
    *view.unknown.lock().unwrap() = Some("pods not heard".into());
    let admin = Admin::new(view, Arc::new(registry()), MetricsAccess::default());
    let socket = AdminSocket::bind(run.path()).unwrap();
    let serving = tokio::spawn(async move {
        admin.serve_socket(socket, std::future::pending()).await;
    });
    let status: Status = get(run.path(), "/status").await.unwrap();
    assert_eq!(status.node, "left");
    get::<Vec<String>>(run.path(), "/problems").await.unwrap();
    for path in [
        "/workloads",
        "/connections",
        "/flows",
        "/explain?connection=1",
        "/audit",
        "/audit/probe",
    ] {
        let error = client::get_raw(run.path(), path).await.unwrap_err();
        assert!(error.to_string().contains("503"), "{path}: {error}");
        assert!(
            error.to_string().contains("pods not heard"),
            "{path}: {error}"
        );
    }
    serving.abort();
}

/// An agent that starts beside another, as its own pod's commands and others find it.
#[tokio::test]
async fn an_agent_that_starts_is_asked_by_its_own_pod_alone() {
    struct Instance(&'static str);
    impl AgentView for Instance {
        fn status(&self) -> Status {
            Status {
                instance: Some(self.0.into()),
                ..Status::default()
            }
        }
        fn workloads(&self) -> Vec<WorkloadStatus> {
            Vec::new()
        }
        fn explain(&self, _: &Question) -> Result<Explanation, ExplainError> {
            Err(ExplainError::NoConfiguration)
        }
        fn flows(&self) -> Vec<Flow> {
            Vec::new()
        }
        fn connections(&self) -> Vec<ConnectionInfo> {
            Vec::new()
        }
        fn audit(&self, _: bool) -> Result<AuditReport, String> {
            self.knows().map(|()| AuditReport::default())
        }
        fn knows(&self) -> Result<(), String> {
            Err("nothing".into())
        }
        fn ready(&self) -> Result<(), Vec<String>> {
            Ok(())
        }
    }
    let run = tempfile::tempdir().unwrap();
    let serve = |name, instance| {
        let view = Arc::new(Instance(instance)) as Arc<dyn AgentView>;
        let admin = Admin::new(view, Arc::new(registry()), MetricsAccess::default());
        let socket = AdminSocket::bind_as(name, run.path()).unwrap();
        tokio::spawn(async move { admin.serve_socket(socket, std::future::pending()).await })
    };
    let in_force = socket_path(run.path());
    let starting = run.path().join(STARTING_NAME);
    // None starts.
    assert_eq!(client::socket_for(run.path(), Some("new")).await, in_force);
    let (_old, new) = (serve(SOCKET_NAME, "old"), serve(STARTING_NAME, "new"));
    assert_eq!(client::socket_for(run.path(), Some("new")).await, starting);
    assert_eq!(client::socket_for(run.path(), Some("old")).await, in_force);
    assert_eq!(client::socket_for(run.path(), None).await, in_force);
    new.abort();
    assert!(new.await.unwrap_err().is_cancelled());
    assert!(!starting.exists());
    assert_eq!(client::socket_for(run.path(), Some("new")).await, in_force);
}

#[tokio::test]
async fn garbage_and_huge_heads_are_refused() {
    let server = server().await;
    let (status, ..) = ask(server.address, "\0\0 nonsense\r\n\r\n").await;
    assert_eq!(status, 400);
    let huge = format!(
        "GET /healthz HTTP/1.1\r\nx: {}\r\n\r\n",
        "a".repeat(100_000)
    );
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    // The server may answer and close before it was sent everything.
    let _ = stream.write_all(huge.as_bytes()).await;
    let mut reply = Vec::new();
    let _ = tokio::time::timeout(LIMIT, stream.read_to_end(&mut reply))
        .await
        .unwrap();
    assert!(
        !reply.starts_with(b"HTTP/1.1 2"),
        "{}",
        String::from_utf8_lossy(&reply)
    );
    assert_eq!(
        ask(server.address, &request("GET", "/healthz")).await.0,
        200
    );
}

#[tokio::test(start_paused = true)]
async fn silent_clients_hold_their_places_only_for_a_while() {
    let server = server().await;
    // The paused clock's time: it moves only when nothing else can happen.
    let start = tokio::time::Instant::now();
    let mut silent = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(b"GET /healthz HT").await.unwrap();
        silent.push(stream);
    }
    // All places are taken; this one is answered once the silent ones are turned out.
    let (status, ..) = ask_patiently(server.address).await;
    assert_eq!(status, 200);
    assert!(
        start.elapsed() >= HEADER_TIMEOUT,
        "it was served beyond the limit"
    );
    for mut stream in silent {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert!(!rest.starts_with(b"HTTP/1.1 2"));
    }
}

/// [`ask`] without its own deadline, which a paused clock would reach at once.
async fn ask_patiently(address: SocketAddr) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(request("GET", "/healthz").as_bytes())
        .await
        .unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    let status = reply.split(' ').nth(1).unwrap().parse().unwrap();
    (status, reply)
}

#[tokio::test]
async fn stopping_closes_what_is_open() {
    let server = server().await;
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    idle.readable().await.unwrap();
    server.stop.send(()).unwrap();
    tokio::time::timeout(LIMIT, server.task)
        .await
        .unwrap()
        .unwrap();
    let mut rest = Vec::new();
    // Closed, be it by FIN or reset.
    let _ = tokio::time::timeout(LIMIT, idle.read_to_end(&mut rest))
        .await
        .unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn the_socket_answers_the_command_line() {
    let run = tempfile::tempdir().unwrap();
    let error = get::<Status>(run.path(), "/status").await.unwrap_err();
    assert!(matches!(error, ClientError::NotRunning { .. }), "{error}");
    assert!(error.to_string().contains("is it running?"));

    let view: Arc<dyn AgentView> = Arc::new(Fake::default());
    let admin = Admin::new(view, Arc::new(registry()), MetricsAccess::default());
    let socket = AdminSocket::bind(run.path()).unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let served = tokio::spawn(async move {
        admin
            .serve_socket(socket, async { drop(stopped.await) })
            .await;
    });

    let status: Status = get(run.path(), "/status").await.unwrap();
    assert_eq!(status.node, "left");
    let workloads: Vec<WorkloadStatus> = get(run.path(), "/workloads").await.unwrap();
    assert_eq!(workloads[0].state, WorkloadState::Enrolled);
    let problems: Vec<String> = get(run.path(), "/problems").await.unwrap();
    assert!(problems.is_empty());
    let error = get::<Status>(run.path(), "/nothing").await.unwrap_err();
    assert!(matches!(error, ClientError::Refused { .. }), "{error}");
    let error = get::<Vec<String>>(run.path(), "/status").await.unwrap_err();
    assert!(matches!(error, ClientError::Answer(_)), "{error}");
    // A view that panics is an answer too, and not the end of the server.
    let error = get::<Vec<ConnectionInfo>>(run.path(), "/connections")
        .await
        .unwrap_err();
    assert!(error.to_string().contains("500"), "{error}");

    stop.send(()).unwrap();
    tokio::time::timeout(LIMIT, served).await.unwrap().unwrap();
    let error = get::<Status>(run.path(), "/status").await.unwrap_err();
    assert!(matches!(error, ClientError::NotRunning { .. }), "{error}");
}
