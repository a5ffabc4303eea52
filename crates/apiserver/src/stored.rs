//! What values look like in the store: JSON, or protobuf for kinds that have it, as upstream's servers write them.
//!
//! A store around another one. Above it values are canonical JSON; what is below may be either, whatever this server writes
//! itself, so that a store can be taken over from upstream or moved between backends. Objects of versions that are not
//! stored any more are made today's where they are read ([`todays`]).

mod todays;

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::{Value, conform, json, obj, protobuf};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use storage::{
    At, Batch, Deleted, Event, Expect, Key, Kv, Page, Put, RangeReq, Rev, StorageError, Store, Ttl,
    undecodable,
};

use crate::{allocate, proto};

/// Groups that upstream's servers of their own write as JSON.
const JSON_GROUPS: [&str; 2] = ["apiextensions.k8s.io/", "apiregistration.k8s.io/"];
/// How many writes are remembered until they come back, and how many bytes of them.
const MAX_WRITTEN: usize = 4096;
const MAX_WRITTEN_BYTES: usize = 8 << 20;

/// How values are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteAs {
    /// As they are above.
    Json,
    /// Kinds that have it; all others as JSON.
    Protobuf,
}

/// A store with values of either form below.
#[derive(Debug)]
pub struct StoredForms {
    store: Arc<dyn Store>,
    write_as: WriteAs,
    /// Whether what is read is made what would be stored today.
    renews: bool,
    written: Written,
}

impl StoredForms {
    /// Values of `store` in the form that this server reads.
    #[must_use]
    pub fn over(store: Arc<dyn Store>, write_as: WriteAs) -> Arc<dyn Store> {
        let written = Written::default();
        Arc::new(Forms(Arc::new(Self { store, write_as, renews: true, written })))
    }

    /// The same with values as they are: what comes back is what was written.
    #[must_use]
    pub fn as_written(store: Arc<dyn Store>, write_as: WriteAs) -> Arc<dyn Store> {
        let written = Written::default();
        Arc::new(Forms(Arc::new(Self { store, write_as, renews: false, written })))
    }

    fn write(&self, key: &Key, value: Bytes) -> Bytes {
        if self.write_as == WriteAs::Json {
            return value;
        }
        let Some(message) = to_protobuf(&value) else { return value };
        let message = Bytes::from(message);
        self.written.add(key, &message, value);
        message
    }

    fn read(&self, kv: Kv) -> Kv {
        let is_cbor = kv.value.starts_with(apimachinery::cbor::MAGIC);
        if !is_cbor && !kv.value.starts_with(protobuf::MAGIC) {
            return self.read_json(kv);
        }
        if is_cbor {
            // Upstream's servers write custom resources so, where the gate of CBOR is on.
            let value = match crate::cbor::decode_own(&kv.value) {
                Ok(value) => obj::encode(&value).into(),
                Err(error) => undecodable(&format!("stored object is damaged: {error}")),
            };
            return Kv { value, ..kv };
        }
        let value = match self.written.find(&kv) {
            Some(value) => value,
            None => match self.read_protobuf(&kv.value) {
                Ok(value) => value.into(),
                Err(why) => undecodable(&why),
            },
        };
        Kv { value, ..kv }
    }

    fn read_protobuf(&self, message: &[u8]) -> Result<Vec<u8>, String> {
        let mut value = to_value(message)?;
        if self.renews {
            todays::bring(&mut value)?;
        }
        Ok(obj::encode(&value))
    }

    /// JSON of upstream's servers may have its members in another order, and be of an older version.
    fn read_json(&self, kv: Kv) -> Kv {
        let Some(version) = obj::api_version(&kv.value) else {
            return match json::parse(&kv.value) {
                Ok(value) if !value.str_at(&["kind"]).is_empty() => {
                    Kv { value: obj::encode_custom(&value).into(), ..kv }
                }
                Ok(_) | Err(_) => kv,
            };
        };
        let is_old =
            JSON_GROUPS.iter().any(|group| version.starts_with(group)) && !version.ends_with("/v1");
        if !is_old || !self.renews {
            return kv;
        }
        let Ok(mut value) = json::parse(&kv.value) else { return kv };
        match todays::bring(&mut value) {
            Ok(()) => Kv { value: obj::encode(&value).into(), ..kv },
            Err(why) => Kv { value: undecodable(&why), ..kv },
        }
    }

