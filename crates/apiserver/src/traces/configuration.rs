//! `TracingConfiguration` of `apiserver.config.k8s.io`: where spans are sent, and of how many requests.

use std::path::PathBuf;

use apimachinery::{Value, yaml};
use grpc::Place;

/// Where collectors listen, where nothing else is said.
const ENDPOINT: &str = "localhost:4317";
const VERSIONS: [&str; 3] = [
    "apiserver.config.k8s.io/v1alpha1",
    "apiserver.config.k8s.io/v1beta1",
    "apiserver.config.k8s.io/v1",
];
const MEMBERS: [&str; 4] = ["apiVersion", "kind", "endpoint", "samplingRatePerMillion"];
const MILLION: i64 = 1_000_000;

/// Where spans are sent, and of how many requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TracingConfiguration {
    pub(super) place: Place,
    pub(super) sampling_rate_per_million: u32,
}

impl TracingConfiguration {
    /// Reads a file's text.
    ///
    /// # Errors
    /// What is no such configuration.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let (value, repeated) = yaml::parse_reporting(text).map_err(|error| error.to_string())?;
        if let Some(problem) = yaml::strict_error(&repeated) {
            return Err(problem);
        }
        let Value::Object(members) = &value else { return Err("it is no object".into()) };
        if let Some((name, _)) = members.iter().find(|(name, _)| !MEMBERS.contains(&&**name)) {
            return Err(format!("strict decoding error: unknown field {name:?}"));
        }
        let (version, kind) = (value.str_at(&["apiVersion"]), value.str_at(&["kind"]));
        if !VERSIONS.contains(&version) || kind != "TracingConfiguration" {
            return Err(format!(
                "no kind {kind:?} is registered for version {version:?}: it is TracingConfiguration of {}",
                VERSIONS.join(", ")
            ));
        }
        let rate = match value.get("samplingRatePerMillion") {
            None | Some(Value::Null) => 0,
            Some(it) => it.as_i64().ok_or("samplingRatePerMillion: must be a number")?,
        };
        let invalid = |why| format!("samplingRatePerMillion: Invalid value: {rate}: {why}");
        if rate < 0 {
            return Err(invalid("sampling rate must be positive"));
        }
        if rate > MILLION {
            return Err(invalid(
                "sampling rate per million must be less than or equal to one million",
            ));
        }
        let place = match value.str_at(&["endpoint"]) {
            "" => Place::Tcp(ENDPOINT.into()),
            text => place(text)?,
        };
        Ok(Self { place, sampling_rate_per_million: u32::try_from(rate).unwrap_or_default() })
    }
}

/// An endpoint as gRPC writes them.
fn place(text: &str) -> Result<Place, String> {
    if let Some(path) = text.strip_prefix("unix://").or_else(|| text.strip_prefix("unix:")) {
        return Ok(Place::Unix(PathBuf::from(path)));
    }
    let address = text.strip_prefix("dns:///").unwrap_or(text);
    let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty() && !host.contains('/'));
    match port.map(|(_, port)| port.parse::<u16>()) {
        Some(Ok(_)) => Ok(Place::Tcp(address.to_owned())),
        _ => Err(format!("endpoint: Invalid value: {text:?}: it is HOST:PORT or unix:PATH")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_says_where_and_how_many() {
        let head = "apiVersion: apiserver.config.k8s.io/v1beta1\nkind: TracingConfiguration\n";
        let read = |rest: &str| TracingConfiguration::parse(format!("{head}{rest}").as_bytes());
        let usual = read("").unwrap();
        assert_eq!(
            (usual.place, usual.sampling_rate_per_million),
            (Place::Tcp(ENDPOINT.into()), 0)
        );
        let other = read("endpoint: dns:///otel:55\nsamplingRatePerMillion: 10\n").unwrap();
        assert_eq!(
            (other.place, other.sampling_rate_per_million),
            (Place::Tcp("otel:55".into()), 10)
        );
        assert_eq!(read("endpoint: unix:/a").unwrap().place, Place::Unix("/a".into()));
        for (bad, expected) in [
            ("samplingRatePerMillion: -1", "must be positive"),
            ("samplingRatePerMillion: 1000001", "less than or equal to one million"),
            ("endpoint: nowhere", "endpoint: Invalid value"),
            ("endpoints: x", "unknown field \"endpoints\""),
            ("endpoint: a:1\nendpoint: b:1", "endpoint"),
        ] {
            let said = read(bad).unwrap_err();
            assert!(said.contains(expected), "{said}");
        }
        assert!(TracingConfiguration::parse(b"kind: Pod\napiVersion: v1").is_err());
    }
}
