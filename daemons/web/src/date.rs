//! A point in time as people in Greenwich would write it, for logs and listings.
//!
//! The dates of HTTP fields are `httpdate`'s; what is missing there is the calendar itself.
use std::time::{SystemTime, UNIX_EPOCH};

/// Year, month and so on in UTC, of the proleptic Gregorian calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Civil {
    pub year: i64,
    /// 1 to 12.
    pub month: u8,
    pub day: u8,
    pub hour: u8,
    pub minute: u8,
    pub second: u8,
}

/// Whole seconds since 1970, rounded down; negative before.
pub(crate) fn unix_seconds(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
        Err(before) => {
            let before = before.duration();
            let up = u64::from(before.subsec_nanos() > 0);
            i64::try_from(before.as_secs().saturating_add(up)).map_or(i64::MIN, |seconds| -seconds)
        }
    }
}

impl Civil {
    pub(crate) fn from_unix_seconds(seconds: i64) -> Self {
        let in_day = seconds.rem_euclid(86_400);
        // Howard Hinnant, "chrono-compatible low-level date algorithms": the year is counted from 1 March 0000, so that
        // the leap day is its last; an era is 400 years, after which the calendar repeats.
        let days = seconds.div_euclid(86_400) + 719_468;
        let era = days.div_euclid(146_097);
        let day_of_era = days.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let small = |number: i64| u8::try_from(number).unwrap_or(0);
        Self {
            year: year_of_era + era * 400 + i64::from(month <= 2),
            month: small(month),
            day: small(day_of_year - (153 * month_from_march + 2) / 5 + 1),
            hour: small(in_day / 3600),
            minute: small(in_day / 60 % 60),
            second: small(in_day % 60),
        }
    }
}

impl From<SystemTime> for Civil {
    fn from(time: SystemTime) -> Self {
        Self::from_unix_seconds(unix_seconds(time))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn shown(seconds: i64) -> String {
        let Civil { year, month, day, hour, minute, second } = Civil::from_unix_seconds(seconds);
        format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
    }

    #[test]
    fn known_moments_are_right() {
        for (seconds, expected) in [
            (0, "1970-01-01 00:00:00"),
            (-1, "1969-12-31 23:59:59"),
            (951_782_400, "2000-02-29 00:00:00"),
            (1_193_763_602, "2007-10-30 17:00:02"),
            (4_107_542_400, "2100-03-01 00:00:00"),
        ] {
            assert_eq!(shown(seconds), expected);
        }
        assert_eq!(unix_seconds(UNIX_EPOCH - Duration::from_millis(1)), -1);
        assert_eq!(unix_seconds(UNIX_EPOCH + Duration::from_millis(1999)), 1);
    }

    proptest! {
        #[test]
        fn httpdate_knows_the_same_calendar(seconds in 0_i64..253_402_300_799) {
            let time = UNIX_EPOCH + Duration::from_secs(seconds.unsigned_abs());
            let theirs = httpdate::fmt_http_date(time);
            let Civil { year, day, hour, minute, second, .. } = Civil::from(time);
            let (ours_date, ours_time) = (format!(", {day:02} "), format!(" {year:04} {hour:02}:{minute:02}:{second:02} GMT"));
            prop_assert!(theirs.contains(&ours_date) && theirs.ends_with(&ours_time), "{} {}", theirs, ours_time);
        }
    }
}
