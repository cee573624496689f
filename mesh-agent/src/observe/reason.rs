//! Why a connection ended other than well: the stable codes that the access log,
//! the metrics and the command line share. Whoever ends a connection names one.

use std::fmt;

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Both sides finished, each in its own time.
    Ok,
    /// A rule of the mesh refused it; nothing was carried.
    Denied(Reason),
    /// It could not be made, or broke.
    Failed(Reason),
    /// The agent ended it while it was running.
    Cut(Reason),
}

impl Outcome {
    /// The value of `outcome` in the access log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Denied(_) => "denied",
            Self::Failed(_) => "failed",
            Self::Cut(_) => "cut",
        }
    }

    /// The reason, which only [`Outcome::Ok`] lacks.
    pub fn reason(self) -> Option<Reason> {
        match self {
            Self::Ok => None,
            Self::Denied(reason) | Self::Failed(reason) | Self::Cut(reason) => Some(reason),
        }
    }
}

/// Declares [`Reason`] from one table, so that no code can be without its text.
macro_rules! reasons {
    ($($variant:ident, $code:literal, $flag:ident, $meaning:literal, $cure:literal;)*) => {
        /// Why a connection was refused, failed or was cut. The codes are stable: dashboards
        /// and alerts may name them. What varies from one connection to the next (an
        /// errno, the identity a peer presented) is the log line's `detail`, never part of the code.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Reason {
            $(#[doc = $meaning] #[doc = ""] #[doc = concat!("What to do: ", $cure)] $variant,)*
        }

        impl Reason {
            /// Every reason, in the order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The stable code: a metric label and the access log's `reason`.
            pub fn code(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            /// What the code means, in one sentence.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }
            }

            /// What a person can do about it, in one sentence.
            pub fn cure(self) -> &'static str {
                match self { $(Self::$variant => $cure,)* }
            }

            /// The coarser class that Istio's `response_flags` label carries.
            pub fn flag(self) -> ResponseFlag {
                match self { $(Self::$variant => ResponseFlag::$flag,)* }
            }
        }
    };
}

