//! Quantities: numbers with a suffix, such as `500m`, `1536Mi` and `1e3`.
//!
//! A whole number times a power of ten, and the family of suffixes it was written with. Reads without
//! allocating and prints what upstream prints after a round trip. Knows nothing of resources.

use std::cmp::Ordering;
use std::fmt;

use compact_str::CompactString;

/// Nothing finer than nano is kept; finer input is rounded away from zero.
const SCALE_MIN: i32 = -9;
/// Exponents beyond this are no quantities of anything; they are held to it.
const SCALE_MAX: i32 = 1_000_000;
/// Digits of a number that are kept; what follows only counts as magnitude.
const DIGITS_MAX: usize = 28;
/// More digits than this go through upstream's slow path, which never reuses the text.
const FAST_DIGITS: i32 = 18;

/// Text that is no quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Nothing, or something after the suffix.
    #[error(
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    )]
    Format,
    /// A suffix that does not exist.
    #[error("unable to parse quantity's suffix")]
    Suffix,
    /// Digits that make no number.
    #[error("unable to parse numeric part of quantity")]
    Numeric,
}

/// The family of suffixes a quantity is written with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// `n u m k M G T P E`
    #[default]
    DecimalSI,
    /// `Ki Mi Gi Ti Pi Ei`
    BinarySI,
    /// `e3`
    DecimalExponent,
}

/// A number of something: `value * 10^scale`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quantity {
    value: i128,
    scale: i32,
    format: Format,
}

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self { value: 0, scale: 0, format: Format::DecimalSI };

    /// A whole number.
    #[must_use]
    pub fn new(value: i64, format: Format) -> Self {
        Self { value: i128::from(value), scale: 0, format }
    }

    /// A number of thousandths.
    #[must_use]
    pub fn from_milli(milli: i64, format: Format) -> Self {
        Self { value: i128::from(milli), scale: -3, format }
    }

    /// Reads a quantity.
    ///
    /// # Errors
    /// When the text is none, in upstream's words.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        read(text).map(|read| read.quantity)
    }

    /// The family of suffixes it is written with.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// Whether it is nothing.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.value == 0
    }

    /// -1, 0 or 1.
    #[must_use]
    pub fn sign(&self) -> i32 {
        match self.value.cmp(&0) {
            Ordering::Less => -1,
            Ordering::Equal => 0,
            Ordering::Greater => 1,
        }
    }

    /// The whole number, rounded away from zero and held to 64 bits.
    #[must_use]
    pub fn value(&self) -> i64 {
        self.scaled(0)
    }

    /// The number of thousandths, rounded away from zero and held to 64 bits.
    #[must_use]
    pub fn milli_value(&self) -> i64 {
        self.scaled(-3)
    }

    /// The number in units of `10^scale`, rounded away from zero and held to 64 bits.
    #[must_use]
    pub fn scaled(&self, scale: i32) -> i64 {
        let wide =
            if self.scale >= scale {
                times_power(self.value, self.scale.saturating_sub(scale))
                    .unwrap_or(if self.value < 0 { i128::MIN } else { i128::MAX })
            } else {
                divided(self.value, scale.saturating_sub(self.scale))
            };
        i64::try_from(wide).unwrap_or(if wide < 0 { i64::MIN } else { i64::MAX })
    }

    /// The number in whole units of `10^scale`, rounded away from zero where it is finer.
    #[must_use]
    pub fn rounded(self, scale: i32) -> Self {
        if self.scale >= scale {
            return self;
        }
        Self { value: divided(self.value, scale.saturating_sub(self.scale)), scale, ..self }
    }

    /// The number as a float, which may be near it only.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "an approximation is what is asked for")]
    pub fn as_f64(&self) -> f64 {
        self.value as f64 * 10f64.powi(self.scale)
    }

    /// The product with a whole number.
    #[must_use]
    pub fn times(self, factor: i64) -> Self {
        Self { value: self.value.saturating_mul(i128::from(factor)), ..self }
    }

    fn combine(
        self,
        other: Self,
        exact: impl Fn(i128, i128) -> Option<i128>,
        saturating: impl Fn(i128, i128) -> i128,
    ) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        let low = self.scale.min(other.scale);
        let aligned = times_power(self.value, self.scale - low)
            .zip(times_power(other.value, other.scale - low))
            .and_then(|(a, b)| exact(a, b));
        if let Some(value) = aligned {
            return Self { value, scale: low, format };
        }
        // Too far apart for one number: what the larger scale cannot hold is rounded away.
        let high = self.scale.max(other.scale);
        let value = saturating(
            divided(self.value, high - self.scale),
            divided(other.value, high - other.scale),
        );
        Self { value, scale: high, format }
    }
}

