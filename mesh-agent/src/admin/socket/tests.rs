//! The socket's file: permissions, replacement, take-over, removal.

use super::*;
use crate::admin::socket_path;

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o777
}

/// Whether a client of `path` is accepted by `socket`.
async fn reaches(path: &Path, socket: &AdminSocket) -> bool {
    let Ok(_client) = UnixStream::connect(path).await else {
        return false;
    };
    let accepted = tokio::time::timeout(std::time::Duration::from_secs(20), socket.accept());
    matches!(accepted.await, Ok(Ok(Some(_))))
}

#[tokio::test]
async fn directory_and_socket_are_for_the_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    for existing in [false, true] {
        let run = dir.path().join(format!("run-{existing}"));
        if existing {
            fs::create_dir(&run).unwrap();
            fs::set_permissions(&run, fs::Permissions::from_mode(0o777)).unwrap();
        }
        let socket = AdminSocket::bind(&run).unwrap();
        assert_eq!(mode(&run), 0o700);
        assert_eq!(mode(&socket_path(&run)), 0o600);
        drop(socket);
        let left: Vec<_> = fs::read_dir(&run).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[tokio::test]
async fn a_dead_agents_socket_is_replaced() {
    let run = tempfile::tempdir().unwrap();
    let path = socket_path(run.path());
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(UnixStream::connect(&path).await.is_err());
    let socket = AdminSocket::bind(run.path()).unwrap();
    assert!(reaches(&path, &socket).await);
}

#[tokio::test]
async fn the_newer_of_two_agents_has_the_name_and_the_older_leaves_it_alone() {
    let run = tempfile::tempdir().unwrap();
    let path = socket_path(run.path());
    let old = AdminSocket::bind(run.path()).unwrap();
    let new = AdminSocket::bind(run.path()).unwrap();
    drop(old);
    assert!(reaches(&path, &new).await);
    drop(new);
    assert!(!path.exists());
}

#[tokio::test]
async fn what_is_no_socket_is_left_alone() {
    let run = tempfile::tempdir().unwrap();
    let path = socket_path(run.path());
    fs::write(&path, "precious").unwrap();
    let error = AdminSocket::bind(run.path()).unwrap_err().to_string();
    assert!(error.contains("not a socket"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test]
async fn a_run_directory_behind_a_link_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink("/tmp", &link).unwrap();
    let error = AdminSocket::bind(&link).unwrap_err().to_string();
    assert!(error.contains("--run-dir"), "{error}");
}

#[test]
fn root_and_the_agents_own_user_are_permitted() {
    assert!(permitted(0, 0));
    assert!(permitted(0, 1000));
    assert!(permitted(1000, 1000));
    assert!(!permitted(1000, 0));
    assert!(!permitted(1001, 1000));
}