reasons! {
    // Outbound: from a pod's application to its destination.
    UpstreamRefused, "UPSTREAM_REFUSED", Connect,
        "The destination answered the connection attempt with a reset.",
        "check that something listens on the destination's port, or on 15008 when it is in the mesh";
    UpstreamUnreachable, "UPSTREAM_UNREACHABLE", Connect,
        "The network has no route to the destination, or reported it unreachable.",
        "check the pod's routes and the destination's address";
    UpstreamTimeout, "UPSTREAM_TIMEOUT", Connect,
        "The destination did not answer in time.",
        "check that the destination runs and that no firewall drops TCP to it (port 15008 in the mesh)";
    UpstreamWrongIdentity, "UPSTREAM_WRONG_IDENTITY", Identity,
        "The destination presented a certificate of another workload than the one expected at its address.",
        "the address may have passed to another pod: check that the configuration names its present owner";
    UpstreamTls, "UPSTREAM_TLS", Tls,
        "The TLS handshake with the destination failed.",
        "check that both nodes trust the same certificate authority and that their clocks agree";
    UpstreamDenied, "UPSTREAM_DENIED", Deny,
        "The destination's node refused the connection by policy (HTTP 401).",
        "check the authorization policies that select the destination";
    UpstreamRejected, "UPSTREAM_REJECTED", Http2,
        "The destination's node took the tunnel request for malformed or not its own (HTTP 400, or a status unknown to HBONE).",
        "check that the destination's node runs a compatible version and owns the address";
    ServiceNoEndpoint, "SERVICE_NO_ENDPOINT", Connect,
        "The service has no ready endpoint.",
        "check that pods match the service's selector and are ready";
    ServiceNoLocalEndpoint, "SERVICE_NO_LOCAL_ENDPOINT", Connect,
        "The service keeps connections on their node (internalTrafficPolicy: Local), and no endpoint of it here is ready.",
        "run a ready pod of the service on this node, as a DaemonSet does, or set its internalTrafficPolicy to Cluster";
    ServiceNoPort, "SERVICE_NO_PORT", Connect,
        "The service does not offer the port asked for.",
        "compare the port with the service's spec.ports";
    NoOriginalDestination, "NO_ORIGINAL_DESTINATION", Network,
        "A connection reached the pod's outbound listener without a recorded original destination.",
        "nothing should dial that listener directly; if nothing does, report it with the agent's log";
    DestinationUnknown, "DESTINATION_UNKNOWN", Deny,
        "Whether the destination is in the mesh is not known: the configuration is not complete, is out of date, contradicts itself, or has no object for an address of the cluster.",
        "correct what mesh-agent problems lists: the Kubernetes API is disconnected, a file cannot be read, two objects have one address; or describe the address, or correct spec.clusterRanges of the MeshConfig";
    NoCredential, "NO_CREDENTIAL", Identity,
        "The pod's identity has no certificate yet, or it could not be renewed.",
        "look for issuing errors in the agent's log and at the state directory's permissions";
    PoolExhausted, "POOL_EXHAUSTED", Connect,
        "Every tunnel to the destination was full and no more may be opened.",
        "the destination is slow or overloaded: add endpoints, or look at its connections";
    TunnelLost, "TUNNEL_LOST", Connect,
        "The tunnel that carried the connection broke.",
        "look at the other node: its agent may have restarted, or the network between the nodes failed";
    // Inbound: from the network to a pod's application.
    PlaintextRefused, "PLAINTEXT_REFUSED", Deny,
        "The client came without mutual TLS and the pod's mode is STRICT.",
        "bring the client into the mesh, or set the mode to PERMISSIVE";
    TlsNoClientCert, "TLS_NO_CLIENT_CERT", Identity,
        "The client offered TLS but no certificate of its own.",
        "the client is no mesh workload: bring it into the mesh";
    TlsForeignTrustDomain, "TLS_FOREIGN_TRUST_DOMAIN", Identity,
        "The client's certificate belongs to a trust domain that this mesh does not trust, or another mesh's authority signed it.",
        "give both meshes one trust domain, or configure the other's roots here; where the detail names an intermediate of another mesh, that mesh certifies what it must not";
    TlsHandshake, "TLS_HANDSHAKE", Tls,
        "The TLS handshake with the client failed.",
        "check that both nodes trust the same certificate authority and that their clocks agree";
    HandshakeLimit, "HANDSHAKE_LIMIT", Tls,
        "The client did not finish its TLS handshake before the slot was needed for another connection.",
        "look at the line's src: something opens connections to port 15008 and does not speak, or floods it";
    BadRequest, "BAD_REQUEST", Http2,
        "The tunnel client's request is not HBONE (answered with HTTP 400, or by closing the tunnel).",
        "look at the client: it is no mesh agent, or an incompatible one";
    WrongDestination, "WRONG_DESTINATION", Network,
        "The tunnel client asked for an address that is not the pod's (answered with HTTP 400).",
        "the client's configuration is stale, or it is hostile";
    PolicyDenied, "POLICY_DENIED", Deny,
        "A rule of a DENY authorization policy matched the connection (HTTP 401 between agents).",
        "nothing, if it was meant; otherwise narrow the rule that the detail names";
    PolicyNoAllow, "POLICY_NO_ALLOW", Deny,
        "There are ALLOW authorization policies for the destination and none of them matched (HTTP 401 between agents).",
        "allow the client in a policy that selects the destination; the detail names the rule that came nearest";
    PolicyUnusable, "POLICY_UNUSABLE", Deny,
        "An authorization policy that may select the destination cannot be used, and no good version of it is known.",
        "mend the policy or the file, as mesh-agent problems says";
    PolicyNotSynced, "POLICY_NOT_SYNCED", Deny,
        "No configuration was read yet, so which policies hold is not known.",
        "wait until the agent is ready; if it does not become so, see mesh-agent status";
    AppRefused, "APP_REFUSED", Connect,
        "Nothing in the destination pod listens on the port asked for (HTTP 503 between agents).",
        "check that the application runs and listens on the pod's address, not on 127.0.0.1 alone";
    AppUnreachable, "APP_UNREACHABLE", Connect,
        "The agent could not connect to the application in its own pod.",
        "see the detail; the pod's namespace may be going away";
    ClientUnpublished, "CLIENT_UNPUBLISHED", Connect,
        "The application would have seen the agent as its client: the kernel programs could not publish the client's address.",
        "see the kernel event unpublished_client: the node lacks memory, or the application accepts too few of the pod's connections";
    // By the kernel programs, where no worker sees the connection.
    ForwardedRefused, "FORWARDED_REFUSED", Deny,
        "The pod is STRICT, and the connection is one that it forwards: a virtual machine, NAT or a container behind the pod has no identity.",
        "run the program in the pod's own network namespace, or set the mode to PERMISSIVE";
    NotCaptured, "NOT_CAPTURED", Deny,
        "TCP was about to leave the pod from a socket whose connection the agent was not handed.",
        "connect from a process that was started in the pod's cgroup, with an ordinary TCP socket; if it was, see mesh-agent audit";
    InnerNamespace, "INNER_NAMESPACE", Deny,
        "A process of the pod connected from another network namespace than the pod's, where it has no identity.",
        "run the program in the pod's own network namespace (docker run --network host), or in a pod of its own";
    LocalAddress, "LOCAL_ADDRESS", Deny,
        "A packet arrived from outside with addresses that are only used within a host.",
        "look at the sender: it is misconfigured, or hostile";
    // Either direction.
    PeerRevoked, "PEER_REVOKED", Identity,
        "The peer's certificate was revoked by its authority.",
        "nothing, if it was meant; otherwise have the authority issue the peer a new certificate";
    PeerUntrusted, "PEER_UNTRUSTED", Identity,
        "The root or trust domain that vouched for the peer is trusted no longer.",
        "nothing, if it was meant; otherwise see mesh-agent status for the roots in force";
    RevocationUnknown, "REVOCATION_UNKNOWN", Identity,
        "Whether the peer's certificate was revoked is not known: the revocation list is out of date, missing or unreadable.",
        "bring a current list from the authority to this node (mesh-agent status shows each list's age), or allow stale lists";
    AppReset, "APP_RESET", None,
        "The pod's own application reset the connection.",
        "often normal; otherwise look at the application";
    PeerReset, "PEER_RESET", None,
        "The peer, or its application, reset the connection.",
        "often normal; otherwise look at the peer";
    Drained, "DRAINED", None,
        "The agent was stopping and the connection outlived the time to drain.",
        "lengthen the drain time, or let the application reconnect";
    PodReleased, "POD_RELEASED", None,
        "The pod left the mesh while the connection ran.",
        "nothing, if the pod opted out";
    PodDeleted, "POD_DELETED", None,
        "The pod was deleted or has ended: its identity is withdrawn, and what still runs of it is closed.",
        "nothing, if it was meant; otherwise see mesh-agent workloads for pods that are orphaned";
    PolicyChanged, "POLICY_CHANGED", Deny,
        "A change of policy no longer permits the running connection.",
        "nothing, if the change was meant; otherwise allow the client's identity";
    Shutdown, "SHUTDOWN", None,
        "The agent stopped at once.",
        "look at why it stopped in the agent's log";
    PodLimit, "POD_LIMIT", Connect,
        "The pod's connections hold as many sockets or buffered bytes of the agent as one pod may.",
        "end idle connections of the pod or have its readers read; or raise the option that the detail names";
    FdLimit, "FD_LIMIT", Connect,
        "The agent had no file descriptor left.",
        "raise the agent's limit of open files (see mesh-agent status)";
    Aborted, "ABORTED", None,
        "The connection was given up without an outcome, which is a defect of the agent.",
        "report it with the agent's log";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// The values of `response_flags` in Istio's TCP metrics, as its node proxy writes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResponseFlag {
    /// Nothing to report.
    None,
    /// Refused by policy.
    Deny,
    /// The onward connection could not be made.
    Connect,
    /// The TLS handshake failed.
    Tls,
    /// The HTTP/2 exchange failed.
    Http2,
    /// The connection came on a way it must not take.
    Network,
    /// An identity was missing or wrong.
    Identity,
}