impl std::ops::Add for Quantity {
    type Output = Self;
    /// Zero takes the other's format.
    fn add(self, other: Self) -> Self {
        self.combine(other, i128::checked_add, i128::saturating_add)
    }
}

impl std::ops::Sub for Quantity {
    type Output = Self;
    /// Zero takes the other's format.
    fn sub(self, other: Self) -> Self {
        self.combine(other, i128::checked_sub, i128::saturating_sub)
    }
}

impl std::ops::Neg for Quantity {
    type Output = Self;
    fn neg(self) -> Self {
        Self { value: self.value.saturating_neg(), ..self }
    }
}

impl std::ops::AddAssign for Quantity {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl std::ops::SubAssign for Quantity {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        if self.scale == other.scale {
            return self.value.cmp(&other.value);
        }
        if self.sign() != other.sign() {
            return self.sign().cmp(&other.sign());
        }
        let low = self.scale.min(other.scale);
        let mine = times_power(self.value, self.scale - low);
        let theirs = times_power(other.value, other.scale - low);
        // A number that does not fit is the one further from zero.
        match (mine, theirs) {
            (Some(a), Some(b)) => a.cmp(&b),
            (None, _) if self.value > 0 => Ordering::Greater,
            (None, _) => Ordering::Less,
            (Some(_), None) if self.value > 0 => Ordering::Less,
            (Some(_), None) => Ordering::Greater,
        }
    }
}

/// What upstream writes for a quantity that it read as `text`; `None` where that is `text` itself.
///
/// # Errors
/// When the text is no quantity.
pub fn canonical(text: &str) -> Result<Option<CompactString>, QuantityError> {
    let trimmed = text.trim();
    let read = read(trimmed)?;
    if read.reusable {
        return Ok((trimmed.len() != text.len()).then(|| trimmed.into()));
    }
    let written = read.quantity.to_text();
    Ok((written != text).then_some(written))
}

impl Quantity {
    /// The canonical text.
    #[must_use]
    pub fn to_text(&self) -> CompactString {
        compact_str::format_compact!("{self}")
    }

    /// The number as a whole multiple of a power of 1024, where binary suffixes lose nothing.
    fn binary_parts(&self) -> Option<(i128, usize)> {
        let whole = if self.scale >= 0 {
            times_power(self.value, self.scale)?
        } else {
            let whole = divided(self.value, -self.scale);
            if times_power(whole, -self.scale) != Some(self.value) {
                return None;
            }
            whole
        };
        if whole.abs() < 1024 {
            return None;
        }
        let (mut amount, mut power) = (whole, 0);
        while amount % 1024 == 0 && power + 1 < BINARY.len() {
            amount /= 1024;
            power += 1;
        }
        Some((amount, power))
    }
}

const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_zero() {
            return f.write_str("0");
        }
        if self.format == Format::BinarySI
            && let Some((amount, power)) = self.binary_parts()
        {
            return write!(f, "{amount}{}", BINARY[power]);
        }
        let (mut amount, mut exponent) = (self.value, self.scale);
        while amount % 10 == 0 {
            amount /= 10;
            exponent += 1;
        }
        while exponent.rem_euclid(3) != 0 {
            amount = amount.saturating_mul(10);
            exponent -= 1;
        }
        if self.format == Format::DecimalExponent {
            return if exponent == 0 {
                write!(f, "{amount}")
            } else {
                write!(f, "{amount}e{exponent}")
            };
        }
        let index = usize::try_from(exponent / 3 + 3).unwrap_or(0);
        match DECIMAL.get(index) {
            Some(suffix) => write!(f, "{amount}{suffix}"),
            // Upstream drops the suffix here and with it the magnitude; an exponent keeps the number true.
            None => write!(f, "{amount}e{exponent}"),
        }
    }
}

