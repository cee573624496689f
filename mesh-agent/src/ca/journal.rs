//! The journal of everything that was signed: one JSON object a line, appended
//! and synced before the certificate leaves the authority. All calls are made
//! under the directory's lock.
//!
//! A crash can cut the last line short. Its certificate was never handed out, so
//! the rest of such a line is removed before the next one is written.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::stamp::Stamp;
use super::{CaError, disk};

/// A signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    /// When.
    pub(super) time: Stamp,
    /// Of which certificate: lower-case hex.
    pub(super) serial: String,
    /// The SPIFFE ID in it, or the names of a server.
    pub(super) identity: String,
    /// For whom.
    pub(super) node: String,
    /// Its last second.
    pub(super) not_after: Stamp,
    /// Key identifier of who signed, in hex.
    pub(super) issuer: String,
}

/// Appends a record and syncs it.
pub(super) fn append(path: &Path, record: &Record) -> Result<(), CaError> {
    let is_new = !disk::exists(path)?;
    let file = open(path)?;
    let end = mend(&file, path)?;
    let mut line = serde_json::to_vec(record).map_err(|error| CaError::Io {
        action: "encode a line of",
        path: path.to_owned(),
        source: error.into(),
    })?;
    line.push(b'\n');
    let written = (&file).write_all(&line).and_then(|()| file.sync_data());
    if let Err(error) = written {
        // What was not synced may or may not be there after a crash; here it must
        // not be, since the certificate is withheld. If even this fails, the line
        // is of a certificate that nobody has.
        let _ = file.set_len(end);
        return Err(disk::failed("append to", path)(error));
    }
    if is_new && let Some(dir) = path.parent() {
        disk::sync_dir(dir)?;
    }
    Ok(())
}

/// Removes what a crash left of a line at the end.
pub(super) fn repair(path: &Path) -> Result<(), CaError> {
    if disk::exists(path)? {
        mend(&open(path)?, path)?;
    }
    Ok(())
}

/// Calls `each` for all records, oldest first.
pub(super) fn read(path: &Path, mut each: impl FnMut(Record)) -> Result<(), CaError> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => file.map_err(disk::failed("open", path))?,
    };
    let mut lines = BufReader::new(file);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let length = lines
            .read_until(b'\n', &mut line)
            .map_err(disk::failed("read", path))?;
        if length == 0 {
            break;
        }
        match serde_json::from_slice(&line) {
            Ok(record) => each(record),
            // Cut short by a crash: never handed out.
            Err(_) if !line.ends_with(b"\n") => break,
            Err(_) => {
                return Err(CaError::JournalDamaged {
                    path: path.to_owned(),
                    line: number,
                });
            }
        }
    }
    Ok(())
}

fn open(path: &Path) -> Result<File, CaError> {
    OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(disk::SECRET)
        .open(path)
        .map_err(disk::failed("open", path))
}

/// Makes the file end with a whole line; tells where that is.
fn mend(file: &File, path: &Path) -> Result<u64, CaError> {
    let failed = |action| disk::failed(action, path);
    let length = file.metadata().map_err(failed("inspect"))?.len();
    let mut last = [0];
    if length == 0 {
        return Ok(0);
    }
    file.read_exact_at(&mut last, length - 1)
        .map_err(failed("read"))?;
    if last == *b"\n" {
        return Ok(length);
    }
    let start = start_of_last_line(file, length).map_err(failed("read"))?;
    let mut line = Vec::new();
    let mut reader = file;
    reader
        .seek(SeekFrom::Start(start))
        .and_then(|_| reader.read_to_end(&mut line))
        .map_err(failed("read"))?;
    if serde_json::from_slice::<Record>(&line).is_ok() {
        // Only its end is missing.
        reader.write_all(b"\n").map_err(failed("append to"))?;
        file.sync_data().map_err(failed("sync"))?;
        return Ok(length + 1);
    }
    tracing::warn!(path = %path.display(), bytes = length - start,
        "removing the rest of a line that a crash cut short: its certificate was not handed out");
    file.set_len(start)
        .and_then(|()| file.sync_data())
        .map_err(failed("shorten"))?;
    Ok(start)
}

/// Where the line begins that ends at `length` without a line feed.
fn start_of_last_line(file: &File, length: u64) -> io::Result<u64> {
    const STEP: u64 = 4096;
    let mut end = length;
    let mut buffer = [0; STEP as usize];
    while end > 0 {
        let start = end.saturating_sub(STEP);
        let part = &mut buffer[..(end - start) as usize];
        file.read_exact_at(part, start)?;
        if let Some(at) = part.iter().rposition(|&byte| byte == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}
