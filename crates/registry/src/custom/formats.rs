//! The formats of text that schemas may ask for. Others are no checks, as upstream has it.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use apimachinery::validation;
use base64::Engine as _;
use regex::Regex;

/// A format by its name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Format {
    pub(super) name: &'static str,
    fits: fn(&str) -> bool,
}

impl Format {
    pub(super) fn fits(&self, text: &str) -> bool {
        (self.fits)(text)
    }
}

/// The format of this name, if text is checked for it.
pub(super) fn find(name: &str) -> Option<Format> {
    FORMATS.iter().find(|it| it.0 == name).map(|(name, fits)| Format { name, fits: *fits })
}

/// A format's name, and whether a text has it.
type Known = (&'static str, fn(&str) -> bool);

const FORMATS: &[Known] = &[
    ("bsonobjectid", |it| it.len() == 24 && is_hex(it)),
    ("uri", is_uri),
    ("email", is_email),
    ("hostname", is_hostname),
    ("ipv4", |it| it.parse::<Ipv4Addr>().is_ok()),
    ("ipv6", |it| it.contains(':') && it.parse::<Ipv6Addr>().is_ok()),
    ("cidr", is_cidr),
    ("mac", is_mac),
    ("uuid", |it| UUID.is_match(it)),
    ("uuid3", |it| is_uuid_of(it, '3')),
    ("uuid4", |it| is_uuid_of(it, '4')),
    ("uuid5", |it| is_uuid_of(it, '5')),
    ("isbn", |it| is_isbn10(it) || is_isbn13(it)),
    ("isbn10", is_isbn10),
    ("isbn13", is_isbn13),
    ("creditcard", is_credit_card),
    ("ssn", |it| SSN.is_match(it)),
    ("hexcolor", |it| HEX_COLOR.is_match(it)),
    ("rgbcolor", |it| RGB_COLOR.is_match(it)),
    ("byte", |it| base64::prelude::BASE64_STANDARD.decode(it).is_ok()),
    ("password", |_| true),
    ("date", is_date),
    ("duration", is_duration),
    ("date-time", is_date_time),
    ("datetime", is_date_time),
    ("k8s-short-name", |it| validation::dns1123_label(it).is_empty()),
    ("k8s-long-name", |it| validation::dns1123_subdomain(it).is_empty()),
];

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("because the patterns of formats are written here")
}

static UUID: LazyLock<Regex> = LazyLock::new(|| {
    pattern("(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$")
});
static SSN: LazyLock<Regex> = LazyLock::new(|| pattern(r"^\d{3}[- ]?\d{2}[- ]?\d{4}$"));
static HEX_COLOR: LazyLock<Regex> =
    LazyLock::new(|| pattern("^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$"));
static RGB_COLOR: LazyLock<Regex> = LazyLock::new(|| {
    let part = r"\s*(0|[1-9]\d?|1\d\d|2[0-4]\d|25[0-5])\s*";
    pattern(&format!(r"^rgb\({part},{part},{part}\)$"))
});
static EMAIL: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"^[^\s@<>()\[\],;:]+@[^\s@<>()\[\],;:]+$"));
static HOSTNAME: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"^([a-zA-Z0-9\p{S}\p{L}]((-?[a-zA-Z0-9\p{S}\p{L}]{0,62})?)|([a-zA-Z0-9\p{S}\p{L}](([a-zA-Z0-9-\p{S}\p{L}]{0,61}[a-zA-Z0-9\p{S}\p{L}])?)(\.)){1,}([a-zA-Z\p{L}]){2,63})$",
    )
});
static DURATION: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"^\s*((\d+)\s*(nanoseconds?|nanos?|ns|microseconds?|micros?|us|µs|milliseconds?|millis?|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d|weeks?|wks?|w)\s*)+$",
    )
});

fn is_hex(text: &str) -> bool {
    text.bytes().all(|it| it.is_ascii_hexdigit())
}

/// What Go's `url.ParseRequestURI` takes: an absolute path, or a scheme and what follows.
fn is_uri(text: &str) -> bool {
    if text.is_empty() || text.bytes().any(|it| it.is_ascii_control()) {
        return false;
    }
    if text.starts_with('/') {
        return true;
    }
    let Some((scheme, rest)) = text.split_once(':') else { return false };
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    let scheme_is_good =
        scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.chars().all(good);
    let authority = rest.strip_prefix("//").map(|it| it.split('/').next().unwrap_or_default());
    scheme_is_good && !authority.is_some_and(|it| it.contains(' '))
}

fn is_email(text: &str) -> bool {
    let address = text.rsplit_once('<').and_then(|(_, it)| it.strip_suffix('>')).unwrap_or(text);
    EMAIL.is_match(address)
}

fn is_hostname(text: &str) -> bool {
    text.len() <= 255
        && HOSTNAME.is_match(text)
        && text.split('.').all(|part| (1..=63).contains(&part.len()))
}

