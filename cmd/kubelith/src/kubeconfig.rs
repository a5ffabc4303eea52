//! Kubeconfig files.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::pki::Identity;

/// A kubeconfig that reaches `server` as `user`.
pub(crate) fn text(server: &str, authority: &str, user: &str, identity: &Identity) -> String {
    let encode = |pem: &str| BASE64_STANDARD.encode(pem);
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: kubelith\n  cluster:\n    server: {server}\n    \
         certificate-authority-data: {}\nusers:\n- name: {user}\n  user:\n    client-certificate-data: {}\n    \
         client-key-data: {}\ncontexts:\n- name: kubelith\n  context:\n    cluster: kubelith\n    user: {user}\n\
         current-context: kubelith\n",
        encode(authority),
        encode(&identity.certificate),
        encode(&identity.key),
    )
}
