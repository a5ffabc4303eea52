//! When the word of a probe changes: after so many equal answers in a row. Pure.

/// Counts equal answers.
#[derive(Debug)]
pub(super) struct Count {
    success_threshold: u32,
    failure_threshold: u32,
    last: Option<bool>,
    run: u32,
    told: Option<bool>,
}

impl Count {
    pub(super) fn new(success_threshold: u32, failure_threshold: u32) -> Self {
        Self { success_threshold, failure_threshold, last: None, run: 0, told: None }
    }

    /// Another answer; the new word, if it changes by it.
    pub(super) fn add(&mut self, success: bool) -> Option<bool> {
        if self.last == Some(success) {
            self.run = self.run.saturating_add(1);
        } else {
            self.last = Some(success);
            self.run = 1;
        }
        let needed = if success { self.success_threshold } else { self.failure_threshold };
        if self.run < needed || self.told == Some(success) {
            return None;
        }
        self.told = Some(success);
        self.told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(answers: &str, expected: &str) {
        let mut count = Count::new(2, 3);
        let words: String = answers
            .chars()
            .map(|it| match count.add(it == '+') {
                Some(true) => 'U',
                Some(false) => 'D',
                None => '.',
            })
            .collect();
        assert_eq!(words, expected, "{answers}");
    }

    #[test]
    fn the_word_changes_after_equal_answers_in_a_row() {
        check("++++", ".U..");
        check("+-+-+", ".....");
        check("++--+---++", ".U.....D.U");
    }
}
