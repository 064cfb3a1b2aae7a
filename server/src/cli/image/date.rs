//! Dates for people.

use std::time::SystemTime;

/// Seconds since 1970 UTC.
pub fn seconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |duration| duration.as_secs())
}

/// `2026-11-23 00:41`, in UTC.
pub fn text(seconds: u64) -> String {
    let (mut day, minute) = (seconds / 86_400, seconds / 60 % 1440);
    let mut year = 1970;
    while day >= 365 + u64::from(is_leap(year)) {
        day -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    format!(
        "{year}-{month:02}-{:02} {:02}:{:02}",
        day + 1,
        minute / 60,
        minute % 60
    )
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected values from `date -u -d @SECONDS`.
    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(text(0), "1970-01-01 00:00");
        assert_eq!(text(951_782_399), "2000-02-28 23:59");
        assert_eq!(text(951_782_400), "2000-02-29 00:00");
        assert_eq!(text(951_868_800), "2000-03-01 00:00");
        assert_eq!(text(1_700_000_000), "2023-11-14 22:13");
        assert_eq!(text(4_107_542_399), "2100-02-28 23:59");
        assert_eq!(text(4_107_542_400), "2100-03-01 00:00");
        assert_eq!(text(1_735_689_599), "2024-12-31 23:59");
    }
}
