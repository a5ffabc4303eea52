//! How scores are brought to 0..=[`MAX_SCORE`].

use crate::framework::MAX_SCORE;

/// Which raw score is the best.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Best {
    /// The largest becomes [`MAX_SCORE`].
    Largest,
    /// Zero becomes [`MAX_SCORE`], the largest zero.
    Smallest,
}

/// Each score as its share of the largest.
pub(super) fn to_share(scores: &mut [i64], best: Best) {
    let max = scores.iter().copied().max().unwrap_or_default();
    for score in scores {
        let share = if max == 0 { 0 } else { MAX_SCORE * *score / max };
        *score = match best {
            Best::Largest => share,
            Best::Smallest => MAX_SCORE - share,
        };
    }
}
