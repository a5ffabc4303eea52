//! What a PriorityLevelConfiguration says.

use apimachinery::Value;
use compact_str::CompactString;

/// What happens to requests of a level that has no seat left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Its requests never wait.
    Exempt,
    /// They are refused.
    Reject,
    /// They wait in queues.
    Queue {
        /// How many there are.
        queues: usize,
        /// How many of them a flow may use.
        hand_size: usize,
        /// How many requests may wait in one.
        length_limit: usize,
    },
}

/// A priority level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Level {
    /// What it is called.
    pub name: CompactString,
    /// That of its object; empty where there is none.
    pub uid: CompactString,
    /// What happens when it is full.
    pub kind: Kind,
    /// Its part of the server's seats, relative to others'.
    pub shares: i64,
    /// How much of that others may borrow.
    pub lendable_percent: i64,
    /// How much it may borrow of others, of its own; any, where there is none.
    pub borrowing_percent: Option<i64>,
}

impl Level {
    /// What an object says; `None` where that is broken, which validation does not let pass.
    #[must_use]
    pub fn of(object: &Value) -> Option<Self> {
        let spec = &object["spec"];
        let (member, kind) = match spec.str_at(&["type"]) {
            "Exempt" => ("exempt", Kind::Exempt),
            "Limited" => ("limited", kind_of(&spec["limited"]["limitResponse"])?),
            _ => return None,
        };
        let limits = &spec[member];
        let default_shares = if kind == Kind::Exempt { 0 } else { 30 };
        Some(Self {
            name: object.str_at(&["metadata", "name"]).into(),
            uid: object.str_at(&["metadata", "uid"]).into(),
            shares: limits.i64_at(&["nominalConcurrencyShares"]).unwrap_or(default_shares).max(0),
            lendable_percent: limits.i64_at(&["lendablePercent"]).unwrap_or(0).clamp(0, 100),
            borrowing_percent: limits.i64_at(&["borrowingLimitPercent"]).map(|it| it.max(0)),
            kind,
        })
    }
}

fn kind_of(response: &Value) -> Option<Kind> {
    match response.str_at(&["type"]) {
        "Reject" => Some(Kind::Reject),
        "Queue" => {
            let queuing = &response["queuing"];
            let number = |member, default: i64| {
                usize::try_from(queuing.i64_at(&[member]).unwrap_or(default))
                    .ok()
                    .filter(|it| *it > 0)
            };
            let queues = number("queues", 64)?;
            Some(Kind::Queue {
                queues,
                hand_size: number("handSize", 8)?.min(queues),
                length_limit: number("queueLengthLimit", 50)?,
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::json;

    use super::*;

    fn level(spec: &str) -> Option<Level> {
        let text = format!(r#"{{"metadata":{{"name":"l","uid":"u"}},"spec":{spec}}}"#);
        Level::of(&json::parse(text.as_bytes()).unwrap())
    }

    #[test]
    fn an_object_says_what_its_level_is() {
        let queue = level(r#"{"type":"Limited","limited":{"nominalConcurrencyShares":40,"lendablePercent":50,"borrowingLimitPercent":10,
            "limitResponse":{"type":"Queue","queuing":{"queues":4,"handSize":6,"queueLengthLimit":7}}}}"#)
        .unwrap();
        assert_eq!(queue.kind, Kind::Queue { queues: 4, hand_size: 4, length_limit: 7 });
        assert_eq!(
            (queue.shares, queue.lendable_percent, queue.borrowing_percent),
            (40, 50, Some(10))
        );
        let reject =
            level(r#"{"type":"Limited","limited":{"limitResponse":{"type":"Reject"}}}"#).unwrap();
        assert_eq!(
            (reject.kind, reject.shares, reject.borrowing_percent),
            (Kind::Reject, 30, None)
        );
        let exempt = level(r#"{"type":"Exempt","exempt":{"lendablePercent":0}}"#).unwrap();
        assert_eq!((exempt.kind, exempt.shares), (Kind::Exempt, 0));
        for broken in [r#"{"type":"Other"}"#, r#"{"type":"Limited"}"#] {
            assert_eq!(level(broken), None, "{broken}");
        }
    }
}
