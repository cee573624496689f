//! What a connection takes along from the socket that opens it to the one that accepts it: no
//! other pod can displace it, and without it nothing is carried.

use anyhow::{Context, Result, ensure};
use isthmus_tests::wait::wait_until;
use nix::sys::signal::Signal;

use crate::bpftool::{bpftool, text};
use crate::pair::{Banner, Pair, ensure_reset};

/// While the agent accepts nothing, a pod opens more connections than the shared maps once had
/// entries; the connection of its neighbour keeps its original destination.
#[test]
fn original_destination_survives_the_flood_of_another_pod() -> Result<()> {
    let pair = Pair::start()?;
    let flooder = pair.a.pod("flooder")?;
    pair.a.wait_enrolled(&flooder)?;
    let _banner = pair.server.serve("serve banner blue")?;
    pair.a.signal_oldest(Signal::SIGSTOP)?;
    let to = pair.server.v4(8080);
    let mut waiting = pair.client.start(&format!("connect {to}"))?;
    let table = || Ok(std::fs::read_to_string("/proc/thread-self/net/tcp6")?);
    wait_until("the kernel has accepted the connection", || {
        let table = pair.client.netns().run(table).unwrap_or_default();
        let mut states = table
            .lines()
            .filter_map(|line| line.split_whitespace().nth(3));
        states.any(|state| state == "01")
    })?;
    let flood = format!(
        "abandon {} {} --connections 80000",
        pair.server.v4(8080),
        pair.server.v6(8080)
    );
    let seen = flooder.client(&flood)?;
    ensure!(
        seen["begun"].as_u64().is_some_and(|begun| begun > 70_000),
        "{seen}"
    );
    pair.a.signal_oldest(Signal::SIGCONT)?;
    waiting.wait()?;
    let seen: serde_json::Value = serde_json::from_str(&waiting.stdout())?;
    ensure!(Banner::of(&seen)?.name == "blue", "{seen}");
    wait_until("nothing of the flood is left", || {
        let labels = [r#"map="original_destinations""#];
        let left = pair.a.metric("isthmus_kernel_map_entries", &labels);
        left.is_ok_and(|left| left < 0.5)
    })
}

/// Where the client of a connection cannot be published, the application would take the agent
/// for it: the connection ends before a byte is carried, with its reason.
#[test]
fn client_that_cannot_be_published_is_refused() -> Result<()> {
    let pair = Pair::start()?;
    let echo = pair.server.serve("serve echo")?;
    let maps = pair.b.pin_dir().join("maps");
    let pods = text(&maps.join("isthmus_pods"))?;
    let pods = bpftool(&pair, &["map", "dump", "pinned", &pods])?;
    let cookie = pods[0]["formatted"]["key"]
        .as_u64()
        .with_context(|| format!("no key in {pods}"))?;
    let set_clients = |clients: i64| -> Result<()> {
        let mut words = vec!["map".to_owned(), "update".to_owned(), "pinned".to_owned()];
        words.push(text(&maps.join("isthmus_usage"))?);
        let value = [0i64.to_ne_bytes(), clients.to_ne_bytes()].concat();
        for (what, bytes) in [("key", &cookie.to_ne_bytes()[..]), ("value", &value[..])] {
            words.extend([what.to_owned(), "hex".to_owned()]);
            words.extend(bytes.iter().map(|byte| format!("{byte:02x}")));
        }
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        bpftool(&pair, &words).map(drop)
    };
    let to = pair.server.v4(8080);
    // As when the pod's budget is used up.
    set_clients(512)?;
    let seen = pair
        .client
        .client(&format!("connect {to} --send hello --to-end"))?;
    ensure_reset(&seen)?;
    let line = pair
        .b
        .wait_access("the refusal", |line| line["reason"] == "CLIENT_UNPUBLISHED")?;
    ensure!(line["bytes_received"] == 0, "{line}");
    set_clients(0)?;
    let seen = pair
        .client
        .client(&format!("connect {to} --send hello --half-close --to-end"))?;
    ensure!(seen["read"] == "hello\n", "{seen}");
    drop(echo);
    Ok(())
}
