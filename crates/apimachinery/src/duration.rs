//! Durations: Go's text form (`1h30m`), and the short form in which ages are shown (`3m20s`, `2d4h`).
//!
//! A duration is a number of nanoseconds in 64 bits, as in Go.

use std::fmt;

use compact_str::CompactString;

const MICROSECOND: u64 = 1_000;
const MILLISECOND: u64 = 1_000_000;
const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;

/// A span of time, as Go holds and prints it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Duration(i64);

/// Text that is no duration, in Go's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Not a duration, or one that does not fit.
    #[error("time: invalid duration {}", crate::field::quote(.0))]
    Invalid(String),
    /// A number alone.
    #[error("time: missing unit in duration {}", crate::field::quote(.0))]
    Unit(String),
    /// A unit that does not exist.
    #[error("time: unknown unit {} in duration {}", crate::field::quote(.unit), crate::field::quote(.text))]
    UnknownUnit {
        /// The unit.
        unit: String,
        /// The whole text.
        text: String,
    },
}

impl Duration {
    /// So many nanoseconds.
    #[must_use]
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// So many seconds, held to what fits.
    #[must_use]
    pub const fn from_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(1_000_000_000))
    }

    /// The nanoseconds.
    #[must_use]
    pub const fn as_nanos(self) -> i64 {
        self.0
    }

    /// The whole seconds, rounded towards zero.
    #[must_use]
    pub const fn as_seconds(self) -> i64 {
        self.0 / 1_000_000_000
    }

    /// Reads Go's text form.
    ///
    /// # Errors
    /// When the text is no duration, in Go's words.
    pub fn parse(text: &str) -> Result<Self, DurationError> {
        let invalid = || DurationError::Invalid(text.to_owned());
        let negative = text.starts_with('-');
        let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
        if rest == "0" {
            return Ok(Self(0));
        }
        if rest.is_empty() {
            return Err(invalid());
        }
        let mut total = 0u64;
        while !rest.is_empty() {
            let (nanos, after) = term(rest, text)?;
            total = total.checked_add(nanos).filter(|it| *it <= 1 << 63).ok_or_else(invalid)?;
            rest = after;
        }
        let wide = if negative { -i128::from(total) } else { i128::from(total) };
        i64::try_from(wide).map(Self).map_err(|_| invalid())
    }
}

/// The nanoseconds of the first number and unit, and the text after them.
fn term<'t>(rest: &'t str, text: &str) -> Result<(u64, &'t str), DurationError> {
    let invalid = || DurationError::Invalid(text.to_owned());
    let digits =
        |text: &str| text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let whole_length = digits(rest);
    let (whole, mut after) = rest.split_at(whole_length);
    let mut fraction = "";
    if let Some(behind) = after.strip_prefix('.') {
        (fraction, after) = behind.split_at(digits(behind));
    }
    if whole.is_empty() && fraction.is_empty() {
        return Err(invalid());
    }
    let unit_length = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
    let (unit, after) = after.split_at(unit_length);
    let scale = match unit {
        "" => return Err(DurationError::Unit(text.to_owned())),
        "ns" => 1,
        "us" | "µs" | "μs" => MICROSECOND,
        "ms" => MILLISECOND,
        "s" => SECOND,
        "m" => MINUTE,
        "h" => HOUR,
        other => {
            return Err(DurationError::UnknownUnit { unit: other.into(), text: text.into() });
        }
    };
    let number: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| invalid())? };
    let nanos = number.checked_mul(scale).ok_or_else(invalid)?;
    // Digits of a fraction beyond what a number holds say nothing.
    let shown = &fraction[..fraction.len().min(18)];
    let part: u128 = if shown.is_empty() { 0 } else { shown.parse().map_err(|_| invalid())? };
    let power = u32::try_from(shown.len()).map_err(|_| invalid())?;
    let part = part * u128::from(scale) / 10u128.pow(power);
    let nanos = u64::try_from(part).ok().and_then(|part| nanos.checked_add(part));
    Ok((nanos.ok_or_else(invalid)?, after))
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = self.0.unsigned_abs();
        if self.0 < 0 {
            f.write_str("-")?;
        }
        if size < SECOND {
            return match size {
                0 => f.write_str("0s"),
                1..MICROSECOND => write!(f, "{size}ns"),
                MICROSECOND..MILLISECOND => decimal(f, size, MICROSECOND, "µs"),
                _ => decimal(f, size, MILLISECOND, "ms"),
            };
        }
        if size >= HOUR {
            write!(f, "{}h", size / HOUR)?;
        }
        if size >= MINUTE {
            write!(f, "{}m", size / MINUTE % 60)?;
        }
        decimal(f, size % MINUTE, SECOND, "s")
    }
}

/// `size / unit` with as many digits after the point as it takes.
fn decimal(f: &mut fmt::Formatter<'_>, size: u64, unit: u64, name: &str) -> fmt::Result {
    let (whole, part) = (size / unit, size % unit);
    if part == 0 {
        return write!(f, "{whole}{name}");
    }
    let width = unit.ilog10() as usize;
    let digits = format!("{part:0width$}");
    write!(f, "{whole}.{}{name}", digits.trim_end_matches('0'))
}

