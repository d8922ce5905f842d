//! The time of day, as certificates and tickets mean it.

use std::fmt;
use std::time::Duration;

use time::format_description::well_known::Rfc3339;
use time::OffsetDateTime;

/// A moment, to the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(i64);

impl Moment {
    /// By the clock of this host.
    pub fn now() -> Moment {
        Moment(OffsetDateTime::now_utc().unix_timestamp())
    }

    /// So many seconds after 1970 began, within the years 0 to 9999.
    pub fn from_unix(seconds: i64) -> Moment {
        let (first, last) = (-62_167_219_200, 253_402_300_799);
        Moment(seconds.clamp(first, last))
    }

    /// Seconds after 1970 began.
    pub fn unix(self) -> i64 {
        self.0
    }

    /// Later by so much.
    pub fn after(self, span: Duration) -> Moment {
        Moment::from_unix(self.0.saturating_add(i64::try_from(span.as_secs()).unwrap_or(i64::MAX)))
    }

    /// Earlier by so much.
    pub fn before(self, span: Duration) -> Moment {
        Moment::from_unix(self.0.saturating_sub(i64::try_from(span.as_secs()).unwrap_or(i64::MAX)))
    }

    /// How long it is until `later`; nothing when that has passed.
    pub fn until(self, later: Moment) -> Duration {
        Duration::from_secs(u64::try_from(later.0.saturating_sub(self.0)).unwrap_or(0))
    }

    /// Reads a time as RFC 3339 writes it.
    pub(crate) fn parse(text: &str) -> Option<Moment> {
        OffsetDateTime::parse(text, &Rfc3339).ok().map(|time| Moment(time.unix_timestamp()))
    }

    pub(crate) fn date_time(self) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(self.0).unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }
}

impl fmt::Display for Moment {
    /// As RFC 3339 writes it, in UTC.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.date_time().format(&Rfc3339).map_err(|_| fmt::Error)?)
    }
}
