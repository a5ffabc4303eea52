//! Sets of completion indexes, as statuses write them: `1,3-5,7`.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;

/// The annotation and label that name a pod's index.
pub(super) const INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// Completion indexes.
pub(super) type Indexes = BTreeSet<u32>;

/// Reads a set; indexes that the job does not have are left out.
pub(super) fn parse(text: &str, completions: u32) -> Indexes {
    let mut indexes = Indexes::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>()) else { continue };
        let last = last.min(completions.saturating_sub(1));
        if first < completions {
            indexes.extend(first..=last);
        }
    }
    indexes
}

/// Writes a set. Two in a row stand apart, more are a range.
pub(super) fn format(indexes: &Indexes) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut rest = indexes.iter().copied().peekable();
    while let Some(first) = rest.next() {
        let mut last = first;
        while rest.peek() == Some(&(last + 1)) {
            last += 1;
            rest.next();
        }
        match last - first {
            0 => parts.push(first.to_string()),
            1 => parts.push(format!("{first},{last}")),
            _ => parts.push(format!("{first}-{last}")),
        }
    }
    parts.join(",")
}

/// A pod's index, where the job has it.
pub(super) fn of_pod(pod: &Pod, completions: u32) -> Option<u32> {
    let text = pod.metadata.annotations.as_ref()?.get(INDEX)?;
    text.parse().ok().filter(|index| *index < completions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_written_as_upstream_writes_them() {
        let check = |numbers: &[u32], text: &str| {
            let set: Indexes = numbers.iter().copied().collect();
            assert_eq!(format(&set), text);
            assert_eq!(parse(text, 100), set, "{text}");
        };
        check(&[], "");
        check(&[0], "0");
        check(&[1, 2], "1,2");
        check(&[1, 2, 3], "1-3");
        check(&[0, 2, 3, 5, 6, 7, 9], "0,2,3,5-7,9");
        assert_eq!(format(&parse("1,3-9", 5)), "1,3,4");
        assert_eq!(format(&parse("a,2", 5)), "2");
    }
}
