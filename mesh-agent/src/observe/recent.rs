//! The connections that ended last, so that `mesh-agent explain` can tell of one that a
//! log line names. Bounded, and sharded like the live table.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::access::Record;
use super::live::ConnectionId;

/// Connections kept over all shards. Ids count up, so every shard holds its share.
const KEPT: usize = 4096;
const SHARDS: usize = 64;

/// The last connections that ended.
#[derive(Debug)]
pub(super) struct Recent {
    shards: Box<[Mutex<VecDeque<Record>>]>,
}

impl Recent {
    pub(super) fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
        }
    }

    /// Keeps a connection, in the place of the one that ended the longest ago.
    pub(super) fn keep(&self, record: Record) {
        let mut shard = self.shard(record.connection.id());
        let oldest = if shard.len() >= KEPT / SHARDS {
            shard.pop_front()
        } else {
            None
        };
        shard.push_back(record);
        drop(shard);
        drop(oldest);
    }

    pub(super) fn get(&self, id: ConnectionId) -> Option<Record> {
        let shard = self.shard(id);
        shard.iter().find(|it| it.connection.id() == id).cloned()
    }

    fn shard(&self, id: ConnectionId) -> MutexGuard<'_, VecDeque<Record>> {
        let shard = &self.shards[id.0 as usize % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
