//! Objects as data: JSON values, schemas, metadata, selectors, quantities, patches, managed fields.
//!
//! Layer 0: facts and pure functions. No async, no I/O, no clock; knows no kind by name.

pub mod cbor;
pub mod conform;
pub mod cron;
pub mod duration;
pub mod field;
pub mod fields;
pub mod hash;
pub mod head;
pub mod json;
pub mod labels;
pub mod managed_fields;
pub mod node_selector;
pub mod obj;
pub mod patch;
pub mod protobuf;
pub mod quantity;
pub mod schema;
pub mod shape;
pub mod status;
pub mod time;
pub mod validation;
pub mod value;
pub mod yaml;

pub use field::{FieldErrors, Path};
pub use status::Status;
pub use value::{Object, Value};
