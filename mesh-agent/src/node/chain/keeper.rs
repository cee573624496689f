//! Watches the runtime's folders and puts the plugin back. Started by the agent.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::inotify::AddWatchFlags;
use tokio::time::Instant;

use super::{ChainError, Looked, Place, Settings, files, problem, put};
use crate::config::inotify::Events;
use crate::model::Problem;
use crate::node::cni::PLUGIN;

/// How often to look when nothing was heard: a folder may be replaced, or lie on a file
/// system that tells of nothing.
const LOOK: Duration = Duration::from_secs(5);

/// Keeps the plugin in place while [`Keeper::keep`] runs.
pub struct Keeper {
    place: Place,
    settings: Settings,
    executable: PathBuf,
    state: Mutex<State>,
    /// Held during a look; true once there are to be no more.
    retired: Mutex<bool>,
}

#[derive(Default)]
struct State {
    file: Option<PathBuf>,
    problems: Vec<Problem>,
}

impl Keeper {
    /// Of the plugin that `executable` is, with these settings.
    pub fn new(place: Place, settings: Settings, executable: PathBuf) -> Arc<Self> {
        Arc::new(Self {
            place,
            settings,
            executable,
            state: Mutex::default(),
            retired: Mutex::default(),
        })
    }

    /// The configuration that holds the plugin, and that the runtime uses; `None` while
    /// there is none.
    pub fn file(&self) -> Option<PathBuf> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.file.clone()
    }

    /// What stands in the way now.
    pub fn problems(&self) -> Vec<Problem> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.problems.clone()
    }

    /// Puts the plugin in place and back, until dropped. To be called in a tokio runtime.
    pub async fn keep(self: Arc<Self>) {
        let events = match Events::new() {
            Ok(events) => Some(events),
            Err(error) => {
                tracing::warn!(%error, "the CNI folders cannot be watched: looking now and then");
                None
            }
        };
        let mut pace = Pace::default();
        loop {
            if let Some(events) = &events {
                // The same again is the same watch; a folder that is new gets one.
                for dir in [&self.place.conf_dir, &self.place.bin_dir] {
                    // One that is not there yet is looked for.
                    let _ = events.add(dir, heard());
                }
                // What is heard from here on is looked at after this look.
                events.take();
            }
            let keeper = Arc::clone(&self);
            let looked = tokio::task::spawn_blocking(move || keeper.look()).await;
            match looked {
                Ok(Ok(looked)) => {
                    if looked.wrote {
                        pace.wrote(Instant::now());
                    }
                    self.tell(looked, pace.is_contested());
                }
                Ok(Err(error)) => self.tell(self.failed(&error), pace.is_contested()),
                Err(error) => tracing::error!(%error, "looking after the CNI chain failed"),
            }
            let now = Instant::now();
            match &events {
                Some(events) => events.wait(Some(now + LOOK)).await,
                None => tokio::time::sleep(LOOK).await,
            }
            // However much is heard: another tool is answered at this pace.
            if let Some(at) = pace.next {
                tokio::time::sleep_until(at).await;
            }
        }
    }

    /// Has it put nothing back any more, from when this returns. Blocks while it does.
    pub fn retire(&self) {
        *self.retired.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    fn look(&self) -> Result<Looked, ChainError> {
        let retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        if *retired {
            return Ok(Looked::default());
        }
        let plugin = self.place.bin_dir.join(PLUGIN);
        // First, or the configuration would name what is not there.
        let installed = files::install(&self.executable, &plugin)?;
        let mut looked = put(&self.place.conf_dir, &self.settings)?;
        looked.wrote |= installed;
        Ok(looked)
    }

    fn failed(&self, error: &ChainError) -> Looked {
        let ChainError::File { path, .. } = error;
        Looked {
            problems: vec![problem(
                path,
                error.to_string(),
                "see the message; it is tried again. Pods may start without the agent until then",
            )],
            ..Looked::default()
        }
    }

    fn tell(&self, looked: Looked, contested: bool) {
        let Looked {
            file,
            wrote,
            mut problems,
        } = looked;
        if contested {
            problems.push(problem(
                file.as_ref().unwrap_or(&self.place.conf_dir),
                "another program takes the plugin out again and again".to_owned(),
                "have that program leave the chain alone, as CNI installers have an option for; \
                 pods may start without the agent in between",
            ));
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if wrote && let Some(file) = &file {
            tracing::info!(file = %file.display(), "the CNI plugin is in the chain");
        }
        if state.problems != problems {
            for problem in &problems {
                tracing::warn!(%problem, "CNI");
            }
        }
        *state = State { file, problems };
    }
}

fn heard() -> AddWatchFlags {
    AddWatchFlags::IN_ONLYDIR
        | AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_DELETE
}

/// When to write next: at once, unless another tool keeps undoing it.
#[derive(Debug, Default)]
struct Pace {
    last: Option<Instant>,
    /// Writes in a row, each soon after the one before.
    row: u32,
    next: Option<Instant>,
}

impl Pace {
    /// A write this long after the last one is no quarrel.
    const QUIET: Duration = Duration::from_secs(150);
    /// Writes in a row that an installer may cause that works in several steps.
    const PATIENCE: u32 = 5;
    /// Pause after a write in a row, and the longest, to which it doubles.
    const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));

    fn wrote(&mut self, now: Instant) {
        let soon = self.last.is_some_and(|last| now - last < Self::QUIET);
        self.row = if soon { self.row.saturating_add(1) } else { 1 };
        self.last = Some(now);
        let (first, longest) = Self::PAUSES;
        let beyond = self.row.checked_sub(Self::PATIENCE);
        let pause = beyond.map(|beyond| first.saturating_mul(1 << beyond.min(10)).min(longest));
        self.next = pause.map(|pause| now + pause);
    }

    fn is_contested(&self) -> bool {
        self.row > Self::PATIENCE && self.last.is_some_and(|last| last.elapsed() < Self::QUIET)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_quarrel_slows_down_and_is_told() {
        let mut pace = Pace::default();
        let mut waits = Vec::new();
        for _ in 0..16 {
            let now = Instant::now();
            pace.wrote(now);
            let wait = pace.next.map_or(Duration::ZERO, |next| next - now);
            waits.push(wait.as_secs_f32());
            tokio::time::advance(wait).await;
        }
        assert_eq!(waits[..7], [0.0, 0.0, 0.0, 0.0, 0.5, 1.0, 2.0]);
        assert_eq!(waits.last(), Some(&60.0));
        assert!(pace.is_contested());
        tokio::time::advance(Pace::QUIET).await;
        assert!(!pace.is_contested());
        pace.wrote(Instant::now());
        assert!(pace.next.is_none() && !pace.is_contested());
    }
}
