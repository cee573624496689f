//! `mesh-agent ca issue`: a certificate by hand.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject;

use super::{CaCommandError, DirArgs};
use crate::ca::{Requester, make_request, pem};
use crate::identity::SpiffeId;
use crate::identity::clock::display;

/// Options of `mesh-agent ca issue`.
#[derive(Clone, Debug, Args)]
pub struct IssueArgs {
    #[command(flatten)]
    dir: DirArgs,
    /// Whom to certify: spiffe://DOMAIN/ns/NAMESPACE/sa/ACCOUNT.
    #[arg(long, value_name = "SPIFFE-ID")]
    identity: SpiffeId,
    /// Where to put chain.pem, roots.pem and, unless it is elsewhere, key.pem.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// A request in PEM; its key stays where it is. Without one, a key is made.
    #[arg(long, value_name = "FILE")]
    csr: Option<PathBuf>,
    /// Seconds of validity, at most 86400.
    #[arg(long, value_name = "SECONDS", default_value_t = 86_400,
          value_parser = clap::value_parser!(u64).range(60..=86_400))]
    lifetime: u64,
    /// For whom, in the journal.
    #[arg(long, value_name = "NAME", default_value = "by hand")]
    node: String,
}

pub(super) fn issue(args: &IssueArgs) -> Result<String, CaCommandError> {
    let authority = args.dir.open()?;
    let refused = |source| CaCommandError::Sign {
        id: args.identity.clone(),
        source,
    };
    let (request, key) = match &args.csr {
        Some(path) => (read_request(path)?, None),
        None => {
            let (request, key) =
                make_request(&args.identity).map_err(|error| refused(error.into()))?;
            (request, Some(key))
        }
    };
    let to = Requester {
        node: args.node.as_str().into(),
    };
    fs::create_dir_all(&args.out).map_err(file("create", &args.out))?;
    let lifetime = Some(Duration::from_secs(args.lifetime));
    let signed = authority
        .sign(&request, &args.identity, &to, lifetime)
        .map_err(refused)?;
    let at = |name: &str| args.out.join(name);
    if let Some(key) = key {
        write(&at("key.pem"), &key, 0o600)?;
    }
    write(&at("chain.pem"), &pem::chain(&signed.chain), 0o644)?;
    write(&at("roots.pem"), &pem::chain(&signed.roots), 0o644)?;
    Ok(format!(
        "{}\nissued to {} until {}, in {}\nto take it back: mesh-agent ca revoke --serial {}\n",
        signed.serial,
        args.identity,
        display(signed.not_after),
        args.out.display(),
        signed.serial
    ))
}

fn read_request(path: &Path) -> Result<Vec<u8>, CaCommandError> {
    let text = fs::read(path).map_err(file("read", path))?;
    CertificateSigningRequestDer::from_pem_slice(&text)
        .map(|request| request.to_vec())
        .map_err(|_| CaCommandError::Unreadable {
            path: path.to_owned(),
            expected: "a certificate signing request in PEM",
        })
}

/// Replaces a file, so that one that was open to others does not stay so.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), CaCommandError> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    // A leftover; that there is none is the rule.
    let _ = fs::remove_file(&new);
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&new)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| fs::rename(&new, path))
        .map_err(file("write", path))
}

fn file(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> CaCommandError {
    let path = path.to_owned();
    move |source| CaCommandError::File {
        action,
        path,
        source,
    }
}
