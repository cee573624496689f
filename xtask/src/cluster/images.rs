//! The images of the cluster and of its tests, from this machine's Debian packages.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::image::{Image, Root};

/// Holds a pod's namespaces.
pub(super) const PAUSE: &str = "docker.io/isthmus-test/pause:1";

/// What an image is made of.
struct Recipe {
    name: &'static str,
    entrypoint: &'static [&'static str],
    fill: fn(&Root) -> Result<()>,
}

const RECIPES: [Recipe; 2] = [
    Recipe {
        name: PAUSE,
        entrypoint: &["/bin/sleep", "1000000000"],
        fill: Root::busybox,
    },
    Recipe {
        name: "docker.io/isthmus-test/busybox:1",
        entrypoint: &[],
        fill: Root::busybox,
    },
];

/// Makes the images of the tests, and gives their archives.
pub(super) fn build() -> Result<Vec<PathBuf>> {
    let folder = crate::target().join("images");
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    RECIPES.iter().map(|recipe| recipe.build(&folder)).collect()
}

impl Recipe {
    fn build(&self, folder: &Path) -> Result<PathBuf> {
        let name = self.name.rsplit('/').next().unwrap_or(self.name);
        let name = name.split(':').next().unwrap_or(name);
        let archive = folder.join(format!("{name}.tar"));
        let root = Root::create(&folder.join(format!("{name}.root")))?;
        (self.fill)(&root).with_context(|| format!("making the image {}", self.name))?;
        let image = Image {
            name: self.name,
            entrypoint: self.entrypoint,
            architecture: "amd64",
        };
        image.pack(root.path(), &archive)?;
        fs::remove_dir_all(root.path())?;
        Ok(archive)
    }
}
