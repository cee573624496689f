//! Real handshakes over an in-memory pipe: the mesh's own ends against each
//! other, and against peers that do as they please.

mod agreed;
mod chains;
mod domains;
mod id_forms;
mod intermediates;
mod leaves;
mod names;
mod openssl;
mod peers;
mod revocation;
mod rotation;
mod settings;
mod strangers;

use rustls::{AlertDescription, HandshakeKind, NamedGroup, ServerConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::*;
use crate::identity::fixtures::{
    DAY, HOUR, TestCa, ca_params, epoch, id, leaf_params, self_signed,
};
use crate::identity::{PeerIdentityError, leaf_identity};
use peers::{RawClient, RawServer, credential, credential_at, versions};

const PIPE: usize = 64 * 1024;

/// Both ends' views of a handshake between two credentials.
async fn handshake(
    server: &Credential,
    client: &Credential,
    expected: &SpiffeId,
) -> (
    Result<Session, HandshakeFailure>,
    Result<Session, HandshakeFailure>,
) {
    let (near, far) = duplex(PIPE);
    let accepted = async { Ok(accept(server, far).await?.session) };
    let connected = async {
        let mut secured = connect(client, expected, near).await?;
        // The server's verdict on our certificate comes with the first read.
        match secured.stream.read_u8().await {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(secured.session),
            Err(error) => Err(handshake_failure(&error)),
            Ok(byte) => panic!("nobody sent {byte}"),
        }
    };
    tokio::join!(accepted, connected)
}
