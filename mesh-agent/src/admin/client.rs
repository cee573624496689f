//! Asks a running agent over its socket. Used by the command line.
//!
//! While an agent starts beside the one that serves the node, both have a socket. A command in
//! the new one's pod asks that one, any other the one that serves.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::api::Status;
use super::{INSTANCE, STARTING_NAME, socket_path};

/// Why the agent could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no socket, or nobody behind it.
    #[error(
        "no agent answers at {}: is it running? start it with `mesh-agent run --config DIR`, \
         or name its directory with --run-dir", path.display()
    )]
    NotRunning {
        /// The socket.
        path: PathBuf,
    },
    /// The socket is not for this user.
    #[error("may not open {}: run this command as root", path.display())]
    NotPermitted {
        /// The socket.
        path: PathBuf,
    },
    /// Anything else on the way.
    #[error("asking the agent at {} failed: {cause}", path.display())]
    Exchange {
        /// The socket.
        path: PathBuf,
        /// What went wrong.
        cause: String,
    },
    /// The agent did not answer.
    #[error("the agent at {} did not answer within {} s: see its log", path.display(), LIMIT.as_secs())]
    Timeout {
        /// The socket.
        path: PathBuf,
    },
    /// The agent answered with an error.
    #[error("the agent refused to answer ({status}): {text}")]
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// What it said.
        text: String,
    },
    /// The agent is of another version.
    #[error(
        "the agent's answer is not understood ({0}): is it of another version than this command?"
    )]
    Answer(#[from] serde_json::Error),
}

/// Time for a whole answer.
const LIMIT: Duration = Duration::from_secs(30);
/// Bytes of an answer: half a million connections.
const MAX_ANSWER: usize = 256 << 20;

/// The answer to `GET path`, of the type that the path answers with.
///
/// # Errors
/// See [`ClientError`].
pub async fn get<T: DeserializeOwned>(run_dir: &Path, path: &str) -> Result<T, ClientError> {
    Ok(serde_json::from_slice(&get_raw(run_dir, path).await?)?)
}

/// The body of the answer to `GET path`.
///
/// # Errors
/// See [`ClientError`].
pub async fn get_raw(run_dir: &Path, path: &str) -> Result<Bytes, ClientError> {
    let own = std::env::var(INSTANCE).ok().filter(|it| !it.is_empty());
    let socket = socket_for(run_dir, own.as_deref()).await;
    match tokio::time::timeout(LIMIT, exchange(&socket, path)).await {
        Ok(answer) => answer,
        Err(_) => Err(ClientError::Timeout { path: socket }),
    }
}

/// Where the agent answers that the instance `own` is to ask.
pub(super) async fn socket_for(run_dir: &Path, own: Option<&str>) -> PathBuf {
    let starting = run_dir.join(STARTING_NAME);
    if let Some(own) = own
        && let Ok(Ok(answer)) = tokio::time::timeout(LIMIT, exchange(&starting, "/status")).await
        && let Ok(status) = serde_json::from_slice::<Status>(&answer)
        && status.instance.as_deref() == Some(own)
    {
        return starting;
    }
    socket_path(run_dir)
}

async fn exchange(socket: &Path, path: &str) -> Result<Bytes, ClientError> {
    let failed = |cause: &dyn std::fmt::Display| ClientError::Exchange {
        path: socket.to_owned(),
        cause: cause.to_string(),
    };
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NotRunning {
                path: socket.to_owned(),
            },
            io::ErrorKind::PermissionDenied => ClientError::NotPermitted {
                path: socket.to_owned(),
            },
            _ => failed(&error),
        })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| failed(&error))?;
    let request = Request::get(path)
        .header(HOST, "agent")
        .body(Empty::<Bytes>::new())
        .map_err(|error| failed(&error))?;
    let answer = async move {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await;
        Ok::<_, hyper::Error>((status, body))
    };
    // The connection must be driven while the answer is awaited, and ends with it.
    let (answer, _) = tokio::join!(answer, connection);
    let (status, body) = answer.map_err(|error| failed(&error))?;
    let body = body.map_err(|error| failed(&error))?.to_bytes();
    if status == StatusCode::OK {
        return Ok(body);
    }
    let text = String::from_utf8_lossy(&body).trim().to_owned();
    Err(ClientError::Refused { status, text })
}
