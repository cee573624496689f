//! A pod and the world outside it: two network namespaces joined by a veth
//! pair, a cgroup for the pod, and an interceptor. All of it goes on drop.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::thread;

use mesh_agent::intercept::{
    Enrolment, Interceptor, KubeletCgroup, NetnsCookie, Options, remove_all,
};
use nix::mount::{MsFlags, umount};
use nix::sched::{CloneFlags, setns, unshare};

use crate::netlink;

pub(crate) const POD_V4: &str = "10.77.0.1";
pub(crate) const POD_V6: &str = "fd77::1";
pub(crate) const OUT_V4: &str = "10.77.0.2";
pub(crate) const OUT_V6: &str = "fd77::2";

pub(crate) fn addr(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

pub(crate) struct Netns(pub(crate) OwnedFd);

impl Netns {
    pub(crate) fn new() -> Self {
        let fd = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            OwnedFd::from(fs::File::open("/proc/thread-self/ns/net").unwrap())
        });
        let netns = Self(fd.join().unwrap());
        netns.run(|| netlink::up("lo"));
        netns
    }

    /// Runs `f` on a thread inside the namespace, in the test's own cgroup.
    pub(crate) fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(self.0.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
                f()
            });
            inside.join().unwrap()
        })
    }

    pub(crate) fn cookie(&self) -> NetnsCookie {
        self.run(|| {
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            let mut cookie = 0u64;
            let mut len = 8u32;
            // SAFETY: the value is 8 bytes, as its length says.
            let result = unsafe {
                libc::getsockopt(
                    socket.as_raw_fd(),
                    libc::SOL_SOCKET,
                    71, // SO_NETNS_COOKIE
                    (&raw mut cookie).cast(),
                    &raw mut len,
                )
            };
            assert_eq!(result, 0, "SO_NETNS_COOKIE");
            NetnsCookie(cookie)
        })
    }
}

/// The cgroup v2 mount, wherever this machine has it.
pub(crate) fn cgroup_root() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = mounts.lines().find(|line| line.contains(" - cgroup2 "));
    let line = line.expect("cgroup v2 is mounted");
    PathBuf::from(line.split(' ').nth(4).unwrap())
}

/// A bpf file system of the test's own: a machine need not have one.
struct Bpffs(PathBuf);

impl Bpffs {
    fn mount(name: &str) -> Self {
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        let none = None::<&str>;
        nix::mount::mount(Some("bpf"), &path, Some("bpf"), MsFlags::empty(), none).unwrap();
        Self(path)
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        let gone = umount(&self.0).map_err(std::io::Error::from);
        let gone = gone.and_then(|()| fs::remove_dir(&self.0));
        if !thread::panicking() {
            gone.unwrap();
        }
    }
}

/// A cgroup directory that goes on drop.
pub(crate) struct Cgroup(pub(crate) PathBuf);

impl Cgroup {
    pub(crate) fn new(path: PathBuf) -> Self {
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn id(&self) -> u64 {
        fs::metadata(&self.0).unwrap().ino()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _gone = fs::remove_dir(&self.0);
    }
}

/// Runs `f` in a process inside `cgroup` and `netns`, and returns what it says.
/// The process is a fork, since a cgroup holds processes, not threads.
pub(crate) fn app(cgroup: &Path, netns: &Netns, f: impl FnOnce() -> String) -> App {
    let (read, write) = nix::unistd::pipe().unwrap();
    let procs = cgroup.join("cgroup.procs");
    // SAFETY: the child only touches its own memory and ends with _exit.
    match unsafe { libc::fork() } {
        -1 => panic!("fork failed"),
        0 => {
            drop(read);
            let said = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                fs::write(procs, "0").unwrap();
                setns(netns.0.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
                f()
            }));
            let said = said.unwrap_or_else(|_| "panicked".to_owned());
            let _broken = fs::File::from(write).write_all(said.as_bytes());
            // SAFETY: ends the child at once, without the parent's exit handlers.
            unsafe { libc::_exit(0) }
        }
        pid => App { pid, said: read },
    }
}

pub(crate) struct App {
    pid: i32,
    said: OwnedFd,
}

