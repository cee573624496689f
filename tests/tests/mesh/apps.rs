//! Programs that people run, unmodified.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use isthmus_tests::wait::wait_until;

use crate::pair::Pair;

/// nginx and curl, by IPv4, IPv6 and a Service, with a body of some size.
#[test]
fn curl_and_nginx() -> Result<()> {
    let pair = Pair::prepare()?;
    let (service, _) = pair
        .mesh
        .service("web", &[80.into()], &[(&pair.server, true)])?;
    pair.start_agents()?;
    let folder = pair.mesh.scratch();
    let body = "a page of the server\n".repeat(50_000);
    fs::create_dir(folder.join("html"))?;
    fs::write(folder.join("html/page"), &body)?;
    let conf = folder.join("nginx.conf");
    let text = format!(
        "daemon off; user root; pid {0}/nginx.pid; error_log stderr; events {{}}
         http {{ access_log off; client_body_temp_path {0}/t1; proxy_temp_path {0}/t2; fastcgi_temp_path {0}/t3; uwsgi_temp_path {0}/t4; scgi_temp_path {0}/t5;
           server {{ listen 80; listen [::]:80; root {0}/html; location /who {{ return 200 \"$remote_addr\"; }} }} }}",
        folder.display()
    );
    fs::write(&conf, text)?;
    let _nginx = pair
        .server
        .spawn("nginx", &["-c", &conf.display().to_string()])?;
    let curl = |url: &str| {
        pair.client.run(
            "curl",
            &[
                "--silent",
                "--show-error",
                "--fail",
                "--max-time",
                "60",
                url,
            ],
        )
    };
    let (v4, v6) = (pair.server.v4(80), pair.server.v6(80));
    wait_until("nginx answers", || {
        curl(&format!("http://{v4}/page")).is_ok_and(|finished| finished.status.success())
    })?;
    let capture = pair.mesh.capture()?;
    for host in [v4.to_string(), v6.to_string(), service.to_string()] {
        ensure!(
            curl(&format!("http://{host}/page"))?.success()? == body,
            "{host}: another page"
        );
    }
    ensure!(
        curl(&format!("http://{v4}/who"))?.success()? == pair.client.v4(0).ip().to_string(),
        "nginx saw another client"
    );
    ensure!(
        curl(&format!("http://{v6}/who"))?.success()? == pair.client.v6(0).ip().to_string(),
        "nginx saw another client"
    );
    let recording = capture.stop()?;
    ensure!(
        !recording.contains(b"a page of the server"),
        "the page was on the bridge"
    );
    ensure!(recording.beside(15008).is_empty(), "beside the tunnel");
    Ok(())
}

/// iperf3 with several streams, both directions.
#[test]
fn iperf3() -> Result<()> {
    let pair = Pair::start()?;
    let server = pair.server.spawn("iperf3", &["--server", "--forceflush"])?;
    server.wait_line(|line| line.contains("Server listening"))?;
    let to = pair.server.v4(0).ip().to_string();
    for direction in ["--time=2", "--reverse"] {
        let text = pair
            .client
            .run(
                "iperf3",
                &[
                    "--json",
                    "--client",
                    &to,
                    "--time",
                    "2",
                    "--parallel",
                    "4",
                    direction,
                ],
            )?
            .success()?;
        let report: serde_json::Value = serde_json::from_str(&text)?;
        let received = report["end"]["sum_received"]["bytes"]
            .as_f64()
            .unwrap_or(0.0);
        ensure!(received > 1e6, "{direction}: {received} bytes\n{text}");
    }
    Ok(())
}

/// redis-benchmark with many clients and pipelining.
#[test]
fn redis_benchmark() -> Result<()> {
    let pair = Pair::start()?;
    let folder = pair.mesh.scratch().display().to_string();
    let redis = pair.server.spawn(
        "redis-server",
        &[
            "--bind",
            "*",
            "--protected-mode",
            "no",
            "--save",
            "",
            "--dir",
            &folder,
        ],
    )?;
    redis.wait_line(|line| line.contains("Ready to accept connections"))?;
    let to = pair.server.v4(0).ip().to_string();
    for pipeline in ["1", "16"] {
        let text = pair
            .client
            .run(
                "redis-benchmark",
                &[
                    "-h", &to, "-n", "20000", "-c", "50", "-P", pipeline, "-t", "set,get", "--csv",
                ],
            )?
            .success()?;
        let rows = text
            .lines()
            .filter(|line| line.starts_with("\"SET\"") || line.starts_with("\"GET\""))
            .count();
        ensure!(rows == 2, "{text}");
    }
    let keys = pair
        .client
        .run("redis-cli", &["-h", &to, "dbsize"])?
        .success()?;
    ensure!(keys.trim() == "1", "{keys}");
    Ok(())
}

/// A PostgreSQL session: a handshake where the server speaks second, queries, a bulk copy.
#[test]
fn postgresql() -> Result<()> {
    let pair = Pair::start()?;
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
    let psql = |sql: &str| {
        let arguments = [
            "--host",
            &to,
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
