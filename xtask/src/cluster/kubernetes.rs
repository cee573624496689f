//! The Kubernetes programs: one binary that is every component, built once from the published
//! Go modules, and kept outside the repository.

mod go;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::place::cache;

/// Its minor version is that of the staging modules, too: v1.36.3 goes with v0.36.3.
const VERSION: &str = "1.36.3";
const COREDNS: &str = "1.13.2";
/// The names by which the binary is called, each its own program.
const PROGRAMS: [&str; 8] = [
    "coredns",
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubectl",
    "kubelet",
];
const MAIN: &str = include_str!("kubernetes/main.go");
const VERSION_PACKAGE: &str = "k8s.io/component-base/version";

/// Where the programs lie when they are built.
pub(super) fn folder() -> Result<PathBuf> {
    Ok(cache()?.join(format!("kubernetes-{VERSION}")))
}

/// One of them.
pub(super) fn program(name: &str) -> Result<PathBuf> {
    Ok(folder()?.join(name))
}

/// Builds them, unless a finished build is there.
pub(super) fn ensure_built() -> Result<()> {
    let folder = folder()?;
    if folder.join("kubectl").exists() {
        return Ok(());
    }
    println!(
        "Building Kubernetes {VERSION} for the tests' clusters, once: about six minutes on two processors"
    );
    let partial = folder.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial).with_context(|| format!("removing {}", partial.display()))?;
    }
    let (source, programs) = (partial.join("source"), partial.join("programs"));
    for folder in [&source, &programs] {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    let go = go::find()?;
    let build = || -> Result<()> {
        write_module(&go, &source)?;
        println!("  its modules");
        go.run("mod tidy", &source).output().context(
            "the Go modules of Kubernetes cannot be fetched: does GOPROXY name a proxy that this machine reaches?",
        )?;
        println!("  compiling");
        let (_, minor) = VERSION
            .split_once('.')
            .context("a version of three numbers")?;
        let minor = minor.split('.').next().unwrap_or_default();
        let flags = format!(
            "-s -w -X {VERSION_PACKAGE}.gitVersion=v{VERSION} -X {VERSION_PACKAGE}.gitMajor=1 -X {VERSION_PACKAGE}.gitMinor={minor}"
        );
        go.run("build -trimpath -ldflags", &source)
            .arg(flags)
            .arg("-o")
            .arg(programs.join("kube"))
            .arg(".")
            .env("CGO_ENABLED", "0")
            .output()
            .map(drop)
    };
    build().context("building Kubernetes")?;
    for name in PROGRAMS {
        symlink("kube", programs.join(name)).with_context(|| format!("naming {name}"))?;
    }
    // The rename is what finishes the build: a folder of that name is whole.
    fs::rename(&programs, &folder).context("keeping the build")?;
    fs::remove_dir_all(&partial).with_context(|| format!("removing {}", partial.display()))
}

/// A module that requires Kubernetes, and replaces its staging modules by the published ones:
/// Kubernetes itself requires them at v0.0.0, which exists only in its own tree.
fn write_module(go: &go::Go, folder: &Path) -> Result<()> {
    let told = go
        .run("mod download -json", folder)
        .arg(format!("k8s.io/kubernetes@v{VERSION}"))
        .output()
        .context("fetching Kubernetes: does GOPROXY name a proxy that this machine reaches?")?;
    let file = told
        .lines()
        .find_map(|line| line.trim().strip_prefix("\"GoMod\": \"")?.split('"').next())
        .context("`go mod download` named no go.mod")?;
    let module = fs::read_to_string(file).with_context(|| format!("reading {file}"))?;
    let staging = staging(&module);
    ensure!(
        !staging.is_empty(),
        "{file} names no staging modules: Kubernetes {VERSION} is laid out otherwise"
    );
    let (_, rest) = VERSION
        .split_once('.')
        .context("a version of three numbers")?;
    let mut text = format!(
        "module cluster\n\ngo 1.26.0\n\nrequire (\n\tgithub.com/coredns/coredns v{COREDNS}\n\tk8s.io/kubernetes v{VERSION}\n)\n\nreplace (\n"
    );
    for name in staging {
        text += &format!("\t{name} => {name} v0.{rest}\n");
    }
    text += ")\n";
    fs::write(folder.join("go.mod"), text).context("writing go.mod")?;
    fs::write(folder.join("main.go"), MAIN).context("writing main.go")
}

/// The modules that a go.mod requires at v0.0.0.
fn staging(module: &str) -> Vec<&str> {
    let mut names: Vec<_> = module
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let name = words.next()?;
            (name.starts_with("k8s.io/") && words.next() == Some("v0.0.0")).then_some(name)
        })
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::staging;

    #[test]
    fn staging_modules_are_those_without_a_version() {
        let module = "require (\n\tk8s.io/api v0.0.0\n\tk8s.io/klog/v2 v2.1.0\n\tk8s.io/cri-api v0.0.0 // indirect\n)\n";
        assert_eq!(staging(module), ["k8s.io/api", "k8s.io/cri-api"]);
    }
}
