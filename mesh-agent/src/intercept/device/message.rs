//! Messages of rtnetlink(7) and tc: built and read as bytes, without a socket.

/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// `struct tcmsg`.
const TC: usize = 20;
/// `struct ifinfomsg`.
const LINK: usize = 16;

const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const EXCL: u16 = 0x200;
const CREATE: u16 = 0x400;
const DUMP: u16 = 0x300;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;
const RTM_GETTFILTER: u16 = 46;

const IFLA_IFNAME: u16 = 3;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_CLASSID: u16 = 3;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_ID: u16 = 11;
/// `TCA_BPF_FLAG_ACT_DIRECT`: the program's answer is the verdict.
const ACT_DIRECT: u32 = 1;

const IFF_LOOPBACK: u32 = 0x8;
/// `TC_H_CLSACT`, parent and handle of the qdisc that holds filters of both directions.
const CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
/// Every protocol; network order in the message.
const ETH_P_ALL: u16 = 3;
/// First of all filters of the device.
const PRIORITY: u32 = 1;
/// Handle of the agent's filters: "isth".
const HANDLE: u32 = 0x6973_7468;

/// Which packets of a device a filter sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Ingress,
    Egress,
}

impl Side {
    pub(super) const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

    fn parent(self) -> u32 {
        match self {
            Self::Ingress => 0xffff_fff2,
            Self::Egress => 0xffff_fff3,
        }
    }
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: i32,
    pub(super) name: String,
    pub(super) loopback: bool,
}

/// A filter of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Filter {
    pub(super) handle: u32,
    pub(super) priority: u32,
    pub(super) class_id: u32,
    pub(super) prog_id: u32,
    pub(super) direct: bool,
}

impl Filter {
    /// Whether it is in the agent's place.
    pub(super) fn is_agents(&self) -> bool {
        self.handle == HANDLE && self.priority == PRIORITY
    }
}

/// One message of the kernel's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Link(Link),
    Filter(Filter),
    Done,
    /// An errno; 0 is success.
    Error(i32),
    Unknown,
}

/// Asks for all interfaces of the namespace.
pub(super) fn list_links(sequence: u32) -> Vec<u8> {
    request(RTM_GETLINK, DUMP, sequence, &[0; LINK])
}

/// Asks for a device's filters of one direction.
pub(super) fn list_filters(sequence: u32, index: i32, side: Side) -> Vec<u8> {
    request(
        RTM_GETTFILTER,
        DUMP,
        sequence,
        &tc(index, 0, side.parent(), 0),
    )
}

/// Makes the place of a device's filters; EEXIST when it is there.
pub(super) fn add_clsact(sequence: u32, index: i32) -> Vec<u8> {
    let body = [tc(index, CLSACT_HANDLE, CLSACT, 0), clsact_kind()].concat();
    request(RTM_NEWQDISC, ACK | CREATE | EXCL, sequence, &body)
}

/// Removes the place of a device's filters, with what is in it.
pub(super) fn delete_clsact(sequence: u32, index: i32) -> Vec<u8> {
    let body = [tc(index, CLSACT_HANDLE, CLSACT, 0), clsact_kind()].concat();
    request(RTM_DELQDISC, ACK, sequence, &body)
}

/// Puts a program into the agent's place, or in the place of the one that is there, without
/// an instant in between.
pub(super) fn set_filter(
    sequence: u32,
    index: i32,
    side: Side,
    program: u32,
    name: &str,
    class_id: u32,
) -> Vec<u8> {
    let options = [
        number(TCA_BPF_CLASSID, class_id),
        number(TCA_BPF_FD, program),
        text(TCA_BPF_NAME, name),
        number(TCA_BPF_FLAGS, ACT_DIRECT),
    ]
    .concat();
    let body = [
        tc(index, HANDLE, side.parent(), info()),
        text(TCA_KIND, "bpf"),
        attribute(TCA_OPTIONS, &options),
    ]
    .concat();
    request(RTM_NEWTFILTER, ACK | CREATE, sequence, &body)
}

/// Removes the agent's filter of one direction.
pub(super) fn delete_filter(sequence: u32, index: i32, side: Side) -> Vec<u8> {
    let body = [
        tc(index, HANDLE, side.parent(), info()),
        text(TCA_KIND, "bpf"),
    ]
    .concat();
    request(RTM_DELTFILTER, ACK, sequence, &body)
}

/// Priority and protocol of the agent's filters, as `tcm_info` holds them.
fn info() -> u32 {
    PRIORITY << 16 | u32::from(ETH_P_ALL.to_be())
}

fn clsact_kind() -> Vec<u8> {
    text(TCA_KIND, "clsact")
}

fn tc(index: i32, handle: u32, parent: u32, info: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    body.extend(index.to_ne_bytes());
    for word in [handle, parent, info] {
        body.extend(word.to_ne_bytes());
    }
    body
}

fn request(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER + body.len());
    message.extend(((HEADER + body.len()) as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((REQUEST | flags).to_ne_bytes());
    message.extend(sequence.to_ne_bytes());
    message.extend(0u32.to_ne_bytes());
    message.extend(body);
    message
}

fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_ne_bytes())
}

fn text(kind: u16, value: &str) -> Vec<u8> {
    attribute(kind, &[value.as_bytes(), &[0]].concat())
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut attribute = Vec::with_capacity(4 + value.len() + 3);
    attribute.extend((4 + value.len() as u16).to_ne_bytes());
    attribute.extend(kind.to_ne_bytes());
    attribute.extend(value);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}

