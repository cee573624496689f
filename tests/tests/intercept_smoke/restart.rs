//! The agent goes and comes back: what is pinned holds, and is taken over.

use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};

use mesh_agent::intercept::{InterceptError, Interceptor, features};

use crate::bed::{Bed, OUT_V4, OUT_V6, POD_V4, POD_V6, addr};

fn kind_of(result: std::io::Result<TcpStream>) -> String {
    match result {
        Ok(_) => "connected".to_owned(),
        Err(error) => format!("{:?}", error.kind()),
    }
}

#[test]
fn without_an_agent_everything_is_refused_and_the_next_one_takes_over() {
    let mut bed = Bed::new("restart");
    bed.enrol(&[POD_V4, POD_V6], true);
    let server = bed.outside.run(|| TcpListener::bind("[::]:0").unwrap());
    let port = server.local_addr().unwrap().port();
    let before = bed.interceptor().attachments();
    assert!(before.iter().all(|link| link.attached), "{before:?}");
    let pods = bed.interceptor().kernel_pods().unwrap();
    let [pod] = &pods[..] else { panic!("{pods:?}") };
    assert!(pod.redirected && pod.guarded && pod.strict);
    assert!(pod.slots.len() == 2 && pod.slots.iter().all(|slot| slot.listener.is_some()));
    let link = pod.lookup.unwrap();
    assert!(link.current && link.attached);

    // The agent is killed: its descriptors are closed and nothing else happens.
    bed.interceptor = None;
    bed.listener = None;
    for ip in [OUT_V4, OUT_V6] {
        let app = bed.app(|| kind_of(TcpStream::connect(addr(ip, port))));
        assert_eq!(app.says(), "ConnectionRefused");
    }
    for ip in [POD_V4, POD_V6] {
        let refused = bed
            .outside
            .run(|| TcpStream::connect(addr(ip, 80)).unwrap_err());
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    }

    let interceptor = Interceptor::open(&bed.options).unwrap();
    let pods = interceptor.kernel_pods().unwrap();
    let [pod] = &pods[..] else { panic!("{pods:?}") };
    assert!(pod.redirected && pod.guarded && pod.strict);
    assert!(
        pod.slots.iter().all(|slot| slot.listener.is_none()),
        "{pod:?}"
    );
    // The same link, with the new agent's program.
    let adopted = pod.lookup.unwrap();
    assert_eq!(adopted.link_id, link.link_id);
    assert!(adopted.current && adopted.prog_id != link.prog_id);
    let after = interceptor.attachments();
    let pinned = before.len() - 1;
    for (old, new) in before.iter().zip(&after).take(pinned) {
        assert_eq!((&old.name, old.link_id), (&new.name, new.link_id));
        assert_ne!(old.prog_id, new.prog_id);
        assert_eq!((&old.prog_name, &old.tag), (&new.prog_name, &new.tag));
    }
    bed.interceptor = Some(interceptor);
    bed.enrol(&[POD_V4, POD_V6], true);
    let app = bed.app(|| kind_of(TcpStream::connect(addr(OUT_V4, port))));
    let (accepted, _) = bed.listener().accept().unwrap();
    let found = bed
        .interceptor()
        .original_destination(std::os::fd::AsFd::as_fd(&accepted));
    assert_eq!(found.unwrap().0.0, addr(OUT_V4, port));
    assert_eq!(app.says(), "connected");
}

