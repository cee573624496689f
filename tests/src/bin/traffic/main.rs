//! Servers and clients that behave badly, or well in unusual ways, on demand.
//!
//! Tests run it inside pods. Servers print `ready` when they listen; clients print one JSON
//! object and succeed also when the connection failed: the object tells.

mod abandon;
mod bulk;
mod client;
mod flood;
mod many;
mod oneway;
mod raw;
mod server;
mod socket;
mod talk;
mod udp;

use std::net::{SocketAddr, SocketAddrV4};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Traffic for the tests of the mesh")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serves TCP in one of several manners
    Serve(server::Options),
    /// Opens one connection and tells all about it
    Connect(Box<client::Options>),
    /// Opens many connections from many threads, and checks where each one arrived
    Flood(flood::Options),
    /// Opens connections and resets each at once
    Abandon(abandon::Options),
    /// Sends bytes both ways at once to a `transfer` server, and compares SHA-256
    Transfer(bulk::Options),
    /// Keeps one connection open to an `echo` server, and asks at each SIGUSR1
    Talk(talk::Options),
    /// Sends bytes to a `sink` server, and compares SHA-256
    Upload(oneway::Upload),
    /// Receives bytes from a `source` server, and compares SHA-256
    Download(oneway::Download),
    /// Keeps many connections open to an `echo` server
    Idle(many::Idle),
    /// Sends bytes on many connections at once to a `sink` server, and compares SHA-256
    Uploads(many::Uploads),
    /// Measures echo latency on one connection to an `echo` server
    Pingpong(client::Pingpong),
    /// Answers UDP datagrams
    UdpEcho {
        /// Where to listen
        #[arg(long)]
        listen: SocketAddr,
    },
    /// Sends one datagram from a connected UDP socket and awaits the answer
    Udp {
        /// Where to
        to: SocketAddr,
    },
    /// Sends one TCP SYN of IPv4 in a frame of its own, from a packet socket on eth0
    FrameSyn {
        /// Where to
        to: SocketAddrV4,
    },
    /// Sends one TCP SYN from a raw socket
    RawSyn {
        /// Where to
        to: SocketAddr,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Serve(options) => server::run(&options),
        Command::Connect(options) => client::run(&options),
        Command::Flood(options) => flood::run(&options),
        Command::Abandon(options) => abandon::run(&options),
        Command::Transfer(options) => bulk::run(&options),
        Command::Talk(options) => talk::run(&options),
        Command::Upload(options) => oneway::upload(&options),
        Command::Download(options) => oneway::download(&options),
        Command::Idle(options) => many::idle(&options),
        Command::Uploads(options) => many::uploads(&options),
        Command::Pingpong(options) => client::pingpong(&options),
        Command::UdpEcho { listen } => udp::serve(listen),
        Command::Udp { to } => udp::ask(to),
        Command::FrameSyn { to } => raw::send_frame(to),
        Command::RawSyn { to } => raw::send_syn(to),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("traffic: {error:#}");
            ExitCode::FAILURE
        }
    }
}
