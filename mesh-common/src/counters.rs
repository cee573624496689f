//! What the kernel programs count. The agent sums the CPUs and exports them.

/// Index of a counter in the per-CPU array.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Connections handed to the agent.
    Redirected = 0,
    /// `connect()` refused: the caller is not in the pod's cgroup.
    RefusedForeignCgroup = 1,
    /// `connect()` refused: the pod has no address of that family.
    RefusedNoAddress = 2,
    /// `connect()` refused: the kernel could not store the destination.
    RefusedNoMemory = 3,
    /// A redirected connection whose original destination could not be
    /// published; the agent closes it.
    UnpublishedDestination = 4,
    /// Inbound packets handed to the agent's listener: the first of every
    /// connection, and its repetitions.
    Inbound = 5,
    /// Inbound packets dropped, since no agent listens.
    InboundNoListener = 6,
    /// Guard, ingress: a new connection that goes around the agent.
    IngressNewConnection = 7,
    /// Guard, ingress: a pod under STRICT.
    IngressStrict = 8,
    /// Guard, ingress: a TCP packet that cannot be read.
    IngressUnreadable = 9,
    /// Guard, egress: a new connection that goes around the agent.
    EgressNewConnection = 10,
    /// Guard, egress: a pod under STRICT.
    EgressStrict = 11,
    /// Guard, egress: a TCP packet that cannot be read.
    EgressUnreadable = 12,
    /// Events not sent, since a CPU had used up its budget or the ring was full.
    EventsSuppressed = 13,
    /// First packets of the kubelet's connections to pods, let through to the
    /// application: one of every probe, and its repetitions.
    Probe = 14,
    /// Device, egress: TCP that the pod forwards, let through since the pod is not
    /// under STRICT.
    DeviceEgressForwarded = 15,
    /// Device, ingress: TCP that the pod will forward, let through since the pod
    /// is not under STRICT.
    DeviceIngressForwarded = 16,
    /// Device, egress: TCP that the pod forwards, dropped under STRICT.
    DeviceEgressForwardedStrict = 17,
    /// Device, ingress: TCP that the pod would forward, dropped under STRICT.
    DeviceIngressForwardedStrict = 18,
    /// Device, egress: a new connection from a socket that is not the agent's.
    DeviceEgressNewConnection = 19,
    /// Device, egress: data from a socket that is not the agent's, a pod under
    /// STRICT.
    DeviceEgressStrict = 20,
    /// Device, egress: a TCP packet that cannot be read.
    DeviceEgressUnreadable = 21,
    /// Device, ingress: TCP between two addresses of one host, which does not
    /// arrive from outside.
    DeviceIngressLocalAddress = 22,
    /// `connect()` refused: the caller is in a pod's cgroup and in another network
    /// namespace than the pod's.
    RefusedInnerNamespace = 23,
    /// A connection of the agent to an application whose client could not be published; the
    /// agent closes it.
    UnpublishedClient = 24,
}

impl Counter {
    /// How many there are.
    pub const COUNT: usize = 25;

    /// All of them, in the order of their indices.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Redirected,
        Self::RefusedForeignCgroup,
        Self::RefusedNoAddress,
        Self::RefusedNoMemory,
        Self::UnpublishedDestination,
        Self::Inbound,
        Self::InboundNoListener,
        Self::IngressNewConnection,
        Self::IngressStrict,
        Self::IngressUnreadable,
        Self::EgressNewConnection,
        Self::EgressStrict,
        Self::EgressUnreadable,
        Self::EventsSuppressed,
        Self::Probe,
        Self::DeviceEgressForwarded,
        Self::DeviceIngressForwarded,
        Self::DeviceEgressForwardedStrict,
        Self::DeviceIngressForwardedStrict,
        Self::DeviceEgressNewConnection,
        Self::DeviceEgressStrict,
        Self::DeviceEgressUnreadable,
        Self::DeviceIngressLocalAddress,
        Self::RefusedInnerNamespace,
        Self::UnpublishedClient,
    ];

    /// A stable name for output and metric labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Redirected => "redirected",
            Self::RefusedForeignCgroup => "refused_foreign_cgroup",
            Self::RefusedNoAddress => "refused_no_address",
            Self::RefusedNoMemory => "refused_no_memory",
            Self::UnpublishedDestination => "unpublished_destination",
            Self::Inbound => "inbound",
            Self::InboundNoListener => "inbound_no_listener",
            Self::IngressNewConnection => "guard_ingress_new_connection",
            Self::IngressStrict => "guard_ingress_strict",
            Self::IngressUnreadable => "guard_ingress_unreadable",
            Self::EgressNewConnection => "guard_egress_new_connection",
            Self::EgressStrict => "guard_egress_strict",
            Self::EgressUnreadable => "guard_egress_unreadable",
            Self::EventsSuppressed => "events_suppressed",
            Self::Probe => "probe",
            Self::DeviceEgressForwarded => "device_egress_forwarded",
            Self::DeviceIngressForwarded => "device_ingress_forwarded",
            Self::DeviceEgressForwardedStrict => "device_egress_forwarded_strict",
            Self::DeviceIngressForwardedStrict => "device_ingress_forwarded_strict",
            Self::DeviceEgressNewConnection => "device_egress_new_connection",
            Self::DeviceEgressStrict => "device_egress_strict",
            Self::DeviceEgressUnreadable => "device_egress_unreadable",
            Self::DeviceIngressLocalAddress => "device_ingress_local_address",
            Self::RefusedInnerNamespace => "refused_inner_namespace",
            Self::UnpublishedClient => "unpublished_client",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_in_the_order_of_the_indices() {
        for (index, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(*counter as usize, index);
        }
    }
}
