//! Times and durations: their text, arithmetic within range, and the parts of a time in a zone.

use std::sync::LazyLock;

use apimachinery::duration::Duration;
use jiff::Timestamp;
use jiff::tz::TimeZoneDatabase;

use super::standard::no_overload;
use crate::decl::{Decl, f};
use crate::error::EvalError;
use crate::value::{Result, Val};

/// A point in time: seconds since 1970, and nanoseconds after that second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    seconds: i64,
    nanos: u32,
}

/// The first and last second that have a name: years 1 to 9999.
const SECOND_MIN: i64 = -62_135_596_800;
const SECOND_MAX: i64 = 253_402_300_799;
const NANOS: i64 = 1_000_000_000;
const DAY: i64 = 24 * 3600;
/// The years 9998 and 9999 have as many days.
const LAST_YEAR: i64 = 365 * DAY;

impl Time {
    /// The first that has a name.
    pub(super) const FIRST: Self = Self { seconds: SECOND_MIN, nanos: 0 };

    /// The whole seconds since 1970.
    #[must_use]
    pub fn seconds(self) -> i64 {
        self.seconds
    }

    fn from_nanos(nanos: i128) -> Result<Self> {
        let seconds = i64::try_from(nanos.div_euclid(i128::from(NANOS))).map_err(|_| overflow())?;
        let nanos = u32::try_from(nanos.rem_euclid(i128::from(NANOS))).map_err(|_| overflow())?;
        Self { seconds, nanos }.in_range()
    }

    fn nanos(self) -> i128 {
        i128::from(self.seconds) * i128::from(NANOS) + i128::from(self.nanos)
    }

    fn in_range(self) -> Result<Self> {
        if (SECOND_MIN..=SECOND_MAX).contains(&self.seconds) { Ok(self) } else { Err(overflow()) }
    }

    fn read(text: &str) -> std::result::Result<Self, String> {
        let (at, shift) = match apimachinery::time::parse_time(text) {
            Ok(at) => (at, 0),
            // Calendars of the library end a day before the year 9999 does.
            Err(why) => match text.strip_prefix("9999-12-3") {
                Some(rest) => (
                    apimachinery::time::parse_time(&format!("9998-12-3{rest}")).map_err(|_| why)?,
                    LAST_YEAR,
                ),
                None => return Err(why),
            },
        };
        let negative = at.subsec_nanosecond() < 0;
        let seconds = at.as_second() - i64::from(negative) + shift;
        let nanos = at.subsec_nanosecond() + if negative { 1_000_000_000 } else { 0 };
        Ok(Self { seconds, nanos: nanos.unsigned_abs() })
    }
}

/// What clocks and calendars of a place show.
struct Civil {
    year: i64,
    month: i64,
    day: i64,
    day_of_year: i64,
    weekday: i64,
    hour: i64,
    minute: i64,
    second: i64,
    millisecond: i64,
}

impl Civil {
    /// At so many seconds since 1970 on the clocks of the place.
    fn new(seconds: i64, nanos: u32) -> Self {
        let (days, second) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
        // Years are counted from March on, so that the odd day is the last.
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let before_march = 59 + i64::from(is_leap);
        let day_of_year = if month > 2 { day_of_year + before_march } else { day_of_year - 306 };
        Self {
            year,
            month,
            day,
            day_of_year,
            weekday: (days + 4).rem_euclid(7),
            hour: second / 3600,
            minute: second / 60 % 60,
            second: second % 60,
            millisecond: i64::from(nanos / 1_000_000),
        }
    }
}

/// The zones of the program itself: nothing is read from a disk.
static ZONES: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

/// Reads Go's text form of a duration.
pub(crate) fn duration<'v>(text: &str) -> Result<Val<'v>> {
    let read = Duration::parse(text);
    read.map(Val::Duration).map_err(|error| EvalError::new(error.to_string()))
}

/// Reads RFC 3339.
pub(crate) fn timestamp<'v>(text: &str) -> Result<Val<'v>> {
    Time::read(text).map_err(EvalError::new)?.in_range().map(Val::Timestamp)
}