    /// Whether a value is written otherwise below than it would be now.
    async fn is_other(&self, kv: &Kv) -> Result<bool, StorageError> {
        let (below, _) = self.store.get(&kv.key, At::Latest).await?;
        let Some(below) = below.filter(|it| it.mod_rev == kv.mod_rev) else { return Ok(false) };
        let version = match protobuf::unwrap(&below.value) {
            Ok(envelope) => envelope.api_version,
            Err(_) => obj::api_version(&below.value).unwrap_or_default().to_owned(),
        };
        // What was read is of today's version.
        let now = obj::api_version(&kv.value).unwrap_or_default();
        Ok(!version.is_empty() && !now.is_empty() && version != now)
    }

    fn read_error(&self, error: StorageError) -> StorageError {
        match error {
            StorageError::Exists { current } => {
                StorageError::Exists { current: Box::new(self.read(*current)) }
            }
            StorageError::Conflict { current } => {
                StorageError::Conflict { current: Box::new(self.read(*current)) }
            }
            other => other,
        }
    }

    fn read_batch(&self, batch: Batch) -> Batch {
        let read = |event: Event| Event {
            value: event.value.map(|kv| self.read(kv)),
            previous: event.previous.map(|kv| self.read(kv)),
            ..event
        };
        Batch { events: batch.events.into_iter().map(read).collect(), ..batch }
    }
}

/// The protobuf of an object, where its kind has it and is stored so.
fn to_protobuf(value: &[u8]) -> Option<Vec<u8>> {
    let value = json::parse(value).ok()?;
    let api_version = value.str_at(&["apiVersion"]);
    if JSON_GROUPS.iter().any(|group| api_version.starts_with(group)) {
        return None;
    }
    let kind = value.str_at(&["kind"]);
    if proto::type_of(api_version, kind).is_some() {
        return proto::encode(&value);
    }
    let is_range = (api_version, kind) == ("v1", allocate::RANGE_ALLOCATION);
    if is_range { allocate::to_protobuf(&value) } else { None }
}

/// The object of a message.
fn to_value(message: &[u8]) -> Result<Value, String> {
    let failed = |error: &dyn std::fmt::Display| format!("stored object is damaged: {error}");
    let mut value = proto::decode(message, ("", ""), &[]).map_err(|error| failed(&error))?;
    let (api_version, kind) = (value.str_at(&["apiVersion"]), value.str_at(&["kind"]));
    let Some(node) = proto::type_of(api_version, kind) else {
        return match allocate::from_protobuf(message) {
            Some(range) => Ok(range),
            None => Err(format!(
                "no kind \"{kind}\" is registered for version \"{api_version}\" in scheme"
            )),
        };
    };
    conform::conform(api::schema(), node, &mut value).map_err(|error| failed(&error))?;
    Ok(value)
}

/// The JSON of writes that come back as changes: they need not be decoded, and are the very bytes that were written.
#[derive(Debug, Default)]
struct Written(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    by_key: BTreeMap<Key, Form>,
    bytes: usize,
}

#[derive(Debug)]
struct Form {
    message: Bytes,
    value: Bytes,
}

impl Form {
    fn bytes(&self) -> usize {
        self.message.len() + self.value.len()
    }
}

impl Written {
    fn add(&self, key: &Key, message: &Bytes, value: Bytes) {
        let mut state = self.0.lock();
        let form = Form { message: message.clone(), value };
        let full = state.by_key.len() >= MAX_WRITTEN;
        if full || state.bytes + form.bytes() > MAX_WRITTEN_BYTES {
            // Forgetting costs a decoding, no more.
            *state = State::default();
        }
        state.bytes += form.bytes();
        if let Some(older) = state.by_key.insert(key.clone(), form) {
            state.bytes -= older.bytes();
        }
    }

