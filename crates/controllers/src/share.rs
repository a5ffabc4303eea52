//! Numbers that may be given as a share of a total: `maxUnavailable`, `maxSurge`.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Which way a share that is no whole number goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// To the next larger number.
    Up,
    /// To the next smaller number.
    Down,
}

/// The number itself, or the share of `total`; 0 for what is neither, which validation prevents.
#[must_use]
pub fn of(value: &IntOrString, total: i32, rounding: Rounding) -> i32 {
    let percent = match value {
        IntOrString::Int(number) => return *number,
        IntOrString::String(text) => text.trim_end_matches('%').parse().unwrap_or(0_i64),
    };
    let product = i64::from(total).saturating_mul(percent);
    let share = match rounding {
        Rounding::Up => product.saturating_add(99).div_euclid(100),
        Rounding::Down => product.div_euclid(100),
    };
    i32::try_from(share).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_rounded_as_asked() {
        let check = |value: &IntOrString, up: i32, down: i32| {
            assert_eq!(of(value, 5, Rounding::Up), up, "{value:?}");
            assert_eq!(of(value, 5, Rounding::Down), down, "{value:?}");
        };
        check(&IntOrString::Int(7), 7, 7);
        check(&IntOrString::String("25%".into()), 2, 1);
        check(&IntOrString::String("100%".into()), 5, 5);
        check(&IntOrString::String("?".into()), 0, 0);
    }
}
