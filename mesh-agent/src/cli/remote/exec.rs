//! Runs a command in an agent's pod, as `kubectl exec` does. Called by [`super::run`].

use std::io;
use std::pin::pin;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::AttachParams;
use kube::{Api, Client};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::RemoteError;
use super::find::{CONTAINER, refused};
use crate::install::NAMESPACE;

/// The program's path in every version of the image.
const PROGRAM: &str = "/mesh-agent";
/// Bytes of output that are read at once.
const CHUNK: usize = 64 << 10;

/// Runs the program with `words`, hands on what it prints, and returns its exit code.
pub(super) async fn exec(
    client: &Client,
    pod: &str,
    words: Vec<String>,
    out: impl FnMut(&[u8]) -> io::Result<()>,
    errors: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<u8, RemoteError> {
    let api: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let params = AttachParams::default()
        .stdin(false)
        .stdout(true)
        .stderr(true)
        .container(CONTAINER)
        .max_stdout_buf_size(CHUNK)
        .max_stderr_buf_size(CHUNK);
    let command = std::iter::once(PROGRAM.to_owned()).chain(words);
    let started = api.exec(pod, command, &params).await;
    let mut process = started.map_err(|error| {
        // With `get`, servers before Kubernetes 1.35 take a WebSocket.
        let permission = format!("get and create pods/exec in namespace {NAMESPACE}");
        refused(format!("run a command in pod {pod}"), permission, error)
    })?;
    let (stdout, stderr) = (process.stdout(), process.stderr());
    let status = process.take_status();
    let mut status = pin!(async {
        match status {
            Some(status) => status.await,
            None => None,
        }
    });
    let mut copied = pin!(async { tokio::try_join!(copy(stdout, out), copy(stderr, errors)) });
    let status = tokio::select! {
        done = &mut copied => {
            done?;
            (&mut status).await
        }
        // Without a status the connection is lost, and the output need not end.
        status = &mut status => {
            if status.is_some() {
                (&mut copied).await?;
            }
            status
        }
    };
    match status {
        Some(status) => exit_code(&status).ok_or_else(|| RemoteError::NotRun {
            pod: pod.to_owned(),
            message: status.message.unwrap_or_default(),
        }),
        None => {
            let cause = process.join().await.err();
            let cause = cause.map_or_else(String::new, |error| format!(": {error}"));
            let pod = pod.to_owned();
            Err(RemoteError::Lost { pod, cause })
        }
    }
}

async fn copy(
    from: Option<impl AsyncRead + Unpin>,
    mut to: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let Some(mut from) = from else {
        return Ok(());
    };
    let mut chunk = vec![0; CHUNK];
    loop {
        match from.read(&mut chunk).await? {
            0 => return Ok(()),
            read => to(&chunk[..read])?,
        }
    }
}

/// The exit code that a status tells; `None` if the command was not run. Its form is the
/// kubelet's (`k8s.io/apimachinery/pkg/util/remotecommand`).
pub(super) fn exit_code(status: &Status) -> Option<u8> {
    if status.status.as_deref() == Some("Success") {
        return Some(0);
    }
    if status.reason.as_deref() != Some("NonZeroExitCode") {
        return None;
    }
    let mut causes = status
        .details
        .iter()
        .flat_map(|it| it.causes.iter().flatten());
    let code = causes.find(|cause| cause.reason.as_deref() == Some("ExitCode"))?;
    code.message.as_deref()?.parse().ok()
}