    /// The JSON where the value is what was written last, whoever wrote it.
    fn find(&self, kv: &Kv) -> Option<Bytes> {
        let state = self.0.lock();
        let form = state.by_key.get(&kv.key)?;
        (form.message == kv.value).then(|| form.value.clone())
    }
}

/// The store of the port: shared with its watches.
#[derive(Debug)]
struct Forms(Arc<StoredForms>);

#[async_trait]
impl Store for Forms {
    async fn put(
        &self,
        key: Key,
        value: Bytes,
        expect: Expect,
        ttl: Option<Ttl>,
    ) -> Result<Put, StorageError> {
        let forms = &self.0;
        let value = forms.write(&key, value);
        match forms.store.put(key, value, expect, ttl).await {
            Ok(put) => Ok(Put { previous: put.previous.map(|kv| forms.read(kv)), ..put }),
            Err(error) => Err(forms.read_error(error)),
        }
    }

    async fn delete(&self, key: Key, expect: Expect) -> Result<Deleted, StorageError> {
        match self.0.store.delete(key, expect).await {
            Ok(deleted) => Ok(Deleted { previous: self.0.read(deleted.previous), ..deleted }),
            Err(error) => Err(self.0.read_error(error)),
        }
    }

    fn get_at_once(&self, key: &Key) -> Option<Result<(Option<Kv>, Rev), StorageError>> {
        let read = self.0.store.get_at_once(key)?;
        Some(read.map(|(kv, rev)| (kv.map(|kv| self.0.read(kv)), rev)))
    }

    async fn get(&self, key: &Key, at: At) -> Result<(Option<Kv>, Rev), StorageError> {
        let (kv, rev) = self.0.store.get(key, at).await?;
        Ok((kv.map(|kv| self.0.read(kv)), rev))
    }

    async fn range(&self, request: RangeReq) -> Result<Page, StorageError> {
        let page = self.0.store.range(request).await?;
        Ok(Page { kvs: page.kvs.into_iter().map(|kv| self.0.read(kv)).collect(), ..page })
    }

    async fn count(&self, prefix: &Key) -> Result<u64, StorageError> {
        self.0.store.count(prefix).await
    }

