//! Moments as RFC 3339 in UTC: for `state`, for the log. No time zones, no locale, no dependency.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Now, with nanoseconds: `2026-11-21T03:56:47.929968269Z`.
#[must_use]
pub fn now() -> String {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    rfc3339(since_epoch)
}

/// A moment after the epoch.
#[must_use]
pub fn rfc3339(since_epoch: Duration) -> String {
    let seconds = since_epoch.as_secs();
    let (year, month, day) = civil_date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let nanos = since_epoch.subsec_nanos();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}

/// Year, month and day of a day number since the epoch, in the Gregorian calendar. Years are
/// counted from March, so that the leap day is a year's last; an era is 400 years.
fn civil_date(days_since_epoch: u64) -> (u64, u64, u64) {
    const DAYS_FROM_0000_03_01: u64 = 719_468;
    const DAYS_PER_ERA: u64 = 146_097;
    let days = days_since_epoch + DAYS_FROM_0000_03_01;
    let (era, day_of_era) = (days / DAYS_PER_ERA, days % DAYS_PER_ERA);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments() {
        let of = |seconds| rfc3339(Duration::from_secs(seconds));
        assert_eq!(of(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(of(951_782_400), "2000-02-29T00:00:00.000000000Z");
        assert_eq!(of(1_795_233_407), "2026-11-21T03:56:47.000000000Z");
        assert_eq!(of(4_107_542_399), "2100-02-28T23:59:59.000000000Z");
        assert_eq!(of(4_107_542_400), "2100-03-01T00:00:00.000000000Z");
    }

    #[test]
    fn nanoseconds_have_nine_digits() {
        assert_eq!(rfc3339(Duration::new(1, 42)), "1970-01-01T00:00:01.000000042Z");
    }
}
