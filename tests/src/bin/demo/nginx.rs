//! A real nginx in a pod, with its configuration and files in the demo's own folder.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use isthmus_tests::mesh::Pod;

/// Where every nginx of the demo listens.
pub(crate) const PORT: u16 = 8080;

/// The header of requests whose value nginx repeats in its answer.
pub(crate) const HEADER: &str = "X-Secret";

/// Starts nginx in `pod`, with its files in `folder/nginx-NAME`; gives that folder.
///
/// It goes into the background itself, once it listens, and ends with the pod's cgroup.
///
/// # Errors
/// Carries what nginx said when it does not start.
pub(crate) fn start(pod: &Pod, name: &str, folder: &Path) -> Result<PathBuf> {
    let home = folder.join(format!("nginx-{name}"));
    fs::create_dir(&home).with_context(|| format!("making {}", home.display()))?;
    fs::write(home.join("nginx.conf"), configuration(name))?;
    let prefix = home.display().to_string();
    let finished = pod.run(
        "nginx",
        &["-p", &prefix, "-c", "nginx.conf", "-e", "error.log"],
    )?;
    ensure!(
        finished.status.success(),
        "nginx did not start in {name} ({}): {}",
        finished.status,
        finished.stderr
    );
    Ok(home)
}

/// Every path is below the prefix that the command line gives.
fn configuration(name: &str) -> String {
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("    {kind}_temp_path {kind};\n"))
        .collect();
    format!(
        "daemon on;
pid nginx.pid;
worker_processes 1;
events {{ worker_connections 64; }}
http {{
    access_log access.log;
{temporary}    server {{
        listen {PORT};
        listen [::]:{PORT};
        default_type text/plain;
        location / {{
            return 200 \"Hello from nginx in {name}. You come from $remote_addr, and your secret is $http_{header}.\\n\";
        }}
    }}
}}
",
        header = HEADER.to_lowercase().replace('-', "_")
    )
}
