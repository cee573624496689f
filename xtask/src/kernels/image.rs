//! A kernel from Debian, and a root folder for it with everything that the tests use.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::processor::{Processor, Programs};
use crate::command::Run;

/// A kernel that was unpacked under `target/kernels`.
pub(super) struct Kernel {
    pub(super) folder: PathBuf,
    pub(super) image: PathBuf,
}

/// Modules in the order of their dependencies. What is built in has no file.
const MODULES: [&str; 11] = [
    "llc",
    "stp",
    "bridge",
    "veth",
    "inet_diag",
    "tcp_diag",
    "mptcp_diag",
    "af_packet",
    "sch_fq",
    "sch_ingress",
    "cls_bpf",
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
pub(super) fn kernel(processor: Processor, package: &str) -> Result<Kernel> {
    let versioned = match versioned(processor, package) {
        Ok(name) => name,
        Err(_) => {
            processor.update()?;
            versioned(processor, package)?
        }
    };
    let folder = crate::target().join("kernels").join(&versioned);
    if !folder.join("boot").exists() {
        println!("Fetching {versioned}");
        let partial = folder.with_extension("partial");
        clear(&partial)?;
        if download(processor, &versioned, &partial).is_err() {
            // The lists may name a version that the archive no longer has.
            processor.update()?;
            clear(&partial)?;
            download(processor, &versioned, &partial)
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
pub(super) fn root(
    kernel: &Kernel,
    processor: Processor,
    programs: &Programs,
    arguments: &str,
) -> Result<PathBuf> {
    let root = kernel.folder.join("root");
    clear(&root)?;
    for folder in [
        "bin", "test", "modules", "proc", "sys", "dev", "tmp", "run", "etc",
    ] {
        fs::create_dir_all(root.join(folder))?;
    }
    modules(kernel, &root)?;
    match &programs.system {
        None => own_system(&root)?,
        Some(system) => foreign_system(&root, system)?,
    }
    let strip = processor.strip();
    for (program, name) in [
        (&programs.agent, "mesh-agent"),
        (&programs.traffic, "traffic"),
        (&programs.tests, "mesh"),
    ] {
        let target = root.join("test").join(name);
        strip_into(strip, program, &target)?;
        if programs.system.is_none() {
            add_libraries(&root, program)?;
        }
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

fn versioned(processor: Processor, package: &str) -> Result<String> {
    let depends = processor.apt("apt-cache").arg("depends");
    let text = depends.arg(package).output()?;
    text.lines()
        .find_map(|line| line.trim().strip_prefix("Depends: ").map(str::to_owned))
        .with_context(|| format!("apt knows no {package}: is this Debian 12?"))
}

fn download(processor: Processor, package: &str, folder: &Path) -> Result<()> {
    let apt = processor.apt("apt-get");
    apt.arg("download").arg(package).folder(folder).output()?;
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

/// The machine's own tools, and the libraries that they load.
fn own_system(root: &Path) -> Result<()> {
    busybox(root, &which("busybox")?)?;
    for tool in ["ip", "ss", "bpftool"] {
        let program = which(tool)?;
        strip_into("strip", &program, &root.join("bin").join(tool))?;
        add_libraries(root, &program)?;
    }
    Ok(())
}

/// All of the system folder's libraries, and its tools.
fn foreign_system(root: &Path, system: &Path) -> Result<()> {
    busybox(root, &system.join("bin/busybox"))?;
    for folder in ["lib", "usr/lib"] {
        let target = root.join(folder);
        fs::create_dir_all(&target)?;
        Run::new("cp")
            .arg("-a")
            .arg(system.join(folder).join("."))
            .arg(&target)
            .output()?;
    }
    for (tool, place) in [
        ("ip", "bin/ip"),
        ("ss", "bin/ss"),
        ("bpftool", "usr/sbin/bpftool"),
    ] {
        fs::copy(system.join(place), root.join("bin").join(tool))?;
    }
    Ok(())
}

/// busybox under each of its names, but those of tools that do more.
fn busybox(root: &Path, program: &Path) -> Result<()> {
    fs::copy(program, root.join("bin/busybox"))?;
    // The same version everywhere: the machine's own can be asked.
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

/// Copies a program without its debug information.
fn strip_into(strip: &str, program: &Path, target: &Path) -> Result<()> {
    ensure!(
        program.is_file(),
        "{} is not built: `cargo xtask build` does that",
        program.display()
    );
    Run::new(strip)
        .words("--strip-debug -o")
        .arg(target)
        .arg(program)
        .output()
        .map(drop)
}

/// Copies the libraries that a program of this machine loads.
fn add_libraries(root: &Path, program: &Path) -> Result<()> {
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

pub(super) fn clear(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))
}

pub(super) fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    Ok(entries.flatten().map(|entry| entry.path()).collect())
}
