//! JSON with line breaks and spaces, for people: as it is written, so that it takes no more memory than without.
//!
//! Upstream: `json.MarshalIndent` with two spaces.

/// Who reads answers with their own eyes, by the start of their `User-Agent` (upstream: `isPrettyPrint`).
const PEOPLE: [&str; 3] = ["curl", "Wget", "Mozilla/5.0"];
const STEP: &str = "  ";

/// Whether an answer is for people: the query says so, or, where it says nothing, the client is a known one.
pub(crate) fn is_wanted(query: Option<&str>, agent: &str) -> bool {
    match query {
        None | Some("") => PEOPLE.iter().any(|it| agent.starts_with(it)),
        Some(text) => matches!(text, "1" | "t" | "T" | "TRUE" | "true" | "True"),
    }
}

/// Breaks compact JSON into lines, piece by piece.
#[derive(Debug, Default)]
pub(crate) struct Indenter {
    depth: usize,
    in_text: bool,
    is_escaped: bool,
    /// An object or list has begun, and nothing in it yet.
    has_begun: bool,
}

impl Indenter {
    /// The next piece, with lines and spaces.
    pub(crate) fn feed(&mut self, compact: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(compact.len() * 2);
        compact.iter().for_each(|byte| self.put(*byte, &mut out));
        out
    }

    fn put(&mut self, byte: u8, out: &mut Vec<u8>) {
        if self.in_text {
            out.push(byte);
            self.in_text = byte != b'"' || self.is_escaped;
            self.is_escaped = byte == b'\\' && !self.is_escaped;
            return;
        }
        match byte {
            b' ' | b'\n' | b'\r' | b'\t' => return,
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                if !std::mem::take(&mut self.has_begun) {
                    self.line(out);
                }
                out.push(byte);
                return;
            }
            _ => {}
        }
        if std::mem::take(&mut self.has_begun) {
            self.line(out);
        }
        out.push(byte);
        match byte {
            b'{' | b'[' => {
                self.depth += 1;
                self.has_begun = true;
            }
            b',' => self.line(out),
            b':' => out.push(b' '),
            b'"' => self.in_text = true,
            _ => {}
        }
    }

    fn line(&self, out: &mut Vec<u8>) {
        out.push(b'\n');
        (0..self.depth).for_each(|_| out.extend_from_slice(STEP.as_bytes()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_as_upstream_s_do_wherever_pieces_end() {
        let compact = br#"{"a":[],"b":{},"c":[1,{"d\"\\":"e,[ {:"}],"f":null}"#;
        let expected = "{\n  \"a\": [],\n  \"b\": {},\n  \"c\": [\n    1,\n    {\n      \"d\\\"\\\\\": \"e,[ {:\"\n    }\n  ],\n  \"f\": null\n}";
        for size in 1..compact.len() {
            let mut indenter = Indenter::default();
            let out: Vec<u8> = compact.chunks(size).flat_map(|it| indenter.feed(it)).collect();
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{size}");
        }
    }

    #[test]
    fn people_are_known_by_what_they_ask_with() {
        assert!(is_wanted(None, "curl/8.0") && is_wanted(Some(""), "Mozilla/5.0 (X11)"));
        assert!(is_wanted(Some("true"), "kubectl/v1.37.0") && is_wanted(Some("1"), ""));
        assert!(!is_wanted(Some("0"), "curl/8.0") && !is_wanted(Some("yes"), "curl/8.0"));
        assert!(!is_wanted(None, "kubectl/v1.37.0"));
    }
}
