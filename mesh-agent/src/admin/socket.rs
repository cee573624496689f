//! The unix socket of the command line, and that of the CNI plugin: for root alone, and taken over by the newer of
//! two agents without a moment in which there is none.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;
use tokio::net::{UnixListener, UnixStream};

use super::serve::Listener;
use super::{AdminError, SOCKET_NAME};

/// The bound socket. Dropping it removes the file, unless a newer agent put its own there.
#[derive(Debug)]
pub struct AdminSocket {
    listener: UnixListener,
    run_dir: PathBuf,
    name: &'static str,
    file: FileId,
}

/// Device and inode.
type FileId = (u64, u64);

impl AdminSocket {
    /// Makes the run directory (0700) where it is missing and binds `agent.sock` (0600) in
    /// it, in the place of whatever socket was there: a dead agent's, or that of an older
    /// agent which is about to leave and keeps serving the connections that it has.
    ///
    /// # Errors
    /// When the directory is another user's or no directory, or the system refuses.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn bind(run_dir: &Path) -> Result<Self, AdminError> {
        Self::bind_as(SOCKET_NAME, run_dir)
    }

    /// As [`AdminSocket::bind`], under another name in the run directory.
    pub(crate) fn bind_as(name: &'static str, run_dir: &Path) -> Result<Self, AdminError> {
        prepare(run_dir)?;
        let _lock = lock(run_dir)?;
        let path = run_dir.join(name);
        refuse_other_than_socket(&path)?;

        // Bound under another name, and only then renamed: whoever opens the socket
        // finds a listening one of either agent at every moment.
        let fresh = run_dir.join(format!(".{}.{name}", std::process::id()));
        remove_if_there(&fresh).map_err(failed("remove the left-over", &fresh))?;
        let listener = UnixListener::bind(&fresh).map_err(failed("bind the socket", &fresh))?;
        let placed = fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600))
            .and_then(|()| file_id(&fresh))
            .and_then(|file| fs::rename(&fresh, &path).map(|()| file));
        match placed {
            Ok(file) => Ok(Self {
                listener,
                run_dir: run_dir.to_owned(),
                name,
                file,
            }),
            Err(source) => {
                // The first failure is the one to report.
                let _ = remove_if_there(&fresh);
                Err(failed("put the socket at", &path)(source))
            }
        }
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        let path = self.run_dir.join(self.name);
        // Under the lock no other agent can take the place between the look and the removal.
        let Ok(_lock) = lock(&self.run_dir) else {
            return;
        };
        if file_id(&path).is_ok_and(|file| file == self.file)
            && let Err(error) = fs::remove_file(&path)
        {
            tracing::warn!(path = %path.display(), %error, "cannot remove the socket");
        }
    }
}

impl AdminSocket {
    /// The next connection, or `None` for one of another user, which was turned away.
    pub(crate) async fn accept_permitted(&self) -> io::Result<Option<UnixStream>> {
        let (stream, _) = self.listener.accept().await?;
        let user = stream.peer_cred()?.uid();
        if permitted(user, geteuid().as_raw()) {
            return Ok(Some(stream));
        }
        tracing::warn!(
            user,
            socket = self.name,
            "a user other than root was turned away from a socket of the agent"
        );
        Ok(None)
    }
}

impl Listener for AdminSocket {
    type Io = UnixStream;

    async fn accept(&self) -> io::Result<Option<UnixStream>> {
        self.accept_permitted().await
    }
}

/// Root, and the user that the agent itself runs as.
fn permitted(user: u32, own: u32) -> bool {
    user == 0 || user == own
}

fn prepare(run_dir: &Path) -> Result<(), AdminError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(run_dir)
        .map_err(failed("make the run directory", run_dir))?;
    let meta = fs::symlink_metadata(run_dir).map_err(failed("look at", run_dir))?;
    let wrong = |wrong| {
        Err(AdminError::RunDir {
            path: run_dir.to_owned(),
            wrong,
        })
    };
    if !meta.is_dir() {
        return wrong("is not a directory");
    }
    if meta.uid() != geteuid().as_raw() {
        return wrong("belongs to another user");
    }
    if meta.mode() & 0o777 != 0o700 {
        fs::set_permissions(run_dir, fs::Permissions::from_mode(0o700))
            .map_err(failed("restrict the permissions of", run_dir))?;
    }
    Ok(())
}

fn refuse_other_than_socket(path: &Path) -> Result<(), AdminError> {
    use std::os::unix::fs::FileTypeExt;
    match fs::symlink_metadata(path) {
        Ok(meta) if !meta.file_type().is_socket() => Err(failed("replace", path)(
            io::Error::other("it is there and is not a socket"),
        )),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("look at", path)(error)),
    }
}

/// Locks the run directory against other agents that place or remove a socket.
fn lock(run_dir: &Path) -> Result<Flock<File>, AdminError> {
    let dir = File::open(run_dir).map_err(failed("open", run_dir))?;
    // Held for a few system calls by whoever has it.
    Flock::lock(dir, FlockArg::LockExclusive)
        .map_err(|(_, errno)| failed("lock", run_dir)(errno.into()))
}

fn file_id(path: &Path) -> io::Result<FileId> {
    fs::symlink_metadata(path).map(|meta| (meta.dev(), meta.ino()))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> AdminError {
    let path = path.to_owned();
    move |source| AdminError::Socket { what, path, source }
}

#[cfg(test)]
mod tests;
