//! etcd that wants certificates and has one.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use storage_etcd::{OpenError, TlsFiles};

use super::*;

/// Makes an authority and one certificate of it, as files.
fn certificates(dir: &std::path::Path) -> TlsFiles {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    let leaf_key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]);
    let leaf = leaf.unwrap().signed_by(&leaf_key, &issuer).unwrap();
    let write = |name: &str, text: String| {
        let file = dir.join(name);
        std::fs::write(&file, text).unwrap();
        Some(file)
    };
    TlsFiles {
        ca: write("ca.crt", ca.pem()),
        certificate: write("leaf.crt", leaf.pem()),
        key: write("leaf.key", leaf_key.serialize_pem()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_know_each_other_by_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let files = certificates(dir.path());
    let file = |it: &Option<std::path::PathBuf>| it.clone().unwrap().display().to_string();
    let arguments = [
        format!("--cert-file={}", file(&files.certificate)),
        format!("--key-file={}", file(&files.key)),
        format!("--trusted-ca-file={}", file(&files.ca)),
        "--client-cert-auth".to_owned(),
    ];
    let etcd = Cluster::with(1, "https", &arguments);
    let options = Options { tls: files.clone(), ..Options::new(etcd.urls()) };
    let store = EtcdStore::open(&options).await.unwrap();
    let put = store.put(key("/registry/x"), value("1"), Expect::Absent, None).await.unwrap();
    let mut watch = store.watch(key("/registry/"), Rev(put.rev.0 - 1));
    assert_eq!(watch.next().await.unwrap().unwrap().events[0].rev, put.rev);
    // Without a certificate, or with the wrong authority, nothing is said.
    let other = tempfile::tempdir().unwrap();
    let others =
        [TlsFiles { certificate: None, key: None, ..files.clone() }, certificates(other.path())];
    for tls in others {
        let open_timeout = std::time::Duration::from_secs(2);
        let options = Options { tls, open_timeout, ..Options::new(etcd.urls()) };
        let opened = EtcdStore::open(&options).await;
        assert!(matches!(opened, Err(OpenError::Silent(_))), "{opened:?}");
    }
    let half = TlsFiles { key: None, ..files };
    let opened = EtcdStore::open(&Options { tls: half, ..options }).await;
    assert!(matches!(opened, Err(OpenError::Tls(_))), "{opened:?}");
}