impl std::str::FromStr for Quantity {
    type Err = QuantityError;
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        Self::parse(text)
    }
}

struct Read {
    quantity: Quantity,
    /// Upstream writes the text it read.
    reusable: bool,
}

fn read(text: &str) -> Result<Read, QuantityError> {
    let bytes = text.as_bytes();
    if bytes.is_empty() {
        return Err(QuantityError::Format);
    }
    let negative = bytes[0] == b'-';
    let unsigned = &bytes[usize::from(matches!(bytes[0], b'-' | b'+'))..];
    let stripped = &unsigned[unsigned.iter().take_while(|b| **b == b'0').count()..];
    if stripped.is_empty() {
        return Ok(Read { quantity: Quantity::ZERO, reusable: false });
    }
    let whole = digits(stripped);
    let rest = &stripped[whole.len()..];
    let fraction = rest.strip_prefix(b".").map_or(&[][..], digits);
    let dot = usize::from(rest.first() == Some(&b'.'));
    let suffix = suffix(&rest[dot + fraction.len()..])?;
    let (base, exponent, format) = interpret(suffix).ok_or(QuantityError::Suffix)?;
    let shown = Shown { whole, fraction, exponent, format };
    let no_digit = unsigned.len() == suffix.len() + dot;
    if no_digit && !shown.is_fast(0) {
        return Err(QuantityError::Numeric);
    }
    Ok(shown.read(base, negative))
}

fn digits(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.iter().take_while(|b| b.is_ascii_digit()).count()]
}

/// All of `bytes`, if that is letters of suffixes, a sign and digits.
fn suffix(bytes: &[u8]) -> Result<&[u8], QuantityError> {
    let letters = bytes.iter().take_while(|b| b"eEinumkKMGTP".contains(b)).count();
    let rest = &bytes[letters..];
    let sign = usize::from(matches!(rest.first(), Some(b'-' | b'+')));
    if digits(&rest[sign..]).len() + sign == rest.len() {
        Ok(bytes)
    } else {
        Err(QuantityError::Format)
    }
}

/// Base (10 or 2), exponent and family of a suffix.
fn interpret(suffix: &[u8]) -> Option<(u8, i32, Format)> {
    let decimal = |exponent| Some((10, exponent, Format::DecimalSI));
    let binary = |exponent| Some((2, exponent, Format::BinarySI));
    match suffix {
        b"" => decimal(0),
        b"n" => decimal(-9),
        b"u" => decimal(-6),
        b"m" => decimal(-3),
        b"k" => decimal(3),
        b"M" => decimal(6),
        b"G" => decimal(9),
        b"T" => decimal(12),
        b"P" => decimal(15),
        b"E" => decimal(18),
        b"Ki" => binary(10),
        b"Mi" => binary(20),
        b"Gi" => binary(30),
        b"Ti" => binary(40),
        b"Pi" => binary(50),
        b"Ei" => binary(60),
        [b'e' | b'E', exponent @ ..] if !exponent.is_empty() => {
            let exponent: i64 = std::str::from_utf8(exponent).ok()?.parse().ok()?;
            let held = exponent.clamp(i64::from(-SCALE_MAX), i64::from(SCALE_MAX));
            Some((10, i32::try_from(held).ok()?, Format::DecimalExponent))
        }
        _ => None,
    }
}

/// A quantity taken apart.
struct Shown<'t> {
    whole: &'t [u8],
    fraction: &'t [u8],
    exponent: i32,
    format: Format,
}

