//! The command line's grammar, and its tables letter for letter.

use std::collections::BTreeMap;

use clap::CommandFactory;

use super::check::Finding;
use super::*;
use crate::admin::api::*;
use crate::observe::{ConnectionInfo, Direction};

#[test]
fn the_grammar_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn run_has_the_documented_defaults() {
    let cli = Cli::try_parse_from(["mesh-agent", "run", "--config", "/etc/mesh"]).unwrap();
    let Command::Run(args) = cli.command else {
        panic!("not run")
    };
    assert_eq!(args.pin_dir, PathBuf::from("/sys/fs/bpf/isthmus"));
    assert_eq!(args.run_dir, PathBuf::from("/run/isthmus"));
    assert_eq!(args.state_dir, PathBuf::from("/var/lib/isthmus"));
    assert_eq!(args.admin.to_string(), "127.0.0.1:15020");
    assert_eq!(args.log_format, crate::observe::logging::Format::Json);
}

#[test]
fn run_takes_every_option_and_fills_in_the_rest() {
    let cli = Cli::try_parse_from([
        "mesh-agent",
        "run",
        "--config",
        "c",
        "--node",
        "left",
        "--pods-cgroup",
        "/cg/pods",
        "--pin-dir",
        "p",
        "--run-dir",
        "r",
        "--state-dir",
        "s",
        "--admin",
        "[::1]:9",
        "--log-format",
        "text",
    ])
    .unwrap();
    let Command::Run(args) = cli.command else {
        panic!("not run")
    };
    let options = args.resolve().unwrap();
    assert_eq!(options.node, "left");
    assert_eq!(options.pods_cgroup, PathBuf::from("/cg/pods"));
    assert_eq!(options.admin.to_string(), "[::1]:9");
    assert!(options.workers.get() >= 1);
}

#[test]
fn what_makes_no_sense_is_refused() {
    for arguments in [
        &["mesh-agent", "run"][..],
        &["mesh-agent", "run", "--config", "c", "--workers", "0"],
        &["mesh-agent", "run", "--config", "c", "--admin", "15020"],
        &["mesh-agent", "status", "-o", "yaml"],
        &["mesh-agent"],
    ] {
        assert!(Cli::try_parse_from(arguments).is_err(), "{arguments:?}");
    }
}

fn connection(direction: Direction) -> ConnectionInfo {
    ConnectionInfo {
        id: "65a1b2c300000001".into(),
        direction,
        pod: "shop/web-6d5f9c7b8-x2v4q".into(),
        peer_identity: Some("spiffe://cluster.local/ns/shop/sa/db".into()),
        peer: None,
        source: "10.1.0.5:40000".into(),
        destination: "10.1.0.9:5432".into(),
        upstream: None,
        client: None,
        service: None,
        security: Some("mutual_tls".into()),
        tls_version: Some("TLSv1.3".into()),
        tls_suite: Some("TLS_AES_256_GCM_SHA384".into()),
        bytes_sent: 1536,
        bytes_received: 3 << 30,
        age_ms: 185_000,
    }
}

#[test]
fn connections_as_a_table() {
    let plain = ConnectionInfo {
        peer_identity: None,
        security: Some("plaintext".into()),
        tls_version: None,
        tls_suite: None,
        service: Some("shop/api".into()),
        bytes_sent: 0,
        bytes_received: 7,
        age_ms: 20,
        ..connection(Direction::Inbound)
    };
    let table = connections::render(&[connection(Direction::Outbound), plain]);
    assert_eq!(
        table,
        "\
DIR  POD                 PEER IDENTITY  DESTINATION    SECURITY                SENT  RECEIVED    AGE
out  shop/web-…b8-x2v4q  shop/sa/db     10.1.0.9:5432  TLSv1.3 AES_256_GCM  1.5 KiB   3.0 GiB  3m05s
in   shop/web-…b8-x2v4q  -              shop/api       plaintext                0 B       7 B   20ms
"
    );
    assert_eq!(connections::render(&[]), "no connection is open\n");
}

