//! From the application into the tunnel.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use tokio::net::TcpStream;

use super::buffer::{ReadSize, SMALLEST, read_available};
use super::{Meter, RelayCause, app_failure};
use crate::budget::PodBudget;
use crate::hbone::TunnelWrite;

/// Relays until the application has finished, and tells the peer so. Reads
/// only what the tunnel has promised to take, so it holds nothing back itself.
pub(super) async fn run(
    app: &TcpStream,
    tunnel: &mut TunnelWrite,
    meter: &Meter,
    budget: &Arc<PodBudget>,
) -> Result<(), RelayCause> {
    let mut size = ReadSize::new();
    loop {
        readable(app, tunnel).await?;
        // Near the pod's limit a stream queues one small piece at a time.
        let credit = match budget.is_pressed() {
            true => tunnel.ready_alone(SMALLEST).await?,
            false => tunnel.ready(size.get()).await?,
        };
        let asked = credit.len();
        let filled = match read_available(app, asked) {
            Ok(filled) => filled,
            Err(error) => return Err(app_failure(error)),
        };
        let got = filled.data.len();
        if got == 0 {
            tunnel.give_back(credit);
        } else {
            size.learn(got, asked);
            let mut queued = budget.buffered();
            queued.add(got);
            tunnel.send_accounted(credit, filled.data, queued)?;
            meter.add_sent(got as u64);
        }
        if filled.end {
            return Ok(tunnel.finish()?);
        }
    }
}

/// Waits for the application to send, and watches for the peer's reset, which
/// nothing else would notice once the peer has finished sending.
async fn readable(app: &TcpStream, tunnel: &mut TunnelWrite) -> Result<(), RelayCause> {
    poll_fn(|cx| {
        if let Poll::Ready(error) = tunnel.poll_reset(cx) {
            return Poll::Ready(Err(error.into()));
        }
        app.poll_read_ready(cx).map_err(app_failure)
    })
    .await
}
