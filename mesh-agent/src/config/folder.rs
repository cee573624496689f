//! The source itself: waits for a change, reads what changed, makes the world.
//! Owned by the agent's control loop.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::task::JoinHandle;

use super::cache::Cache;
use super::source::{ConfigError, Loaded};
use super::watch::Watch;
use crate::model::{self, Objects, World};

/// A folder as nobody's node sees it, with the objects that it was made of.
#[derive(Clone, Debug)]
pub struct Offline {
    /// The objects, by file.
    pub sources: Vec<Objects>,
    /// What they make.
    pub loaded: Loaded,
}

/// Stands for a node where there is none: no pod can be scheduled to it.
const NO_NODE: &str = "(no node)";

/// Reads a folder once, for the tools that look at configuration without an agent.
///
/// # Errors
/// When the directory cannot be listed; what is wrong in it is among the problems.
pub fn read_folder(dir: &Path) -> Result<Offline, ConfigError> {
    std::fs::read_dir(dir).map_err(|source| ConfigError::Directory {
        dir: dir.to_owned(),
        source,
    })?;
    let reader = Box::new(Reader {
        cache: Cache::new(dir.to_owned()),
        node: NO_NODE.to_owned(),
        world: None,
    });
    let (reader, loaded) = reader.read();
    Ok(Offline {
        sources: reader.cache.objects().cloned().collect(),
        // The first reading always has something to say.
        loaded: loaded.expect("a first reading is different from none"),
    })
}

/// A watched folder of configuration.
pub struct FolderSource {
    watch: Watch,
    /// Away while a reading is under way.
    reader: Option<Box<Reader>>,
    /// Kept here and not in the future, so that dropping the future loses nothing.
    reading: Option<JoinHandle<(Box<Reader>, Option<Loaded>)>>,
}

impl FolderSource {
    /// Opens a folder as the agent of `node` sees it. To be called in a tokio runtime.
    ///
    /// # Errors
    /// When the directory cannot be listed or watched; what is in it is not looked at.
    pub fn open(dir: &Path, node: &str) -> Result<Self, ConfigError> {
        let directory = |source| ConfigError::Directory {
            dir: dir.to_owned(),
            source,
        };
        std::fs::read_dir(dir).map_err(directory)?;
        let watch = Watch::new(dir).map_err(|source| ConfigError::Watch {
            dir: dir.to_owned(),
            source,
        })?;
        let reader = Reader {
            cache: Cache::new(dir.to_owned()),
            node: node.to_owned(),
            world: None,
        };
        Ok(Self {
            watch,
            reader: Some(Box::new(reader)),
            reading: None,
        })
    }

    /// The first time reads the folder at once; later waits until something in it
    /// means something else than before. May be dropped at any time: the next call
    /// goes on where this one was.
    pub async fn changed(&mut self) -> Loaded {
        loop {
            if self.reading.is_none() {
                self.watch.changed().await;
                let reader = self.reader.take();
                self.reading = reader.map(|reader| tokio::task::spawn_blocking(|| reader.read()));
            }
            let Some(reading) = &mut self.reading else {
                unreachable!("the reader is either here or in the reading");
            };
            let done = reading.await;
            self.reading = None;
            match done {
                Ok((reader, loaded)) => {
                    self.reader = Some(reader);
                    if let Some(loaded) = loaded {
                        return loaded;
                    }
                }
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    // The runtime is shutting down, and this task with it.
                    Err(_) => std::future::pending().await,
                },
            }
        }
    }
}

/// What the blocking part of a reading needs.
struct Reader {
    cache: Cache,
    node: String,
    world: Option<Arc<World>>,
}

impl Reader {
    /// `None` if nothing is different.
    fn read(mut self: Box<Self>) -> (Box<Self>, Option<Loaded>) {
        let refresh = self.cache.refresh();
        tracing::debug!(parsed = refresh.parsed, "looked through the configuration");
        if !refresh.different && self.world.is_some() {
            return (self, None);
        }
        let built = model::build(self.cache.objects(), &self.node, self.world.as_deref());
        let world = Arc::new(built.world);
        self.world = Some(world.clone());
        let mut problems = built.problems;
        problems.extend(world.expired(SystemTime::now()));
        problems.extend(self.cache.problems().cloned());
        problems.sort();
        let complete = built.complete && self.cache.is_complete();
        let loaded = Loaded {
            world,
            problems,
            complete,
            all_found: built.all_found && complete,
            policies: Arc::default(),
        };
        (self, Some(loaded))
    }
}