/// Reads a date; it begins in UTC.
pub(crate) fn date<'v>(text: &str) -> Result<Val<'v>> {
    timestamp(&format!("{text}T00:00:00Z"))
}

pub(super) fn from_seconds<'v>(seconds: i64) -> Result<Val<'v>> {
    Time { seconds, nanos: 0 }.in_range().map(Val::Timestamp)
}

fn overflow() -> EvalError {
    EvalError::new("timestamp overflow")
}

pub(super) fn sum(a: Duration, b: Duration) -> Result<Duration> {
    let nanos = a.as_nanos().checked_add(b.as_nanos());
    nanos.map(Duration::from_nanos).ok_or_else(|| EvalError::new("duration overflow"))
}

pub(super) fn negative(it: Duration) -> Result<Duration> {
    let nanos = it.as_nanos().checked_neg();
    nanos.map(Duration::from_nanos).ok_or_else(|| EvalError::new("duration overflow"))
}

pub(super) fn later(at: Time, by: Duration) -> Result<Time> {
    Time::from_nanos(at.nanos() + i128::from(by.as_nanos()))
}

pub(super) fn between(a: Time, b: Time) -> Result<Duration> {
    let nanos = i64::try_from(a.nanos() - b.nanos());
    nanos.map(Duration::from_nanos).map_err(|_| EvalError::new("duration overflow"))
}

/// Seconds, with as many digits as are needed.
pub(super) fn duration_text(it: Duration) -> String {
    let nanos = it.as_nanos();
    let sign = if nanos < 0 { "-" } else { "" };
    let (seconds, rest) =
        (nanos.unsigned_abs() / 1_000_000_000, nanos.unsigned_abs() % 1_000_000_000);
    if rest == 0 {
        return format!("{sign}{seconds}s");
    }
    let fraction = format!("{rest:09}");
    format!("{sign}{seconds}.{}s", fraction.trim_end_matches('0'))
}

/// RFC 3339 in UTC, with as many digits as are needed.
pub(super) fn timestamp_text(at: Time) -> String {
    let it = Civil::new(at.seconds, at.nanos);
    let fraction = if at.nanos == 0 { String::new() } else { format!(".{:09}", at.nanos) };
    let fraction = fraction.trim_end_matches('0');
    let Civil { year, month, day, hour, minute, second, .. } = it;
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

/// What a zone shows: a name, or an offset such as `-08:00`.
fn local(at: Time, zone: Option<&str>) -> Result<Civil> {
    let offset = match zone {
        None | Some("" | "UTC") => 0,
        Some(zone) => match offset(zone) {
            Some(offset) => offset,
            None => named_offset(at, zone)?,
        },
    };
    Ok(Civil::new(at.seconds + offset, at.nanos))
}

/// The seconds by which a zone is ahead of UTC at a time.
fn named_offset(at: Time, zone: &str) -> Result<i64> {
    let zone = ZONES.get(zone).map_err(|_| EvalError::new(format!("unknown time zone {zone}")))?;
    let at = Timestamp::from_second(at.seconds).unwrap_or(Timestamp::MAX);
    Ok(i64::from(zone.to_offset(at).seconds()))
}

fn offset(zone: &str) -> Option<i64> {
    let (hours, minutes) = zone.split_once(':')?;
    let is_number =
        |it: &str| (1..=2).contains(&it.len()) && it.bytes().all(|byte| byte.is_ascii_digit());
    let digits = hours.trim_start_matches(['+', '-']);
    if !is_number(digits) || !is_number(minutes) {
        return None;
    }
    let seconds = digits.parse::<i64>().ok()? * 3600 + minutes.parse::<i64>().ok()? * 60;
    Some(if hours.starts_with('-') { -seconds } else { seconds })
}

macro_rules! part {
    ($name:ident, |$time:ident| $part:expr, |$duration:ident| $of_duration:expr) => {
        fn $name<'v>(args: &[Val<'v>]) -> Result<Val<'v>> {
            let (at, zone) = match args {
                [Val::Timestamp(at)] => (at, None),
                [Val::Timestamp(at), Val::String(zone)] => (at, Some(&**zone)),
                [Val::Duration($duration)] => {
                    let part: Option<i64> = $of_duration;
                    return part.map(Val::Int).ok_or_else(EvalError::no_such_overload);
                }
                _ => return no_overload(),
            };
            let $time = local(*at, zone)?;
            Ok(Val::Int($part))
        }
    };
}
part!(full_year, |it| it.year, |_it| None);
part!(month, |it| it.month - 1, |_it| None);
part!(day_of_year, |it| it.day_of_year, |_it| None);
part!(day_of_month, |it| it.day - 1, |_it| None);
part!(date_of_month, |it| it.day, |_it| None);
part!(day_of_week, |it| it.weekday, |_it| None);
part!(hours, |it| it.hour, |it| Some(it.as_nanos() / (3600 * NANOS)));
part!(minutes, |it| it.minute, |it| Some(it.as_nanos() / (60 * NANOS)));
part!(seconds, |it| it.second, |it| Some(it.as_nanos() / NANOS));
part!(milliseconds, |it| it.millisecond, |it| Some(it.as_nanos() / 1_000_000 % 1000));

