//! A server whose machine goes without a word: no FIN, no RST, no acknowledgement.

use std::sync::{Arc, Mutex};

use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kube::client::Body;
use kube::{Client, Config};
use nix::libc;
use socket2::{SockFilter, SockRef};
use tokio::net::TcpListener;
use tower_service::Service;

use super::*;
use crate::kubernetes::{Liveness, Retries, client_with};

/// As short as the kernel's timers go.
const LIVENESS: Liveness = Liveness {
    connect: Duration::from_secs(10),
    idle: Duration::from_secs(1),
    interval: Duration::from_secs(1),
    limit: Duration::from_secs(2),
};

/// Serves `fake` over TCP. Its connections go to the list, for [`vanish`].
async fn serve(fake: &Fake) -> (Client, Arc<Mutex<Vec<std::net::TcpStream>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let open = Arc::new(Mutex::new(Vec::new()));
    let (fake, kept) = (fake.clone(), Arc::clone(&open));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let stream = stream.into_std().unwrap();
            kept.lock().unwrap().push(stream.try_clone().unwrap());
            let stream = tokio::net::TcpStream::from_std(stream).unwrap();
            let fake = fake.clone();
            let answer = service_fn(move |request: Request<Incoming>| {
                fake.clone().call(request.map(|_| Body::empty()))
            });
            let http = hyper::server::conn::http1::Builder::new();
            tokio::spawn(http.serve_connection(TokioIo::new(stream), answer));
        }
    });
    let config = Config::new(format!("http://{address}").parse().unwrap());
    let client = client_with(config, LIVENESS, Retries::Caller).unwrap();
    (client, open)
}

/// From now on nothing that is sent to these sockets arrives, not even to be acknowledged.
fn vanish(sockets: &[std::net::TcpStream]) {
    let nothing = [SockFilter::new(
        (libc::BPF_RET | libc::BPF_K) as u16,
        0,
        0,
        0,
    )];
    for socket in sockets {
        SockRef::from(socket).attach_filter(&nothing).unwrap();
    }
}

#[tokio::test]
async fn a_watch_whose_server_vanishes_is_noticed_and_begun_anew() {
    let fake = Fake::new();
    fake.put(NAMESPACES, namespace("shop", json!({})));
    fake.put(PODS, pod("web", "10.0.0.1"));
    let (client, sockets) = serve(&fake).await;
    let cgroups = tempfile::tempdir().unwrap();
    let sandboxes = Sandboxes::new(cgroups.path().to_owned());
    let mut source = KubeSource::open(client, "node-a", sandboxes).await.unwrap();
    assert_eq!(names(&source.changed().await), ["web"]);
    let health = source.health();
    assert_eq!(health.away(), None);
    let mut turns = health.turns();

    vanish(&std::mem::take(&mut *sockets.lock().unwrap()));
    // By itself `kube` looks after 295 s.
    let bounded = tokio::time::timeout(Duration::from_secs(60), turns.changed());
    bounded.await.expect("it was not noticed").unwrap();
    let kinds = health.kinds();
    let errors: Vec<_> = kinds.iter().filter_map(|it| it.error.as_deref()).collect();
    assert!(
        errors.iter().any(|it| it.contains("timed out")),
        "{errors:?}"
    );
    // New connections reach it. What was told to the lost ones is not in any event.
    fake.put(PODS, pod("late", "10.0.0.5"));
    fake.forget(PODS);
    until(&mut source, |it| names(it) == ["late", "web"]).await;
}
