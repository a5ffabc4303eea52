//! Users that a front proxy names in headers. Upstream: `authentication/request/headerrequest`.
//!
//! That the proxy's certificate is by the authority of front proxies was checked by TLS; here its name is checked, and
//! the headers are read. Nobody else is believed what these headers say.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderMap;

use crate::{Asker, AuthenticationError, Authenticator, Credentials, UserInfo, text_of, user};

/// Which proxies are believed, and in which headers they name users: `--requestheader-*`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FrontProxy {
    /// The common names of proxies; any, where none is given.
    pub allowed_names: Vec<String>,
    /// Where the user's name is; the first that is set counts.
    pub username_headers: Vec<String>,
    /// Where the uid is.
    pub uid_headers: Vec<String>,
    /// Where groups are: all values of all of these.
    pub group_headers: Vec<String>,
    /// What headers begin with that have an extra value; its key follows.
    pub extra_header_prefixes: Vec<String>,
}

impl FrontProxy {
    /// The user whom the headers name.
    fn user(&self, headers: &HeaderMap) -> Option<UserInfo> {
        let name = first(headers, &self.username_headers)?;
        let groups = self.group_headers.iter().flat_map(|it| headers.get_all(it.as_str()));
        let mut user = UserInfo {
            name,
            uid: first(headers, &self.uid_headers).unwrap_or_default(),
            groups: groups.map(text_of).collect(),
            extra: self.extra(headers),
        };
        user::complete(&mut user);
        Some(user)
    }

    fn extra(&self, headers: &HeaderMap) -> BTreeMap<String, Vec<String>> {
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for prefix in self.extra_header_prefixes.iter().map(|it| it.to_lowercase()) {
            for (header, value) in headers {
                if let Some(key) = header.as_str().strip_prefix(&prefix) {
                    extra.entry(user::extra_key(key)).or_default().push(text_of(value));
                }
            }
        }
        extra
    }

    /// Takes the headers away, so that nobody behind this server believes them.
    pub fn clear(&self, headers: &mut HeaderMap) {
        for name in [&self.username_headers, &self.uid_headers, &self.group_headers] {
            name.iter().for_each(|it| drop(headers.remove(it.as_str())));
        }
        // Names of headers are in lower case, and nothing is made of the prefixes for each request.
        let begins = |name: &[u8], prefix: &[u8]| {
            name.get(..prefix.len()).is_some_and(|it| it.eq_ignore_ascii_case(prefix))
        };
        let is_extra = |name: &str| {
            self.extra_header_prefixes.iter().any(|it| begins(name.as_bytes(), it.as_bytes()))
        };
        let extra: Vec<_> = headers.keys().filter(|it| is_extra(it.as_str())).cloned().collect();
        extra.into_iter().for_each(|it| drop(headers.remove(it)));
    }
}

fn first(headers: &HeaderMap, names: &[String]) -> Option<String> {
    let mut values = names.iter().filter_map(|it| headers.get(it.as_str())).map(text_of);
    values.find(|it| !it.is_empty())
}

impl FrontProxy {
    /// Whether a proxy of this name is believed.
    fn is_allowed(&self, name: &str) -> Result<(), AuthenticationError> {
        if self.allowed_names.is_empty() || self.allowed_names.iter().any(|it| it == name) {
            return Ok(());
        }
        let why = format!("x509: subject with cn={name} is not in the allowed list");
        Err(AuthenticationError(why))
    }
}

impl Authenticator for FrontProxy {
    fn look(&self, credentials: &Credentials<'_>) -> Option<Asker> {
        let Some(name) = credentials.proxy_certificates.common_name() else {
            return Some(Ok(None));
        };
        let allowed = name.and_then(|name| self.is_allowed(name));
        Some(allowed.map(|()| self.user(credentials.headers).map(Arc::new)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Shown;
    use crate::x509::tests::certificate;

    fn proxy(allowed: &[&str]) -> FrontProxy {
        let list = |it: &[&str]| it.iter().map(|it| (*it).to_owned()).collect();
        FrontProxy {
            allowed_names: list(allowed),
            username_headers: list(&["X-Remote-User", "X-User"]),
            uid_headers: list(&["X-Remote-Uid"]),
            group_headers: list(&["X-Remote-Group"]),
            extra_header_prefixes: list(&["X-Remote-Extra-"]),
        }
    }

    fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in all {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[tokio::test]
    async fn a_proxy_that_is_known_names_its_user() {
        let cn = [(rcgen::DnType::CommonName, "front-proxy-client")];
        let chain = Shown::from_iter([certificate(&cn)]);
        let none = Shown::default();
        let jane = headers(&[
            ("x-remote-user", "jane"),
            ("x-remote-uid", "7"),
            ("x-remote-group", "dev"),
            ("x-remote-group", "ops"),
            ("x-remote-extra-example.com%2fscope", "a"),
        ]);
        let ask = async |allowed: &[&str], headers: &HeaderMap, proxy_certificates: &Shown| {
            let warnings = &crate::Warnings::default();
            let credentials =
                Credentials { headers, certificates: &none, proxy_certificates, warnings };
            proxy(allowed).authenticate(&credentials).await.map_err(|it| it.to_string())
        };
        let user = ask(&["front-proxy-client"], &jane, &chain).await.unwrap().unwrap();
        assert_eq!((user.name.as_str(), user.uid.as_str()), ("jane", "7"));
        assert_eq!(user.groups, ["dev", "ops", "system:authenticated"]);
        assert_eq!(user.extra["example.com/scope"], ["a"]);
        assert_eq!(ask(&[], &jane, &chain).await.unwrap().unwrap().name, "jane");
        assert_eq!(ask(&[], &jane, &none).await, Ok(None), "without the proxy's certificate");
        assert_eq!(ask(&[], &headers(&[]), &chain).await, Ok(None), "without a name");
        let why = "x509: subject with cn=front-proxy-client is not in the allowed list";
        assert_eq!(ask(&["other"], &jane, &chain).await, Err(why.into()));
    }

    #[test]
    fn what_a_proxy_says_goes_no_further() {
        let mut all = headers(&[("x-remote-user", "a"), ("x-remote-extra-b", "c"), ("x-b", "d")]);
        proxy(&[]).clear(&mut all);
        assert_eq!(all, headers(&[("x-b", "d")]));
    }
}