/// The messages in what one read has brought that answer the request of this number. What is
/// cut short ends the list.
pub(super) fn replies(bytes: &[u8], sequence: u32) -> impl Iterator<Item = Reply> + '_ {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        loop {
            let length = u32::from_ne_bytes(array(rest, 0)?) as usize;
            let kind = u16::from_ne_bytes(array(rest, 4)?);
            let answers = u32::from_ne_bytes(array(rest, 8)?);
            let body = rest.get(HEADER..length)?;
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
            if answers == sequence {
                return Some(reply(kind, body));
            }
        }
    })
}

fn reply(kind: u16, body: &[u8]) -> Reply {
    match kind {
        NLMSG_DONE => Reply::Done,
        NLMSG_ERROR => array(body, 0).map_or(Reply::Unknown, |errno| {
            Reply::Error(i32::from_ne_bytes(errno).saturating_neg())
        }),
        RTM_NEWLINK => link(body).map_or(Reply::Unknown, Reply::Link),
        RTM_NEWTFILTER => filter(body).map_or(Reply::Unknown, Reply::Filter),
        _ => Reply::Unknown,
    }
}

fn link(body: &[u8]) -> Option<Link> {
    let index = i32::from_ne_bytes(array(body, 4)?);
    let flags = u32::from_ne_bytes(array(body, 8)?);
    let name = find(body.get(LINK..)?, IFLA_IFNAME).unwrap_or_default();
    Some(Link {
        index,
        name: String::from_utf8_lossy(name)
            .trim_end_matches('\0')
            .to_owned(),
        loopback: flags & IFF_LOOPBACK != 0,
    })
}

/// `None` also for the head of a list of filters, which has the handle 0, and for filters
/// that are no programs.
fn filter(body: &[u8]) -> Option<Filter> {
    let handle = u32::from_ne_bytes(array(body, 8)?);
    let info = u32::from_ne_bytes(array(body, 16)?);
    let attributes = body.get(TC..)?;
    if handle == 0 {
        return None;
    }
    let options = find(attributes, TCA_OPTIONS).unwrap_or_default();
    let word = |kind| find(options, kind).and_then(|it| array(it, 0).map(u32::from_ne_bytes));
    Some(Filter {
        handle,
        priority: info >> 16,
        class_id: word(TCA_BPF_CLASSID).unwrap_or(0),
        prog_id: word(TCA_BPF_ID).unwrap_or(0),
        direct: word(TCA_BPF_FLAGS).unwrap_or(0) & ACT_DIRECT != 0,
    })
}

/// The value of the first attribute of this kind.
fn find(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    /// `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER` are not part of the kind.
    const KIND: u16 = 0x3fff;
    loop {
        let length = usize::from(u16::from_ne_bytes(array(attributes, 0)?));
        let value = attributes.get(4..length)?;
        if u16::from_ne_bytes(array(attributes, 2)?) & KIND == kind {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
        request(kind, 0, sequence, body)
    }

    fn eth0() -> Vec<u8> {
        let mut body = vec![0; LINK];
        body[4..8].copy_from_slice(&7i32.to_ne_bytes());
        body.extend(number(4, 1500));
        body.extend(text(IFLA_IFNAME, "eth0"));
        body
    }

    #[test]
    fn replies_reads_links_until_the_end_of_the_list() {
        let bytes = [
            message(RTM_NEWLINK, 9, &eth0()),
            message(NLMSG_DONE, 9, &[0; 4]),
        ]
        .concat();
        let link = Link {
            index: 7,
            name: "eth0".to_owned(),
            loopback: false,
        };
        let read: Vec<_> = replies(&bytes, 9).collect();
        assert_eq!(read, [Reply::Link(link), Reply::Done]);
    }

    #[test]
    fn replies_leaves_out_answers_to_other_requests() {
        let bytes = [
            message(NLMSG_DONE, 8, &[0; 4]),
            message(NLMSG_ERROR, 9, &(-libc::EEXIST).to_ne_bytes()),
        ]
        .concat();
        let read: Vec<_> = replies(&bytes, 9).collect();
        assert_eq!(read, [Reply::Error(libc::EEXIST)]);
    }

    #[test]
    fn replies_reads_a_filter_as_it_was_set() {
        let set = set_filter(3, 7, Side::Egress, 5, "isthmus_dev_out", 12);
        let body = &set[HEADER..];
        let bytes = message(RTM_NEWTFILTER, 3, body);
        let [Reply::Filter(filter)] = &replies(&bytes, 3).collect::<Vec<_>>()[..] else {
            panic!("no filter");
        };
        assert!(filter.is_agents() && filter.direct);
        assert_eq!(filter.class_id, 12);
    }

    #[test]
    fn replies_stops_at_what_is_cut_short() {
        let bytes = message(RTM_NEWLINK, 9, &eth0());
        for length in 0..bytes.len() {
            assert_eq!(replies(&bytes[..length], 9).count(), 0, "{length}");
        }
        let mut looping = bytes;
        looping[0..4].copy_from_slice(&0u32.to_ne_bytes());
        assert_eq!(replies(&looping, 9).count(), 0);
    }

    #[test]
    fn find_ends_at_an_attribute_of_no_length() {
        assert_eq!(find(&[0; 8], 1), None);
    }
}
