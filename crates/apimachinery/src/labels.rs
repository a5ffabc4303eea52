//! Label selectors: `app in (web,db),!canary,tier!=front`.
//!
//! Both forms: the text of a query and the object in a spec. Knows labels only as a lookup from key to value.

mod parse;

use std::fmt;

use compact_str::CompactString;
use smallvec::SmallVec;

use crate::validation;
use crate::value::{Object, Value};

/// How a requirement's values are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// `in`
    In,
    /// `notin`
    NotIn,
    /// `=`
    Equals,
    /// `==`
    DoubleEquals,
    /// `!=`
    NotEquals,
    /// The key alone.
    Exists,
    /// `!key`
    DoesNotExist,
    /// `>`
    GreaterThan,
    /// `<`
    LessThan,
}

/// The values of a requirement; one, nearly always.
pub type Values = SmallVec<[CompactString; 1]>;

/// What a label must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    key: CompactString,
    operator: Operator,
    values: Values,
}

/// All requirements must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

/// A selector that does not parse, in upstream's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub(crate) String);

impl Selector {
    /// Every object.
    pub const EVERYTHING: Self = Self { requirements: Vec::new(), nothing: false };
    /// No object.
    pub const NOTHING: Self = Self { requirements: Vec::new(), nothing: true };

    /// Reads the text of a query.
    ///
    /// # Errors
    /// When the text is no selector.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        Ok(Self::new(parse::requirements(text)?))
    }

    /// Objects that meet all of these.
    #[must_use]
    pub fn new(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Self { requirements, nothing: false }
    }

    /// Objects with all of these labels. They are taken to be valid.
    #[must_use]
    pub fn from_labels(labels: &Object) -> Self {
        let equal = |(key, value): (&str, &Value)| Requirement {
            key: key.into(),
            operator: Operator::Equals,
            values: SmallVec::from_elem(value.as_str().unwrap_or_default().into(), 1),
        };
        Self::new(labels.iter().map(equal).collect())
    }

    /// The selector in a spec: `matchLabels` and `matchExpressions`. Absent selects nothing, empty everything.
    ///
    /// # Errors
    /// On an operator that does not exist, or a key or value that no label can have.
    pub fn from_value(selector: Option<&Value>) -> Result<Self, SelectorError> {
        let Some(selector) = selector.filter(|it| !it.is_null()) else { return Ok(Self::NOTHING) };
        let mut requirements = Vec::new();
        let labels = selector.get("matchLabels").and_then(Value::as_object);
        for (key, value) in labels.into_iter().flat_map(Object::iter) {
            let value = value.as_str().unwrap_or_default().into();
            requirements.push(Requirement::new(
                key,
                Operator::Equals,
                SmallVec::from_elem(value, 1),
            )?);
        }
        for expression in selector.items_at(&["matchExpressions"]) {
            requirements.push(from_expression(expression)?);
        }
        Ok(Self::new(requirements))
    }

    /// Whether every object is selected.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty() && !self.nothing
    }

    /// Whether no object is selected, whatever its labels.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.nothing
    }

    /// The requirements, sorted by key.
    #[must_use]
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// The one value that a label must have, if the selector's first requirement on it says so.
    #[must_use]
    pub fn requires(&self, key: &str) -> Option<&str> {
        let requirement = self.requirements.iter().find(|it| it.key == key)?;
        match (requirement.operator, requirement.values.as_slice()) {
            (Operator::Equals | Operator::DoubleEquals | Operator::In, [value]) => Some(value),
            _ => None,
        }
    }

    /// Whether an object with these labels is selected.
    pub fn matches<'l>(&self, lookup: impl Fn(&str) -> Option<&'l str>) -> bool {
        !self.nothing && self.requirements.iter().all(|it| it.matches(lookup(&it.key)))
    }

    /// Whether an object with these labels is selected.
    #[must_use]
    pub fn matches_labels(&self, labels: Option<&Object>) -> bool {
        self.matches(|key| labels?.get(key)?.as_str())
    }
}

fn from_expression(expression: &Value) -> Result<Requirement, SelectorError> {
    let operator = match expression.str_at(&["operator"]) {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        other => {
            let shown = crate::field::quote(other);
            return Err(SelectorError(format!("{shown} is not a valid label selector operator")));
        }
    };
    let values = expression.items_at(&["values"]).iter().filter_map(Value::as_str);
    Requirement::new(expression.str_at(&["key"]), operator, values.map(Into::into).collect())
}

