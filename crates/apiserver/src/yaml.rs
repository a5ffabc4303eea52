//! Stand-in until `apimachinery::yaml` is merged.
use apimachinery::Value;

pub(crate) fn parse_reporting(_: &[u8]) -> Result<(Value, Vec<String>), String> {
    Err("yaml is not built yet".into())
}

pub(crate) fn parse(_: &[u8]) -> Result<Value, String> {
    Err("yaml is not built yet".into())
}

pub(crate) fn to_string(value: &Value) -> String {
    apimachinery::json::to_string(value)
}
