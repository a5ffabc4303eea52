//! The store itself: values are encrypted on their way in and decrypted on their way out, wherever they come out.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use storage::{
    At, Batch, Deleted, Event, Expect, Key, Kv, MAX_VALUE_BYTES, Page, Put, RangeReq, Rev,
    StorageError, Store, Ttl, unreadable,
};
use tokio::time::Instant;

use crate::metrics;
use crate::provider::{self, Opened};
use crate::{EncryptedStore, Inner};

impl Inner {
    fn seal(&self, key: &Key, value: Bytes) -> Result<Bytes, StorageError> {
        let state = self.state.load_full();
        let Some(resource) = self.parts.layout.resource_of(key) else { return Ok(value) };
        let Some(providers) = state.providers(&resource) else { return Ok(value) };
        let began = Instant::now();
        let random = self.parts.random.as_ref();
        let (prefix, sealed) = provider::seal(providers, &value, key.as_bytes(), random);
        let what = (&*resource.to_string(), prefix);
        let status = if sealed.is_ok() { metrics::GOOD } else { metrics::NO_CODE };
        self.metrics.transformed("to_storage", what, status, began.elapsed());
        sealed.map_err(StorageError::Transform)
    }

    async fn open(&self, key: &Key, value: &Bytes) -> Result<Opened, String> {
        let state = self.state.load_full();
        let resource = self.parts.layout.resource_of(key);
        let found = resource.and_then(|it| Some((state.providers(&it)?, it)));
        let Some((providers, resource)) = found else { return provider::open_plain(value) };
        let began = Instant::now();
        let (prefix, opened) = provider::open(providers, value, key.as_bytes()).await;
        let what = (&*resource.to_string(), prefix);
        let status = match &opened {
            Ok(_) => metrics::GOOD,
            Err(failure) => failure.code.unwrap_or(metrics::NO_CODE),
        };
        self.metrics.transformed("from_storage", what, status, began.elapsed());
        opened.map_err(|it| it.why)
    }

    /// Decrypts; what cannot be read says why instead.
    async fn opened(&self, mut kv: Kv) -> Kv {
        if kv.value.is_empty() {
            return kv;
        }
        kv.value = match self.open(&kv.key, &kv.value).await {
            Ok(opened) => opened.value,
            Err(why) => unreadable(&why),
        };
        kv
    }

    async fn opened_option(&self, kv: Option<Kv>) -> Option<Kv> {
        match kv {
            Some(kv) => Some(self.opened(kv).await),
            None => None,
        }
    }

    async fn opened_error(&self, error: StorageError) -> StorageError {
        match error {
            StorageError::Exists { current } => {
                StorageError::Exists { current: Box::new(self.opened(*current).await) }
            }
            StorageError::Conflict { current } => {
                StorageError::Conflict { current: Box::new(self.opened(*current).await) }
            }
            other => other,
        }
    }

    async fn opened_batch(&self, batch: Batch) -> Batch {
        let mut events = Vec::with_capacity(batch.events.len());
        for event in batch.events {
            events.push(Event {
                value: self.opened_option(event.value).await,
                previous: self.opened_option(event.previous).await,
                ..event
            });
        }
        Batch { events, ..batch }
    }
}

#[async_trait]
impl Store for EncryptedStore {
    async fn put(
        &self,
        key: Key,
        value: Bytes,
        expect: Expect,
        ttl: Option<Ttl>,
    ) -> Result<Put, StorageError> {
        let inner = &self.0;
        if value.len() > MAX_VALUE_BYTES {
            let (what, bytes, limit) = ("value", value.len(), MAX_VALUE_BYTES);
            return Err(StorageError::TooLarge { what, bytes, limit });
        }
        let value = inner.seal(&key, value)?;
        match inner.store.put(key, value, expect, ttl).await {
            Ok(put) => Ok(Put { previous: inner.opened_option(put.previous).await, ..put }),
            Err(error) => Err(inner.opened_error(error).await),
        }
    }

    async fn delete(&self, key: Key, expect: Expect) -> Result<Deleted, StorageError> {
        match self.0.store.delete(key, expect).await {
            Ok(deleted) => {
                Ok(Deleted { previous: self.0.opened(deleted.previous).await, ..deleted })
            }
            Err(error) => Err(self.0.opened_error(error).await),
        }
    }

    async fn get(&self, key: &Key, at: At) -> Result<(Option<Kv>, Rev), StorageError> {
        let (kv, rev) = self.0.store.get(key, at).await?;
        let Some(mut kv) = kv else { return Ok((None, rev)) };
        kv.value = self.0.open(key, &kv.value).await.map_err(StorageError::Transform)?.value;
        Ok((Some(kv), rev))
    }

    async fn range(&self, request: RangeReq) -> Result<Page, StorageError> {
        let page = self.0.store.range(request).await?;
        let mut kvs = Vec::with_capacity(page.kvs.len());
        for kv in page.kvs {
            kvs.push(self.0.opened(kv).await);
        }
        Ok(Page { kvs, ..page })
    }

    async fn count(&self, prefix: &Key) -> Result<u64, StorageError> {
        self.0.store.count(prefix).await
    }

    fn watch(&self, prefix: Key, after: Rev) -> BoxStream<'static, Result<Batch, StorageError>> {
        let inner = Arc::clone(&self.0);
        let batches = self.0.store.watch(prefix, after).then(move |batch| {
            let inner = Arc::clone(&inner);
            async move {
                match batch {
                    Ok(batch) => Ok(inner.opened_batch(batch).await),
                    Err(error) => Err(error),
                }
            }
        });
        batches.boxed()
    }

    async fn progress(&self) -> Result<Rev, StorageError> {
        self.0.store.progress().await
    }

    async fn progress_under(&self, prefix: &Key) -> Result<Rev, StorageError> {
        self.0.store.progress_under(prefix).await
    }

    async fn size_bytes(&self) -> Result<Option<u64>, StorageError> {
        self.0.store.size_bytes().await
    }

    async fn compact(&self, before: Rev) -> Result<(), StorageError> {
        self.0.store.compact(before).await
    }

    async fn is_stale(&self, kv: &Kv) -> Result<bool, StorageError> {
        let (stored, _) = self.0.store.get(&kv.key, At::Latest).await?;
        let Some(stored) = stored.filter(|it| it.mod_rev == kv.mod_rev) else { return Ok(false) };
        let opened = self.0.open(&kv.key, &stored.value).await;
        Ok(opened.map_err(StorageError::Transform)?.is_stale)
    }
}
