//! PostgreSQL and its client, unmodified.

use anyhow::{Result, ensure};
use isthmus_tests::capture::Capture;
use isthmus_tests::cluster::{Apps, Cluster};

use super::wait_endpoints;
use crate::policies::STRICT;

#[test]
fn a_database_answers_through_its_service() -> Result<()> {
    let cluster = Cluster::with_mesh()?;
    let namespace = cluster.meshed("postgres")?;
    namespace.run(&Apps::new().and(STRICT).postgres())?;
    wait_endpoints(&namespace, "postgres", 1)?;
    let capture = Capture::start(&cluster.bridge()?)?;
    let rows = "select string_agg('marker-of-rows', '') from generate_series(1, 20000)";
    let answer = namespace.sql(rows)?;
    ensure!(
        answer == "marker-of-rows".repeat(20_000),
        "{} bytes",
        answer.len()
    );
    // The server says who the client is by the address that it sees.
    let address = namespace.sql("select host(inet_client_addr())")?;
    ensure!(
        address == namespace.address("psql", 4)?.to_string(),
        "{address}"
    );
    ensure!(
        !capture.stop()?.contains(b"marker-of-rows"),
        "rows crossed the bridge in the clear"
    );
    Ok(())
}
