//! When a cron job is due. Schedules are checked where they are written; here they are only read.

use apimachinery::duration::Duration;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan, Zoned};

/// How far ahead a schedule is searched: one that never comes, such as the 30th of February, has no next time.
const MAX_YEARS: i16 = 5;

/// A schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Schedule {
    /// At these times of the calendar.
    Calendar(Calendar),
    /// Again and again after a while.
    Every(SignedDuration),
}

/// The times of a calendar, each field as a set of bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Calendar {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether both days and weekdays must fit, because one of them is any.
    both_days: bool,
}

/// One field: bounds, and names from the lowest on.
struct Field(i8, i8, &'static [&'static str]);

const MINUTE: Field = Field(0, 59, &[]);
const HOUR: Field = Field(0, 23, &[]);
const DAY: Field = Field(1, 31, &[]);
const MONTH: Field = Field(
    1,
    12,
    &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
);
const WEEKDAY: Field = Field(0, 6, &["sun", "mon", "tue", "wed", "thu", "fri", "sat"]);

impl Schedule {
    /// Reads a schedule; its own time zone, where it names one, comes with it.
    pub(super) fn parse(text: &str) -> Option<(Self, Option<TimeZone>)> {
        let (zone, rest) = match text.strip_prefix("CRON_TZ=").or(text.strip_prefix("TZ=")) {
            Some(rest) => {
                let (zone, rest) = rest.split_once(' ')?;
                (Some(TimeZone::get(zone).ok()?), rest.trim())
            }
            None => (None, text),
        };
        if let Some(every) = rest.strip_prefix("@every ") {
            let seconds = Duration::parse(every).ok()?.as_seconds().max(1);
            return Some((Self::Every(SignedDuration::from_secs(seconds)), zone));
        }
        let rest = match rest {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other => other,
        };
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields.try_into().ok()?;
        let (days, any_day) = DAY.bits(day)?;
        let (weekdays, any_weekday) = WEEKDAY.bits(weekday)?;
        let calendar = Calendar {
            minutes: MINUTE.bits(minute)?.0,
            hours: HOUR.bits(hour)?.0,
            days,
            months: MONTH.bits(month)?.0,
            weekdays,
            both_days: any_day || any_weekday,
        };
        Some((Self::Calendar(calendar), zone))
    }

    /// The first time after this one, in whole seconds.
    pub(super) fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let whole = Timestamp::from_second(after.as_second()).ok()?;
        match self {
            Self::Every(pause) => whole.checked_add(*pause).ok(),
            Self::Calendar(calendar) => {
                let from = whole.checked_add(SignedDuration::from_secs(1)).ok()?;
                calendar.at_or_after(from.to_zoned(zone.clone()))
            }
        }
    }
}

impl Field {
    /// The numbers that a field names, and whether it is any.
    fn bits(&self, text: &str) -> Option<(u64, bool)> {
        let (mut bits, mut any) = (0, false);
        for part in text.split(',').filter(|it| !it.is_empty()) {
            let (range, step) = match part.split_once('/') {
                Some((range, step)) => (range, step.parse::<usize>().ok()?),
                None => (part, 1),
            };
            let (low, high) = match range.split_once('-') {
                Some((low, high)) => (self.number(low)?, self.number(high)?),
                None if matches!(range, "*" | "?") => {
                    any |= step == 1;
                    (self.0, self.1)
                }
                None if part.contains('/') => (self.number(range)?, self.1),
                None => (self.number(range)?, self.number(range)?),
            };
            if step == 0 || low < self.0 || high > self.1 {
                return None;
            }
            bits |= (low..=high).step_by(step).fold(0, |bits, it| bits | 1 << it);
        }
        Some((bits, any))
    }

    fn number(&self, text: &str) -> Option<i8> {
        let lower = text.to_lowercase();
        match (self.0..).zip(self.2).find(|(_, name)| **name == lower) {
            Some((number, _)) => Some(number),
            None => text.parse().ok(),
        }
    }
}

fn has(bits: u64, number: i8) -> bool {
    bits >> number & 1 == 1
}

impl Calendar {
    fn at_or_after(&self, mut at: Zoned) -> Option<Timestamp> {
        let last_year = at.year() + MAX_YEARS;
        while at.year() <= last_year {
            at = if !has(self.months, at.month()) {
                let first = at.first_of_month().ok()?;
                first.checked_add(1.month()).ok()?.start_of_day().ok()?
            } else if !self.is_day(&at) {
                at.tomorrow().ok()?.start_of_day().ok()?
            } else if !has(self.hours, at.hour()) {
                let into = i64::from(at.minute()) * 60 + i64::from(at.second());
                at.checked_add(SignedDuration::from_secs(3_600 - into)).ok()?
            } else if !has(self.minutes, at.minute()) || at.second() != 0 {
                let into = i64::from(at.second());
                at.checked_add(SignedDuration::from_secs(60 - into)).ok()?
            } else {
                return Some(at.timestamp());
            };
        }
        None
    }

    fn is_day(&self, at: &Zoned) -> bool {
        let day = has(self.days, at.day());
        let weekday = has(self.weekdays, at.weekday().to_sunday_zero_offset());
        if self.both_days { day && weekday } else { day || weekday }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_time_comes_after_the_one_given() {
        let check = |text: &str, zone: &str, after: &str, expected: &str| {
            let (schedule, own) = Schedule::parse(text).unwrap();
            let zone = own.unwrap_or_else(|| TimeZone::get(zone).unwrap());
            let next = schedule.next(after.parse().unwrap(), &zone);
            let next = next.map_or_else(|| "never".to_owned(), |it| it.to_string());
            assert_eq!(next, expected, "{text} after {after}");
        };
        let utc = |text, after, expected| check(text, "UTC", after, expected);
        utc("* * * * *", "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z");
        utc("*/15 * * * *", "2026-01-01T00:50:30Z", "2026-01-01T01:00:00Z");
        utc("0 0 1 1 *", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z");
        utc("30 4 1,15 * fri", "2026-01-01T05:00:00Z", "2026-01-02T04:30:00Z");
        utc("0 9-17/4 * * mon-fri", "2026-01-02T17:00:00Z", "2026-01-05T09:00:00Z");
        utc("0 0 31 * *", "2026-01-31T12:00:00Z", "2026-03-31T00:00:00Z");
        utc("0 0 30 2 *", "2026-01-31T12:00:00Z", "never");
        utc("@hourly", "2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z");
        utc("@every 90m", "2026-01-01T00:00:00.5Z", "2026-01-01T01:30:00Z");
        utc("TZ=Asia/Tokyo 0 9 * * *", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
        let berlin = |text, after, expected| check(text, "Europe/Berlin", after, expected);
        berlin("0 0 1 1 *", "2025-06-01T00:00:00Z", "2025-12-31T23:00:00Z");
        // The hour that spring leaves out is left out, the one that autumn repeats comes twice.
        berlin("30 2 * * *", "2026-03-29T00:00:00Z", "2026-03-30T00:30:00Z");
        berlin("30 2 * * *", "2026-10-24T23:00:00Z", "2026-10-25T00:30:00Z");
        berlin("30 2 * * *", "2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z");
    }
}
