use clap::Parser;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use serde_json::{Value, json};

use super::exec::exit_code;
use super::*;
use crate::kubernetes::testing::{FakeApi, Reply};

fn parsed(words: &[&str]) -> Result<Command, RemoteError> {
    let words = std::iter::once("mesh-agent").chain(words.iter().copied());
    Cli::try_parse_from(words).unwrap().resolve()
}

fn tool(words: &[&str]) -> Tool {
    match parsed(words) {
        Ok(Command::Tool(tool)) => *tool,
        other => panic!("{words:?}: {other:?}"),
    }
}

/// Nothing that was asked for is lost on the way: the forwarded words mean the same command.
#[test]
fn forwarded_commands_are_the_same_commands() {
    for words in [
        &["status"][..],
        &["status", "-o", "json", "--run-dir", "/r"],
        &["workloads"],
        &["connections", "-o", "json"],
        &["problems"],
        &["flows"],
        &["audit"],
        &["audit", "--probe"],
        &["explain", "6b03467500000001"],
        &["explain", "--from", "a/b", "--to", "c/d", "--port", "80"],
    ] {
        let here = tool(words);
        assert_eq!(here.forwarded(), None, "{words:?}");
        for place in [["--node", "n1"], ["--pod", "shop/web"]] {
            let there = tool(&[words, &place[..]].concat());
            let (to, forwarded) = there.forwarded().unwrap();
            let expected = match place[0] {
                "--node" => Place::Node("n1".to_owned()),
                _ => Place::Pod("shop/web".parse().unwrap()),
            };
            assert_eq!(to, expected);
            let forwarded: Vec<_> = forwarded.iter().map(String::as_str).collect();
            let again = format!("{:?}", tool(&forwarded));
            assert_eq!(again, format!("{here:?}"), "{forwarded:?}");
            // The same before the command.
            let before = tool(&[&place[..], words].concat());
            assert_eq!(format!("{before:?}"), format!("{there:?}"));
        }
    }
}

#[test]
fn the_agent_is_named_once_and_for_commands_that_ask_one() {
    for words in [
        &["--node", "n1", "check"][..],
        &["--node", "n1", "run", "--kube"],
        &["--pod", "a/b", "policy", "lint", "d"],
    ] {
        let refused = parsed(words);
        assert!(matches!(refused, Err(RemoteError::NotAsking)), "{words:?}");
    }
    let twice = parsed(&["--node", "n1", "status", "--node", "n2"]);
    assert!(matches!(twice, Err(RemoteError::Twice)), "{twice:?}");
    for wrong in [
        &["mesh-agent", "status", "--pod", "web"][..],
        &["mesh-agent", "status", "--pod", "a/b/c"],
        &["mesh-agent", "status", "--node", "n1", "--pod", "a/b"],
    ] {
        assert!(Cli::try_parse_from(wrong).is_err(), "{wrong:?}");
    }
    // The option of `run` is another.
    assert!(parsed(&["run", "--kube", "--node", "n1"]).is_ok());
    let simulate = tool(&["--node", "n1", "policy", "simulate", "d"]);
    assert_eq!(simulate.forwarded(), None, "its folder is here");
}

fn agent(name: &str, node: &str, created: &str, state: Value, ready: bool) -> Value {
    let status = json!({
        "name": "agent", "ready": ready, "restartCount": 0, "image": "", "imageID": "", "state": state,
    });
    json!({
        "metadata": {"name": name, "creationTimestamp": created},
        "spec": {"nodeName": node, "containers": []},
        "status": {"phase": "Running", "containerStatuses": [status]},
    })
}

