//! How many seats a request takes. Upstream: `flowcontrol/request`.

use crate::queues::Work;

/// How many bytes of objects a list may have at once for one seat.
const BYTES_PER_SEAT: u64 = 100_000;
/// How many bytes a list from the cache has at once at most: it is streamed.
const STREAMED_BYTES: u64 = 1_000_000;
/// The size of an object of which nothing is known.
const UNKNOWN_OBJECT_BYTES: u64 = 1_500_000;
/// The most seats of a list.
const MAX_LIST_SEATS: u32 = 100;
/// The most seats of a write.
const MAX_MUTATION_SEATS: u32 = 10;
/// How many watchers make one seat.
const WATCHERS_PER_SEAT: u64 = 10;
/// How long a seat works on the event of a write, in nanoseconds.
const EVENT_NANOS: u64 = 5_000_000;

/// What a list reads.
#[derive(Debug, Clone, Copy, Default)]
pub struct Listed {
    /// How many objects there are.
    pub objects: u64,
    /// How many bytes they have together.
    pub bytes: u64,
    /// How many the client wants at most; 0 is all.
    pub limit: u64,
    /// Whether it is about one object, by its name.
    pub single: bool,
}

/// The most seats that one request of a level may take, so that a flow cannot have all (upstream: `SetMaxSeats`).
#[must_use]
pub fn max_seats(nominal: u32, hand_size: usize) -> u32 {
    let hand = u32::try_from(hand_size.max(1)).unwrap_or(u32::MAX);
    nominal.div_ceil(hand).max(1)
}

/// The seats of a list, or of a watch that begins with one. All are answered from the cache here.
#[must_use]
pub fn list_seats(listed: &Listed, most: u32) -> u32 {
    let average = match (listed.objects, listed.bytes) {
        (0, _) => 0,
        (_, 0) => UNKNOWN_OBJECT_BYTES,
        (objects, bytes) => bytes.div_ceil(objects),
    };
    let read = match (listed.single, listed.limit) {
        (true, _) => 1,
        (false, 0) => listed.objects,
        (false, limit) => limit.min(listed.objects),
    };
    let bytes = read.saturating_mul(average).min(STREAMED_BYTES);
    let seats = u32::try_from(bytes.div_ceil(BYTES_PER_SEAT)).unwrap_or(u32::MAX);
    seats.clamp(1, most.clamp(1, MAX_LIST_SEATS))
}

/// The work of a write that so many watchers are told of.
#[must_use]
pub fn mutation(watchers: u64, most: u32) -> Work {
    if watchers < WATCHERS_PER_SEAT {
        return Work::seats(1);
    }
    let seats = watchers.div_ceil(WATCHERS_PER_SEAT);
    let held = seats.min(u64::from(most.clamp(1, MAX_MUTATION_SEATS)));
    Work {
        initial_seats: 1,
        final_seats: u32::try_from(held).unwrap_or(MAX_MUTATION_SEATS),
        additional_nanos: seats.saturating_mul(EVENT_NANOS) / held,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_take_seats_by_what_they_read() {
        let of = |objects, bytes, limit, single| Listed { objects, bytes, limit, single };
        for (listed, most, expected) in [
            (of(0, 0, 0, false), 10, 1),
            (of(10, 10_000, 0, false), 10, 1),
            (of(1_000, 300_000, 0, false), 10, 3),
            (of(1_000, 300_000, 500, false), 10, 2),
            (of(100_000, 100_000_000, 0, false), 100, 10),
            (of(100_000, 100_000_000, 0, false), 4, 4),
            (of(100_000, 100_000_000, 0, true), 10, 1),
            (of(2, 0, 0, false), 100, 10),
        ] {
            assert_eq!(list_seats(&listed, most), expected, "{listed:?}");
        }
    }

    #[test]
    fn writes_take_seats_by_who_watches() {
        assert_eq!(mutation(9, 10), Work::seats(1));
        let some = mutation(25, 10);
        assert_eq!(
            (some.initial_seats, some.final_seats, some.additional_nanos),
            (1, 3, 5_000_000)
        );
        // The same work on fewer seats takes longer.
        let many = mutation(1_000, 10);
        assert_eq!((many.final_seats, many.additional_nanos), (10, 50_000_000));
        assert_eq!(max_seats(100, 6), 17);
        assert_eq!(max_seats(0, 6), 1);
    }
}
