//! The seats of each level: nominally, and with what is borrowed from those that do not need theirs.

use crate::demand::Smoothed;
use crate::spec::{Kind, Level};

/// Targets below this count as this: a level without any demand still has a proportion (upstream: `MinTarget`).
const MIN_TARGET: f64 = 0.001;
/// How many halvings find the proportion: more than a double has bits.
const HALVINGS: usize = 100;

/// What a level may have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Its own.
    pub nominal: u32,
    /// What it never lends.
    pub least: u32,
    /// With all that it may borrow.
    pub most: u32,
}

/// The bounds of levels that share so many seats.
#[must_use]
pub fn nominal(levels: &[&Level], seats: u32) -> Vec<Bounds> {
    let shares: i64 = levels.iter().map(|it| it.shares).sum();
    levels.iter().map(|level| bounds(level, shares, seats)).collect()
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "seats are few, and neither negative nor broken"
)]
fn bounds(level: &Level, shares: i64, seats: u32) -> Bounds {
    let part = if shares == 0 { 0.0 } else { level.shares as f64 / shares as f64 };
    let own = (f64::from(seats) * part).ceil();
    let percent = |percent: i64| (own * percent as f64 / 100.0).round();
    let most = match (level.kind, level.borrowing_percent) {
        (Kind::Exempt, _) | (_, None) => own + f64::from(seats),
        (Kind::Reject | Kind::Queue { .. }, Some(it)) => own + percent(it).min(f64::from(seats)),
    };
    Bounds {
        nominal: own as u32,
        least: (own - percent(level.lendable_percent)) as u32,
        most: most as u32,
    }
}

/// A level with what it wants.
#[derive(Debug, Clone, Copy)]
pub struct Share {
    /// Whether its requests never wait.
    pub exempt: bool,
    /// What it may have.
    pub bounds: Bounds,
    /// What it wants.
    pub demand: Smoothed,
}

/// One class of the problem: between its bounds it gets the same part of its target as others.
#[derive(Debug, Clone, Copy)]
struct Class {
    target: f64,
    lower: f64,
    upper: f64,
}

impl Class {
    fn at(&self, proportion: f64) -> f64 {
        (self.target.max(MIN_TARGET) * proportion).clamp(self.lower, self.upper)
    }
}

/// The seats of each level from now on, and the proportion of its demand that each one gets between its bounds.
///
/// Exempt levels have what they use; what is left of all is divided among the others.
#[must_use]
pub fn allocate(shares: &[Share], all: u32) -> (Vec<u32>, f64) {
    let wanted = |it: &Share| {
        let high = it.demand.last.high;
        let high = if it.exempt { high } else { high.min(f64::from(it.bounds.nominal)) };
        high.max(f64::from(it.bounds.least))
    };
    let taken: f64 = shares.iter().filter(|it| it.exempt).map(wanted).sum();
    let left = (f64::from(all) - taken).max(0.0);
    let limited = || shares.iter().filter(|it| !it.exempt);
    let most_urgent: f64 = limited().map(wanted).sum();
    // Where exempt requests take so much that not everybody can have what it last used, only what is never lent is sure.
    let tight = most_urgent > left;
    let class = |it: &Share| {
        let wanted = wanted(it);
        let lower = if tight { f64::from(it.bounds.least) } else { wanted };
        Class {
            lower,
            upper: f64::from(it.bounds.most).max(lower),
            target: it.demand.smoothed.max(wanted),
        }
    };
    let classes: Vec<Class> = limited().map(class).collect();
    let proportion = proportion(&classes, left);
    let mut of_limited = classes.iter().map(|it| it.at(proportion));
    let seats = shares.iter().map(|it| {
        let seats = if it.exempt { wanted(it) } else { of_limited.next().unwrap_or_default() };
        whole(seats)
    });
    (seats.collect(), proportion)
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "seats are few and not negative"
)]
fn whole(seats: f64) -> u32 {
    seats.round() as u32
}

/// The proportion at which all classes together get `sum`; the nearest that the bounds allow.
fn proportion(classes: &[Class], sum: f64) -> f64 {
    let at = |proportion: f64| -> f64 { classes.iter().map(|it| it.at(proportion)).sum() };
    let highest = classes.iter().map(|it| it.upper / it.target.max(MIN_TARGET)).fold(0.0, f64::max);
    let (mut low, mut high) = (0.0, highest);
    if at(high) <= sum {
        return high;
    }
    for _ in 0..HALVINGS {
        let middle = f64::midpoint(low, high);
        if at(middle) < sum { low = middle } else { high = middle }
    }
    high
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demand::Observed;

    fn level(shares: i64, lendable_percent: i64, borrowing_percent: Option<i64>) -> Level {
        let (name, uid) = ("l".into(), "".into());
        Level { name, uid, kind: Kind::Reject, shares, lendable_percent, borrowing_percent }
    }

    #[test]
    fn seats_are_shared_out() {
        let levels =
            [level(40, 25, None), level(100, 90, None), level(5, 0, Some(20)), level(0, 0, None)];
        let bounds = nominal(&levels.iter().collect::<Vec<_>>(), 600);
        let told: Vec<_> = bounds.iter().map(|it| (it.nominal, it.least, it.most)).collect();
        // Upstream rounds up; what is lent is rounded to the nearest.
        assert_eq!(told, [(166, 124, 766), (414, 41, 1_014), (21, 21, 25), (0, 0, 600)]);
    }

    fn share(exempt: bool, [nominal, least, most]: [u32; 3], high: f64, smoothed: f64) -> Share {
        let last = Observed { high, average: smoothed, deviation: 0.0, lasted: true };
        Share {
            exempt,
            bounds: Bounds { nominal, least, most },
            demand: Smoothed { last, smoothed },
        }
    }

    #[test]
    fn who_needs_seats_borrows_them() {
        let busy = share(false, [50, 40, 150], 100.0, 100.0);
        let idle = share(false, [50, 10, 150], 0.0, 0.0);
        let (seats, _) = allocate(&[busy, idle], 100);
        assert_eq!(seats, [90, 10], "what is lendable is lent");
        let stingy = share(false, [50, 50, 150], 0.0, 0.0);
        assert_eq!(allocate(&[busy, stingy], 100).0, [50, 50]);
        let modest = share(false, [50, 40, 60], 100.0, 100.0);
        assert_eq!(allocate(&[modest, idle], 100).0, [60, 40], "no more than may be borrowed");
        // Its own is given back at once to who needs it again.
        let again = share(false, [50, 10, 150], 50.0, 50.0);
        assert_eq!(allocate(&[busy, again], 100).0, [50, 50]);
    }

    #[test]
    fn exempt_requests_leave_what_is_never_lent() {
        let exempt = share(true, [0, 0, 100], 80.0, 80.0);
        let busy = share(false, [50, 40, 150], 50.0, 50.0);
        let other = share(false, [50, 10, 150], 50.0, 50.0);
        assert_eq!(allocate(&[exempt, busy, other], 100).0, [80, 40, 10]);
        let small = share(true, [0, 0, 100], 10.0, 10.0);
        assert_eq!(allocate(&[small, busy, other], 100).0, [10, 45, 45]);
    }

    #[test]
    fn nobody_wants_anything() {
        let idle = share(false, [50, 25, 150], 0.0, 0.0);
        assert_eq!(allocate(&[idle, idle], 100).0, [50, 50]);
        assert_eq!(allocate(&[], 100).0, Vec::<u32>::new());
    }
}