impl Requirement {
    /// A requirement that labels can meet.
    ///
    /// # Errors
    /// On a key or a value that no label can have, or a number of values that the operator does not take.
    pub fn new(key: &str, operator: Operator, values: Values) -> Result<Self, SelectorError> {
        let mut problems = Vec::new();
        let mut invalid = |path: String, value: String, problem: &str| {
            problems.push(format!("{path}: Invalid value: {value}: {problem}"));
        };
        let quote = crate::field::quote;
        let key_problems = validation::qualified_name(key);
        if !key_problems.is_empty() {
            invalid("key".into(), quote(key), &key_problems.join("; "));
        }
        if let Some(problem) = operator.count_problem(values.len()) {
            let shown: Vec<_> = values.iter().map(|value| quote(value)).collect();
            invalid("values".into(), format!("[{}]", shown.join(",")), problem);
        }
        for (index, value) in values.iter().enumerate() {
            if operator.is_numeric() && integer(value).is_none() {
                let problem = "for 'Gt', 'Lt' operators, the value must be an integer";
                invalid(format!("values[{index}]"), quote(value), problem);
            }
        }
        for (index, value) in values.iter().enumerate() {
            let value_problems = validation::label_value(value);
            if !value_problems.is_empty() {
                invalid(
                    format!("values[{index}][{key}]"),
                    quote(value),
                    &value_problems.join("; "),
                );
            }
        }
        match problems.as_slice() {
            [] => Ok(Self { key: key.into(), operator, values }),
            [one] => Err(SelectorError(one.clone())),
            many => Err(SelectorError(format!("[{}]", many.join(", ")))),
        }
    }

    /// The label's key.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// How values are compared.
    #[must_use]
    pub fn operator(&self) -> Operator {
        self.operator
    }

    /// The values.
    #[must_use]
    pub fn values(&self) -> &[CompactString] {
        &self.values
    }

    /// Whether a label with this value, or no label, meets it.
    #[must_use]
    pub fn matches(&self, label: Option<&str>) -> bool {
        let among = |value: &str| self.values.iter().any(|it| it == value);
        let number = || integer(self.values.first()?);
        match self.operator {
            Operator::In | Operator::Equals | Operator::DoubleEquals => label.is_some_and(among),
            Operator::NotIn | Operator::NotEquals => !label.is_some_and(among),
            Operator::Exists => label.is_some(),
            Operator::DoesNotExist => label.is_none(),
            Operator::GreaterThan => {
                label.and_then(integer).zip(number()).is_some_and(|(label, it)| label > it)
            }
            Operator::LessThan => {
                label.and_then(integer).zip(number()).is_some_and(|(label, it)| label < it)
            }
        }
    }
}

fn integer(text: &str) -> Option<i64> {
    text.parse().ok()
}

impl Operator {
    fn is_numeric(self) -> bool {
        matches!(self, Self::GreaterThan | Self::LessThan)
    }

