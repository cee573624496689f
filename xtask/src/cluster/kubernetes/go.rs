//! A Go that is new enough for Kubernetes: the machine's own, or one fetched as a Go module.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::cache;
use crate::apt;
use crate::command::Run;

/// The first that Kubernetes 1.36 is built with.
const WANTED: (u32, u32) = (1, 26);
/// What is fetched where there is none.
const FETCHED: &str = "v0.0.1-go1.26.8.linux-amd64";
/// Any Go fetches modules; this is Debian 12's.
const DEBIANS: (&str, &str) = ("/usr/lib/go-1.19/bin/go", "golang-1.19-go");

/// A `go` command.
#[derive(Debug)]
pub(super) struct Go {
    program: PathBuf,
}

impl Go {
    /// `go` with these words, in `folder`.
    pub(super) fn run(&self, words: &str, folder: &Path) -> Run {
        Run::new(&self.program)
            .words(words)
            .folder(folder)
            .env("GOTOOLCHAIN", "local")
            .env("GOFLAGS", "-modcacherw")
            .env("GOWORK", "off")
            .without_env("GOROOT")
    }

    fn is_new_enough(&self) -> bool {
        let told = Run::new(&self.program)
            .arg("version")
            .env("GOTOOLCHAIN", "local")
            .output();
        told.is_ok_and(|text| version(&text) >= Some(WANTED))
    }
}

/// Finds one, or fetches it.
pub(super) fn find() -> Result<Go> {
    for program in ["go", "/usr/local/go/bin/go", "/usr/lib/go/bin/go"] {
        let go = Go {
            program: program.into(),
        };
        if go.is_new_enough() {
            return Ok(go);
        }
    }
    fetch()
}

/// The toolchain is published as a module; an older Go fetches it.
fn fetch() -> Result<Go> {
    let old = ["go", "/usr/local/go/bin/go", DEBIANS.0]
        .into_iter()
        .find(|program| crate::command::exists(program));
    let old = match old {
        Some(program) => program,
        None => {
            apt::install("building Kubernetes", &[DEBIANS.1])?;
            DEBIANS.0
        }
    };
    println!("Fetching Go {FETCHED}");
    let folder = cache()?;
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let told = Go {
        program: old.into(),
    }
    .run("mod download -json", &folder)
    .arg(format!("golang.org/toolchain@{FETCHED}"))
    // Versions of Go that know no toolchains have no checksum of theirs to compare.
    .env("GONOSUMDB", "golang.org/toolchain")
    .output()
    .context("fetching Go: does GOPROXY name a proxy that this machine reaches?")?;
    let folder = told
        .lines()
        .find_map(|line| line.trim().strip_prefix("\"Dir\": \"")?.split('"').next())
        .map(PathBuf::from)
        .context("`go mod download` named no folder")?;
    // A module's files are not executable.
    for programs in ["bin", "pkg/tool/linux_amd64"] {
        for entry in fs::read_dir(folder.join(programs))
            .with_context(|| format!("reading {programs} of the fetched Go"))?
        {
            fs::set_permissions(entry?.path(), fs::Permissions::from_mode(0o755))?;
        }
    }
    let go = Go {
        program: folder.join("bin/go"),
    };
    ensure!(go.is_new_enough(), "the fetched Go does not run: {go:?}");
    Ok(go)
}

/// Reads `go version go1.26.8 linux/amd64`.
fn version(text: &str) -> Option<(u32, u32)> {
    let number = text.split(' ').nth(2)?.strip_prefix("go")?;
    let mut parts = number.split(['.', 'r', 'b', '-']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn versions_are_compared_by_number() {
        assert_eq!(version("go version go1.26.8 linux/amd64"), Some((1, 26)));
        assert_eq!(version("go version go1.9rc1 linux/amd64"), Some((1, 9)));
        assert!(version("go version go1.9 linux/amd64") < version("go version go1.26 linux/amd64"));
        assert_eq!(version("gnu oolite"), None);
    }
}
