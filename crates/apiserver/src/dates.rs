//! The header that says when an answer was made: one text a second, whatever the number of answers.

use arc_swap::ArcSwapOption;
use http::HeaderValue;
use jiff::Timestamp;

/// The text of the last second that was asked for.
#[derive(Debug, Default)]
pub(crate) struct Dates(ArcSwapOption<(i64, HeaderValue)>);

impl Dates {
    /// What the header `Date` says at this time (RFC 9110, section 5.6.7).
    pub(crate) fn header(&self, now: Timestamp) -> Option<HeaderValue> {
        let second = now.as_second();
        if let Some(last) = &*self.0.load()
            && last.0 == second
        {
            return Some(last.1.clone());
        }
        let date = HeaderValue::try_from(httpdate::fmt_http_date(now.into())).ok()?;
        self.0.store(Some(std::sync::Arc::new((second, date.clone()))));
        Some(date)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_one_text_and_the_next_another() {
        let (dates, at) =
            (Dates::default(), |it: &str| it.parse::<Timestamp>().expect("because it is a time"));
        for (time, text) in [
            ("2026-01-02T03:04:05Z", "Fri, 02 Jan 2026 03:04:05 GMT"),
            ("2026-01-02T03:04:05.9Z", "Fri, 02 Jan 2026 03:04:05 GMT"),
            ("2026-01-02T03:04:06Z", "Fri, 02 Jan 2026 03:04:06 GMT"),
            ("2026-01-02T03:04:05Z", "Fri, 02 Jan 2026 03:04:05 GMT"),
        ] {
            assert_eq!(dates.header(at(time)).unwrap(), text);
        }
    }
}
