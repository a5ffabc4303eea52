//! What a client is warned of, as headers. Upstream: `warning.go` of apiserver's filters, and `NewWarningHeader`.

use std::collections::BTreeSet;

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

/// The most characters that all warnings may have before each is cut short.
const ALL_MAX: usize = 4 << 10;
/// The most characters of each then.
const EACH_MAX: usize = 256;

/// Adds the headers.
pub(crate) fn add(warnings: &[String], headers: &mut HeaderMap) {
    for text in told(warnings) {
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
            headers.append(HeaderName::from_static("warning"), value);
        }
    }
}

/// Each warning once, without those that cannot stand in a header, cut short where they are too much.
fn told(warnings: &[String]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let can_stand = |it: &&String| !it.is_empty() && !it.contains(char::is_control);
    let all = warnings.iter().filter(can_stand).filter(|it| seen.insert(it.as_str()));
    let all: Vec<(&String, usize)> = all.map(|it| (it, it.chars().count())).collect();
    let mut total = 0;
    let too_much = all.iter().position(|(_, length)| {
        total += length;
        total > ALL_MAX
    });
    let Some(too_much) = too_much else {
        return all.into_iter().map(|(it, _)| it.clone()).collect();
    };
    let mut written = 0;
    let mut told = Vec::new();
    for (index, (text, length)) in all.into_iter().enumerate() {
        if index > too_much && written >= ALL_MAX {
            break;
        }
        written += length.min(EACH_MAX);
        told.push(text.chars().take(EACH_MAX).collect());
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_told_once_and_cut_where_they_are_too_much() {
        let some = ["b", "a", "", "b", "two\nlines", "ä \"quoted\""].map(String::from);
        assert_eq!(told(&some), ["b", "a", "ä \"quoted\""]);
        let mut headers = HeaderMap::new();
        add(&some, &mut headers);
        let last = headers.get_all("warning").iter().next_back().unwrap();
        assert_eq!(last.as_bytes(), "299 - \"ä \\\"quoted\\\"\"".as_bytes());

        let long = |index: usize| format!("{index:02}{}", "x".repeat(998));
        let four: Vec<String> = (0..4).map(long).collect();
        assert_eq!(told(&four), four);
        let many = told(&(0..40).map(long).collect::<Vec<_>>());
        assert_eq!(many.len(), 16);
        assert!(many.iter().all(|it| it.len() == 256));
    }
}
