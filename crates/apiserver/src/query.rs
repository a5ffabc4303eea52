//! The query of a request: decoded once, in order.

/// Names and values in the order they came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Decodes `a=b&c=d`. As with upstream, a pair with a broken escape or a semicolon is not there.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).filter_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decode(name)?, decode(value)?))
        });
        Self(pairs.collect())
    }

    /// The first value of a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(it, _)| it == name).map(|(_, value)| value.as_str())
    }

    /// All values of a name.
    pub fn all<'q>(&'q self, name: &'q str) -> impl Iterator<Item = &'q str> {
        self.0.iter().filter(move |(it, _)| it == name).map(|(_, value)| value.as_str())
    }

    /// Whether a name is given and says neither `false` nor `0`, as upstream reads bools in queries.
    #[must_use]
    pub fn flag(&self, name: &str) -> bool {
        self.given_flag(name).unwrap_or_default()
    }

    /// What a bool says, where it is given.
    #[must_use]
    pub fn given_flag(&self, name: &str) -> Option<bool> {
        self.get(name).map(|value| value != "0" && !value.eq_ignore_ascii_case("false"))
    }
}

/// What a text spells; `None` where it is no text of a query.
fn decode(text: &str) -> Option<String> {
    let is_hex = |at: usize| text.as_bytes().get(at).is_some_and(u8::is_ascii_hexdigit);
    let mut escapes = text.match_indices('%').map(|(at, _)| at);
    if text.contains(';') || !escapes.all(|at| is_hex(at + 1) && is_hex(at + 2)) {
        return None;
    }
    let spaced = text.replace('+', " ");
    Some(percent_encoding::percent_decode_str(&spaced).decode_utf8_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_that_cannot_be_read_are_not_there() {
        let query = Query::parse("limit=%zz&a=%2&b=x;y&c=%41+d&c=2&e&watch=FALSE&f=0&g=");
        for name in ["limit", "a", "b"] {
            assert_eq!(query.get(name), None, "{name}");
        }
        assert_eq!(query.all("c").collect::<Vec<_>>(), ["A d", "2"]);
        assert_eq!(query.get("e"), Some(""));
        let flags = ["watch", "f", "g", "e", "no"].map(|name| query.given_flag(name));
        assert_eq!(flags, [Some(false), Some(false), Some(true), Some(true), None]);
    }
}
