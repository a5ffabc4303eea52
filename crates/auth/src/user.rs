//! Who asks.

use std::collections::BTreeMap;

use apimachinery::Value;

/// An authenticated user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// `system:node:n1`, `jane`
    pub name: String,
    /// Unique over time, where it is known.
    pub uid: String,
    /// `system:masters`, `system:authenticated`
    pub groups: Vec<String>,
    /// What the authenticator adds.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// The group of everybody who is known.
pub const ALL_AUTHENTICATED: &str = "system:authenticated";
/// The group of everybody who is not.
pub const ALL_UNAUTHENTICATED: &str = "system:unauthenticated";
/// The name of everybody who is not known.
pub const ANONYMOUS: &str = "system:anonymous";
/// The group that may do everything.
pub const MASTERS: &str = "system:masters";
/// The group of all service accounts.
pub const ALL_SERVICE_ACCOUNTS: &str = "system:serviceaccounts";
/// What the names of service accounts begin with.
pub const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";
/// The extra key that names the pod a token is bound to.
pub const POD_NAME_KEY: &str = "authentication.kubernetes.io/pod-name";
/// The extra key that tells the uid of that pod.
pub const POD_UID_KEY: &str = "authentication.kubernetes.io/pod-uid";
/// The extra key that names the node a token's pod runs on.
pub const NODE_NAME_KEY: &str = "authentication.kubernetes.io/node-name";
/// The extra key that tells the uid of that node.
pub const NODE_UID_KEY: &str = "authentication.kubernetes.io/node-uid";
/// The extra key that tells which credential was used.
pub const CREDENTIAL_ID_KEY: &str = "authentication.kubernetes.io/credential-id";
/// The group of all nodes.
pub const NODES: &str = "system:nodes";
/// What the names of nodes begin with.
pub const NODE_PREFIX: &str = "system:node:";

impl UserInfo {
    /// What a `TokenReview` says of its user; what is not there, or is no text, is left out.
    #[must_use]
    pub fn of_review(info: &Value) -> Self {
        let texts = |value: &Value| -> Vec<String> {
            let items = value.as_array().unwrap_or_default().iter();
            items.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let extra = info["extra"].as_object().into_iter().flat_map(|it| it.iter());
        Self {
            name: info.str_at(&["username"]).into(),
            uid: info.str_at(&["uid"]).into(),
            groups: texts(&info["groups"]),
            extra: extra.map(|(key, values)| (key.into(), texts(values))).collect(),
        }
    }

    /// A user with these groups, and that of everybody who is known.
    #[must_use]
    pub fn new(name: &str, groups: &[&str]) -> Self {
        let mut groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
        groups.push(ALL_AUTHENTICATED.into());
        Self { name: name.into(), groups, ..Self::default() }
    }

    /// Somebody who is not known.
    #[must_use]
    pub fn anonymous() -> Self {
        Self { name: ANONYMOUS.into(), groups: vec![ALL_UNAUTHENTICATED.into()], ..Self::default() }
    }

    /// A node.
    #[must_use]
    pub fn node(name: &str) -> Self {
        Self::new(&format!("{NODE_PREFIX}{name}"), &[NODES])
    }

    /// A service account.
    #[must_use]
    pub fn service_account(namespace: &str, name: &str) -> Self {
        Self::new(
            &format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}"),
            &[ALL_SERVICE_ACCOUNTS, &format!("{ALL_SERVICE_ACCOUNTS}:{namespace}")],
        )
    }

    /// Namespace and name, where this is a service account.
    #[must_use]
    pub fn as_service_account(&self) -> Option<(&str, &str)> {
        self.name.strip_prefix(SERVICE_ACCOUNT_PREFIX)?.split_once(':')
    }

    /// The node's name, where this is a node.
    #[must_use]
    pub fn as_node(&self) -> Option<&str> {
        self.is_in(NODES).then_some(())?;
        self.name.strip_prefix(NODE_PREFIX)
    }

    /// Whether the user belongs to a group.
    #[must_use]
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|it| it == group)
    }
}

/// Adds the group of everybody who is known, unless the user is said not to be.
pub fn complete(user: &mut UserInfo) {
    let said = [ALL_AUTHENTICATED, ALL_UNAUTHENTICATED].iter().any(|it| user.is_in(it));
    if !said && user.name != ANONYMOUS {
        user.groups.push(ALL_AUTHENTICATED.into());
    }
}

/// The key of an extra value as the name of a header has it: in lower case, percent signs taken out.
#[must_use]
pub fn extra_key(header: &str) -> String {
    let decoded = percent_encoding::percent_decode_str(header).decode_utf8_lossy();
    decoded.to_lowercase()
}

/// The object's form in `SelfSubjectReview` and `TokenReview`: upstream's `UserInfo`.
impl From<&UserInfo> for apimachinery::Value {
    fn from(user: &UserInfo) -> Self {
        let mut info = apimachinery::Object::new();
        if !user.name.is_empty() {
            info.insert("username", user.name.as_str());
        }
        if !user.uid.is_empty() {
            info.insert("uid", user.uid.as_str());
        }
        if !user.groups.is_empty() {
            info.insert("groups", list(&user.groups));
        }
        if !user.extra.is_empty() {
            let extra = user.extra.iter().map(|(key, values)| (key.as_str(), list(values)));
            info.insert("extra", apimachinery::Object::from_iter(extra));
        }
        info.into()
    }
}

fn list(items: &[String]) -> apimachinery::Value {
    items.iter().map(String::as_str).collect()
}