impl App {
    /// Waits for the process to end and returns what it said.
    pub(crate) fn says(self) -> String {
        let mut said = String::new();
        fs::File::from(self.said.try_clone().unwrap())
            .read_to_string(&mut said)
            .unwrap();
        said
    }
}

impl Drop for App {
    fn drop(&mut self) {
        // SAFETY: a child of this process that nobody else waits for.
        unsafe {
            libc::kill(self.pid, libc::SIGKILL);
            libc::waitpid(self.pid, std::ptr::null_mut(), 0);
        }
    }
}

/// One bed at a time: a forked application holds every descriptor of the
/// process, those of other tests included, and would keep them open.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

pub(crate) struct Bed {
    pub(crate) pod: Netns,
    pub(crate) outside: Netns,
    pub(crate) cookie: NetnsCookie,
    pub(crate) interceptor: Option<Interceptor>,
    pub(crate) options: Options,
    pub(crate) listener: Option<TcpListener>,
    // Inner before outer: they are removed in this order.
    pub(crate) cgroup: Cgroup,
    pub(crate) other_cgroup: Cgroup,
    _middle: Cgroup,
    _pods: Cgroup,
    _bpffs: Bpffs,
    _turn: MutexGuard<'static, ()>,
}

impl Bed {
    /// An interceptor and a pod that is not enrolled yet.
    pub(crate) fn new(name: &str) -> Self {
        let turn = ONE_AT_A_TIME
            .lock()
            .unwrap_or_else(|dead| dead.into_inner());
        let name = format!("isthmus-smoke-{name}-{}", std::process::id());
        let pods = Cgroup::new(cgroup_root().join(&name));
        let middle = Cgroup::new(pods.0.join("burstable"));
        let cgroup = Cgroup::new(middle.0.join("pod"));
        let other_cgroup = Cgroup::new(pods.0.join("other"));
        let (pod, outside) = (Netns::new(), Netns::new());
        netlink::join(&pod, &outside);
        let bpffs = Bpffs::mount(&name);
        let options = Options {
            pods_cgroup: pods.0.clone(),
            pin_dir: bpffs.0.join("pins"),
            agent_cgroup: None,
            kubelet: KubeletCgroup::Untrusted,
        };
        let interceptor = Interceptor::open(&options).unwrap_or_else(|error| panic!("{error}"));
        let cookie = pod.cookie();
        Self {
            pod,
            outside,
            cookie,
            interceptor: Some(interceptor),
            options,
            listener: None,
            cgroup,
            other_cgroup,
            _middle: middle,
            _pods: pods,
            _bpffs: bpffs,
            _turn: turn,
        }
    }

    pub(crate) fn interceptor(&self) -> &Interceptor {
        self.interceptor.as_ref().unwrap()
    }

    pub(crate) fn listener(&self) -> &TcpListener {
        self.listener.as_ref().unwrap()
    }

    /// Opens the agent's listener in the pod and enrols the pod.
    pub(crate) fn enrol(&mut self, addresses: &[&str], strict: bool) {
        let listener = self.pod.run(|| TcpListener::bind("[::]:0").unwrap());
        let addresses: Vec<IpAddr> = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
        let enrolment = Enrolment {
            netns: self.pod.0.as_fd(),
            netns_cookie: self.cookie,
            cgroup: &self.cgroup.0,
            addresses: &addresses,
            listener: listener.as_fd(),
            port: listener.local_addr().unwrap().port(),
            strict,
        };
        let result = self.interceptor().enrol(&enrolment);
        result.unwrap_or_else(|error| panic!("{error}"));
        self.listener = Some(listener);
    }

    /// An application of the pod.
    pub(crate) fn app(&self, f: impl FnOnce() -> String) -> App {
        app(&self.cgroup.0, &self.pod, f)
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.interceptor = None;
        let removed = remove_all(&self.options.pin_dir);
        if !thread::panicking() {
            removed.unwrap();
        }
    }
}

/// A socket from `socket(2)`.
pub(crate) fn socket(family: i32, kind: i32, protocol: i32) -> OwnedFd {
    // SAFETY: takes numbers and returns a descriptor that is ours.
    unsafe {
        let fd = libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol);
        assert!(fd >= 0, "socket: {}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(fd)
    }
}
