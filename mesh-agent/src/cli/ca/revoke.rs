//! `mesh-agent ca revoke` and `ca restore`.

use clap::Args;

use super::{CaCommandError, DirArgs};
use crate::ca::Reason;
use crate::identity::SpiffeUri;

/// Options of `mesh-agent ca revoke`.
#[derive(Clone, Debug, Args)]
#[group(id = "whom", required = true, multiple = false, args = ["serial", "identity"])]
pub struct RevokeArgs {
    #[command(flatten)]
    dir: DirArgs,
    /// One certificate: its serial number in hex, as `ca list` shows it.
    #[arg(long, value_name = "HEX")]
    serial: Option<String>,
    /// An identity: all its certificates, and every future one until `ca restore`.
    #[arg(long, value_name = "SPIFFE-ID")]
    identity: Option<SpiffeUri>,
    /// Why, for the revocation list.
    #[arg(long, value_enum, default_value_t)]
    reason: Reason,
}

/// Options of `mesh-agent ca restore`.
#[derive(Clone, Debug, Args)]
pub struct RestoreArgs {
    #[command(flatten)]
    dir: DirArgs,
    /// The identity.
    #[arg(long, value_name = "SPIFFE-ID")]
    identity: SpiffeUri,
}

pub(super) fn revoke(args: &RevokeArgs) -> Result<String, CaCommandError> {
    let authority = args.dir.open()?;
    if let Some(id) = &args.identity {
        let done = authority.revoke_identity(id, args.reason)?;
        return Ok(format!(
            "revoked {id}: {} valid certificates; it gets no other\n\
             to undo the latter: mesh-agent ca restore --identity {id}\n",
            done.serials.len()
        ));
    }
    let serial = args.serial.as_deref().unwrap_or_default();
    let done = authority.revoke_serial(serial, args.reason)?;
    Ok(match done.serials.first() {
        Some(serial) => format!(
            "revoked the certificate {serial}\n\
             its holder can get another: mesh-agent ca revoke --identity stops that\n"
        ),
        None => "nothing to do: it was revoked before, or has expired\n".into(),
    })
}

pub(super) fn restore(args: &RestoreArgs) -> Result<String, CaCommandError> {
    args.dir.open()?.restore(&args.identity)?;
    Ok(format!(
        "{} can get certificates again; those that were revoked stay so\n",
        args.identity
    ))
}
