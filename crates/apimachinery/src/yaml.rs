//! YAML text to [`Value`] and back, with the meaning that Go's YAML gives it: YAML 1.1 booleans and octals, merge keys,
//! keys of any scalar type made text.
//!
//! Only the first document is read, as upstream does. Repeated keys are reported, the last one wins. Aliases may
//! not multiply a document beyond reason.

mod error;
mod scalar;
mod write;

use std::collections::{BTreeMap, BTreeSet};

use compact_str::CompactString;
use granit_parser::{Event, Options, Parser, Span};

pub use error::YamlError;
pub use write::to_string;

use crate::json;
use crate::value::{Object, Value};

/// Aliases count as excessive only when there are more nodes from them than this.
const ALIASED_NODES_FREE: usize = 100;
/// And only when the whole has more nodes than this.
const NODES_FREE: usize = 1000;
/// Up to this many nodes, nearly all may come from aliases; beyond [`NODES_HIGH`] only a tenth.
const NODES_LOW: usize = 400_000;
const NODES_HIGH: usize = 4_000_000;

/// How deeply a document may nest: its reader goes further down the stack for a level than others do.
pub const DEPTH_MAX: usize = 200;
/// How many bytes the values of anchors and aliases may have together: each is a copy.
const COPIED_BYTES_MAX: usize = 16 << 20;

/// A key that occurs twice in its mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepeatedKey {
    /// The line of the later one, from 1.
    pub line: usize,
    /// The key.
    pub key: String,
}

/// What upstream's strict decoder says of repeated keys; `None` where there are none.
#[must_use]
pub fn strict_error(repeated: &[RepeatedKey]) -> Option<String> {
    let first = repeated.first()?;
    let line = |it: &RepeatedKey| {
        format!("\n  line {}: key {} already set in map", it.line, crate::field::quote(&it.key))
    };
    let rest: String = repeated[1..].iter().map(line).collect();
    Some(format!("yaml: unmarshal errors:{}{rest}", line(first)))
}

/// Reads the first document; nothing at all is null.
///
/// # Errors
/// When the text is not YAML, or uses aliases beyond reason.
pub fn parse(text: &[u8]) -> Result<Value, YamlError> {
    parse_reporting(text).map(|(value, _)| value)
}

/// Like [`parse`], and tells the keys that occur twice in their mapping.
///
/// # Errors
/// When the text is not YAML, or uses aliases beyond reason.
pub fn parse_reporting(text: &[u8]) -> Result<(Value, Vec<RepeatedKey>), YamlError> {
    let text = std::str::from_utf8(text).map_err(|_| YamlError::Utf8)?;
    refuse_leading_tab(text)?;
    let mut options = Options::default();
    options.flow_nesting_limit = DEPTH_MAX;
    options.block_nesting_limit = DEPTH_MAX;
    let mut reader = Reader {
        events: Parser::new_from_str_with_options(text, options),
        anchors: BTreeMap::new(),
        nodes: 0,
        aliased: 0,
        repeated: Vec::new(),
        depth: 0,
        copied: 0,
    };
    let value = reader.document()?;
    Ok((value, reader.repeated))
}

/// The parser takes a tab before the first token, as YAML 1.2 has it; Go's does not.
fn refuse_leading_tab(text: &str) -> Result<(), YamlError> {
    let mut lines =
        text.lines().enumerate().map(|(index, line)| (index, line.trim_start_matches(' ')));
    let first = lines.find(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    match first {
        Some((index, line)) if line.starts_with('\t') => Err(YamlError::Syntax {
            line: if index == 0 { 0 } else { index + 1 },
            problem: "found character that cannot start any token".into(),
        }),
        _ => Ok(()),
    }
}

/// Whether a body is JSON rather than YAML, as upstream tells them apart where both may come.
#[must_use]
pub fn looks_like_json(text: &[u8]) -> bool {
    text.trim_ascii_start().starts_with(b"{")
}

struct Reader<'t> {
    events: Parser<'t, granit_parser::StrInput<'t>>,
    /// The nodes that have names, with how many nodes are in them; `None` while a node is still open.
    anchors: BTreeMap<usize, Option<(Node, usize)>>,
    nodes: usize,
    aliased: usize,
    repeated: Vec<RepeatedKey>,
    /// In how many collections the reader is.
    depth: usize,
    copied: usize,
}

/// A node: its value, and whether it is the key that merges mappings.
#[derive(Clone)]
struct Node {
    value: Value,
    merges: bool,
}

impl<'t> Reader<'t> {
    fn next(&mut self) -> Result<(Event<'t>, Span), YamlError> {
        match self.events.next_event() {
            Some(Ok(next)) => Ok(next),
            Some(Err(error)) => Err(YamlError::from(error)),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn document(&mut self) -> Result<Value, YamlError> {
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd | Event::DocumentEnd => return Ok(Value::Null),
                Event::StreamStart | Event::DocumentStart(..) => {}
                node => return self.node(node, span).map(|node| node.value),
            }
        }
    }

