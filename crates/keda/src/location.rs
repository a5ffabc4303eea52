//! Where in a document a value is: the part of GJSON's paths that names members and places in lists.

use apimachinery::Value;
use apimachinery::quantity::Quantity;

/// A path to a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    text: String,
    steps: Vec<String>,
}

impl Location {
    /// Reads a path such as `queues.0.messages` or `items.#`.
    ///
    /// # Errors
    /// When it asks for more than members, places and lengths.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("no valueLocation given".into());
        }
        if text.contains(['@', '*', '?', '|', '{', '[', '(', '"']) {
            return Err(format!(
                "valueLocation {text:?}: only members, places in lists and # are understood here"
            ));
        }
        let (mut steps, mut step, mut escaped) = (Vec::new(), String::new(), false);
        for letter in text.chars() {
            match letter {
                '\\' if !escaped => escaped = true,
                '.' if !escaped => steps.push(std::mem::take(&mut step)),
                _ => {
                    escaped = false;
                    step.push(letter);
                }
            }
        }
        steps.push(step);
        Ok(Self { text: text.to_owned(), steps })
    }

    /// The path as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The number there: a number, or text that is a quantity.
    ///
    /// # Errors
    /// When there is none.
    pub fn number(&self, document: &Value) -> Result<f64, String> {
        let lacking = || {
            format!(
                "valueLocation {:?} must point to value of type number or a string representing a Quantity got: nothing",
                self.text
            )
        };
        let mut at = document;
        for (place, step) in self.steps.iter().enumerate() {
            let list = at.as_array();
            if let (Some(list), "#") = (list, step.as_str()) {
                let is_last = place + 1 == self.steps.len();
                let length = u32::try_from(list.len()).unwrap_or(u32::MAX);
                return is_last.then(|| f64::from(length)).ok_or_else(lacking);
            }
            at = match list {
                Some(list) => step.parse::<usize>().ok().and_then(|nth| list.get(nth)),
                None => at.get(step),
            }
            .ok_or_else(lacking)?;
        }
        let text = match at.as_str() {
            Some(text) => text.to_owned(),
            None => apimachinery::json::to_string(at),
        };
        let parsed = Quantity::parse(&text).map(|it| it.as_f64());
        parsed.map_err(|_| format!("valueLocation {:?} must point to value of type number or a string representing a Quantity got: {text}", self.text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_finds_numbers_and_quantities() {
        let document = apimachinery::json::parse(
            br#"{"queues":[{"messages":7,"a.b":"1500m"}],"depth":{"value":2.5},"text":"many"}"#,
        )
        .unwrap();
        for (path, expected) in [
            ("queues.0.messages", Some(7.0)),
            ("queues.#", Some(1.0)),
            (r"queues.0.a\.b", Some(1.5)),
            ("depth.value", Some(2.5)),
            ("queues.1.messages", None),
            ("queues.#.messages", None),
            ("text", None),
            ("depth", None),
        ] {
            let found = Location::parse(path).unwrap().number(&document).ok();
            assert_eq!(found, expected, "{path}");
        }
        for path in ["", "queues.#(messages>1)", "@this", "a|b"] {
            assert!(Location::parse(path).is_err(), "{path}");
        }
    }
}
