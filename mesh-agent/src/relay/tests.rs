//! Two applications, two relays and what is between them, over real sockets.

mod bulk;
mod ends;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_local};

use super::{Meter, RelayEnd, relay_tcp, relay_tunnel};
use crate::budget::{NodeBudget, PodBudget};
use crate::hbone::testing::{Served, client, serve, stream, tcp_pair};
use crate::hbone::{TunnelClient, TunnelSettings};

/// A relay that runs, and what can be done to it.
struct Side {
    meter: Arc<Meter>,
    end: JoinHandle<RelayEnd>,
    cut: oneshot::Sender<()>,
}

/// app — relay — tunnel — relay — app.
struct Chain {
    left: TcpStream,
    right: TcpStream,
    left_side: Side,
    right_side: Side,
    served: Served,
    _client: TunnelClient,
}

fn side<F>(relay: impl FnOnce(Arc<Meter>, oneshot::Receiver<()>) -> F) -> Side
where
    F: Future<Output = RelayEnd> + 'static,
{
    let meter = Arc::new(Meter::default());
    let (cut, cuts) = oneshot::channel();
    let end = spawn_local(relay(meter.clone(), cuts));
    Side { meter, end, cut }
}

fn budget() -> Arc<PodBudget> {
    NodeBudget::unlimited().pod()
}

/// A sender that is dropped does not cut.
async fn when(cuts: oneshot::Receiver<()>) {
    if cuts.await.is_err() {
        std::future::pending().await
    }
}

async fn chain() -> Chain {
    let settings = TunnelSettings::default();
    let (near, far) = tcp_pair().await;
    let mut served = serve(far, &settings);
    let client = client(near, &settings).await;
    let (near, far) = stream(&client, &mut served).await;
    let (left, left_app) = tcp_pair().await;
    let (right, right_app) = tcp_pair().await;
    let left_side = side(async move |meter, cuts| {
        relay_tunnel(left_app, near, &meter, &budget(), when(cuts)).await
    });
    let right_side = side(async move |meter, cuts| {
        relay_tunnel(right_app, far, &meter, &budget(), when(cuts)).await
    });
    Chain {
        left,
        right,
        left_side,
        right_side,
        served,
        _client: client,
    }
}

/// app — relay — app.
async fn plain() -> (TcpStream, TcpStream, Side) {
    let (left, left_app) = tcp_pair().await;
    let (right, right_app) = tcp_pair().await;
    let side = side(async move |meter, cuts| {
        relay_tcp(left_app, right_app, &meter, &budget(), when(cuts)).await
    });
    (left, right, side)
}

/// Reads until an error, which has to be a reset.
async fn assert_reset(app: &mut TcpStream) {
    let mut rest = Vec::new();
    let error = app.read_to_end(&mut rest).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

/// Waits for a reset without reading or writing, which might bring it about.
async fn assert_reset_untouched(app: &TcpStream) {
    app.ready(Interest::ERROR).await.unwrap();
    let error = app.take_error().unwrap().unwrap();
    assert!(super::is_reset(&error), "{error}");
}

/// Returns when `meter` has not moved for so long that nothing on the way can
/// move any more: all tasks run on this thread, and had their turn many times.
async fn stuck(meter: &Meter) {
    let mut last = 0;
    let mut quiet = 0;
    while quiet < 5_000 {
        tokio::task::yield_now().await;
        let now = meter.sent.load(Ordering::Relaxed);
        quiet = if now == last { quiet + 1 } else { 0 };
        last = now;
    }
}

/// Writes until nothing more is taken, and leaves the write hanging.
async fn write_until_stuck(app: &mut TcpStream, meter: &Meter) {
    let write = async {
        let block = vec![1; 64 << 10];
        loop {
            app.write_all(&block).await.unwrap();
        }
    };
    tokio::select! {
        () = write => {}
        () = stuck(meter) => {}
    }
}