#[test]
fn workloads_as_a_table() {
    let web = WorkloadStatus {
        name: "web-0".into(),
        namespace: "shop".into(),
        node: "left".into(),
        identity: "spiffe://cluster.local/ns/shop/sa/web".into(),
        addresses: vec!["10.1.0.5".into(), "fd00::5".into()],
        local: true,
        meshed: true,
        state: WorkloadState::Enrolled,
        mode: Some("STRICT".into()),
        since_s: Some(9),
        problems: vec![],
        certificate_expires_in_s: Some(86_000),
        budget: None,
    };
    let broken = WorkloadStatus {
        name: "db-0".into(),
        state: WorkloadState::NotEnrolled,
        mode: None,
        problems: vec!["no network namespace at /run/netns/db; create it".into()],
        certificate_expires_in_s: None,
        ..web.clone()
    };
    let web = WorkloadStatus {
        budget: Some(BudgetStatus {
            descriptors: 60,
            max_descriptors: 100,
            buffered_bytes: 5,
            max_buffered_bytes: 1000,
        }),
        ..web
    };
    assert_eq!(
        workloads::render(&[web, broken]),
        "\
WORKLOAD    NODE  STATE         MODE    ADDRESSES         IDENTITY       CERT
shop/web-0  left  enrolled      STRICT  10.1.0.5,fd00::5  shop/sa/web  23h53m
shop/db-0   left  not-enrolled  -       10.1.0.5,fd00::5  shop/sa/web       -

shop/web-0: holds 60 of 100 descriptors (--pod-descriptors), 5 of 1000 bytes buffered (--pod-buffered-bytes)
shop/db-0: no network namespace at /run/netns/db; create it
"
    );
}

#[test]
fn pods_and_addresses_of_dual_stack_are_whole() {
    let web = WorkloadStatus {
        name: "web-6d5f9c7b8-x2v4q".into(),
        namespace: "shop".into(),
        node: "ip-10-0-3-17.eu-central-1.compute.internal".into(),
        identity: "spiffe://cluster.local/ns/shop/sa/web".into(),
        addresses: vec!["10.244.2.117".into(), "2001:db8:10:244:2:0:1234:11".into()],
        local: true,
        meshed: true,
        state: WorkloadState::Enrolled,
        mode: Some("PERMISSIVE".into()),
        since_s: Some(9),
        problems: vec![],
        certificate_expires_in_s: Some(86_000),
        budget: None,
    };
    assert_eq!(
        workloads::render(&[web]),
        "\
WORKLOAD                  NODE              STATE     MODE        ADDRESSES                    IDENTITY       CERT
shop/web-6d5f9c7b8-x2v4q  ip-10-0-…nternal  enrolled  PERMISSIVE  10.244.2.117                 shop/sa/web  23h53m
                                                                  2001:db8:10:244:2:0:1234:11
"
    );
    let far = ConnectionInfo {
        destination: "[2001:db8:10:244:2:0:1234:11]:5432".into(),
        ..connection(Direction::Outbound)
    };
    let table = connections::render(std::slice::from_ref(&far));
    assert!(table.contains(&far.destination), "{table}");
}

