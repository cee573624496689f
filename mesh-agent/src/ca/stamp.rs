//! Times in the authority's files: RFC 3339 in UTC, whole seconds.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::identity::clock::display;

/// A time as the files have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stamp(SystemTime);

impl Stamp {
    /// `time` without its parts of a second.
    pub(super) fn new(time: SystemTime) -> Self {
        let whole = time
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        Self(UNIX_EPOCH + Duration::from_secs(whole))
    }

    pub(super) fn time(self) -> SystemTime {
        self.0
    }
}

impl Serialize for Stamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&display(self.0))
    }
}

impl<'de> Deserialize<'de> for Stamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let time = OffsetDateTime::parse(&text, &Rfc3339).map_err(de::Error::custom)?;
        let seconds = u64::try_from(time.unix_timestamp())
            .map_err(|_| de::Error::custom("a time before 1970"))?;
        Ok(Self(UNIX_EPOCH + Duration::from_secs(seconds)))
    }
}
