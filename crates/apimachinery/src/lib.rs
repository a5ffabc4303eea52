//! Objects as data: JSON values, schemas, metadata, selectors, quantities, patches, managed fields.
//!
//! Layer 0: facts and pure functions. No async, no I/O, no clock; knows no kind by name.

pub mod json;
pub mod schema;
pub mod value;

pub use value::{Object, Value};
