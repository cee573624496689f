//! `mesh-agent check`: what the machine has and lacks.

use std::process::Command;

use anyhow::{Result, ensure};
use isthmus_tests::process::{own_program, run};

/// `check` finds everything that is needed here, or names what is missing.
#[test]
fn core_check_finds_what_is_needed() -> Result<()> {
    let mut command = Command::new(own_program("mesh-agent")?);
    command.args(["check", "-o", "json"]);
    let finished = run(command)?;
    let findings: serde_json::Value = serde_json::from_str(&finished.stdout)?;
    let findings = findings.as_array().cloned().unwrap_or_default();
    ensure!(findings.len() > 5, "{}", finished.stdout);
    for finding in &findings {
        // The usual place of pins may not be mounted on a machine that runs only tests.
        let text = finding.to_string();
        ensure!(
            finding["required"] == false
                || finding["ok"] == true
                || text.contains("bpffs")
                || text.contains("/sys/fs/bpf"),
            "{finding}"
        );
        ensure!(
            finding["ok"] == true
                || finding["cure"]
                    .as_str()
                    .is_some_and(|cure| !cure.is_empty()),
            "no cure: {finding}"
        );
    }
    Ok(())
}

/// What a machine lacks is named with its cure, and makes the command fail.
#[test]
fn check_names_what_is_missing() -> Result<()> {
    let folder = isthmus_tests::mesh::Mesh::new()?.scratch();
    let mut command = Command::new(own_program("mesh-agent")?);
    command
        .args(["check", "-o", "json", "--pin-dir"])
        .arg(&folder);
    let finished = run(command)?;
    ensure!(finished.status.code() == Some(1), "{finished:?}");
    let findings: Vec<serde_json::Value> = serde_json::from_str(&finished.stdout)?;
    let missing: Vec<_> = findings
        .iter()
        .filter(|f| f["ok"] == false && f["required"] == true)
        .collect();
    ensure!(
        missing.len() == 1
            && missing[0]["cure"]
                .as_str()
                .is_some_and(|c| c.contains("mount")),
        "{missing:#?}"
    );
    Ok(())
}