impl Shown<'_> {
    fn read(&self, base: u8, negative: bool) -> Read {
        let (mut value, mut scale) = self.number();
        let fast = self.is_fast(value);
        let reusable = fast && self.is_canonical(value);
        let mut format = self.format;
        if base == 2 {
            value = value.saturating_mul(1i128 << self.exponent);
        } else {
            scale += self.exponent;
        }
        if scale < SCALE_MIN {
            value = divided(value, SCALE_MIN - scale);
            scale = SCALE_MIN;
        }
        if base == 2 && !fast {
            let most = Quantity::new(i64::MAX, format);
            let quantity = Quantity { value, scale, format };
            if quantity > most {
                (value, scale) = (most.value, 0);
            } else if quantity < Quantity::new(1, format) && value > 0 {
                format = Format::DecimalSI;
            }
        }
        let value = if negative { -value } else { value };
        Read { quantity: Quantity { value, scale, format }, reusable }
    }

    /// The digits as one number, and its scale. Digits past [`DIGITS_MAX`] count as magnitude only.
    fn number(&self) -> (i128, i32) {
        let count = self.whole.len() + self.fraction.len();
        let kept = count.min(DIGITS_MAX);
        let all = self.whole.iter().chain(self.fraction);
        let mut value = all.clone().take(kept).fold(0, |sum, b| sum * 10 + i128::from(b - b'0'));
        if all.skip(kept).any(|b| *b != b'0') {
            value += 1;
        }
        let length = |n: usize| i32::try_from(n).unwrap_or(SCALE_MAX);
        (value, length(count - kept) - length(self.fraction.len()))
    }

    fn digit_count(&self, part: &[u8]) -> i32 {
        i32::try_from(part.len()).unwrap_or(SCALE_MAX)
    }

    /// Whether upstream keeps this as a 64-bit number and a scale.
    fn is_fast(&self, value: i128) -> bool {
        let whole = self.digit_count(self.whole).max(1);
        let fraction = self.digit_count(self.fraction);
        if self.format == Format::BinarySI {
            let room = 15 - whole - self.exponent * 3 / 10 - 1;
            let product = value.checked_mul(1i128 << self.exponent);
            return fraction == 0
                && room >= 0
                && product.is_some_and(|product| i64::try_from(product).is_ok());
        }
        whole + fraction <= FAST_DIGITS && self.exponent - fraction >= SCALE_MIN
    }

    /// Whether upstream takes the text to be canonical. It looks at the digits only, so `1.500` stays.
    fn is_canonical(&self, value: i128) -> bool {
        if self.format == Format::BinarySI {
            return value & 7 != 0;
        }
        let zeros =
            self.whole.iter().chain(self.fraction).rev().take_while(|b| **b == b'0').count();
        (self.exponent - self.digit_count(self.fraction)) % 3 == 0
            && zeros < 3
            && !self.whole.is_empty()
    }
}

/// `value * 10^power`, if it fits.
fn times_power(value: i128, power: i32) -> Option<i128> {
    if value == 0 {
        return Some(0);
    }
    10i128.checked_pow(u32::try_from(power).ok()?)?.checked_mul(value)
}

