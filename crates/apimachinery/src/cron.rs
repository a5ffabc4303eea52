//! Schedules of cron jobs: what is wrong with one, in the words of the parser that upstream uses, and when it is due.

use std::num::IntErrorKind;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan, Zoned};

use crate::duration::Duration;
use crate::field::quote;

/// How far ahead a schedule is searched: one that never comes, such as the 30th of February, has no next time.
const MAX_YEARS: i16 = 5;

/// A schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schedule {
    /// At these times of the calendar.
    Calendar(Calendar),
    /// Again and again after a while.
    Every(SignedDuration),
}

/// The times of a calendar, each field as a set of bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Calendar {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether both days and weekdays must fit, because one of them is any.
    both_days: bool,
}

/// One field: bounds, and names from the lowest on.
struct Field(u32, u32, &'static [&'static str]);

const FIELDS: [Field; 5] = [
    Field(0, 59, &[]),
    Field(0, 23, &[]),
    Field(1, 31, &[]),
    Field(
        1,
        12,
        &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    ),
    Field(0, 6, &["sun", "mon", "tue", "wed", "thu", "fri", "sat"]),
];

impl Schedule {
    /// Reads a schedule; its own time zone, where it names one, comes with it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<(Self, Option<TimeZone>), String> {
        let (zone, rest) = match text.strip_prefix("CRON_TZ=").or(text.strip_prefix("TZ=")) {
            Some(rest) => {
                let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
                let zone = TimeZone::get(name).map_err(|_| {
                    format!("provided bad location {name}: unknown time zone {name}")
                })?;
                (Some(zone), rest.trim())
            }
            None => (None, text),
        };
        if let Some(every) = rest.strip_prefix("@every ") {
            let every = Duration::parse(every)
                .map_err(|problem| format!("failed to parse duration {rest}: {problem}"))?;
            let seconds = every.as_seconds().max(1);
            return Ok((Self::Every(SignedDuration::from_secs(seconds)), zone));
        }
        let fields = match rest {
            "" => return Err("empty spec string".into()),
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other if other.starts_with('@') => {
                return Err(format!("unrecognized descriptor: {other}"));
            }
            other => other,
        };
        Ok((Self::Calendar(Calendar::parse(fields)?), zone))
    }

    /// The first time after this one, in whole seconds.
    #[must_use]
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
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
    fn bits(&self, text: &str) -> Result<(u64, bool), String> {
        let (mut bits, mut any) = (0, false);
        for part in text.split(',').filter(|it| !it.is_empty()) {
            let (low, high, step) = self.range(part)?;
            any |= step == 1 && part.starts_with(['*', '?']);
            let mut at = low;
            while at <= high {
                bits |= 1 << at;
                at = at.saturating_add(step);
            }
        }
        Ok((bits, any))
    }

    /// `*`, `n`, `n-m`, each with a step or without: from, to, and the step.
    fn range(&self, text: &str) -> Result<(u32, u32, u32), String> {
        let mut steps = text.split('/');
        let range = steps.next().unwrap_or_default();
        let step = steps.next();
        let (low, high) = self.bounds(range, step.is_some(), text)?;
        let step = step.map_or(Ok(1), number)?;
        if steps.next().is_some() {
            return Err(format!("too many slashes: {text}"));
        }
        let Self(least, most, _) = *self;
        if low < least {
            return Err(format!("beginning of range ({low}) below minimum ({least}): {text}"));
        }
        if high > most {
            return Err(format!("end of range ({high}) above maximum ({most}): {text}"));
        }
        if low > high {
            return Err(format!("beginning of range ({low}) beyond end of range ({high}): {text}"));
        }
        if step == 0 {
            return Err(format!("step of range should be a positive number: {text}"));
        }
        Ok((low, high, step))
    }

    fn bounds(&self, range: &str, stepped: bool, text: &str) -> Result<(u32, u32), String> {
        let ends: Vec<&str> = range.split('-').collect();
        if matches!(ends[0], "*" | "?") {
            return Ok((self.0, self.1));
        }
        let low = self.number(ends[0])?;
        match ends[..] {
            [_] if stepped => Ok((low, self.1)),
            [_] => Ok((low, low)),
            [_, high] => Ok((low, self.number(high)?)),
            _ => Err(format!("too many hyphens: {text}")),
        }
    }

    fn number(&self, text: &str) -> Result<u32, String> {
        let lower = text.to_lowercase();
        match (self.0..).zip(self.2).find(|(_, name)| **name == lower) {
            Some((number, _)) => Ok(number),
            None => number(text),
        }
    }
}

fn number(text: &str) -> Result<u32, String> {
    match text.parse::<i64>() {
        Ok(number) if number < 0 => Err(format!("negative number ({number}) not allowed: {text}")),
        Ok(number) => u32::try_from(number).map_err(|_| format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: value out of range")),
        Err(error) => {
            let why = match error.kind() {
                IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
                _ => "invalid syntax",
            };
            let quoted = quote(text);
            Err(format!("failed to parse int from {text}: strconv.Atoi: parsing {quoted}: {why}"))
        }
    }
}

fn has(bits: u64, number: i8) -> bool {
    bits >> number & 1 == 1
}

impl Calendar {
    /// Reads the five fields.
    fn parse(text: &str) -> Result<Self, String> {
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields[..] else {
            let (wanted, found) = (FIELDS.len(), fields.len());
            let found = format!("found {found}: [{}]", fields.join(" "));
            return Err(format!("expected exactly {wanted} fields, {found}"));
        };
        let [minutes, hours, days, months, weekdays] = &FIELDS;
        let (minutes, hours) = (minutes.bits(minute)?.0, hours.bits(hour)?.0);
        let (days, any_day) = days.bits(day)?;
        let months = months.bits(month)?.0;
        let (weekdays, any_weekday) = weekdays.bits(weekday)?;
        let both_days = any_day || any_weekday;
        Ok(Self { minutes, hours, days, months, weekdays, both_days })
    }

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
    fn problems_are_worded_as_upstream_words_them() {
        let check = |schedule: &str, expected: &str| {
            let problem = Schedule::parse(schedule).err().unwrap_or_default();
            assert_eq!(problem, expected, "for {schedule}");
        };
        check("*/5 * * * *", "");
        check("0 0 1-5,10 jan-MAR mon", "");
        check("@hourly", "");
        check("@every 5m", "");
        check("", "empty spec string");
        check("TZ=UTC", "empty spec string");
        check(
            "TZ=No/Where * * * * *",
            "provided bad location No/Where: unknown time zone No/Where",
        );
        check("x y", "expected exactly 5 fields, found 2: [x y]");
        check("60 * * * *", "end of range (60) above maximum (59): 60");
        check("4294967295 * * * *", "end of range (4294967295) above maximum (59): 4294967295");
        check("*/4294967295 * * * *", "");
        check("* * 0 * *", "beginning of range (0) below minimum (1): 0");
        check("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1");
        check("*/0 * * * *", "step of range should be a positive number: */0");
        check("1/2/3 * * * *", "too many slashes: 1/2/3");
        check("1-2-3 * * * *", "too many hyphens: 1-2-3");
        check(
            "*z * * * *",
            "failed to parse int from *z: strconv.Atoi: parsing \"*z\": invalid syntax",
        );
        check(
            "99999999999999999999 * * * *",
            "failed to parse int from 99999999999999999999: strconv.Atoi: parsing \"99999999999999999999\": value out of range",
        );
        check("@never", "unrecognized descriptor: @never");
    }

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
