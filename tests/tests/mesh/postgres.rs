//! PostgreSQL, unmodified.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use isthmus_tests::wait::wait_until;

use crate::apps::served;

/// A PostgreSQL session: a handshake where the server speaks second, queries, a bulk copy.
#[test]
fn postgresql() -> Result<()> {
    let (pair, service) = served(&[5432])?;
    let programs = newest_postgresql()?;
    let data = pair.mesh.scratch().join("postgres");
    fs::create_dir(&data)?;
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700))?;
    let own = |program: &str| programs.join(program).display().to_string();
    let path = data.display().to_string();
    // It refuses to run as root.
    pair.server.run("chown", &["postgres", &path])?.success()?;
    let user = [
        "--reuid=postgres",
        "--regid=postgres",
        "--clear-groups",
        "--",
    ];
    let initdb = own("initdb");
    pair.server
        .run(
            "setpriv",
            &[
                &user[..],
                &[&initdb, "--auth=trust", "--no-sync", "--pgdata", &path],
            ]
            .concat(),
        )?
        .success()?;
    fs::write(
        data.join("pg_hba.conf"),
        "host all all all trust\nlocal all all trust\n",
    )?;
    let binary = own("postgres");
    let arguments = [
        &user[..],
        &[
            &binary,
            "-D",
            &path,
            "-k",
            &path,
            "-c",
            "listen_addresses=*",
            "-c",
            "fsync=off",
        ],
    ]
    .concat();
    let _server = pair.server.spawn("setpriv", &arguments)?;
    let to = pair.server.v6(0).ip().to_string();
    let psql_at = |host: &str, sql: &str| {
        let arguments = [
            "--host",
            host,
            "--username",
            "postgres",
            "--no-psqlrc",
            "--tuples-only",
            "--no-align",
            "--command",
            sql,
        ];
        pair.client.run("psql", &arguments)
    };
    let psql = |sql: &str| psql_at(&to, sql);
    wait_until("PostgreSQL answers", || {
        psql("select 1").is_ok_and(|finished| finished.status.success())
    })?;
    let capture = pair.mesh.capture()?;
    psql("create table t as select g, md5(g::text) as h from generate_series(1, 200000) g")?
        .success()?;
    let rows = psql("copy t to stdout")?.success()?;
    ensure!(
        rows.lines().count() == 200_000,
        "{} rows",
        rows.lines().count()
    );
    let rows = psql_at(&service, "select count(*) from t")?.success()?;
    ensure!(rows.trim() == "200000", "by the service: {rows}");
    let client =
        psql("select client_addr from pg_stat_activity where pid = pg_backend_pid()")?.success()?;
    ensure!(
        client.trim() == pair.client.v6(0).ip().to_string(),
        "PostgreSQL saw {client}"
    );
    ensure!(
        capture.stop()?.beside(15008).is_empty(),
        "beside the tunnel"
    );
    Ok(())
}

fn newest_postgresql() -> Result<PathBuf> {
    let mut versions: Vec<_> = fs::read_dir("/usr/lib/postgresql")
        .context("PostgreSQL is not installed")?
        .flatten()
        .map(|e| e.path())
        .collect();
    versions.sort();
    Ok(versions
        .pop()
        .context("PostgreSQL is not installed")?
        .join("bin"))
}
