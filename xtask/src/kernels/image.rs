//! A kernel from Debian, and a root folder for it with everything that the tests use.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::apt;
use crate::command::Run;

/// A kernel that was unpacked under `target/kernels`.
pub(super) struct Kernel {
    pub(super) folder: PathBuf,
    pub(super) image: PathBuf,
}

/// Modules in the order of their dependencies. What is built in has no file.
const MODULES: [&str; 9] = [
    "llc",
    "stp",
    "bridge",
    "veth",
    "inet_diag",
    "tcp_diag",
    "mptcp_diag",
    "af_packet",
    "sch_fq",
];

const INIT: &str = r#"#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
ip link set lo up
while read -r module; do
    [ -e "/modules/$module.ko" ] && insmod "/modules/$module.ko"
done < /modules/order
echo "booted $(uname -r)"
ulimit -n 16384
ISTHMUS_TEST_SLOWNESS=10 /test/mesh $(cat /test/arguments) --test-threads=1
echo "exit status $?"
poweroff -f
"#;

/// Fetches the kernel that `package` stands for, unless it is there already.
pub(super) fn kernel(package: &str) -> Result<Kernel> {
    let versioned = match versioned(package) {
        Ok(name) => name,
        Err(_) => {
            apt::update()?;
            versioned(package)?
        }
    };
    let folder = crate::target().join("kernels").join(&versioned);
    if !folder.join("boot").exists() {
        println!("Fetching {versioned}");
        let partial = folder.with_extension("partial");
        clear(&partial)?;
        if download(&versioned, &partial).is_err() {
            // The lists may name a version that the archive no longer has.
            apt::update()?;
            clear(&partial)?;
            download(&versioned, &partial)
                .with_context(|| format!("fetching {versioned}: is the network up?"))?;
        }
        fs::rename(&partial, &folder).context("keeping the kernel")?;
    }
    let image = entries(&folder.join("boot"))?
        .into_iter()
        .find(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz"))
        })
        .with_context(|| format!("{versioned} has no kernel image"))?;
    Ok(Kernel { folder, image })
}

/// Makes the root folder as an initramfs that runs the tests with these `arguments`, which are
/// split at white space, and gives its path.
pub(super) fn root(kernel: &Kernel, tests: &Path, arguments: &str) -> Result<PathBuf> {
    let root = kernel.folder.join("root");
    clear(&root)?;
    for folder in [
        "bin", "test", "modules", "proc", "sys", "dev", "tmp", "run", "etc",
    ] {
        fs::create_dir_all(root.join(folder))?;
    }
    busybox(&root)?;
    modules(kernel, &root)?;
    let debug = crate::target().join("debug");
    add_program(&root, tests, "test/mesh")?;
    add_program(&root, &debug.join("mesh-agent"), "test/mesh-agent")?;
    add_program(&root, &debug.join("traffic"), "test/traffic")?;
    for tool in ["ip", "ss", "bpftool"] {
        add_program(&root, &which(tool)?, &format!("bin/{tool}"))?;
    }
    fs::write(root.join("test/arguments"), arguments)?;
    fs::write(root.join("init"), INIT)?;
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;
    let image = kernel.folder.join("root.img");
    Run::new("sh")
        .arg("-c")
        .arg("find . | cpio --quiet -o -H newc > ../root.img")
        .folder(&root)
        .output()?;
    clear(&root).and_then(|()| Ok(fs::remove_dir(&root)?))?;
    Ok(image)
}

fn versioned(package: &str) -> Result<String> {
    let text = Run::new("apt-cache").arg("depends").arg(package).output()?;
    text.lines()
        .find_map(|line| line.trim().strip_prefix("Depends: ").map(str::to_owned))
        .with_context(|| format!("apt knows no {package}: is this Debian 12?"))
}

fn download(package: &str, folder: &Path) -> Result<()> {
    Run::new("apt-get")
        .arg("download")
        .arg(package)
        .folder(folder)
        .output()?;
    let deb = entries(folder)?
        .into_iter()
        .find(|p| p.extension().is_some_and(|e| e == "deb"))
        .context("no package came")?;
    Run::new("dpkg-deb")
        .arg("-x")
        .arg(&deb)
        .arg(folder)
        .output()?;
    Ok(fs::remove_file(deb)?)
}

/// busybox under each of its names, but `ip`, which cannot make namespaces.
fn busybox(root: &Path) -> Result<()> {
    fs::copy(which("busybox")?, root.join("bin/busybox"))?;
    for name in Run::new("busybox")
        .arg("--list")
        .output()?
        .lines()
        .filter(|name| !["busybox", "ip"].contains(name))
    {
        symlink("busybox", root.join("bin").join(name))?;
    }
    Ok(())
}

fn modules(kernel: &Kernel, root: &Path) -> Result<()> {
    let found = Run::new("find")
        .arg(kernel.folder.join("lib/modules"))
        .words("-name *.ko -o -name *.ko.xz")
        .output()?;
    for file in found.lines().map(Path::new) {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let Some((module, packed)) = name.split_once(".ko") else {
            continue;
        };
        if MODULES.contains(&module) {
            let target = root.join("modules").join(format!("{module}.ko"));
            fs::copy(file, target.with_extension(format!("ko{packed}")))?;
            if packed == ".xz" {
                Run::new("xz")
                    .arg("-d")
                    .arg(target.with_extension("ko.xz"))
                    .output()?;
            }
        }
    }
    Ok(fs::write(
        root.join("modules/order"),
        MODULES.join("\n") + "\n",
    )?)
}

/// Copies a program without its debug information, and the libraries that it loads.
fn add_program(root: &Path, program: &Path, target: &str) -> Result<()> {
    ensure!(
        program.is_file(),
        "{} is not built: `cargo xtask build` does that",
        program.display()
    );
    Run::new("strip")
        .words("--strip-debug -o")
        .arg(root.join(target))
        .arg(program)
        .output()?;
    let libraries = Run::new("ldd").arg(program).output()?;
    let paths: BTreeSet<_> = libraries
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .collect();
    for path in paths {
        let copy = root.join(path.trim_start_matches('/'));
        fs::create_dir_all(copy.parent().context("a library lies in a folder")?)?;
        fs::copy(path, &copy).with_context(|| format!("copying {path}"))?;
    }
    Ok(())
}

fn which(program: &str) -> Result<PathBuf> {
    let path = Run::new("sh")
        .arg("-c")
        .arg(format!("command -v {program}"))
        .output()?;
    fs::canonicalize(path.trim()).with_context(|| format!("finding {program}"))
}

fn clear(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    Ok(entries.flatten().map(|entry| entry.path()).collect())
}
