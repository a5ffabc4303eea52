//! Shuffle sharding: each flow has a few queues of its own choice, so that one that floods leaves most to others.

/// How many queues a flow may use at most: validation allows no more than 60 bits of choice.
const MAX_HAND: usize = 64;

/// What a flow is known by: schema and distinguisher. FNV-1a, and its bits mixed, since the remainders below use the low
/// ones.
#[must_use]
pub fn flow_hash(schema: &str, distinguisher: &str) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in schema.bytes().chain([0]).chain(distinguisher.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

/// The queues of a flow: `hand_size` different ones of `deck`.
pub fn hand(mut hash: u64, deck: usize, hand_size: usize, mut take: impl FnMut(usize)) {
    let hand_size = hand_size.min(deck).min(MAX_HAND);
    let mut dealt = [0_usize; MAX_HAND];
    for count in 0..hand_size {
        let left = (deck - count) as u64;
        let mut card = usize::try_from(hash % left).unwrap_or_default();
        hash /= left;
        // Counted among those that are left; `dealt` is in order.
        let mut place = 0;
        while place < count && card >= dealt[place] {
            card += 1;
            place += 1;
        }
        dealt.copy_within(place..count, place + 1);
        dealt[place] = card;
        take(card);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_hand_has_different_cards_and_every_card_is_dealt() {
        let mut seen = BTreeSet::new();
        for flow in 0..500 {
            let mut cards = Vec::new();
            hand(flow_hash("s", &flow.to_string()), 64, 6, |card| cards.push(card));
            let different: BTreeSet<_> = cards.iter().copied().collect();
            assert_eq!(different.len(), 6, "{cards:?}");
            assert!(cards.iter().all(|it| *it < 64), "{cards:?}");
            seen.extend(cards);
        }
        assert_eq!(seen.len(), 64);
        let mut all = Vec::new();
        hand(12_345, 3, 8, |card| all.push(card));
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2]);
    }
}
