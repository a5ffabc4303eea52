//! Arbitrary text as a quantity, a duration, a selector of labels and of fields: what is read can be written, and
//! means the same when it is read again.

#![no_main]

use apimachinery::{duration, fields, labels, quantity};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    quantity_of(text);
    if let Ok(it) = duration::Duration::parse(text) {
        let again = duration::Duration::parse(&it.to_string()).expect("because it was written");
        assert_eq!(it, again);
        let _ = (duration::human(it), duration::short_human(it));
    }
    if let Ok(selector) = labels::Selector::parse(text) {
        let written = selector.to_string();
        let again = labels::Selector::parse(&written).expect("because it was written");
        assert_eq!(written, again.to_string());
        for value in [None, Some(""), Some("1"), Some("a")] {
            assert_eq!(selector.matches(|_| value), again.matches(|_| value), "{written}");
        }
    }
    if let Ok(selector) = fields::Selector::parse(text) {
        let written = selector.to_string();
        let again = fields::Selector::parse(&written).expect("because it was written");
        // They are sorted as they were written, so that their order may be another.
        assert!(selector.terms().iter().all(|term| again.terms().contains(term)), "{written}");
        assert_eq!(selector.terms().len(), again.terms().len(), "{written}");
    }
});

fn quantity_of(text: &str) {
    let Ok(it) = quantity::Quantity::parse(text) else { return };
    // Exponents end at a million: beyond, what is written is not what was read.
    if it.as_f64().is_infinite() {
        return;
    }
    let written = it.to_text();
    let again = quantity::Quantity::parse(&written).expect("because it was written");
    assert_eq!(again.to_text(), written, "{text}");
    let _ = (it.value(), it.milli_value(), it.as_f64(), it.sign(), it.is_zero(), it.times(3));
    for scale in [i32::MIN, -9, -3, 0, 3, 9, i32::MAX] {
        let _ = it.scaled(scale);
    }
    let other = quantity::Quantity::from_milli(1500, quantity::Format::BinarySI);
    let _ = (it + other, it - other, it.cmp(&other));
    if let Ok(Some(canonical)) = quantity::canonical(text) {
        assert_eq!(quantity::canonical(&canonical), Ok(None), "{text} became {canonical}");
    }
}
