//! The rounds: each measures everything over plain TCP and over the mesh in turn, so that what
//! else the machine does meanwhile meets both alike.

use anyhow::{Context, Result};
use clap::ValueEnum;
use isthmus_tests::mesh::{Mesh, Mtls, Pod};
use isthmus_tests::process::{Process, run as run_to_end};

use crate::load::{Kind, Measured};
use crate::server::PORT;

/// How much is measured. As it stands by default, it takes well under 90 s.
#[derive(Debug, clap::Args)]
pub(crate) struct Plan {
    /// Rounds that count; the table shows medians of them
    #[arg(long, default_value_t = 5)]
    pub(crate) rounds: usize,
    /// Length of one measurement in milliseconds
    #[arg(long, default_value_t = 700)]
    pub(crate) millis: u64,
    /// What all parts of the bench are called
    #[arg(long, hide = true, default_value = "isthmus-bench")]
    pub(crate) world: String,
}

impl Plan {
    /// The same, for a command line.
    pub(crate) fn as_arguments(&self) -> [String; 6] {
        let (rounds, millis) = (self.rounds.to_string(), self.millis.to_string());
        let world = self.world.clone();
        [
            "--rounds".into(),
            rounds,
            "--millis".into(),
            millis,
            "--world".into(),
            world,
        ]
    }
}

/// Length of a measurement in the round before, which does not count: it opens tunnels and
/// warms caches.
const WARM_UP_MILLIS: u64 = 100;

/// One thing to measure.
pub(crate) struct Measurement {
    pub(crate) kind: Kind,
    pub(crate) threads: usize,
}

/// In the order in which the table has them.
pub(crate) const MEASUREMENTS: [Measurement; 5] = [
    Measurement {
        kind: Kind::Throughput,
        threads: 1,
    },
    Measurement {
        kind: Kind::Throughput,
        threads: 8,
    },
    Measurement {
        kind: Kind::Latency,
        threads: 1,
    },
    Measurement {
        kind: Kind::Connections,
        threads: 1,
    },
    Measurement {
        kind: Kind::Connections,
        threads: 16,
    },
];

/// What one measurement gave in all rounds.
#[derive(Default)]
pub(crate) struct Results {
    pub(crate) plain: Vec<Measured>,
    pub(crate) mesh: Vec<Measured>,
}

/// A client and a server on two nodes.
struct Pair {
    client: Pod,
    server: Pod,
    _serving: Process,
}

/// Builds the world, and measures. The results stand in the order of
/// [`MEASUREMENTS`].
pub(crate) fn run(plan: &Plan) -> Result<Vec<Results>> {
    let mesh = Mesh::named(plan.world.clone())?;
    mesh.mtls(Mtls::Strict)?;
    let (node_a, node_b) = (mesh.node("node-a")?, mesh.node("node-b")?);
    let plain = Pair::new(
        mesh.outsider("plain-client")?,
        mesh.outsider("plain-server")?,
    )?;
    let meshed = Pair::new(node_a.pod("client")?, node_b.pod("server")?)?;
    node_a.start()?;
    node_b.start()?;
    node_a.wait_state(&meshed.client.uid(), "enrolled")?;
    node_b.wait_state(&meshed.server.uid(), "enrolled")?;

    let mut results: Vec<Results> = MEASUREMENTS.iter().map(|_| Results::default()).collect();
    for round in 0..=plan.rounds {
        match round {
            0 => println!("Warming up"),
            _ => println!("Round {round} of {}", plan.rounds),
        }
        for (measurement, results) in MEASUREMENTS.iter().zip(&mut results) {
            let millis = if round == 0 {
                WARM_UP_MILLIS
            } else {
                plan.millis
            };
            let (raw, through) = (
                plain
                    .measure(measurement, millis)
                    .context("over plain TCP")?,
                meshed
                    .measure(measurement, millis)
                    .context("over the mesh")?,
            );
            if round > 0 {
                results.plain.push(raw);
                results.mesh.push(through);
            }
        }
    }
    Ok(results)
}

impl Pair {
    fn new(client: Pod, server: Pod) -> Result<Self> {
        for pod in [&client, &server] {
            // As the agent sets it in the pods that it serves, and room for the connections
            // of a whole round: without them, what is measured is the end of the port range.
            pod.netns().sysctl("net/ipv4/tcp_tw_reuse", "1")?;
            pod.netns()
                .sysctl("net/ipv4/ip_local_port_range", "10000 65535")?;
        }
        let mut command = server.command(std::env::current_exe()?)?;
        command.arg("serve");
        let serving = Process::spawn(command)?;
        serving.wait_line(|line| line == "ready")?;
        Ok(Self {
            client,
            server,
            _serving: serving,
        })
    }

    fn measure(&self, measurement: &Measurement, millis: u64) -> Result<Measured> {
        let kind = measurement
            .kind
            .to_possible_value()
            .context("every kind has a name")?;
        let mut command = self.client.command(std::env::current_exe()?)?;
        command
            .args(["load", kind.get_name(), &self.server.v4(PORT).to_string()])
            .args(["--threads", &measurement.threads.to_string()])
            .args(["--millis", &millis.to_string()]);
        let text = run_to_end(command)?.success()?;
        serde_json::from_str(&text).with_context(|| format!("the client said: {text}"))
    }
}
