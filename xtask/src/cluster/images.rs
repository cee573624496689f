//! The images of the cluster and of its tests, from this machine's Debian packages.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result};

use crate::image::{Image, Root};

/// Holds a pod's namespaces.
pub(super) const PAUSE: &str = "docker.io/isthmus-test/pause:1";

/// What an image is made of.
struct Recipe {
    name: &'static str,
    entrypoint: &'static [&'static str],
    user: &'static str,
    fill: fn(&Root) -> Result<()>,
}

/// The users that programs look themselves up as.
const PASSWD: &str = "root:x:0:0:root:/:/bin/sh\npostgres:x:999:999:postgres:/tmp:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n";
const GROUP: &str = "root:x:0:\npostgres:x:999:\nnogroup:x:65534:\n";

const RECIPES: [Recipe; 5] = [
    Recipe {
        name: PAUSE,
        entrypoint: &["/bin/sleep", "1000000000"],
        user: "",
        fill: Root::busybox,
    },
    Recipe {
        name: "docker.io/isthmus-test/busybox:1",
        entrypoint: &[],
        user: "",
        fill: shell,
    },
    Recipe {
        name: "docker.io/isthmus-test/nginx:1",
        entrypoint: &["/usr/sbin/nginx"],
        user: "",
        fill: nginx,
    },
    Recipe {
        name: "docker.io/isthmus-test/curl:1",
        entrypoint: &[],
        user: "",
        fill: curl,
    },
    Recipe {
        name: "docker.io/isthmus-test/postgres:1",
        entrypoint: &["/bin/serve"],
        user: "999:999",
        fill: postgres,
    },
];

/// Makes the images of the tests, unless they are newer than all that they are made of, and
/// gives their archives.
pub(super) fn build() -> Result<Vec<PathBuf>> {
    let folder = crate::target().join("images");
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let sources = newest(&[&std::env::current_exe()?, Path::new("/var/lib/dpkg/status")])?;
    let archive = |recipe: &Recipe| {
        let archive = recipe.archive(&folder);
        if newest(&[&archive]).is_ok_and(|made| made > sources) {
            return Ok(archive);
        }
        recipe.build(&folder)
    };
    RECIPES.iter().map(archive).collect()
}

/// The image of the tests' own servers and clients, which `cargo xtask build` has built.
pub(super) fn traffic() -> Result<PathBuf> {
    Recipe {
        name: "docker.io/isthmus-test/traffic:1",
        entrypoint: &["/usr/bin/traffic"],
        user: "",
        fill: |root| {
            let program = crate::target().join("debug/traffic");
            root.program(&program, "usr/bin/traffic")?;
            shell(root)
        },
    }
    .build(&crate::target().join("images"))
}

/// The time of the last change to any of these files.
fn newest(files: &[&Path]) -> Result<SystemTime> {
    let mut newest = SystemTime::UNIX_EPOCH;
    for file in files {
        let changed = fs::metadata(file).and_then(|found| found.modified());
        newest = newest.max(changed.with_context(|| format!("reading {}", file.display()))?);
    }
    Ok(newest)
}

impl Recipe {
    /// The name without its registry and tag.
    fn short(&self) -> &str {
        let name = self.name.rsplit('/').next().unwrap_or(self.name);
        name.split(':').next().unwrap_or(name)
    }

    fn archive(&self, folder: &Path) -> PathBuf {
        folder.join(format!("{}.tar", self.short()))
    }

    fn build(&self, folder: &Path) -> Result<PathBuf> {
        let name = self.short();
        let archive = self.archive(folder);
        let root = Root::create(&folder.join(format!("{name}.root")))?;
        (self.fill)(&root).with_context(|| format!("making the image {}", self.name))?;
        let image = Image {
            name: self.name,
            entrypoint: self.entrypoint,
            user: self.user,
            architecture: "amd64",
        };
        image.pack(root.path(), &archive)?;
        fs::remove_dir_all(root.path())?;
        Ok(archive)
    }
}

fn shell(root: &Root) -> Result<()> {
    root.file("etc/passwd", PASSWD)?;
    root.file("etc/group", GROUP)?;
    root.busybox()
}

fn nginx(root: &Root) -> Result<()> {
    root.program(Path::new("/usr/sbin/nginx"), "usr/sbin/nginx")?;
    root.file("etc/nginx/nginx.conf", include_str!("images/nginx.conf"))?;
    // A gRPC message of two bytes: HealthCheckResponse with status (field 1) SERVING (1).
    root.file("srv/serving", "\0\0\0\0\u{2}\u{8}\u{1}")?;
    root.link(Path::new("../serving"), "srv/grpc.health.v1.Health/Check")?;
    for folder in ["run", "var/lib/nginx", "var/log/nginx"] {
        root.folder(folder)?;
    }
    shell(root)
}

fn curl(root: &Root) -> Result<()> {
    root.program(Path::new("/usr/bin/curl"), "usr/bin/curl")?;
    shell(root)
}

fn postgres(root: &Root) -> Result<()> {
    let (version, installed) = newest_postgres()?;
    for program in ["initdb", "postgres", "psql"] {
        let path = installed.join("bin").join(program);
        root.program(&path, &path.to_string_lossy())?;
        root.link(&path, &format!("usr/bin/{program}"))?;
    }
    // What initdb loads; the rest, LLVM above all, is left at home.
    for library in ["dict_snowball.so", "plpgsql.so"] {
        let path = installed.join("lib").join(library);
        root.copy(&path)?;
        root.libraries_of(&path)?;
    }
    root.copy_folder(&Path::new("/usr/share/postgresql").join(version))?;
    root.copy_folder(Path::new("/usr/share/zoneinfo/Etc"))?;
    root.script("bin/serve", include_str!("images/postgres.sh"))?;
    root.folder_for_all("data")?;
    shell(root)
}

/// Debian keeps versions beside each other.
fn newest_postgres() -> Result<(String, PathBuf)> {
    let folder = Path::new("/usr/lib/postgresql");
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    let newest = entries
        .flatten()
        .filter(|entry| entry.path().join("bin/postgres").is_file())
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .max();
    let version = newest
        .with_context(|| format!("no PostgreSQL in {}", folder.display()))?
        .to_string();
    let installed = folder.join(&version);
    Ok((version, installed))
}
