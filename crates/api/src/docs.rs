//! What the API's types and fields mean, in words: packed at build time (`build.rs`), unpacked a block at a time.
//!
//! Nothing is kept unpacked: who looks up many texts holds a [`Docs`], which keeps its last block.

use std::io::Read as _;

/// Some neighbouring definitions, compressed.
struct Block {
    /// The name of its first definition.
    first: &'static str,
    /// Its size unpacked.
    bytes: usize,
    packed: &'static [u8],
}

static BLOCKS: &[Block] = include!(concat!(env!("OUT_DIR"), "/docs.rs"));

const DEFINITION: char = '\u{1d}';
const FIELD: char = '\u{1e}';
const TEXT: char = '\u{1f}';

/// What the field of a definition (`io.k8s.api.core.v1.PodSpec`) means, as upstream's documents say it.
///
/// Unpacks a block of some 50 KB: for one text, now and then.
#[must_use]
pub fn field(definition: &str, field: &str) -> Option<String> {
    Docs::default().definition(definition)?.field(field).map(Into::into)
}

/// A reader of descriptions. Asked in the order of names it unpacks each block once.
#[derive(Debug, Default)]
pub struct Docs {
    block: Option<usize>,
    text: String,
}

/// The descriptions of one definition.
#[derive(Debug, Clone, Copy)]
pub struct DefinitionDocs<'t> {
    /// What the type is.
    pub description: &'t str,
    fields: &'t str,
}

impl Docs {
    /// What is said about a definition; `None` where nothing is.
    pub fn definition(&mut self, name: &str) -> Option<DefinitionDocs<'_>> {
        let index = BLOCKS.partition_point(|block| block.first <= name).checked_sub(1)?;
        self.unpack(index);
        let body = self.text.split(DEFINITION).find_map(|definition| {
            definition.strip_prefix(name).and_then(|rest| rest.strip_prefix(TEXT))
        })?;
        let (description, fields) = body.split_once(FIELD).unwrap_or((body, ""));
        Some(DefinitionDocs { description, fields })
    }

    fn unpack(&mut self, index: usize) {
        if self.block == Some(index) {
            return;
        }
        let block = &BLOCKS[index];
        self.text.clear();
        self.text.reserve_exact(block.bytes);
        flate2::read::ZlibDecoder::new(block.packed)
            .read_to_string(&mut self.text)
            .expect("because the build packed this block");
        self.block = Some(index);
    }
}

impl<'t> DefinitionDocs<'t> {
    /// What the field of this JSON name means.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&'t str> {
        self.fields
            .split(FIELD)
            .find_map(|field| field.strip_prefix(name).and_then(|rest| rest.strip_prefix(TEXT)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generated::schema::DEFINITIONS;

    #[test]
    fn texts_are_found_by_definition_and_field() {
        let name = field("io.k8s.api.core.v1.Container", "terminationMessagePath").unwrap();
        assert!(name.starts_with("Optional: Path at which the file"), "{name}");
        let version = field("io.k8s.api.apps.v1.Deployment", "apiVersion").unwrap();
        assert!(version.starts_with("APIVersion defines"), "{version}");
        assert_eq!(field("io.k8s.api.core.v1.Container", "terminationMessage"), None);
        assert_eq!(field("io.k8s.api.core.v1.Nothing", "name"), None);
        assert_eq!(field("a", "name"), None);
    }

    #[test]
    fn nearly_every_type_and_field_is_described() {
        let mut docs = Docs::default();
        let mut missing = Vec::new();
        let (mut fields, mut silent) = (0, 0);
        for (name, node) in DEFINITIONS {
            let Some(found) = docs.definition(name) else {
                missing.push(*name);
                continue;
            };
            let Some(it) = crate::schema().as_struct(*node) else { continue };
            fields += it.fields.len();
            silent += it.fields.iter().filter(|it| found.field(&it.name).is_none()).count();
        }
        missing.retain(|name| !name.ends_with("List"));
        assert!(missing.is_empty(), "nothing is said about {missing:?}");
        assert!(fields > 2500 && silent * 50 < fields, "{silent} of {fields} fields are silent");
    }
}
