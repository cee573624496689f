//! Two nodes that are certified by an authority outside of them, and what tests ask of it.

use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use isthmus_tests::mesh::{Authority, Node, Pod};
use isthmus_tests::wait::{patience, until};
use serde_json::Value;

use crate::pair::Pair;

/// Fields go in this order: the agents first.
pub(crate) struct Remote {
    pub(crate) pair: Pair,
    pub(crate) authority: Authority,
}

impl Remote {
    /// The authority is served; no agent runs yet. `lifetimes` is how many seconds the
    /// certificates of node `a` and of node `b` are to live.
    pub(crate) fn prepare(lifetimes: [&str; 2]) -> Result<Self> {
        let pair = Pair::prepare()?;
        let authority = pair.mesh.authority()?;
        for (node, lifetime) in [&pair.a, &pair.b].into_iter().zip(lifetimes) {
            authority.certify(node, &["--certificate-lifetime", lifetime])?;
        }
        authority.start()?;
        Ok(Self { pair, authority })
    }

    /// As [`Remote::prepare`], with both agents running and both pods enrolled.
    pub(crate) fn start(lifetimes: [&str; 2]) -> Result<Self> {
        let remote = Self::prepare(lifetimes)?;
        remote.pair.start_agents()?;
        Ok(remote)
    }
}

/// What a node says of the certificate of a pod.
pub(crate) fn certificate(node: &Node, pod: &Pod) -> Result<Value> {
    let status = node.cli("status")?;
    let all = status["certificates"].as_array().context("certificates")?;
    let own = all.iter().find(|it| it["identity"] == pod.identity());
    own.cloned()
        .with_context(|| format!("no certificate of {} in {status}", pod.identity()))
}

/// Its serial number.
pub(crate) fn serial(node: &Node, pod: &Pod) -> Result<String> {
    let certificate = certificate(node, pod)?;
    let serial = certificate["serial"].as_str().context("a serial")?;
    Ok(serial.to_owned())
}

/// Waits until a node says this of the pod's certificate; at most `seconds`.
pub(crate) fn wait_certificate(
    (node, pod): (&Node, &Pod),
    what: &str,
    seconds: u64,
    wanted: impl Fn(&Value) -> Result<bool>,
) -> Result<Value> {
    until(
        &format!("{} of {}", what, pod.uid()),
        patience(seconds),
        || {
            let seen = certificate(node, pod)?;
            Ok(wanted(&seen)?.then_some(seen))
        },
        || format!("{:?}", certificate(node, pod)),
    )
}

/// When a line was logged, in seconds since 1970.
pub(crate) fn logged_at(line: &Value) -> Result<f64> {
    let text = line["timestamp"].as_str();
    moment(text.with_context(|| format!("no timestamp in {line}"))?)
}

/// Seconds since 1970 of an RFC 3339 time in UTC.
pub(crate) fn moment(text: &str) -> Result<f64> {
    let (date, time) = text
        .strip_suffix('Z')
        .and_then(|text| text.split_once('T'))
        .with_context(|| format!("{text} is no time in UTC"))?;
    let numbers = |text: &str, separator| -> Result<Vec<f64>> {
        Ok(text
            .split(separator)
            .map(str::parse)
            .collect::<Result<_, _>>()?)
    };
    let (date, time) = (numbers(date, '-')?, numbers(time, ':')?);
    ensure!(date.len() == 3 && time.len() == 3, "{text} is no time");
    // Days from the civil calendar, whose year begins in March.
    let (year, month) = if date[1] > 2.0 {
        (date[0], date[1] - 3.0)
    } else {
        (date[0] - 1.0, date[1] + 9.0)
    };
    let leap_days = (year / 4.0).floor() - (year / 100.0).floor() + (year / 400.0).floor();
    let day_of_year = ((153.0 * month + 2.0) / 5.0).floor() + date[2] - 1.0;
    let days = 365.0 * year + leap_days + day_of_year - 719_468.0;
    Ok(days * 86_400.0 + time[0] * 3600.0 + time[1] * 60.0 + time[2])
}

/// Now, in seconds since 1970.
pub(crate) fn now() -> Result<f64> {
    Ok(SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)?
        .as_secs_f64())
}

/// Fails unless a flood lost nothing.
pub(crate) fn ensure_none_failed(tally: &Value, at_least: u64) -> Result<()> {
    let none = serde_json::json!({});
    let right = tally["right"].as_u64().unwrap_or_default();
    ensure!(
        tally["wrong"] == none && tally["errors"] == none && right >= at_least,
        "{tally}"
    );
    Ok(())
}

/// How many connections of a flood failed.
pub(crate) fn failures(tally: &Value) -> u64 {
    let errors = tally["errors"].as_object();
    let errors = errors.into_iter().flat_map(|errors| errors.values());
    errors.filter_map(Value::as_u64).sum()
}
