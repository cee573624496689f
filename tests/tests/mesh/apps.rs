//! Programs that people run, unmodified.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use isthmus_tests::mesh::Pod;
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
    many_requests_and_a_large_one(&pair, &folder.join("html"), &v4.to_string())?;
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

/// Ten requests on one kept connection are one connection to the mesh; 100 MB come whole.
fn many_requests_and_a_large_one(pair: &Pair, html: &Path, host: &str) -> Result<()> {
    let carried =
        |pair: &Pair| -> Result<f64> { pair.a.metric("istio_tcp_connections_opened_total", &[]) };
    let before = carried(pair)?;
    let url = format!("http://{host}/who");
    let text = pair
        .client
        .run(
            "curl",
            &[&["--silent", "--fail"][..], &[&url[..]; 10]].concat(),
        )?
        .success()?;
    ensure!(
        text == pair.client.v4(0).ip().to_string().repeat(10),
        "ten answers: {text}"
    );
    let opened = carried(pair)? - before;
    ensure!(opened == 1.0, "{opened} connections for ten requests");

    pair.server
        .run(
            "dd",
            &[
                "if=/dev/urandom",
                &format!("of={}/large", html.display()),
                "bs=1M",
                "count=100",
            ],
        )?
        .success()?;
    let sum = |pod: &Pod, script: &str| -> Result<String> {
        let text = pod.run("sh", &["-c", script])?.success()?;
        Ok(text.split(' ').next().unwrap_or_default().to_owned())
    };
    let there = sum(&pair.server, &format!("sha256sum {}/large", html.display()))?;
    let here = sum(
        &pair.client,
        &format!("curl --silent --fail http://{host}/large | sha256sum"),
    )?;
    ensure!(here.len() == 64 && here == there, "{here} is not {there}");
    Ok(())
}

/// iperf3 with several streams, both directions.
#[test]
fn iperf3() -> Result<()> {
    let (pair, service) = served(&[5201])?;
    let server = pair.server.spawn("iperf3", &["--server", "--forceflush"])?;
    server.wait_line(|line| line.contains("Server listening"))?;
    let direct = pair.server.v4(0).ip().to_string();
    for (to, direction) in [(&direct, "--reverse"), (&service, "--no-delay")] {
        let text = pair
            .client
            .run(
                "iperf3",
                &[
                    "--json",
                    "--client",
                    to,
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
    let (pair, to) = served(&[6379])?;
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

/// A running pair whose server is behind a Service too; its address.
pub(crate) fn served(ports: &[u16]) -> Result<(Pair, String)> {
    let pair = Pair::prepare()?;
    let ports: Vec<_> = ports.iter().map(|port| (*port).into()).collect();
    let ready = [(&pair.server, true)];
    let (service, _) = pair.mesh.service("served", &ports, &ready)?;
    pair.start_agents()?;
    Ok((pair, service.to_string()))
}
