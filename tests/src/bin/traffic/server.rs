//! `traffic serve`: one manner of serving, a thread a connection.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};

use anyhow::Result;

use crate::oneway::{self, Told};
use crate::{bulk, socket};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    manner: Manner,
    /// Where to listen
    #[arg(long, global = true, default_value = "[::]:8080")]
    listen: SocketAddr,
    /// Listen for Multipath TCP too
    #[arg(long, global = true)]
    mptcp: bool,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum Manner {
    /// Sends back what comes, until the client has ended
    Echo,
    /// Says who it is and who it thinks the client is, then waits for the client to close
    Banner {
        /// Who it is
        name: String,
    },
    /// Reads to the end, then tells how many bytes came and their SHA-256
    Sink {
        /// Print `accepted`, and read only when told by SIGUSR1; SIGUSR2: reset instead
        #[arg(long)]
        stall: bool,
    },
    /// Sends this many bytes and closes
    Source {
        /// How many
        bytes: u64,
    },
    /// Accepts, prints `accepted`, and never reads or closes
    Hold,
    /// Sends and ends its own direction at once; reads on, and prints what came
    EndFirst,
    /// Reads one line, then resets the connection
    Reset,
    /// Takes part in `traffic transfer`
    Transfer,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    oneway::await_signals()?;
    let listener = socket::listen(options.listen, options.mptcp)?;
    println!("ready");
    let held = Arc::new(Mutex::new(Vec::new()));
    loop {
        let (stream, from) = match listener.accept() {
            Ok(accepted) => accepted,
            // A client may have gone before it was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => return Err(error.into()),
        };
        let (manner, held) = (options.manner.clone(), held.clone());
        std::thread::Builder::new()
            .stack_size(256 * 1024)
            .spawn(move || {
                if let Err(error) = serve(&manner, stream, from, &held) {
                    println!("error {}", socket::errno_name(&error));
                }
            })?;
    }
}

fn serve(
    manner: &Manner,
    mut stream: TcpStream,
    from: SocketAddr,
    held: &Mutex<Vec<TcpStream>>,
) -> io::Result<()> {
    match manner {
        Manner::Echo => {
            io::copy(&mut stream.try_clone()?, &mut stream)?;
            stream.shutdown(Shutdown::Write)?;
            println!("ended");
        }
        Manner::Banner { name } => {
            let peer = socket::peer_name(&stream).unwrap_or_default();
            let local = socket::local_name(&stream).unwrap_or_default();
            stream.write_all(
                format!("{name} accept={from} peer={peer} local={local}\n").as_bytes(),
            )?;
            // The client closes first, so that it is the one to remember the connection.
            io::copy(&mut stream, &mut io::sink())?;
        }
        Manner::Sink { stall } => {
            if *stall {
                println!("accepted {from}");
                if oneway::told()? == Told::Reset {
                    return socket::reset_on_close(&stream);
                }
            }
            let (count, digest) = oneway::drain(&mut stream)?;
            stream.write_all(format!("{count} {digest}\n").as_bytes())?;
            println!("{count} {digest}");
        }
        Manner::Source { bytes } => bulk::send_pattern(&mut stream, *bytes).map(drop)?,
        Manner::Hold => {
            held.lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .push(stream);
            println!("accepted {from}");
        }
        Manner::EndFirst => {
            stream.write_all(b"first and last\n")?;
            stream.shutdown(Shutdown::Write)?;
            let mut came = String::new();
            stream.read_to_string(&mut came)?;
            println!("came {}", came.trim_end());
        }
        Manner::Reset => {
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line)?;
            socket::reset_on_close(&stream)?;
            drop(stream);
            println!("reset");
        }
        Manner::Transfer => {
            println!("accepted {from}");
            bulk::answer(stream)?;
        }
    }
    Ok(())
}
