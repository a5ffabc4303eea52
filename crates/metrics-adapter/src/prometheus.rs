//! The query API of Prometheus: which series there are, and what a query says now.

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::Value;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use url::Url;

use crate::read::{Place, Reader};

/// A Prometheus, or what answers as one.
#[derive(Debug, Clone)]
pub struct Prometheus {
    url: String,
    place: Place,
}

/// The labels of a series, its name among them.
pub(crate) type Labels = BTreeMap<String, String>;

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample {
    pub(crate) labels: Labels,
    /// When, in seconds.
    pub(crate) at: f64,
    pub(crate) value: f64,
}

/// What a query says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Answer {
    Vector(Vec<Sample>),
    Scalar(Sample),
}

impl Prometheus {
    /// One at this URL, below which its API is.
    ///
    /// # Errors
    /// When the URL is none of HTTP.
    pub fn new(url: &str, place: Place) -> Result<Self, String> {
        let parsed = Url::parse(url).map_err(|error| format!("{url:?} is no URL: {error}"))?;
        if !matches!(parsed.scheme(), "http" | "https") || parsed.host_str().is_none() {
            return Err(format!("{url:?} is no URL of HTTP or HTTPS"));
        }
        if parsed.query().is_some() || !parsed.username().is_empty() {
            return Err(format!("{url:?} has a query or a user, which are not supported here"));
        }
        Ok(Self { url: url.trim_end_matches('/').to_owned(), place })
    }

    /// The series that a selector takes and that had values since.
    pub(crate) async fn series(
        &self,
        reader: &Arc<Reader>,
        selector: &str,
        since: i64,
    ) -> Result<Vec<Labels>, String> {
        let url = format!("{}/api/v1/series?match[]={}&start={since}", self.url, encoded(selector));
        let document = reader.read(&self.place, &url).await.map_err(|it| it.to_string())?;
        let data = data(&document)?;
        let all = data.as_array().ok_or("Prometheus answers no list of series")?;
        Ok(all.iter().map(labels).collect())
    }

    /// What a query says now.
    pub(crate) async fn query(&self, reader: &Arc<Reader>, query: &str) -> Result<Answer, String> {
        let url = format!("{}/api/v1/query?query={}", self.url, encoded(query));
        let document = reader.read(&self.place, &url).await.map_err(|it| it.to_string())?;
        answer(data(&document)?)
    }
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn data(document: &Value) -> Result<&Value, String> {
    if document.str_at(&["status"]) != "success" {
        let of = |member| document.str_at(&[member]);
        return Err(format!("Prometheus refuses: {}: {}", of("errorType"), of("error")));
    }
    document.get("data").ok_or_else(|| "Prometheus answers no data".into())
}

fn labels(metric: &Value) -> Labels {
    let members = metric.as_object().into_iter().flat_map(apimachinery::Object::iter);
    members.filter_map(|(name, it)| Some((name.to_owned(), it.as_str()?.to_owned()))).collect()
}

fn answer(data: &Value) -> Result<Answer, String> {
    let result = data.get("result").ok_or("Prometheus answers no result")?;
    match data.str_at(&["resultType"]) {
        "vector" => {
            let all = result.as_array().ok_or("Prometheus answers no vector")?;
            let sample = |it: &Value| sample(labels(&it["metric"]), &it["value"]);
            Ok(Answer::Vector(all.iter().map(sample).collect::<Result<_, _>>()?))
        }
        "scalar" => Ok(Answer::Scalar(sample(Labels::new(), result)?)),
        other => Err(format!("a result of type {other:?} is no metric")),
    }
}

fn sample(labels: Labels, pair: &Value) -> Result<Sample, String> {
    let [at, value] = pair.as_array().unwrap_or_default() else {
        return Err("Prometheus answers a value without its time".into());
    };
    let at = apimachinery::json::to_string(at).parse();
    let value = match value.as_str().unwrap_or_default() {
        "+Inf" => Ok(f64::INFINITY),
        "-Inf" => Ok(f64::NEG_INFINITY),
        text => text.parse(),
    };
    match (at, value) {
        (Ok(at), Ok(value)) => Ok(Sample { labels, at, value }),
        _ => Err("Prometheus answers a value that is no number".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Answer, String> {
        data(&apimachinery::json::parse(text.as_bytes()).unwrap()).and_then(answer)
    }

    #[test]
    fn answers_are_read() {
        let vector = r#"{"status":"success","data":{"resultType":"vector","result":[
            {"metric":{"pod":"p"},"value":[1435781451.781,"1.5"]}]}}"#;
        let sample = |labels, at, value| Sample { labels, at, value };
        let expected = sample(Labels::from([("pod".into(), "p".into())]), 1_435_781_451.781, 1.5);
        assert_eq!(read(vector), Ok(Answer::Vector(vec![expected])));
        let scalar = r#"{"status":"success","data":{"resultType":"scalar","result":[7,"-Inf"]}}"#;
        let expected = sample(Labels::new(), 7.0, f64::NEG_INFINITY);
        assert_eq!(read(scalar), Ok(Answer::Scalar(expected)));
        for (text, expected) in [
            (
                r#"{"status":"error","errorType":"bad_data","error":"parse error"}"#,
                "bad_data: parse error",
            ),
            (
                r#"{"status":"success","data":{"resultType":"matrix","result":[]}}"#,
                "\"matrix\" is no metric",
            ),
            (
                r#"{"status":"success","data":{"resultType":"vector","result":[{"value":[1]}]}}"#,
                "without its time",
            ),
            (
                r#"{"status":"success","data":{"resultType":"scalar","result":[1,"x"]}}"#,
                "no number",
            ),
            ("[]", "refuses"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