#[test]
fn an_address_belongs_to_one_pod_and_the_pod_to_the_pods_cgroup() {
    use mesh_agent::intercept::Enrolment;
    use std::os::fd::AsFd;
    let mut bed = Bed::new("taken");
    bed.enrol(&[POD_V4], false);
    let listener = bed.outside.run(|| TcpListener::bind("[::]:0").unwrap());
    let own = [addr(POD_V4, 0).ip()];
    let mut other = Enrolment {
        netns: bed.outside.0.as_fd(),
        netns_cookie: bed.outside.cookie(),
        cgroup: &bed.other_cgroup.0,
        addresses: &own,
        listener: listener.as_fd(),
        port: listener.local_addr().unwrap().port(),
        strict: false,
    };
    let error = bed.interceptor().enrol(&other).unwrap_err();
    let InterceptError::AddressTaken { taken_by, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(taken_by, bed.cookie);
    let free = [addr(OUT_V4, 0).ip()];
    other.addresses = &free;
    other.cgroup = &bed.cgroup.0;
    let error = bed.interceptor().enrol(&other).unwrap_err();
    assert!(
        matches!(error, InterceptError::CgroupTaken { .. }),
        "{error}"
    );
    let root = crate::bed::cgroup_root();
    other.cgroup = &root;
    let error = bed.interceptor().enrol(&other).unwrap_err();
    assert!(
        matches!(error, InterceptError::OutsidePodsCgroup { .. }),
        "{error}"
    );
    // Released, the address is free for another pod.
    bed.interceptor().release(bed.cookie).unwrap();
    other.addresses = &own;
    other.cgroup = &bed.other_cgroup.0;
    bed.interceptor().enrol(&other).unwrap();
    assert_eq!(bed.interceptor().kernel_pods().unwrap().len(), 1);
}

#[test]
fn what_is_left_of_a_pod_whose_namespace_is_gone_is_released() {
    let mut bed = Bed::new("gone");
    bed.enrol(&[POD_V4, POD_V6], true);
    bed.listener = None;
    // An agent holds sockets in the namespaces of its pods, until it ends.
    bed.interceptor = None;
    bed.pod = crate::bed::Netns::new();
    bed.interceptor = Some(Interceptor::open(&bed.options).unwrap());
    // The kernel takes a namespace apart in the background.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let attached = |bed: &Bed| {
        let pods = bed.interceptor().kernel_pods().unwrap();
        pods[0].lookup.unwrap().attached
    };
    while attached(&bed) && std::time::Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert!(!attached(&bed), "the link outlives its namespace");
    // An agent that starts now must not stumble over it.
    bed.interceptor = None;
    bed.interceptor = Some(Interceptor::open(&bed.options).unwrap());
    bed.interceptor().release(bed.cookie).unwrap();
    assert_eq!(bed.interceptor().kernel_pods().unwrap(), []);
}

#[test]
fn pins_of_another_cgroup_are_not_taken_over() {
    let bed = Bed::new("other");
    let mut options = bed.options.clone();
    options.pods_cgroup = bed.other_cgroup.0.clone();
    let error = Interceptor::open(&options).unwrap_err();
    assert!(
        matches!(error, InterceptError::OtherPodsCgroup { .. }),
        "{error}"
    );
    options.pin_dir = std::path::PathBuf::from("/tmp/isthmus-not-bpffs");
    let error = Interceptor::open(&options).unwrap_err();
    assert!(matches!(error, InterceptError::NotBpffs(_)), "{error}");
    assert!(!options.pin_dir.exists());
}

#[test]
fn every_needed_feature_is_found_where_the_mesh_works() {
    let bed = Bed::new("features");
    for feature in features::probe(&bed.options.pods_cgroup, &bed.options.pin_dir) {
        println!("{feature:?}");
        assert!(feature.present || !feature.needed, "{feature:?}");
    }
}

#[test]
fn a_farewell_leaves_nothing_and_a_superseded_agent_cannot_say_it() {
    let mut bed = Bed::new("farewell");
    bed.enrol(&[POD_V4, POD_V6], true);
    let server = bed.outside.run(|| TcpListener::bind("[::]:0").unwrap());
    let port = server.local_addr().unwrap().port();
    let newer = Interceptor::open(&bed.options).unwrap();
    assert!(!bed.interceptor().remove().unwrap(), "superseded");
    let attached = newer.attachments();
    assert!(attached.iter().all(|link| link.attached), "{attached:?}");
    let pods = newer.kernel_pods().unwrap();
    let [pod] = &pods[..] else { panic!("{pods:?}") };
    assert!(pod.redirected && pod.guarded);

    assert!(newer.remove().unwrap());
    assert!(!bed.options.pin_dir.exists());
    // Both agents are still there, and hold their descriptors.
    for ip in [OUT_V4, OUT_V6] {
        let app = bed.app(|| kind_of(TcpStream::connect(addr(ip, port))));
        assert_eq!(app.says(), "connected");
        let (_, peer) = server.accept().unwrap();
        let peer = mesh_agent::addr::canonical(peer).ip().to_string();
        assert!([POD_V4, POD_V6].contains(&peer.as_str()), "{peer}");
    }
    for ip in [POD_V4, POD_V6] {
        let app = bed.pod.run(|| TcpListener::bind(addr(ip, 0)).unwrap());
        let to = app.local_addr().unwrap();
        let stream = bed.outside.run(|| TcpStream::connect(to).unwrap());
        let (_, peer) = app.accept().unwrap();
        assert_eq!(peer, stream.local_addr().unwrap());
    }
}
