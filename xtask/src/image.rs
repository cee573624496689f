//! Container images from scratch: a folder becomes an archive that `ctr images import` and
//! `docker load` take. No registry, no base image.

pub(crate) mod agent;
mod programs;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;

use crate::command::Run;

pub(crate) use programs::Root;

/// What an image says of itself.
#[derive(Debug)]
pub(crate) struct Image<'a> {
    /// With its tag, such as `docker.io/isthmus/mesh-agent:0.1.0`.
    pub(crate) name: &'a str,
    pub(crate) entrypoint: &'a [&'a str],
    /// Ids of user and group, `999:999`; empty for root.
    pub(crate) user: &'a str,
    /// As OCI names processors: `amd64`, `arm64`.
    pub(crate) architecture: &'a str,
}

/// The time of everything in an image, so that equal contents make equal archives.
const TAR: &str =
    "--create --format=ustar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --file";

impl Image<'_> {
    /// Packs the folder `root` as the image's only layer. The archive is replaced in one step.
    pub(crate) fn pack(&self, root: &Path, archive: &Path) -> Result<()> {
        let work = archive.with_extension("work");
        clear(&work)?;
        let layer = work.join("layer.tar");
        tar(&layer, root, &["."])?;
        let config = json!({
            "architecture": self.architecture,
            "os": "linux",
            "config": {"Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"], "Entrypoint": self.entrypoint, "User": self.user},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", sha256(&layer)?)]},
        });
        let unnamed = work.join("config");
        fs::write(&unnamed, config.to_string()).context("writing the image's configuration")?;
        let named = format!("{}.json", sha256(&unnamed)?);
        fs::rename(&unnamed, work.join(&named))?;
        let manifest =
            json!([{"Config": &named, "RepoTags": [self.name], "Layers": ["layer.tar"]}]);
        fs::write(work.join("manifest.json"), manifest.to_string())
            .context("writing the image's manifest")?;
        let partial = archive.with_extension("partial");
        tar(&partial, &work, &["manifest.json", &named, "layer.tar"])?;
        fs::remove_dir_all(&work)?;
        fs::rename(&partial, archive).with_context(|| format!("keeping {}", archive.display()))
    }
}

/// Unpacks the only layer of an archive that [`Image::pack`] wrote.
pub(crate) fn unpack(archive: &Path, root: &Path) -> Result<()> {
    clear(root)?;
    let layer = archive.with_extension("layer");
    let extract = |from: &Path, to: &Path| {
        let run = Run::new("tar").arg("--extract").arg("--file").arg(from);
        run.arg("--directory").arg(to)
    };
    clear(&layer)?;
    extract(archive, &layer).arg("layer.tar").output()?;
    extract(&layer.join("layer.tar"), root).output()?;
    fs::remove_dir_all(&layer).with_context(|| format!("removing {}", layer.display()))
}

fn tar(file: &Path, folder: &Path, members: &[&str]) -> Result<()> {
    let run = Run::new("tar")
        .words(TAR)
        .arg(file)
        .arg("--directory")
        .arg(folder);
    members.iter().fold(run, Run::arg).output().map(drop)
}

fn sha256(file: &Path) -> Result<String> {
    let told = Run::new("sha256sum").arg("--").arg(file).output()?;
    let sum = told.split_whitespace().next();
    sum.map(str::to_owned)
        .with_context(|| format!("sha256sum said nothing of {}", file.display()))
}

fn clear(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))
}