/// An API server with these agents, and the pod shop/web on node n1.
fn cluster(agents: Vec<Value>) -> FakeApi {
    FakeApi::new(move |asked| match asked.path.as_str() {
        "/api/v1/namespaces/isthmus-system/pods" => {
            let listed = agents.iter().filter(|agent| {
                let node = agent["spec"]["nodeName"].as_str().unwrap();
                !asked.query.contains("nodeName") || asked.query.contains(node)
            });
            let items: Vec<_> = listed.cloned().collect();
            Reply::Json(json!({"metadata": {}, "items": items}))
        }
        "/api/v1/namespaces/shop/pods/web" => Reply::Json(json!({
            "metadata": {"name": "web"}, "spec": {"nodeName": "n1", "containers": []},
        })),
        "/api/v1/namespaces/shop/pods/new" => Reply::Json(json!({
            "metadata": {"name": "new"}, "spec": {"containers": []},
        })),
        "/api/v1/namespaces/secret/pods/web" => Reply::Fail(403, "Forbidden"),
        _ => Reply::Fail(404, "NotFound"),
    })
}

async fn found(api: &FakeApi, place: &str) -> Result<String, String> {
    let place = match place.parse() {
        Ok(pod) => Place::Pod(pod),
        Err(_) => Place::Node(place.to_owned()),
    };
    let found = find::agent(&api.client(), &place).await;
    found.map_err(|error| error.to_string())
}

#[tokio::test]
async fn the_agent_that_serves_the_node_is_found() {
    let running = || json!({"running": {}});
    let at = |minute: u32| format!("2026-01-01T00:{minute:02}:00Z");
    let api = cluster(vec![
        agent("old", "n1", &at(1), running(), true),
        agent("starting", "n1", &at(2), running(), false),
        agent("first", "n2", &at(1), running(), true),
        agent("second", "n2", &at(2), running(), true),
        agent(
            "waiting",
            "n3",
            &at(1),
            json!({"waiting": {"reason": "CrashLoopBackOff", "message": "no bpffs"}}),
            false,
        ),
    ]);
    assert_eq!(found(&api, "n1").await.as_deref(), Ok("old"));
    assert_eq!(found(&api, "shop/web").await.as_deref(), Ok("old"));
    assert_eq!(found(&api, "n2").await.as_deref(), Ok("second"));
    let stopped = found(&api, "n3").await.unwrap_err();
    assert!(
        stopped.contains("the agent of node n3 is not running")
            && stopped.contains("CrashLoopBackOff: no bpffs"),
        "{stopped}"
    );
    let unknown = found(&api, "n9").await.unwrap_err();
    assert_eq!(
        unknown,
        "no agent runs on node n9; there are agents on n1, n2, n3"
    );
}

#[tokio::test]
async fn what_is_not_there_or_not_allowed_is_one_sentence() {
    let api = cluster(Vec::new());
    for (place, part) in [
        ("n1", "`mesh-agent install` brings the mesh into it"),
        ("shop/gone", "there is no pod shop/gone"),
        ("shop/new", "pod shop/new is on no node yet"),
        ("secret/web", "permission to get pods in namespace secret"),
    ] {
        let error = found(&api, place).await.unwrap_err();
        assert!(error.contains(part), "{place}: {error}");
    }
    let closed = FakeApi::new(|_| Reply::Fail(403, "Forbidden"));
    let error = found(&closed, "n1").await.unwrap_err();
    let permission = "ask for the permission to list pods in namespace isthmus-system";
    assert!(error.contains(permission), "{error}");
}

#[test]
fn exit_codes_pass_through() {
    let status = |json: Value| exit_code(&serde_json::from_value::<Status>(json).unwrap());
    assert_eq!(status(json!({"status": "Success"})), Some(0));
    let failed = json!({
        "status": "Failure", "reason": "NonZeroExitCode", "message": "command terminated with non-zero exit code",
        "details": {"causes": [{"reason": "ExitCode", "message": "7"}]},
    });
    assert_eq!(status(failed), Some(7));
    let not_run =
        json!({"status": "Failure", "reason": "InternalError", "message": "no such file"});
    assert_eq!(status(not_run), None);
}
