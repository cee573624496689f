//! What is measured at one size.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;

use super::api::{Api, Call};
use super::bed::{Bed, NODE};
use super::fill::{self, Filled};
use super::measured::{Line, Measured};
use super::{objects, relay};

/// Changes of each kind whose effect is timed.
const ROUNDS: usize = 5;
/// How long the agent is watched while nothing changes.
const IDLE: Duration = Duration::from_secs(20);
/// How long pods change, and how many a second.
const CHURN: Duration = Duration::from_secs(30);
const CHANGES: u32 = 50;

const API_SERVER: &str = "10.77.0.1:6443";
const IN_FORCE: &str = "configuration in force";

/// The figures of one size. Times in seconds, memory and traffic in megabytes (10^6 bytes).
pub(crate) struct Row {
    pub(crate) filled: Filled,
    pub(crate) sync: f64,
    pub(crate) sync_cpu: f64,
    pub(crate) sync_bytes: f64,
    pub(crate) sync_requests: usize,
    pub(crate) peak: f64,
    pub(crate) resident: f64,
    pub(crate) idle_cpu: f64,
    pub(crate) idle_bytes: f64,
    pub(crate) idle_requests: usize,
    pub(crate) policy: Vec<f64>,
    pub(crate) enrolled: Vec<f64>,
    pub(crate) churn_cpu: f64,
    pub(crate) churn_bytes: f64,
    pub(crate) churn_enrolled: f64,
    pub(crate) churn_changes: u32,
    pub(crate) churn_peak: f64,
    pub(crate) authority: Authority,
}

/// The authority, once it knows the pods.
pub(crate) struct Authority {
    pub(crate) sync: f64,
    pub(crate) peak: f64,
    pub(crate) resident: f64,
}

pub(crate) async fn measure(api: &Api, bed: &Bed, filled: &Filled) -> Result<Row> {
    let (address, counts) = relay::start(API_SERVER.parse()?)?;
    let megabytes = || counts.down.load(Ordering::Relaxed) as f64 / 1e6;
    let kubeconfig = api
        .kubeconfig_of("isthmus-agent", &format!("https://{address}"))
        .await?;
    let before = api.requests_of_agent().map_or(0, |it| it.len());
    let agent = Measured::agent(bed, &kubeconfig)?;
    let ready = agent.wait("the agent is ready", |it| it.says("the agent is ready"))?;
    let (sync_cpu, sync_bytes) = (agent.processor()?, megabytes());
    // Statuses of the policies are written now.
    pause(IDLE).await;
    let after = api.requests_of_agent()?;
    let (cpu, bytes) = (agent.processor()?, megabytes());
    pause(IDLE).await;
    let idle = api.requests_of_agent()?.len() - after.len();
    let (idle_cpu, idle_bytes) = (agent.processor()? - cpu, megabytes() - bytes);
    let (peak, resident) = (agent.memory("VmHWM")?, agent.memory("VmRSS")?);
    let policy = policies(api, &agent).await?;
    let mut enrolled = Vec::new();
    for _ in 0..ROUNDS {
        enrolled.push(enrol(api, &agent).await?);
        release(api, &agent).await?;
    }
    let (cpu, bytes) = (agent.processor()?, megabytes());
    agent.drain();
    let churn = churn(api, filled, CHURN);
    let under = async {
        pause(CHURN / 2).await;
        enrol(api, &agent).await
    };
    let (changes, enrolled_meanwhile) = tokio::join!(churn, under);
    let row = Row {
        filled: *filled,
        sync: (ready.at - agent.started).as_secs_f64(),
        sync_cpu,
        sync_bytes,
        sync_requests: after.len() - before,
        peak,
        resident,
        idle_cpu: idle_cpu / IDLE.as_secs_f64(),
        idle_bytes,
        idle_requests: idle,
        policy,
        enrolled,
        churn_cpu: (agent.processor()? - cpu) / CHURN.as_secs_f64(),
        churn_bytes: megabytes() - bytes,
        churn_enrolled: enrolled_meanwhile?,
        churn_changes: changes?,
        churn_peak: agent.memory("VmHWM")?,
        authority: authority(api, bed).await?,
    };
    release(api, &agent).await?;
    agent.stop()?;
    Ok(row)
}

async fn authority(api: &Api, bed: &Bed) -> Result<Authority> {
    let server = format!("https://{API_SERVER}");
    let kubeconfig = api.kubeconfig_of("isthmus-ca", &server).await?;
    let authority = Measured::authority(bed, &kubeconfig)?;
    let known = authority.wait("the authority knows the pods", |it| {
        it.says("the cluster's pods are known")
    })?;
    pause(IDLE).await;
    let measured = Authority {
        sync: (known.at - authority.started).as_secs_f64(),
        peak: authority.memory("VmHWM")?,
        resident: authority.memory("VmRSS")?,
    };
    authority.stop()?;
    Ok(measured)
}

/// A span of time that is measured, not something to wait for.
async fn pause(span: Duration) {
    tokio::time::sleep(span).await;
}

/// Seconds from the request that writes or removes a policy until it is in force.
async fn policies(api: &Api, agent: &Measured) -> Result<Vec<f64>> {
    let place = fill::policies(NODE);
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        for call in [
            Call::post(&*place, objects::policy("probe", "web")),
            Call::delete(format!("{place}/probe")),
        ] {
            times.push(effect(api, agent, call, |line| line.says(IN_FORCE)).await?);
        }
    }
    Ok(times)
}

/// Seconds from the label of its namespace until the real pod is enrolled.
async fn enrol(api: &Api, agent: &Measured) -> Result<f64> {
    let call = label("enabled");
    effect(api, agent, call, |line| counts(line, "enrolled")).await
}

async fn release(api: &Api, agent: &Measured) -> Result<f64> {
    let call = label("disabled");
    effect(api, agent, call, |line| counts(line, "released")).await
}

fn label(mesh: &str) -> Call {
    let labels = json!({"metadata": {"labels": {"isthmus.dev/mesh": mesh}}});
    Call::patch(format!("/api/v1/namespaces/{NODE}"), labels)
}

fn counts(line: &Line, field: &str) -> bool {
    line.says(IN_FORCE) && line.fields[field] == 1
}

async fn effect(
    api: &Api,
    agent: &Measured,
    call: Call,
    wanted: impl Fn(&Line) -> bool,
) -> Result<f64> {
    // The last change is not to be taken for this one, nor to delay it.
    pause(Duration::from_secs(2)).await;
    agent.drain();
    let began = Instant::now();
    api.call(call).await?;
    let line = tokio::task::block_in_place(|| agent.wait("the change is in force", wanted))?;
    Ok((line.at - began).as_secs_f64())
}

/// Changes a label of pods all over the cluster; gives how many it came to.
async fn churn(api: &Api, filled: &Filled, span: Duration) -> Result<u32> {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / CHANGES);
    let until = Instant::now() + span;
    let mut changes = 0;
    while Instant::now() < until {
        ticks.tick().await;
        let path = fill::path_of(filled.some(changes));
        let revision = format!("r{changes}");
        let labels = json!({"metadata": {"labels": {"revision": revision}}});
        api.call(Call::patch(path, labels))
            .await
            .context("changing a pod")?;
        changes += 1;
    }
    Ok(changes)
}