    fn watch(&self, prefix: Key, after: Rev) -> BoxStream<'static, Result<Batch, StorageError>> {
        let forms = Arc::clone(&self.0);
        let batches = self.0.store.watch(prefix, after);
        batches.map(move |batch| batch.map(|batch| forms.read_batch(batch))).boxed()
    }

    async fn progress(&self) -> Result<Rev, StorageError> {
        self.0.store.progress().await
    }

    async fn progress_under(&self, prefix: &Key) -> Result<Rev, StorageError> {
        self.0.store.progress_under(prefix).await
    }

    async fn is_stale(&self, kv: &Kv) -> Result<bool, StorageError> {
        Ok(self.0.store.is_stale(kv).await? || self.0.is_other(kv).await?)
    }

    async fn size_bytes(&self) -> Result<Option<u64>, StorageError> {
        self.0.store.size_bytes().await
    }

    async fn compact(&self, before: Rev) -> Result<(), StorageError> {
        self.0.store.compact(before).await
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use apimachinery::value;
    use storage::memory::MemoryStore;

    use super::*;

    const GOLDEN: &str =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/reference/api-golden");
    /// How many kinds there have to be, so that the test cannot pass by finding none.
    const KINDS_MIN: usize = 60;

    /// Every kind with every field set, as upstream wrote them, but without the resource version: stored values have none.
    pub(crate) fn golden() -> Vec<(String, Value)> {
        let Ok(folder) = std::fs::read_dir(GOLDEN) else {
            eprintln!("skipped: there is no {GOLDEN}");
            return Vec::new();
        };
        let name = |entry: std::io::Result<std::fs::DirEntry>| {
            entry.unwrap().file_name().into_string().unwrap().strip_suffix(".pb").map(str::to_owned)
        };
        let names: Vec<String> = folder.filter_map(name).collect();
        assert!(names.len() >= KINDS_MIN, "only {} kinds", names.len());
        let read = |name: String| {
            let text = std::fs::read(format!("{GOLDEN}/{name}.json")).unwrap();
            let mut value = json::parse(&text).unwrap();
            value.remove_at(&["metadata", "resourceVersion"]);
            (name, value)
        };
        names.into_iter().map(read).collect()
    }

    /// That these values are upstream's, byte for byte, is a test of the api crate's.
    #[test]
    fn what_upstream_stored_is_read_and_would_be_written_as_the_same_bytes() {
        let mut seen = 0;
        for (name, value) in golden() {
            let (api_version, kind) = (value.str_at(&["apiVersion"]), value.str_at(&["kind"]));
            let Some(node) = proto::type_of(api_version, kind) else { continue };
            if kind.ends_with("List") || JSON_GROUPS.iter().any(|it| api_version.starts_with(it)) {
                continue;
            }
            seen += 1;
            let mut conforming = value.clone();
            conform::conform(api::schema(), node, &mut conforming).unwrap();
            let canonical = obj::encode(&conforming);
            let stored = proto::encode(&conforming).unwrap();
            let read = obj::encode(&to_value(&stored).unwrap());
            assert_eq!(
                String::from_utf8_lossy(&read),
                String::from_utf8_lossy(&canonical),
                "{name}"
            );
            assert_eq!(to_protobuf(&read), Some(stored), "{name}");
        }
        assert!(seen == 0 || seen >= KINDS_MIN, "only {seen} kinds");
    }

    #[tokio::test]
    async fn custom_resources_that_upstream_stored_as_cbor_are_read() {
        let clock = Arc::new(component_base::RealClock);
        let below: Arc<dyn Store> = Arc::new(MemoryStore::new(clock));
        let custom =
            value!({"apiVersion": "x.io/v1", "kind": "Some", "metadata": {"name": "a"}, "n": 1});
        for (key, bytes) in [
            ("/registry/x/good", crate::cbor::encode(&custom)),
            ("/registry/x/bad", b"\xd9\xd9\xf7\xa1".to_vec()),
        ] {
            below.put(Key::from(key), bytes.into(), Expect::Absent, None).await.unwrap();
        }
        let store = StoredForms::over(below, WriteAs::Json);
        let read = async |key: &str| store.get(&Key::from(key), At::Latest).await.unwrap().0;
        let good = read("/registry/x/good").await.unwrap();
        assert_eq!(good.value, Bytes::from(obj::encode(&custom)));
        assert!(read("/registry/x/bad").await.is_none_or(|it| !it.value.starts_with(b"{\"kind\"")));
    }

    #[tokio::test]
    async fn both_forms_are_read_whatever_is_written() {
        let clock = Arc::new(component_base::RealClock);
        let below: Arc<dyn Store> = Arc::new(MemoryStore::new(clock));
        let [json, protobuf] = [WriteAs::Json, WriteAs::Protobuf]
            .map(|write_as| StoredForms::over(Arc::clone(&below), write_as));
        let pod = value!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a",
            "namespace": "b", "uid": "u", "creationTimestamp": "2026-01-02T03:04:05Z"}, "data": {"k": "v"}});
        let custom = value!({"apiVersion": "x.io/v1", "kind": "Some", "metadata": {"name": "a"}});
        let cases = [(&json, &pod, false), (&protobuf, &pod, true), (&protobuf, &custom, false)];
        for (n, (store, object, is_protobuf)) in cases.into_iter().enumerate() {
            let key = Key::from(format!("/registry/x/{n}"));
            let start = below.progress().await.unwrap();
            let bytes = Bytes::from(obj::encode(object));
            let rev =
                store.put(key.clone(), bytes.clone(), Expect::Absent, None).await.unwrap().rev;
            let (kv, _) = below.get(&key, At::Latest).await.unwrap();
            assert_eq!(kv.unwrap().value.starts_with(b"k8s\0"), is_protobuf, "{n}");
            for reader in [&json, &protobuf] {
                let (kv, _) = reader.get(&key, At::Latest).await.unwrap();
                assert_eq!(kv.unwrap().value, bytes, "{n}");
                let batch = reader.watch(key.clone(), start).next().await.unwrap().unwrap();
                assert_eq!(batch.events[0].value.as_ref().unwrap().value, bytes, "{n}");
                let wrong = Expect::ModRev(Rev(rev.0 + 1));
                match reader.put(key.clone(), bytes.clone(), wrong, None).await {
                    Err(StorageError::Conflict { current }) => assert_eq!(current.value, bytes),
                    other => panic!("{other:?}"),
                }
            }
            let deleted = json.delete(key, Expect::Any).await.unwrap();
            assert_eq!(deleted.previous.value, bytes, "{n}");
        }
    }

    /// What a server of old stored, in the version that it stored then, and what there is of it in today's.
    const OLDER: [(&str, &str); 8] = [
        (
            r#"{"apiVersion":"policy/v1beta1","kind":"PodDisruptionBudget","metadata":{"name":"a"},
                "spec":{"minAvailable":1,"selector":{}}}"#,
            r#"{"apiVersion":"policy/v1","spec":{"selector":{"matchExpressions":[{
                "key":"pdb.kubernetes.io/deprecated-v1beta1-empty-selector-match","operator":"Exists"}]}}}"#,
        ),
        (
            r#"{"apiVersion":"autoscaling/v1","kind":"HorizontalPodAutoscaler","metadata":{"name":"a"},
                "spec":{"maxReplicas":3,"targetCPUUtilizationPercentage":50,
                    "scaleTargetRef":{"kind":"Deployment","name":"d"}}}"#,
            r#"{"apiVersion":"autoscaling/v2","spec":{"minReplicas":1,"metrics":[{"type":"Resource",
                "resource":{"name":"cpu","target":{"type":"Utilization","averageUtilization":50}}}]}}"#,
        ),
        (
            r#"{"apiVersion":"autoscaling/v2beta1","kind":"HorizontalPodAutoscaler","metadata":{"name":"a"},
                "spec":{"maxReplicas":3,"scaleTargetRef":{"kind":"Deployment","name":"d"},"metrics":[
                    {"type":"Pods","pods":{"metricName":"m","targetAverageValue":"2"}}]}}"#,
            r#"{"apiVersion":"autoscaling/v2","spec":{"metrics":[{"type":"Pods","pods":{
                "metric":{"name":"m"},"target":{"type":"AverageValue","averageValue":"2"}}}]}}"#,
        ),
        (
            r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"a"},
                "spec":{"type":"ClusterIP","clusterIP":"10.0.0.1","sessionAffinity":"None"}}"#,
            r#"{"apiVersion":"v1","spec":{"internalTrafficPolicy":"Cluster"}}"#,
        ),
        (
            r#"{"apiVersion":"networking.k8s.io/v1beta1","kind":"Ingress","metadata":{"name":"a"},"spec":{
                "backend":{"serviceName":"s","servicePort":80},"rules":[{"host":"h","http":{"paths":[
                    {"path":"/","backend":{"serviceName":"t","servicePort":"web"}}]}}]}}"#,
            r#"{"apiVersion":"networking.k8s.io/v1","spec":{
                "defaultBackend":{"service":{"name":"s","port":{"number":80}}},
                "rules":[{"host":"h","http":{"paths":[{"path":"/","pathType":"ImplementationSpecific",
                    "backend":{"service":{"name":"t","port":{"name":"web"}}}}]}}]}}"#,
        ),
        (
            r#"{"apiVersion":"discovery.k8s.io/v1beta1","kind":"EndpointSlice","metadata":{"name":"a"},
                "addressType":"IPv4","ports":[{"name":"p","port":80}],"endpoints":[{
                    "addresses":["10.0.0.1"],"topology":{"kubernetes.io/hostname":"n","other":"x"}}]}"#,
            r#"{"apiVersion":"discovery.k8s.io/v1","addressType":"IPv4","endpoints":[{"conditions":{},
                "addresses":["10.0.0.1"],"nodeName":"n","deprecatedTopology":{"other":"x"}}]}"#,
        ),
        (
            r#"{"apiVersion":"flowcontrol.apiserver.k8s.io/v1beta1","kind":"PriorityLevelConfiguration",
                "metadata":{"name":"a"},"spec":{"type":"Limited","limited":{
                    "assuredConcurrencyShares":7,"limitResponse":{"type":"Reject"}}}}"#,
            r#"{"apiVersion":"flowcontrol.apiserver.k8s.io/v1","spec":{"limited":{
                "nominalConcurrencyShares":7,"limitResponse":{"type":"Reject"}}}}"#,
        ),
        (
            r#"{"kind":"CustomResourceDefinition","apiVersion":"apiextensions.k8s.io/v1beta1","metadata":{
                "name":"as.x.io"},"spec":{"group":"x.io","version":"v1","scope":"Namespaced","names":{
                    "plural":"as","kind":"A"}}}"#,
            r#"{"apiVersion":"apiextensions.k8s.io/v1","spec":{"scope":"Namespaced"}}"#,
        ),
    ];

    /// Whether all that is expected is there.
    fn holds(value: &Value, expected: &Value) -> bool {
        match (value, expected) {
            (Value::Object(value), Value::Object(expected)) => expected
                .iter()
                .all(|(name, expected)| value.get(name).is_some_and(|it| holds(it, expected))),
            (value, expected) => value == expected,
        }
    }

    #[tokio::test]
    async fn what_an_older_server_stored_is_read_as_what_is_stored_today() {
        let clock = Arc::new(component_base::RealClock);
        let below: Arc<dyn Store> = Arc::new(MemoryStore::new(clock));
        let store = StoredForms::over(Arc::clone(&below), WriteAs::Protobuf);
        let as_written = StoredForms::as_written(Arc::clone(&below), WriteAs::Protobuf);
        let read = async |from: &Arc<dyn Store>, key: &Key| {
            let kv = from.get(key, At::Latest).await.unwrap().0.unwrap();
            (obj::decode(&kv.value, 1).unwrap(), kv)
        };
        for (place, (stored, expected)) in OLDER.into_iter().enumerate() {
            let stored = json::parse(stored.as_bytes()).unwrap();
            let expected = json::parse(expected.as_bytes()).unwrap();
            let is_json = stored.str_at(&["kind"]) == "CustomResourceDefinition";
            let bytes =
                if is_json { obj::encode(&stored) } else { proto::encode(&stored).unwrap() };
            let key = Key::from(format!("/registry/{place}"));
            below.put(key.clone(), bytes.into(), Expect::Absent, None).await.unwrap();
            let (before, _) = read(&as_written, &key).await;
            assert!(holds(&before, &stored), "{before:?}");
            let (value, kv) = read(&store, &key).await;
            assert!(holds(&value, &expected), "{value:?}");
            let is_other = stored["apiVersion"] != expected["apiVersion"];
            assert_eq!(store.is_stale(&kv).await.unwrap(), is_other, "{stored:?}");
            // Written again, it is today's.
            store.put(key.clone(), kv.value, Expect::Any, None).await.unwrap();
            assert!(!store.is_stale(&read(&store, &key).await.1).await.unwrap(), "{stored:?}");
        }
    }

    #[tokio::test]
    async fn members_of_custom_resources_may_be_in_any_order() {
        let clock = Arc::new(component_base::RealClock);
        let below: Arc<dyn Store> = Arc::new(MemoryStore::new(clock));
        let store = StoredForms::over(Arc::clone(&below), WriteAs::Protobuf);
        let key = Key::from("/registry/x.io/somes/a");
        let stored = r#"{"a":1,"apiVersion":"x.io/v1beta1","kind":"Some","metadata":{"name":"a"}}"#;
        below.put(key.clone(), stored.into(), Expect::Absent, None).await.unwrap();
        let kv = store.get(&key, At::Latest).await.unwrap().0.unwrap();
        let read = r#"{"kind":"Some","apiVersion":"x.io/v1beta1","metadata":{"name":"a"},"a":1}"#;
        assert_eq!(kv.value, read);
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        assert_eq!(
            to_value(b"k8s\0\x0a\x09\x0a\x02v1\x12\x03Pot\x12\x00").unwrap_err(),
            "no kind \"Pot\" is registered for version \"v1\" in scheme"
        );
        assert!(to_value(b"k8s\0\xff").unwrap_err().starts_with("stored object is damaged"));
    }
}