    fn node(&mut self, event: Event<'t>, span: Span) -> Result<Node, YamlError> {
        self.count(1, 0)?;
        let before = self.nodes;
        let (node, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let tag = tag.as_deref();
                let line = span.start.line();
                (scalar::resolve(&text, style, tag, line)?, anchor)
            }
            Event::SequenceStart(_, anchor, _) => {
                self.open(anchor);
                (Node { value: self.inside(span, Self::sequence)?, merges: false }, anchor)
            }
            Event::MappingStart(_, anchor, _) => {
                self.open(anchor);
                (Node { value: self.inside(span, Self::mapping)?, merges: false }, anchor)
            }
            Event::Alias(anchor) => return self.alias(anchor, span),
            _ => return Err(YamlError::Structure),
        };
        if anchor != 0 {
            self.copy(&node.value)?;
            let size = self.nodes - before + 1;
            self.anchors.insert(anchor, Some((node.clone(), size)));
        }
        Ok(node)
    }

    fn inside(
        &mut self,
        span: Span,
        read: fn(&mut Self) -> Result<Value, YamlError>,
    ) -> Result<Value, YamlError> {
        if self.depth >= DEPTH_MAX {
            return Err(YamlError::Depth { line: span.start.line() });
        }
        self.depth += 1;
        let value = read(self)?;
        self.depth -= 1;
        Ok(value)
    }

    /// Takes the bytes of a copy from what copies may have.
    fn copy(&mut self, value: &Value) -> Result<(), YamlError> {
        spend(value, &mut self.copied)
    }

    fn open(&mut self, anchor: usize) {
        if anchor != 0 {
            self.anchors.insert(anchor, None);
        }
    }

    fn alias(&mut self, anchor: usize, span: Span) -> Result<Node, YamlError> {
        let line = span.start.line();
        match self.anchors.get(&anchor) {
            Some(Some((node, size))) => {
                let size = *size;
                let levels = DEPTH_MAX - self.depth;
                if json::nests_deeper(&node.value, levels) {
                    return Err(YamlError::Depth { line });
                }
                spend(&node.value, &mut self.copied)?;
                let node = node.clone();
                self.count(size, size)?;
                Ok(node)
            }
            Some(None) => Err(YamlError::Recursive { line }),
            None => Err(YamlError::UnknownAnchor { line }),
        }
    }

    fn count(&mut self, nodes: usize, aliased: usize) -> Result<(), YamlError> {
        self.nodes += nodes;
        self.aliased += aliased;
        let many = self.aliased > ALIASED_NODES_FREE && self.nodes > NODES_FREE;
        // In thousandths, falling from 990 to 100 between the two bounds.
        let within = self.nodes.clamp(NODES_LOW, NODES_HIGH) - NODES_LOW;
        let allowed = 990 - 890 * within / (NODES_HIGH - NODES_LOW);
        if many && self.aliased.saturating_mul(1000) > self.nodes.saturating_mul(allowed) {
            return Err(YamlError::Aliases);
        }
        Ok(())
    }

    fn sequence(&mut self) -> Result<Value, YamlError> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::SequenceEnd) {
                return Ok(Value::Array(items));
            }
            items.push(self.node(event, span)?.value);
        }
    }

    fn mapping(&mut self) -> Result<Value, YamlError> {
        let mut members: BTreeMap<CompactString, Value> = BTreeMap::new();
        let mut own: BTreeSet<CompactString> = BTreeSet::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                let members = members.into_iter().collect();
                return Ok(Value::Object(Object::from_members(members, |_| {})));
            }
            let line = span.start.line();
            let key = self.node(event, span)?;
            let (event, span) = self.next()?;
            let value = self.node(event, span)?.value;
            if key.merges {
                merge(&mut members, value, line)?;
                continue;
            }
            let key = scalar::key(&key.value).ok_or(YamlError::Key { line })?;
            if !own.insert(key.clone()) {
                self.repeated.push(RepeatedKey { line, key: key.to_string() });
            }
            members.insert(key, value);
        }
    }
}

/// Adds about what a value takes to what is taken already.
fn spend(value: &Value, spent: &mut usize) -> Result<(), YamlError> {
    *spent += size_of::<Value>();
    match value {
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) => {}
        Value::String(text) => *spent += text.len(),
        Value::Array(items) => items.iter().try_for_each(|item| spend(item, spent))?,
        Value::Object(object) => object.iter().try_for_each(|(key, value)| {
            *spent += size_of::<CompactString>() + key.len();
            spend(value, spent)
        })?,
    }
    if *spent > COPIED_BYTES_MAX { Err(YamlError::Aliases) } else { Ok(()) }
}

/// Takes over the members of a mapping, or of several of which the first wins.
fn merge(
    members: &mut BTreeMap<CompactString, Value>,
    value: Value,
    line: usize,
) -> Result<(), YamlError> {
    match value {
        Value::Object(object) => members.extend(object),
        Value::Array(items) => {
            for item in items.into_iter().rev() {
                let Value::Object(object) = item else { return Err(YamlError::Merge { line }) };
                members.extend(object);
            }
        }
        _ => return Err(YamlError::Merge { line }),
    }
    Ok(())
}

#[cfg(test)]
mod tests;