pub(super) const FUNCTIONS: &[Decl] = &[
    f("getFullYear", "timestamp_to_year", "timestamp.() -> int", full_year),
    f("getFullYear", "timestamp_to_year_with_tz", "timestamp.(string) -> int", full_year),
    f("getMonth", "timestamp_to_month", "timestamp.() -> int", month),
    f("getMonth", "timestamp_to_month_with_tz", "timestamp.(string) -> int", month),
    f("getDayOfYear", "timestamp_to_day_of_year", "timestamp.() -> int", day_of_year),
    f("getDayOfYear", "timestamp_to_day_of_year_with_tz", "timestamp.(string) -> int", day_of_year),
    f("getDayOfMonth", "timestamp_to_day_of_month", "timestamp.() -> int", day_of_month),
    f(
        "getDayOfMonth",
        "timestamp_to_day_of_month_with_tz",
        "timestamp.(string) -> int",
        day_of_month,
    ),
    f("getDate", "timestamp_to_day_of_month_1_based", "timestamp.() -> int", date_of_month),
    f(
        "getDate",
        "timestamp_to_day_of_month_1_based_with_tz",
        "timestamp.(string) -> int",
        date_of_month,
    ),
    f("getDayOfWeek", "timestamp_to_day_of_week", "timestamp.() -> int", day_of_week),
    f("getDayOfWeek", "timestamp_to_day_of_week_with_tz", "timestamp.(string) -> int", day_of_week),
    f("getHours", "timestamp_to_hours", "timestamp.() -> int", hours),
    f("getHours", "timestamp_to_hours_with_tz", "timestamp.(string) -> int", hours),
    f("getHours", "duration_to_hours", "duration.() -> int", hours),
    f("getMinutes", "timestamp_to_minutes", "timestamp.() -> int", minutes),
    f("getMinutes", "timestamp_to_minutes_with_tz", "timestamp.(string) -> int", minutes),
    f("getMinutes", "duration_to_minutes", "duration.() -> int", minutes),
    f("getSeconds", "timestamp_to_seconds", "timestamp.() -> int", seconds),
    f("getSeconds", "timestamp_to_seconds_tz", "timestamp.(string) -> int", seconds),
    f("getSeconds", "duration_to_seconds", "duration.() -> int", seconds),
    f("getMilliseconds", "timestamp_to_milliseconds", "timestamp.() -> int", milliseconds),
    f(
        "getMilliseconds",
        "timestamp_to_milliseconds_with_tz",
        "timestamp.(string) -> int",
        milliseconds,
    ),
    f("getMilliseconds", "duration_to_milliseconds", "duration.() -> int", milliseconds),
];
