//! Times and durations in the forms objects hold them.

use compact_str::CompactString;
use jiff::Timestamp;
use jiff::fmt::strtime;

use crate::conform::Canonical;

/// `metav1.Time`: RFC 3339 in UTC, to the second.
#[must_use]
pub fn format_time(at: Timestamp) -> CompactString {
    strtime::format("%Y-%m-%dT%H:%M:%SZ", at).unwrap_or_default().into()
}

/// `metav1.MicroTime`: RFC 3339 in UTC with six digits of fraction.
#[must_use]
pub fn format_micro_time(at: Timestamp) -> CompactString {
    strtime::format("%Y-%m-%dT%H:%M:%S.%6fZ", at).unwrap_or_default().into()
}

/// Reads RFC 3339.
///
/// # Errors
/// In the words of Go's `time.Parse`.
pub fn parse_time(text: &str) -> Result<Timestamp, String> {
    Reader { text, rest: text }.read()
}

const LAYOUT: &str = "2006-01-02T15:04:05Z07:00";

/// Reads a text along Go's layout, element by element, so that errors name the element.
struct Reader<'t> {
    text: &'t str,
    rest: &'t str,
}

impl Reader<'_> {
    fn read(mut self) -> Result<Timestamp, String> {
        let year = self.number(4, "2006")?;
        self.literal("-")?;
        let month = self.within("01", 1..=12, "month")?;
        self.literal("-")?;
        let day = self.number(2, "02")?;
        self.literal("T")?;
        let hour = self.within("15", 0..=23, "hour")?;
        self.literal(":")?;
        let minute = self.within("04", 0..=59, "minute")?;
        self.literal(":")?;
        let second = self.within("05", 0..=59, "second")?;
        let nanosecond = self.fraction();
        let offset = self.zone()?;
        if !self.rest.is_empty() {
            return Err(self.refused(&format!(": extra text: {}", crate::field::quote(self.rest))));
        }
        let small = |number: i32| i8::try_from(number).unwrap_or_default();
        let year = i16::try_from(year).unwrap_or_default();
        let date = jiff::civil::Date::new(year, small(month), small(day));
        let date = date.map_err(|_| self.refused(": day out of range"))?;
        let at = date.at(small(hour), small(minute), small(second), nanosecond);
        let zone = jiff::tz::Offset::from_seconds(offset);
        let at = zone.and_then(|zone| zone.to_timestamp(at));
        at.map_err(|_| self.refused(": time out of range"))
    }

    fn refused(&self, why: &str) -> String {
        format!("parsing time {}{why}", crate::field::quote(self.text))
    }

    fn unlike(&self, element: &str) -> String {
        let quote = crate::field::quote;
        let (rest, element) = (quote(self.rest), quote(element));
        self.refused(&format!(" as {}: cannot parse {rest} as {element}", quote(LAYOUT)))
    }

    fn literal(&mut self, literal: &str) -> Result<(), String> {
        self.rest = self.rest.strip_prefix(literal).ok_or_else(|| self.unlike(literal))?;
        Ok(())
    }

    fn number(&mut self, digits: usize, element: &str) -> Result<i32, String> {
        let text = self.rest.get(..digits).filter(|it| it.bytes().all(|b| b.is_ascii_digit()));
        let number = text.and_then(|it| it.parse().ok()).ok_or_else(|| self.unlike(element))?;
        self.rest = &self.rest[digits..];
        Ok(number)
    }

    fn within(
        &mut self,
        element: &str,
        range: std::ops::RangeInclusive<i32>,
        name: &str,
    ) -> Result<i32, String> {
        let number = self.number(2, element)?;
        if range.contains(&number) {
            return Ok(number);
        }
        Err(self.refused(&format!(": {name} out of range")))
    }

    /// The nanoseconds of a fraction, which the layout allows for without naming it.
    fn fraction(&mut self) -> i32 {
        let digits = self.rest.strip_prefix(['.', ',']).unwrap_or_default();
        let count = digits.bytes().take_while(u8::is_ascii_digit).count();
        if count == 0 {
            return 0;
        }
        self.rest = &digits[count..];
        let nine = digits[..count].bytes().chain(std::iter::repeat(b'0')).take(9);
        nine.fold(0, |number, digit| number * 10 + i32::from(digit - b'0'))
    }

    /// The seconds by which the zone is ahead of UTC.
    fn zone(&mut self) -> Result<i32, String> {
        if let Some(rest) = self.rest.strip_prefix('Z') {
            self.rest = rest;
            return Ok(0);
        }
        let element = "Z07:00";
        let number = |text: Option<&str>| {
            let text = text.filter(|it| it.bytes().all(|b| b.is_ascii_digit()))?;
            text.parse::<i32>().ok()
        };
        let colon = self.rest.get(3..4) == Some(":");
        let (hours, minutes) = (number(self.rest.get(1..3)), number(self.rest.get(4..6)));
        let (Some(hours), Some(minutes), true) = (hours, minutes, colon) else {
            return Err(self.unlike(element));
        };
        let sign = match self.rest.as_bytes()[0] {
            b'+' => 1,
            b'-' => -1,
            _ => return Err(self.unlike(element)),
        };
        if hours > 24 || minutes > 60 {
            let which = if hours > 24 { "hour" } else { "minute" };
            return Err(self.refused(&format!(": time zone offset {which} out of range")));
        }
        self.rest = &self.rest[6..];
        Ok(sign * (hours * 3600 + minutes * 60))
    }
}