/// What Go writes for a duration that it read as `text`; `None` where that is `text` itself.
///
/// # Errors
/// When the text is no duration.
pub fn canonical(text: &str) -> Result<Option<CompactString>, DurationError> {
    let written = compact_str::format_compact!("{}", Duration::parse(text)?);
    Ok((written != text).then_some(written))
}

/// An age as printed columns show it: two units at most, the coarser the older.
#[must_use]
pub fn human(age: Duration) -> String {
    let seconds = age.as_seconds();
    // A clock that is a second behind is no reason to show nonsense.
    if seconds < -1 {
        return "<invalid>".into();
    }
    let seconds = seconds.max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |coarse: i64, unit: &str, fine: i64, fine_unit: &str| {
        if fine == 0 {
            format!("{coarse}{unit}")
        } else {
            format!("{coarse}{unit}{fine}{fine_unit}")
        }
    };
    match hours {
        _ if seconds < 120 => format!("{seconds}s"),
        _ if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        _ if minutes < 180 => format!("{minutes}m"),
        ..8 => two(hours, "h", minutes % 60, "m"),
        8..48 => format!("{hours}h"),
        48..192 => two(days, "d", hours % 24, "h"),
        _ if days < 730 => format!("{days}d"),
        _ if days < 2920 => two(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

/// An age in one unit, as events and a few columns show it.
#[must_use]
pub fn short_human(age: Duration) -> String {
    let seconds = age.as_seconds();
    if seconds < -1 {
        return "<invalid>".into();
    }
    let seconds = seconds.max(0);
    match (seconds / 60, seconds / 3600, seconds / 86_400) {
        (0, _, _) => format!("{seconds}s"),
        (minutes, 0, _) => format!("{minutes}m"),
        (_, hours, 0) => format!("{hours}h"),
        (_, _, days) if days < 365 => format!("{days}d"),
        (_, _, days) => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_and_print_as_in_go() {
        for (text, expected) in [
            ("0", "0s"),
            ("-0", "0s"),
            ("0s", "0s"),
            ("90s", "1m30s"),
            ("1h30m", "1h30m0s"),
            ("1.5s", "1.5s"),
            ("-1m", "-1m0s"),
            ("+5s", "5s"),
            ("1.5h", "1h30m0s"),
            ("100ms", "100ms"),
            ("1us", "1µs"),
            ("1µs", "1µs"),
            ("1500us", "1.5ms"),
            ("1ns", "1ns"),
            (".5s", "500ms"),
            ("1.s", "1s"),
            ("1h1ns", "1h0m0.000000001s"),
            ("2562047h47m16.854775807s", "2562047h47m16.854775807s"),
            ("-2562047h47m16.854775808s", "-2562047h47m16.854775808s"),
            ("", "time: invalid duration \"\""),
            ("-", "time: invalid duration \"-\""),
            ("x", "time: invalid duration \"x\""),
            ("1", "time: missing unit in duration \"1\""),
            ("1d", "time: unknown unit \"d\" in duration \"1d\""),
            ("1h 2m", "time: unknown unit \"h \" in duration \"1h 2m\""),
            (".s", "time: invalid duration \".s\""),
            ("9223372036854775808ns", "time: invalid duration \"9223372036854775808ns\""),
            ("99999999999999999999h", "time: invalid duration \"99999999999999999999h\""),
        ] {
            let outcome = Duration::parse(text).map_or_else(|e| e.to_string(), |d| d.to_string());
            assert_eq!(outcome, expected, "for {text:?}");
        }
        assert_eq!(canonical("1m30s"), Ok(None));
        assert_eq!(canonical("90s"), Ok(Some("1m30s".into())));
    }

    #[test]
    fn ages_print_as_upstream_prints_them() {
        const DAY: i64 = 86_400;
        for (seconds, expected, short) in [
            (-2, "<invalid>", "<invalid>"),
            (-1, "0s", "0s"),
            (0, "0s", "0s"),
            (5, "5s", "5s"),
            (119, "119s", "1m"),
            (120, "2m", "2m"),
            (200, "3m20s", "3m"),
            (600, "10m", "10m"),
            (10_799, "179m", "2h"),
            (10_800, "3h", "3h"),
            (11_100, "3h5m", "3h"),
            (28_800, "8h", "8h"),
            (47 * 3600, "47h", "1d"),
            (2 * DAY, "2d", "2d"),
            (2 * DAY + 4 * 3600, "2d4h", "2d"),
            (8 * DAY, "8d", "8d"),
            (729 * DAY, "729d", "1y"),
            (730 * DAY, "2y", "2y"),
            (731 * DAY, "2y1d", "2y"),
            (3 * 365 * DAY, "3y", "3y"),
            (2920 * DAY, "8y", "8y"),
        ] {
            let age = Duration::from_seconds(seconds);
            assert_eq!(
                (human(age), short_human(age)),
                (expected.into(), short.into()),
                "{seconds}"
            );
        }
    }
}
