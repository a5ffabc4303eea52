//! Requests as a kubeconfig's user, whatever they are.

use std::path::Path;

use apimachinery::{Value, json, yaml};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The status code and the answer.
pub(crate) fn ask(kubeconfig: &Path, method: Method, path: &str, body: &str) -> (u16, Value) {
    let config = yaml::parse(&std::fs::read(kubeconfig).unwrap()).unwrap();
    let (cluster, user) = (&config.items_at(&["clusters"])[0], &config.items_at(&["users"])[0]);
    let data = |of: &Value, path: &[&str]| BASE64_STANDARD.decode(of.str_at(path)).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    let authority = data(cluster, &["cluster", "certificate-authority-data"]);
    roots.add(CertificateDer::from_pem_slice(&authority).unwrap()).unwrap();
    let certificate = data(user, &["user", "client-certificate-data"]);
    let certificate = CertificateDer::pem_slice_iter(&certificate).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(&data(user, &["user", "client-key-data"])).unwrap();
    let tls = component_base::tls::client(component_base::tls::Trust::Authorities(roots))
        .unwrap()
        .with_client_auth_cert(certificate, key)
        .unwrap();
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_only()
        .enable_http1()
        .build();
    let url = format!("{}{path}", cluster.str_at(&["cluster", "server"]));
    let request = Request::builder()
        .method(method)
        .uri(url)
        .header("content-type", "application/json")
        .body(Full::new(bytes::Bytes::from(body.to_owned())))
        .unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Client::builder(TokioExecutor::new()).build(connector);
        let response = client.request(request).await.unwrap();
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (code, json::parse(&bytes).unwrap_or_default())
    })
}