pub(crate) fn canonical_time(text: &str) -> Canonical {
    canonical(text, format_time)
}

pub(crate) fn canonical_micro_time(text: &str) -> Canonical {
    canonical(text, format_micro_time)
}

fn canonical(text: &str, format: impl Fn(Timestamp) -> CompactString) -> Canonical {
    let better = format(parse_time(text)?);
    Ok((better != text).then_some(better))
}

pub(crate) fn canonical_duration(text: &str) -> Canonical {
    crate::duration::canonical(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_canonical() {
        assert_eq!(canonical_time("2026-01-02T03:04:05Z"), Ok(None));
        assert_eq!(
            canonical_time("2026-01-02T03:04:05.9+02:00"),
            Ok(Some("2026-01-02T01:04:05Z".into()))
        );
        assert_eq!(
            canonical_micro_time("2026-01-02T03:04:05Z"),
            Ok(Some("2026-01-02T03:04:05.000000Z".into()))
        );
        let as_layout = "as \"2006-01-02T15:04:05Z07:00\": cannot parse";
        for (text, problem) in [
            ("tomorrow", format!(r#" {as_layout} "tomorrow" as "2006""#)),
            ("", format!(r#" {as_layout} "" as "2006""#)),
            ("2026-1-2", format!(r#" {as_layout} "1-2" as "01""#)),
            ("2026-01-02", format!(r#" {as_layout} "" as "T""#)),
            ("2026-01-02 03:04:05Z", format!(r#" {as_layout} " 03:04:05Z" as "T""#)),
            ("2026-01-02T03:04:05", format!(r#" {as_layout} "" as "Z07:00""#)),
            ("2026-01-02T03:04:05+0200", format!(r#" {as_layout} "+0200" as "Z07:00""#)),
            ("2026-13-02T03:04:05Z", ": month out of range".into()),
            ("2026-02-30T03:04:05Z", ": day out of range".into()),
            ("2026-01-02T24:04:05Z", ": hour out of range".into()),
            ("2026-01-02T03:04:05ZZ", ": extra text: \"Z\"".into()),
        ] {
            let expected = format!("parsing time {}{problem}", crate::field::quote(text));
            assert_eq!(canonical_time(text), Err(expected));
        }
    }
}