/// `value / 10^power`, rounded away from zero.
fn divided(value: i128, power: i32) -> i128 {
    let divisor = u32::try_from(power).ok().and_then(|power| 10i128.checked_pow(power));
    let Some(divisor) = divisor else { return value.signum() };
    let quotient = value / divisor;
    if value % divisor == 0 { quotient } else { quotient + value.signum() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let outcome = match canonical(text) {
            Ok(None) => text.to_owned(),
            Ok(Some(other)) => other.to_string(),
            Err(error) => error.to_string(),
        };
        assert_eq!(outcome, expected, "for {text:?}");
    }

    #[test]
    fn texts_become_canonical_as_upstream_writes_them() {
        let cases = [
            ("0", "0"),
            ("-0", "0"),
            ("000", "0"),
            ("0.0", "0"),
            ("0Ki", "0"),
            (".", "0"),
            ("0.5", "500m"),
            ("1024Ki", "1Mi"),
            ("128974848", "128974848"),
            ("1e3", "1e3"),
            ("1E3", "1E3"),
            ("1.5Gi", "1536Mi"),
            ("1000m", "1"),
            ("100m", "100m"),
            ("1.5", "1500m"),
            ("1.500", "1.500"),
            ("1.000", "1"),
            ("0.500", "500m"),
            ("1000", "1k"),
            ("1500", "1500"),
            ("10000k", "10M"),
            ("10e2", "1e3"),
            ("1e-3", "1e-3"),
            ("1e-1", "100e-3"),
            ("12e1", "120"),
            ("0.5Ki", "512"),
            ("1.1Ki", "1126400m"),
            ("0.0000000001", "1n"),
            ("-0.1n", "-1n"),
            ("1.23456789012n", "2n"),
            ("8Ei", "9223372036854775807"),
            ("1024Mi", "1Gi"),
            ("500Mi", "500Mi"),
            ("+5", "+5"),
            ("005", "005"),
            ("5 ", "5"),
            ("1.", "1."),
            (".5", "500m"),
            ("100000000000000000000", "100E"),
            ("9223372036854775808", "9223372036854775808"),
            ("1E", "1E"),
            ("1000E", "1e21"),
            ("1Mi", "1Mi"),
            ("2048Mi", "2Gi"),
            ("1048576Ki", "1Gi"),
            ("0.1Gi", "107374182400m"),
        ];
        for (text, expected) in cases {
            check(text, expected);
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused_in_upstreams_words() {
        let format = QuantityError::Format.to_string();
        for text in ["", "x", "1x", "1 m", "1.2.3", "1m5x", "1K1K"] {
            check(text, &format);
        }
        for text in ["1Kii", "1K", "1e", "1mm", "1e99999999999999999999", "--1", "+-1"] {
            check(text, &QuantityError::Suffix.to_string());
        }
        check("e-20", &QuantityError::Numeric.to_string());
    }

    #[test]
    fn numbers_compare_across_scales() {
        let parse = |text| Quantity::parse(text).unwrap();
        let rising = [
            "-1e100", "-1Gi", "-1", "-1m", "0", "1n", "999u", "1m", "1", "1k", "1Ki", "1e30",
            "1e99",
        ];
        for (i, a) in rising.iter().enumerate() {
            for (j, b) in rising.iter().enumerate() {
                assert_eq!(parse(a).cmp(&parse(b)), i.cmp(&j), "{a} and {b}");
            }
        }
        assert_eq!(parse("1000m"), parse("1"));
        assert_eq!(parse("0e50"), parse("0"));
    }

    #[test]
    fn sums_keep_the_format_and_lose_nothing() {
        let parse = |text| Quantity::parse(text).unwrap();
        assert_eq!((parse("1") + parse("100m")).to_string(), "1100m");
        assert_eq!((parse("0") + parse("1Gi")).to_string(), "1Gi");
        assert_eq!((parse("1Gi") - parse("1Mi")).to_string(), "1023Mi");
        assert_eq!((parse("1Gi") - parse("1")).to_string(), "1073741823");
        assert_eq!((parse("1") - parse("1500m")).to_string(), "-500m");
        assert_eq!((-parse("3")).times(2).to_string(), "-6");
    }

    #[test]
    fn whole_and_milli_values_round_away_from_zero() {
        let parse = |text| Quantity::parse(text).unwrap();
        for (text, value, milli) in [
            ("1.1", 2, 1100),
            ("-1.1", -2, -1100),
            ("100m", 1, 100),
            ("1n", 1, 1),
            ("2Gi", 2_147_483_648, 2_147_483_648_000),
            ("9E", 9_000_000_000_000_000_000, i64::MAX),
            ("1e300", i64::MAX, i64::MAX),
            ("-1e300", i64::MIN, i64::MIN),
            ("0", 0, 0),
        ] {
            assert_eq!((parse(text).value(), parse(text).milli_value()), (value, milli), "{text}");
        }
    }
}
