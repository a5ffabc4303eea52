//! What containers left as their last words: a file, or the end of their log.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use cri::ContainerStatus;

use super::observed::{Observed, has_exited, marks};
use crate::shared::Shared;

/// The longest message from a file.
const MAX_MESSAGE_BYTES: u64 = 4096;
/// The longest message from a log, in bytes and lines.
const MAX_LOG_BYTES: usize = 2048;
const MAX_LOG_LINES: usize = 80;
/// What of the end of a log is read for it: lines carry a time and a stream.
const LOG_TAIL_BYTES: u64 = 16 << 10;

/// Adds the messages of containers that have ended; each is read once.
pub(crate) fn fill(shared: &Shared, mut observed: Observed) -> Observed {
    for status in observed.containers.iter_mut().filter(|it| has_exited(it)) {
        let known = shared.messages.lock().get(&status.container.id).cloned();
        let message = known.unwrap_or_else(|| {
            let message = read(status);
            shared.messages.lock().insert(status.container.id.clone(), message.clone());
            message
        });
        if !message.is_empty() {
            status.message = message;
        }
    }
    observed
}

fn read(status: &ContainerStatus) -> String {
    let annotations = &status.container.annotations;
    let file = annotations.get(marks::MESSAGE_FILE).and_then(|it| File::open(it).ok());
    let mut text = Vec::new();
    if let Some(file) = file {
        // A message that cannot be read is none.
        let _ = file.take(MAX_MESSAGE_BYTES).read_to_end(&mut text);
    }
    let falls_back =
        annotations.get(marks::MESSAGE_POLICY).is_some_and(|it| it == "FallbackToLogsOnError");
    if text.is_empty() && falls_back && status.exit_code != 0 {
        return tail(&status.log_path).unwrap_or_default();
    }
    String::from_utf8_lossy(&text).into_owned()
}

fn tail(path: &str) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES))).ok()?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<String> = text.lines().filter_map(content).collect();
    let mut out = lines[lines.len().saturating_sub(MAX_LOG_LINES)..].concat();
    if out.len() > MAX_LOG_BYTES {
        let cut = (out.len() - MAX_LOG_BYTES..out.len()).find(|at| out.is_char_boundary(*at))?;
        out.drain(..cut);
    }
    Some(out)
}

/// The text of a log line: time, stream, `F` or `P` for a part, text.
fn content(line: &str) -> Option<String> {
    let mut parts = line.splitn(4, ' ');
    let (_, _, tag, text) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    Some(if tag.starts_with('F') { format!("{text}\n") } else { text.to_owned() })
}
