//! As whom webhooks are called that objects name: a kubeconfig has a user for each of them, under the name of its host.
//! Upstream: `k8s.io/apiserver/pkg/util/webhook/authentication.go`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use apimachinery::yaml;
use rustls::ClientConfig;

use crate::config::Destination;
use crate::kubeconfig::{self, Authorization, Files, Identity};
use crate::tls;

/// The port that names of users leave out.
const PORT: &str = "443";

/// Who calls whom.
#[derive(Debug)]
pub struct Credentials {
    users: BTreeMap<String, User>,
    /// The user of the current context, which is the one for hosts that are not named.
    otherwise: Option<String>,
}

#[derive(Debug)]
struct User {
    identity: Option<Identity>,
    authorization: Authorization,
}

impl Credentials {
    /// Reads a kubeconfig; the files that it names are beside it.
    ///
    /// # Errors
    /// What is wrong with it, or with one of its users.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = kubeconfig::read(path)?;
        let directory = path.parent().unwrap_or(Path::new("."));
        let made = Self::parse(&text, directory);
        made.map_err(|why| format!("could not use the kubeconfig {}: {why}", path.display()))
    }

    fn parse(text: &[u8], directory: &Path) -> Result<Self, String> {
        let config = yaml::parse(text).map_err(|error| error.to_string())?;
        let files = Files { directory };
        let mut users = BTreeMap::new();
        for entry in config.items_at(&["users"]) {
            let name = entry.str_at(&["name"]);
            let user = &entry["user"];
            let wrong = |why: String| format!("user {name:?}: {why}");
            let made = User {
                identity: files.identity(user).map_err(wrong)?,
                authorization: files.authorization(user).map_err(wrong)?,
            };
            users.insert(name.to_owned(), made);
        }
        let current = config.str_at(&["current-context"]);
        let contexts = config.items_at(&["contexts"]);
        let context = contexts.iter().find(|it| it.str_at(&["name"]) == current);
        let otherwise = context.map(|it| it["context"].str_at(&["user"]).to_owned());
        Ok(Self { users, otherwise })
    }

    /// The user for `host:port`: of that name, then of a pattern such as `*.svc:8443`, without the port where it is the usual
    /// one, then `*`, then the one of the current context.
    fn user(&self, target: &str) -> Option<&User> {
        let bare = target.rsplit_once(':').filter(|(_, port)| *port == PORT);
        let bare = bare.map(|(host, _)| host.trim_matches(['[', ']']));
        let named = [Some(target), bare].into_iter().flatten().find_map(|it| self.named(it));
        let otherwise = || self.users.get(self.otherwise.as_deref()?);
        named.or_else(|| self.users.get("*")).or_else(otherwise)
    }

    fn named(&self, target: &str) -> Option<&User> {
        let dots = target.match_indices('.').map(|(at, _)| &target[at..]);
        let mut patterns = dots.map(|rest| format!("*{rest}"));
        self.users.get(target).or_else(|| patterns.find_map(|it| self.users.get(&it)))
    }

    /// TLS to a webhook of a `caBundle`, and what its calls say of who makes them.
    pub(crate) fn of(
        &self,
        destination: &Destination,
        bundle: &str,
    ) -> Result<(Arc<ClientConfig>, Authorization), String> {
        let user = self.user(&destination.target());
        let identity = user.and_then(|it| it.identity.as_ref());
        let authorization = user.map_or(Authorization::None, |it| it.authorization.clone());
        Ok((tls::config(bundle, identity)?, authorization))
    }
}

impl Destination {
    /// `host:port`, by which credentials are found.
    fn target(&self) -> String {
        match self {
            Self::Url { host, .. } => host.clone(),
            Self::Service { server_name, port, .. } => format!("{server_name}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_is_found_by_the_name_of_the_host() {
        let all = "users:\n\
            - {name: 'a.ns.svc:443', user: {token: '1'}}\n\
            - {name: b.ns.svc, user: {token: '22'}}\n\
            - {name: '*.svc', user: {token: '333'}}\n\
            - {name: '*.org:8443', user: {token: '4444'}}\n";
        let star = format!("{all}- {{name: '*', user: {{token: '55555'}}}}\n");
        let context = format!(
            "{all}- {{name: me, user: {{token: '666666'}}}}\ncurrent-context: c\n\
             contexts: [{{name: c, context: {{user: me}}}}]\n"
        );
        let all = all.to_owned();
        for (text, target, expected) in [
            (&all, "a.ns.svc:443", Some(1)),
            (&all, "b.ns.svc:443", Some(2)),
            (&all, "b.ns.svc:8443", None),
            (&all, "c.ns.svc:443", Some(3)),
            (&all, "x.y.org:8443", Some(4)),
            (&all, "x.y.org:443", None),
            (&star, "x.y.org:443", Some(5)),
            (&context, "x.y.org:443", Some(6)),
        ] {
            let made = Credentials::parse(text.as_bytes(), Path::new("/nowhere")).unwrap();
            let header = made.user(target).map(|it| it.authorization.header().unwrap().unwrap());
            let length = header.map(|it| it.len() - "Bearer ".len());
            assert_eq!(length, expected, "{target}");
        }
        let bad = b"users: [{name: a, user: {exec: {command: x}}}]";
        let error = Credentials::parse(bad, Path::new(".")).unwrap_err();
        assert_eq!(error, "user \"a\": users with exec cannot be used here");
    }
}