fn is_cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else { return false };
    let digits = !length.is_empty() && length.bytes().all(|it| it.is_ascii_digit());
    let Some(length) = length.parse::<u8>().ok().filter(|_| digits) else { return false };
    match address.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V4(_)) => length <= 32,
        Ok(std::net::IpAddr::V6(_)) => length <= 128,
        Err(_) => false,
    }
}

/// Six, eight or twenty bytes with one sort of separator.
fn is_mac(text: &str) -> bool {
    let groups = |separator: char, digits: usize, counts: &[usize]| {
        let parts: Vec<&str> = text.split(separator).collect();
        counts.contains(&parts.len()) && parts.iter().all(|it| it.len() == digits && is_hex(it))
    };
    groups(':', 2, &[6, 8, 20]) || groups('-', 2, &[6, 8, 20]) || groups('.', 4, &[3, 4, 10])
}

fn is_uuid_of(text: &str, version: char) -> bool {
    let bare: String = text.chars().filter(|it| *it != '-').collect();
    let variant = bare.chars().nth(16).unwrap_or_default().to_ascii_lowercase();
    let fits = version == '3' || matches!(variant, '8' | '9' | 'a' | 'b');
    UUID.is_match(text) && bare.chars().nth(12) == Some(version) && fits
}

fn digits(text: &str) -> Vec<char> {
    text.chars().filter(|it| !matches!(it, '-' | ' ')).collect()
}

fn is_isbn10(text: &str) -> bool {
    let found = digits(text);
    let value = |(place, it): (usize, &char)| match it {
        'X' if place == 9 => Some(10),
        it => it.to_digit(10),
    };
    let values: Option<Vec<u32>> = found.iter().enumerate().map(value).collect();
    values.is_some_and(|values| {
        let sum: u32 = values.iter().zip(1..).map(|(it, weight)| it * weight).sum();
        values.len() == 10 && sum.is_multiple_of(11)
    })
}

fn is_isbn13(text: &str) -> bool {
    let values: Option<Vec<u32>> = digits(text).iter().map(|it| it.to_digit(10)).collect();
    values.is_some_and(|values| {
        let sum: u32 = values.iter().zip([1, 3].iter().cycle()).map(|(a, b)| a * b).sum();
        values.len() == 13 && sum.is_multiple_of(10)
    })
}

/// Sixteen digits or so of which the last is the checksum of the others.
fn is_credit_card(text: &str) -> bool {
    let values: Option<Vec<u32>> = digits(text).iter().map(|it| it.to_digit(10)).collect();
    values.is_some_and(|values| {
        let doubled = |(place, it): (usize, &u32)| match (place % 2, it * 2) {
            (0, _) => *it,
            (_, twice) => twice / 10 + twice % 10,
        };
        let sum: u32 = values.iter().rev().enumerate().map(doubled).sum();
        (12..=19).contains(&values.len()) && sum.is_multiple_of(10)
    })
}

fn is_date(text: &str) -> bool {
    text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok()
}

fn is_date_time(text: &str) -> bool {
    if text.len() < 4 {
        return false;
    }
    let upper = text.to_uppercase();
    let Some((date, time)) = upper.split_once('T') else { return false };
    is_date(date) && (time.ends_with('Z') || time[1..].contains(['+', '-'])) && {
        upper.parse::<jiff::Timestamp>().is_ok()
    }
}

fn is_duration(text: &str) -> bool {
    apimachinery::duration::Duration::parse(text).is_ok() || DURATION.is_match(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_has_its_format() {
        for (format, good, bad) in [
            ("ipv4", "10.0.0.1", "10.0.0.256"),
            ("ipv6", "::1", "1.2.3.4"),
            ("cidr", "10.0.0.0/8", "10.0.0.0/33"),
            ("mac", "01:02:03:04:05:06", "01:02:03:04:05"),
            ("uuid", "a3bb189e-8bf9-3888-9912-ace4e6543002", "a3bb189e"),
            (
                "uuid4",
                "57b73598-8764-4ad0-a76a-679bb6640eb1",
                "a3bb189e-8bf9-3888-9912-ace4e6543002",
            ),
            ("date", "2024-02-29", "2023-02-29"),
            ("date-time", "2024-02-29T10:00:00Z", "2024-02-29 10:00:00"),
            ("duration", "1h30m", "an hour"),
            ("byte", "aGk=", "a*"),
            ("email", "a@example.com", "a.example.com"),
            ("hostname", "a.example.com", "-a"),
            ("uri", "https://example.com/a", "example"),
            ("isbn10", "0-306-40615-2", "0-306-40615-3"),
            ("isbn13", "978-0-306-40615-7", "978-0-306-40615-8"),
            ("creditcard", "4111-1111-1111-1111", "4111-1111-1111-1112"),
            ("hexcolor", "#fff", "#ffff"),
            ("rgbcolor", "rgb(1,2,255)", "rgb(1,2,256)"),
            ("k8s-short-name", "a-b", "a.b"),
        ] {
            let format = find(format).unwrap();
            assert!(format.fits(good), "{format:?}: {good}");
            assert!(!format.fits(bad), "{format:?}: {bad}");
        }
        assert!(find("int32").is_none());
    }
}