impl ResponseFlag {
    /// Every flag; a flag's place here is its discriminant.
    pub const ALL: [Self; 7] = [
        Self::None,
        Self::Deny,
        Self::Connect,
        Self::Tls,
        Self::Http2,
        Self::Network,
        Self::Identity,
    ];

    /// The label value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "-",
            Self::Deny => "DENY",
            Self::Connect => "CONNECT",
            Self::Tls => "TLS_FAILURE",
            Self::Http2 => "H2_HANDSHAKE_FAILURE",
            Self::Network => "NETWORK_POLICY",
            Self::Identity => "IDENTITY_ERROR",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn codes_are_unique_screaming_snake_and_follow_the_variant() {
        let mut seen = HashSet::new();
        for reason in Reason::ALL {
            let code = reason.code();
            assert!(seen.insert(code), "{code} twice");
            assert!(
                code.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'),
                "{code}"
            );
            let variant = format!("{reason:?}").to_uppercase();
            assert_eq!(code.replace('_', ""), variant);
        }
    }

    #[test]
    fn every_reason_says_what_it_means_and_what_to_do() {
        for reason in Reason::ALL {
            assert!(reason.meaning().ends_with('.'), "{reason}");
            assert!(reason.meaning().len() > 20, "{reason}");
            assert!(
                reason.cure().len() > 10 && !reason.cure().ends_with('.'),
                "{reason}"
            );
        }
    }

    #[test]
    fn a_flag_stands_at_its_discriminant() {
        for (place, flag) in ResponseFlag::ALL.iter().enumerate() {
            assert_eq!(*flag as usize, place);
        }
    }
}