#[test]
fn the_status_for_people() {
    let status = Status {
        node: "left".into(),
        version: "0.1.0".into(),
        pid: 42,
        instance: None,
        uptime_s: 185,
        starting: false,
        ready: false,
        not_ready: vec!["shop/db-0 is being enrolled".into()],
        trust_domain: "cluster.local".into(),
        inbound_mode: "STRICT".into(),
        config: ConfigStatus {
            api: vec![
                ApiKindStatus {
                    kind: "pods".into(),
                    synced: true,
                    away_for_s: Some(75),
                    error: Some("connection refused".into()),
                    ..Default::default()
                },
                ApiKindStatus {
                    kind: "services".into(),
                    synced: true,
                    ..Default::default()
                },
                ApiKindStatus {
                    kind: "nodes".into(),
                    ..Default::default()
                },
            ],
            dir: "/etc/mesh".into(),
            generation: 3,
            problems: vec!["pods.yaml: Pod shop/db: spec.nodeName is missing".into()],
        },
        kernel: KernelStatus {
            release: "6.18.0".into(),
            attachments: vec![
                Attachment {
                    name: "connect4".into(),
                    attached: true,
                    link_id: Some(7),
                    prog_id: Some(31),
                    tag: Some("0123456789abcdef".into()),
                },
                Attachment {
                    name: "guard_egress".into(),
                    ..Default::default()
                },
            ],
            counters: BTreeMap::from([("redirected".into(), 12)]),
        },
        cni: Some(CniStatus {
            file: Some("/etc/cni/net.d/10-net.conflist".into()),
            problems: Vec::new(),
        }),
        probes: ProbesStatus {
            cgroup: None,
            error: Some("no kubelet runs here".into()),
        },
        authority: AuthorityStatus {
            kind: "remote".into(),
            place: "https://ca.mesh:15012".into(),
            files: Some("/etc/certificates".into()),
            connected: Some(false),
            answered_s_ago: Some(61),
            error: Some("connecting to ca.mesh:15012 was refused".into()),
            trust_from: Some("what was saved earlier".into()),
        },
        trust: vec![
            TrustStatus {
                trust_domain: "cluster.local".into(),
                own: true,
                roots: 2,
                revocation: "fresh".into(),
                lists_expire_in_s: Some(7200),
                ..Default::default()
            },
            TrustStatus {
                trust_domain: "other.example".into(),
                roots: 1,
                revocation: "unreadable".into(),
                error: Some("not a revocation list".into()),
                refused: true,
                ..Default::default()
            },
        ],
        tls: TlsStatus {
            minimum_version: "TLS 1.3".into(),
            cipher_suites: vec!["TLS_AES_256_GCM_SHA384".into()],
            key_exchanges: vec!["X25519MLKEM768".into(), "X25519".into()],
            fips: false,
            library: "rustls on aws-lc-rs, built without the FIPS module".into(),
        },
        certificates: vec![CertificateStatus {
            identity: "spiffe://cluster.local/ns/shop/sa/web".into(),
            serial: "0a1b".into(),
            expires_in_s: 3600,
            source: "https://ca.mesh:15012".into(),
            renewal_in_s: 30,
            failing_for_s: Some(90),
            failed_attempts: 4,
            error: Some("the authority did not answer".into()),
        }],
        tunnels: 1,
        connections: 2,
        limits: Limits {
            open_files: 40,
            max_open_files: 20_000,
            descriptors: 30,
            max_descriptors: 17_500,
            buffered_bytes: 3 << 20,
            max_buffered_bytes: 512 << 20,
        },
        log_lines_dropped: 0,
    };
    assert_eq!(
        status::render(&status),
        "\
node          left, NOT READY
              shop/db-0 is being enrolled
agent         version 0.1.0, pid 42, up 3m05s
mesh          trust domain cluster.local, STRICT
config        /etc/mesh, generation 3, 1 problem
API           pods NOT HEARD for 1m15s: connection refused
              nodes not listed yet
CNI           the plugin is in /etc/cni/net.d/10-net.conflist
kernel        6.18.0
probes        NOT let through: no kubelet runs here
traffic       2 connections open, 1 tunnel open
open files    40 of 20000
pods hold     30 of 17500 descriptors, 3 of 512 MiB buffered
log           no lines dropped

KERNEL PROGRAM  ATTACHED  LINK  PROG  TAG
connect4        yes          7    31  0123456789abcdef
guard_egress    NO           -     -  -

KERNEL COUNTER  COUNT
redirected         12

authority     remote, https://ca.mesh:15012, NOT CONNECTED, last answered 1m01s ago
              trust comes from what was saved earlier
              certificates in /etc/certificates go before it
              connecting to ca.mesh:15012 was refused
tls           TLS 1.3 or later
              TLS_AES_256_GCM_SHA384
              X25519MLKEM768, X25519
              rustls on aws-lc-rs, built without the FIPS module, not in FIPS mode

TRUST DOMAIN   WHOSE    ROOTS  REVOCATION LISTS     EXPIRE IN
cluster.local  own          2  fresh                    2h00m
other.example  foreign      1  unreadable, REFUSED          -
other.example: not a revocation list

CERTIFICATE                            SERIAL  EXPIRES IN  RENEWED IN
spiffe://cluster.local/ns/shop/sa/web  0a1b         1h00m         30s
spiffe://cluster.local/ns/shop/sa/web: not renewed for 1m30s (4 attempts), OUTAGE IN 1h00m: the authority did not answer

PROBLEMS IN THE CONFIGURATION
pods.yaml: Pod shop/db: spec.nodeName is missing
"
    );
}

#[test]
fn findings_with_their_cures() {
    let finding = |name: &str, ok, required| Finding {
        name: name.into(),
        ok,
        required,
        detail: "as found".into(),
        cure: "do this".into(),
    };
    let all = [
        finding("kernel", true, true),
        finding("BTF", false, true),
        finding("x", false, false),
    ];
    assert_eq!(
        check::render(&all),
        "\
ok       kernel  as found
MISSING  BTF     as found
                 → do this
absent   x       as found
                 → do this

1 thing that the agent needs is missing
"
    );
    assert!(check::render(&all[..1]).ends_with("\nthis machine can run the agent\n"));
}
