//! Taints of devices: who may have a device all the same, and for how long.

use apimachinery::Value;
use compact_str::CompactString;

use crate::slice::DeviceId;

/// What a taint does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Effect {
    /// Nobody new gets the device.
    NoSchedule,
    /// Those who have it go too.
    NoExecute,
    /// Nothing, or what is not known here.
    #[default]
    Other,
}

impl Effect {
    /// What a taint or toleration says.
    #[must_use]
    pub fn of(text: &str) -> Self {
        match text {
            "NoSchedule" => Self::NoSchedule,
            "NoExecute" => Self::NoExecute,
            _ => Self::Other,
        }
    }
}

/// A taint of a device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Taint {
    /// Its key.
    pub key: CompactString,
    /// Its value.
    pub value: CompactString,
    /// What it does.
    pub effect: Effect,
    /// Since when, as it is written.
    pub time_added: CompactString,
}

impl Taint {
    /// A taint in a slice or a rule.
    #[must_use]
    pub fn from_value(taint: &Value) -> Self {
        Self {
            key: taint.str_at(&["key"]).into(),
            value: taint.str_at(&["value"]).into(),
            effect: Effect::of(taint.str_at(&["effect"])),
            time_added: taint.str_at(&["timeAdded"]).into(),
        }
    }

    /// Whether nobody new gets the device who does not tolerate it.
    #[must_use]
    pub fn keeps_away(&self) -> bool {
        match self.effect {
            Effect::NoSchedule | Effect::NoExecute => true,
            Effect::Other => false,
        }
    }
}

/// What somebody bears of a device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Toleration {
    /// The key; any where it is empty.
    pub key: CompactString,
    /// `Exists` bears any value.
    pub any_value: bool,
    /// The value.
    pub value: CompactString,
    /// The effect; any where it is `None`.
    pub effect: Option<CompactString>,
    /// For how long; for ever where it is not said.
    pub seconds: Option<i64>,
}

impl Toleration {
    /// A toleration of a request or of an allocated device.
    #[must_use]
    pub fn from_value(toleration: &Value) -> Self {
        let effect = toleration.str_at(&["effect"]);
        Self {
            key: toleration.str_at(&["key"]).into(),
            any_value: toleration.str_at(&["operator"]) == "Exists",
            value: toleration.str_at(&["value"]).into(),
            effect: (!effect.is_empty()).then(|| effect.into()),
            seconds: toleration.i64_at(&["tolerationSeconds"]),
        }
    }

    /// Whether a taint is borne.
    #[must_use]
    pub fn tolerates(&self, taint: &Taint) -> bool {
        let effect = self.effect.as_deref().map(Effect::of);
        effect.is_none_or(|it| it == taint.effect)
            && (self.key.is_empty() || self.key == taint.key)
            && (self.any_value || self.value == taint.value)
    }
}

/// Whether taints keep somebody away who bears so much.
#[must_use]
pub fn keep_away(taints: &[Taint], tolerations: &[Toleration]) -> bool {
    taints
        .iter()
        .any(|taint| taint.keeps_away() && !tolerations.iter().any(|it| it.tolerates(taint)))
}

/// A DeviceTaintRule: a taint for all devices that are selected.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    /// `None` where no device is selected.
    selector: Option<[Option<CompactString>; 3]>,
    /// The taint.
    pub taint: Taint,
}

impl Rule {
    /// A DeviceTaintRule.
    #[must_use]
    pub fn from_value(rule: &Value) -> Self {
        let selector = rule.at(&["spec", "deviceSelector"]).filter(|it| !it.is_null());
        let part =
            |it: &Value, member: &str| it.get(member).and_then(Value::as_str).map(Into::into);
        Self {
            selector: selector
                .map(|it| ["driver", "pool", "device"].map(|member| part(it, member))),
            taint: Taint::from_value(&rule["spec"]["taint"]),
        }
    }

    /// Whether a device is selected.
    #[must_use]
    pub fn selects(&self, id: &DeviceId) -> bool {
        let Some([driver, pool, device]) = &self.selector else { return false };
        [(driver, &id.driver), (pool, &id.pool), (device, &id.device)]
            .into_iter()
            .all(|(wanted, is)| wanted.as_ref().is_none_or(|it| it == is))
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    #[test]
    fn a_toleration_bears_what_it_names() {
        let taint = Taint::from_value(&value!({"key": "k", "value": "v", "effect": "NoExecute"}));
        for (toleration, expected) in [
            (value!({"operator": "Exists"}), true),
            (value!({"key": "k", "operator": "Equal", "value": "v"}), true),
            (value!({"key": "k", "operator": "Equal", "value": "w"}), false),
            (value!({"key": "l", "operator": "Exists"}), false),
            (value!({"key": "k", "operator": "Exists", "effect": "NoExecute"}), true),
            (value!({"key": "k", "operator": "Exists", "effect": "NoSchedule"}), false),
        ] {
            let read = Toleration::from_value(&toleration);
            assert_eq!(read.tolerates(&taint), expected, "{toleration:?}");
            assert_eq!(keep_away(std::slice::from_ref(&taint), &[read]), !expected);
        }
        let harmless = Taint::from_value(&value!({"key": "k", "effect": "None"}));
        assert!(!keep_away(&[harmless], &[]));
    }

    #[test]
    fn a_rule_selects_by_what_it_names() {
        let id = DeviceId { driver: "d".into(), pool: "p".into(), device: "x".into() };
        for (selector, expected) in [
            (value!({"taint": {}}), false),
            (value!({"deviceSelector": {}}), true),
            (value!({"deviceSelector": {"driver": "d", "device": "x"}}), true),
            (value!({"deviceSelector": {"driver": "d", "pool": "q"}}), false),
        ] {
            let rule = Rule::from_value(&value!({"spec": (selector.clone())}));
            assert_eq!(rule.selects(&id), expected, "{selector:?}");
        }
    }
}