    fn count_problem(self, count: usize) -> Option<&'static str> {
        match self {
            Self::In | Self::NotIn => {
                (count == 0).then_some("for 'in', 'notin' operators, values set can't be empty")
            }
            Self::Equals | Self::DoubleEquals | Self::NotEquals => {
                (count != 1).then_some("exact-match compatibility requires one single value")
            }
            Self::Exists | Self::DoesNotExist => {
                (count != 0).then_some("values set must be empty for exists and does not exist")
            }
            Self::GreaterThan | Self::LessThan => {
                (count != 1).then_some("for 'Gt', 'Lt' operators, exactly one value is required")
            }
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.operator == Operator::DoesNotExist {
            f.write_str("!")?;
        }
        f.write_str(&self.key)?;
        f.write_str(match self.operator {
            Operator::Exists | Operator::DoesNotExist => return Ok(()),
            Operator::In => " in (",
            Operator::NotIn => " notin (",
            Operator::Equals => "=",
            Operator::DoubleEquals => "==",
            Operator::NotEquals => "!=",
            Operator::GreaterThan => ">",
            Operator::LessThan => "<",
        })?;
        let mut values = self.values.clone();
        values.sort_unstable();
        for (index, value) in values.iter().enumerate() {
            write!(f, "{}{value}", if index == 0 { "" } else { "," })?;
        }
        let set = matches!(self.operator, Operator::In | Operator::NotIn);
        f.write_str(if set { ")" } else { "" })
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            write!(f, "{}{requirement}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value;

    fn check(text: &str, expected: &str) {
        let outcome = Selector::parse(text).map_or_else(|e| e.to_string(), |s| s.to_string());
        assert_eq!(outcome, expected, "for {text:?}");
    }

    #[test]
    fn selectors_read_and_print() {
        for (text, expected) in [
            ("", ""),
            ("x=a,y=b,z=c", "x=a,y=b,z=c"),
            ("b,a", "a,b"),
            ("x!=a,y=b", "x!=a,y=b"),
            ("x=", "x="),
            ("x==a", "x==a"),
            ("x= ,z= ", "x=,z="),
            ("x in (foo,,baz),y,z notin ()", "x in (,baz,foo),y,z notin ()"),
            ("!x", "!x"),
            ("x>1,y<7", "x>1,y<7"),
            ("in in (in,notin)", "in in (in,notin)"),
            ("  a  =  b  ", "a=b"),
            ("x in (a)", "x in (a)"),
            ("!in", "!in"),
            ("a in (b,b)", "a in (b)"),
            ("a=b\0,c\0", "a=b,c"),
            ("a=\0b", "a=b"),
            ("a,\0b", "a,b"),
            ("a= \0,(", "a="),
            ("\0(", ""),
        ] {
            check(text, expected);
        }
    }

    #[test]
    fn errors_are_worded_as_upstream_words_them() {
        let long = "x".repeat(64);
        for (text, expected) in [
            (
                "a b c",
                "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt",
            ),
            ("n=in(", "found '(', expected: ',' or 'end of string'"),
            (",a", "found ',', expected: !, identifier, or 'end of string'"),
            ("a,", "found '', expected: identifier after ','"),
            ("a in", "unable to parse requirement: found '' expected: '('"),
            ("a in (", "unable to parse requirement: found '', expected: ',', ')' or identifier"),
            ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
            ("a in (,", "unable to parse requirement: found '', expected: ',', or identifier"),
            ("!", "unable to parse requirement: found '', expected: identifier"),
            ("a=(", "unable to parse requirement: found '(', expected: identifier"),
            (
                "a>x",
                "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer",
            ),
            ("!a=b", "found '=', expected: ',' or 'end of string'"),
            (
                "a\0b",
                "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt",
            ),
        ] {
            check(text, expected);
        }
        check(
            &format!("{long}=1"),
            &format!(
                "unable to parse requirement: <nil>: Invalid value: \"{long}\": name part must be no more than 63 bytes"
            ),
        );
        check(
            "a=b$",
            "unable to parse requirement: values[0][a]: Invalid value: \"b$\": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
        );
    }

    #[test]
    fn labels_match() {
        let labels = value!({"a": "1", "b": "x"});
        for (text, expected) in [
            ("", true),
            ("a", true),
            ("!a", false),
            ("c", false),
            ("!c", true),
            ("a=1", true),
            ("a=2", false),
            ("c!=1", true),
            ("a!=1", false),
            ("a in (1,2)", true),
            ("a notin (1)", false),
            ("c notin (1)", true),
            ("a>0", true),
            ("a<1", false),
            ("b>0", false),
            ("c<1", false),
            ("a=1,b=y", false),
        ] {
            let selector = Selector::parse(text).unwrap();
            assert_eq!(selector.matches_labels(labels.as_object()), expected, "{text}");
        }
        assert!(!Selector::NOTHING.matches_labels(labels.as_object()));
    }

    #[test]
    fn selectors_of_specs() {
        let text = |it: Value| {
            Selector::from_value(Some(&it)).map_or_else(|e| e.to_string(), |s| s.to_string())
        };
        let full = value!({"matchLabels": {"b": "1"}, "matchExpressions": [{"key": "a", "operator": "In", "values": ["2", "1"]}, {"key": "c", "operator": "DoesNotExist"}]});
        assert_eq!(text(full), "a in (1,2),b=1,!c");
        assert!(Selector::from_value(None).unwrap().is_nothing());
        assert!(Selector::from_value(Some(&value!({}))).unwrap().is_everything());
        assert_eq!(
            text(value!({"matchExpressions": [{"key": "a", "operator": "Near"}]})),
            "\"Near\" is not a valid label selector operator"
        );
        assert_eq!(
            text(value!({"matchExpressions": [{"key": "a", "operator": "In"}]})),
            "values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty"
        );
    }
}
