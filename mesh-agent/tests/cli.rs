//! The built binary against an administrative socket: output, errors and exit codes.

use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Arc;

use mesh_agent::admin::api::{
    AuditReport, AuditState, PodAudit, ProbeResult, Status, WorkloadState, WorkloadStatus,
};
use mesh_agent::admin::{Admin, AdminSocket, AgentView, MetricsAccess};
use mesh_agent::explain::{ExplainError, Explanation, Question};
use mesh_agent::observe::{ConnectionInfo, Registry};

struct Fake;

impl AgentView for Fake {
    fn status(&self) -> Status {
        Status {
            node: "left".into(),
            pid: 77,
            ready: true,
            ..Status::default()
        }
    }

    fn workloads(&self) -> Vec<WorkloadStatus> {
        // More than a pipe holds, so that a reader who leaves is noticed while writing.
        (0..5000)
            .map(|n| WorkloadStatus {
                name: format!("web-{n}"),
                namespace: "shop".into(),
                state: WorkloadState::Enrolled,
                ..WorkloadStatus::default()
            })
            .collect()
    }

    fn connections(&self) -> Vec<ConnectionInfo> {
        Vec::new()
    }

    fn audit(&self, probe: bool) -> Result<AuditReport, String> {
        let lost = ProbeResult {
            to: "192.0.2.1:9".into(),
            captured: false,
            detail: Some("it timed out".into()),
        };
        let pod = PodAudit {
            namespace: "shop".into(),
            name: "web".into(),
            state: AuditState::Covered,
            probes: probe.then_some(lost).into_iter().collect(),
            ..PodAudit::default()
        };
        Ok(AuditReport {
            pods: vec![pod],
            ..AuditReport::default()
        })
    }

    fn explain(&self, question: &Question) -> Result<Explanation, ExplainError> {
        match question {
            Question::Would(query) => Err(ExplainError::NoPod(query.from.clone())),
            Question::Connection(id) => Err(ExplainError::NoConnection(id.to_string())),
        }
    }

    fn flows(&self) -> Vec<mesh_agent::observe::Flow> {
        Vec::new()
    }

    fn knows(&self) -> Result<(), String> {
        Ok(())
    }

    fn ready(&self) -> Result<(), Vec<String>> {
        Ok(())
    }
}

/// Runs the body with an agent's socket in a directory of its own.
async fn with_agent<F: Future<Output = ()>>(body: impl FnOnce(std::path::PathBuf) -> F) {
    let run = tempfile::tempdir().unwrap();
    let socket = AdminSocket::bind(run.path()).unwrap();
    let admin = Admin::new(
        Arc::new(Fake),
        Arc::new(Registry::new()),
        MetricsAccess::default(),
    );
    tokio::select! {
        () = admin.serve_socket(socket, std::future::pending()) => unreachable!("never stops"),
        () = body(run.path().to_owned()) => {}
    }
}

async fn mesh_agent(run_dir: &Path, arguments: &[&str]) -> Output {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_mesh-agent"));
    command.args(arguments).arg("--run-dir").arg(run_dir);
    tokio::task::spawn_blocking(move || command.output())
        .await
        .unwrap()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn both_forms_of_an_answer() {
    with_agent(async |run| {
        let table = mesh_agent(&run, &["status"]).await;
        assert!(table.status.success());
        assert!(text(&table.stdout).starts_with("node          left, ready\n"));

        let json = mesh_agent(&run, &["status", "-o", "json"]).await;
        let status: Status = serde_json::from_slice(&json.stdout).unwrap();
        assert_eq!(status, Fake.status());

        let json = mesh_agent(&run, &["workloads", "-o", "json"]).await;
        let workloads: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
        assert_eq!(workloads[0]["state"], "enrolled");

        let none = mesh_agent(&run, &["connections"]).await;
        assert_eq!(text(&none.stdout), "no connection is open\n");
        let none = mesh_agent(&run, &["problems"]).await;
        assert_eq!(text(&none.stdout), "the configuration has no problem\n");
    })
    .await;
}

#[tokio::test]
async fn an_audit_says_by_its_exit_code_whether_all_is_well() {
    with_agent(|run_dir| async move {
        let good = mesh_agent(&run_dir, &["audit"]).await;
        assert_eq!(good.status.code(), Some(0), "{}", text(&good.stderr));
        assert!(text(&good.stdout).contains("shop/web  covered"));
        for form in [
            &["audit", "--probe"][..],
            &["audit", "--probe", "-o", "json"],
        ] {
            let bad = mesh_agent(&run_dir, form).await;
            assert_eq!(bad.status.code(), Some(1), "{}", text(&bad.stderr));
            assert!(text(&bad.stdout).contains("it timed out"));
        }
    })
    .await;
}

#[tokio::test]
async fn without_an_agent_one_sentence_says_what_to_do() {
    let run = tempfile::tempdir().unwrap();
    let output = mesh_agent(run.path(), &["status"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let error = text(&output.stderr);
    assert_eq!(error.lines().count(), 1, "{error}");
    for part in ["agent.sock", "is it running?", "mesh-agent run --config"] {
        assert!(error.contains(part), "no {part:?} in {error}");
    }
}

#[tokio::test]
async fn explain_asks_the_agent_and_says_what_it_does_not_know() {
    with_agent(async |run| {
        for (words, expected) in [
            (
                "explain 00000001000000ff",
                "knows no connection 00000001000000ff",
            ),
            (
                "explain --from shop/web --to 10.0.0.1:80",
                "names no pod shop/web",
            ),
            (
                "explain --from shop/web --to [fd00::1]:80",
                "names no pod shop/web",
            ),
            (
                "explain --from web --to shop/db",
                "is not of the form NAMESPACE/POD",
            ),
        ] {
            let words: Vec<&str> = words.split(' ').collect();
            let output = mesh_agent(&run, &words).await;
            assert_eq!(output.status.code(), Some(1), "{words:?}");
            let error = text(&output.stderr);
            assert!(error.contains(expected), "{words:?}: {error}");
        }
        let none = mesh_agent(&run, &["flows"]).await;
        assert_eq!(text(&none.stdout), "no flow was recorded yet\n");
    })
    .await;
}

#[tokio::test]
async fn a_running_agent_is_not_cleaned_away_under_its_feet() {
    with_agent(async |run| {
        let output = mesh_agent(&run, &["clean", "--pin-dir", "/nowhere"]).await;
        assert_eq!(output.status.code(), Some(1));
        let error = text(&output.stderr);
        assert!(error.contains("node left (pid 77) is running"), "{error}");
    })
    .await;
}

#[tokio::test]
async fn a_reader_who_leaves_early_is_no_failure() {
    with_agent(async |run| {
        let status = tokio::task::spawn_blocking(move || {
            let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_mesh-agent"))
                .args(["workloads", "--run-dir"])
                .arg(run)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            drop(child.stdout.take());
            let output = child.wait_with_output().unwrap();
            (output.status.code(), text(&output.stderr))
        });
        assert_eq!(status.await.unwrap(), (Some(0), String::new()));
    })
    .await;
}
