//! The service proxy, told of Services and EndpointSlices by watches: each change becomes one transaction, changes that
//! come together become one.

use std::sync::Arc;
use std::time::Duration;

use client::reflector::{Caches, StoreChange};
use component_base::ShutdownSignal;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use proxy::{Proxy, ServiceKey};
use tokio::sync::mpsc;

/// How many changes wait for the proxy at most; then watches wait.
const QUEUE: usize = 10_000;
/// How long the proxy waits after the kernel refused a change.
const RETRY: Duration = Duration::from_secs(1);

/// Something that the proxy is to know.
enum News {
    Service(Box<Service>),
    ServiceGone(ServiceKey),
    Slice(Box<EndpointSlice>),
    SliceGone(ServiceKey),
}

/// Runs until `stop`. Rules stay when it ends: services go on working while this process restarts.
pub(crate) async fn run(mut proxy: Proxy, caches: Arc<Caches>, stop: ShutdownSignal) {
    let (sender, mut receiver) = mpsc::channel(QUEUE);
    let services = caches.store_of::<Service>();
    let slices = caches.store_of::<EndpointSlice>();
    services.reached(0).await;
    slices.reached(0).await;
    let to_proxy = sender.clone();
    services.listen(Arc::new(move |change| tell(&to_proxy, service(change))));
    slices.listen(Arc::new(move |change| tell(&sender, slice(change))));
    loop {
        let news = tokio::select! {
            news = receiver.recv() => news,
            () = stop.requested() => return,
        };
        let Some(news) = news else { return };
        take(&mut proxy, news);
        while let Ok(news) = receiver.try_recv() {
            take(&mut proxy, news);
        }
        while let Err(error) = proxy.apply() {
            tracing::error!(%error, "could not change the rules of services, will replace them all");
            tokio::time::sleep(RETRY).await;
        }
        for problem in proxy.problems() {
            tracing::debug!(?problem, "a service asks for what it does not get");
        }
    }
}

fn tell(sender: &mpsc::Sender<News>, news: Option<News>) {
    let Some(news) = news else { return };
    if sender.try_send(news).is_err() {
        // Only when the kernel has refused rules for a long time: the next start tells all of it again.
        tracing::error!("the proxy does not keep up with changes of services");
    }
}

fn service(change: &StoreChange) -> Option<News> {
    match &change.new {
        Some(object) => object.decode().map(|service| News::Service(Box::new(service))),
        None => Some(News::ServiceGone(key(change))),
    }
}

fn slice(change: &StoreChange) -> Option<News> {
    match &change.new {
        Some(object) => object.decode().map(|slice| News::Slice(Box::new(slice))),
        None => Some(News::SliceGone(key(change))),
    }
}

fn key(change: &StoreChange) -> ServiceKey {
    let key = change.key();
    ServiceKey::new(&key.namespace, &key.name)
}

fn take(proxy: &mut Proxy, news: News) {
    match news {
        News::Service(service) => {
            proxy.update_service(&service);
        }
        News::ServiceGone(key) => proxy.delete_service(&key),
        News::Slice(slice) => {
            proxy.update_slice(&slice);
        }
        News::SliceGone(key) => proxy.delete_slice(&key),
    }
}
