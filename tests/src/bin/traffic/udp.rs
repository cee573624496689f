//! UDP, which the mesh leaves alone.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::Result;
use serde_json::json;

pub(crate) fn serve(listen: SocketAddr) -> Result<()> {
    let socket = UdpSocket::bind(listen)?;
    println!("ready");
    let mut buffer = [0; 2048];
    loop {
        let (length, from) = socket.recv_from(&mut buffer)?;
        println!("from {from}");
        socket.send_to(&buffer[..length], from)?;
    }
}

pub(crate) fn ask(to: SocketAddr) -> Result<()> {
    let any: SocketAddr = if to.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(Duration::from_secs(20)))?;
    socket.send(b"question")?;
    let mut buffer = [0; 2048];
    let answer = socket
        .recv(&mut buffer)
        .map(|length| String::from_utf8_lossy(&buffer[..length]).into_owned());
    println!(
        "{}",
        json!({"getpeername": socket.peer_addr()?.to_string(), "read": answer.as_ref().ok(), "error": answer.as_ref().err().map(ToString::to_string)})
    );
    Ok(())
}
