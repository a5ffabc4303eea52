//! A request as reviews and expressions see it.

use std::borrow::Cow;
use std::sync::Arc;

use api::ResourceFacts;
use apimachinery::{Object, Status, Value, value};
use auth::UserInfo;
use cel::library as cel_library;
use registry::expressions::evaluate::Asking;

use crate::context::Kind;
use crate::matching::{namespace_of, operation};
use crate::{Attributes, Operation};

fn kind(it: Kind<'_>) -> Value {
    value!({"group": (it.group), "version": (it.version), "kind": (it.kind)})
}

fn resource(it: &ResourceFacts) -> Value {
    value!({"group": (it.group), "version": (it.version), "resource": (it.resource)})
}

/// An `AdmissionRequest` without uid and objects, for who is to see it in a version.
pub(crate) fn request(attributes: &Attributes<'_>, version: &'static ResourceFacts) -> Value {
    let context = attributes.context;
    let own = context.versions().first().copied().unwrap_or(version);
    let mut request = Object::new();
    request.insert("kind", kind(context.kind(version)));
    request.insert("resource", resource(version));
    request.insert("requestKind", kind(context.kind(own)));
    request.insert("requestResource", resource(own));
    for (member, text) in [
        ("subResource", attributes.subresource),
        ("requestSubResource", attributes.subresource),
        ("name", attributes.name),
        ("namespace", namespace_of(attributes)),
    ] {
        if !text.is_empty() {
            request.insert(member, text);
        }
    }
    request.insert("operation", operation(attributes.operation));
    request.insert("userInfo", user_info(attributes.user));
    request.insert("dryRun", attributes.dry_run);
    request.insert("options", context.options());
    Value::Object(request)
}

fn user_info(user: &UserInfo) -> Value {
    let texts = |list: &[String]| list.iter().map(String::as_str).collect::<Value>();
    let mut info = Object::new();
    for (member, text) in [("username", &user.name), ("uid", &user.uid)] {
        if !text.is_empty() {
            info.insert(member, text.as_str());
        }
    }
    if !user.groups.is_empty() {
        info.insert("groups", texts(&user.groups));
    }
    if !user.extra.is_empty() {
        let mut extra = Object::new();
        for (key, values) in &user.extra {
            extra.insert(key.as_str(), texts(values));
        }
        info.insert("extra", extra);
    }
    Value::Object(info)
}

/// The objects of a request in a version: as it is, and as it was.
pub(crate) struct Objects<'o> {
    pub(crate) object: Cow<'o, Value>,
    pub(crate) old: Cow<'o, Value>,
}

/// Converts the objects of a request, where they are not of the version already.
pub(crate) async fn objects<'o>(
    attributes: &'o Attributes<'_>,
    version: &'static ResourceFacts,
) -> Result<Objects<'o>, Status> {
    static NONE: Value = Value::Null;
    let context = attributes.context;
    let object: &Value = attributes.object;
    // What streams go into is not the object of such a request.
    let old = attributes.old.filter(|_| attributes.operation != Operation::Connect);
    let old = old.unwrap_or(&NONE);
    let convert = async |value: &'o Value| match value {
        Value::Null => Ok::<_, Status>(Cow::Borrowed(value)),
        _ => Ok(match context.to_version(value, version).await? {
            Some(converted) => Cow::Owned(converted),
            None => Cow::Borrowed(value),
        }),
    };
    Ok(Objects { object: convert(object).await?, old: convert(old).await? })
}

/// Who answers the expressions of a request.
#[derive(Debug)]
struct Answers {
    authorizer: Arc<dyn auth::Authorizer>,
    user: UserInfo,
}

impl cel_library::Authorizer for Answers {
    fn authorize(&self, asked: &cel_library::Attributes) -> cel_library::Decision {
        let account;
        let user = match &asked.service_account {
            None => &self.user,
            Some(it) => {
                account = UserInfo::service_account(&it.namespace, &it.name);
                &account
            }
        };
        let field_selector = asked.field_selector.as_ref().filter(|it| it.1.is_none());
        let attributes = auth::Attributes {
            verb: &asked.verb,
            group: &asked.group,
            // Upstream asks for any version.
            version: if asked.path.is_some() { "" } else { "*" },
            resource: &asked.resource,
            subresource: &asked.subresource,
            namespace: &asked.namespace,
            name: &asked.name,
            path: asked.path.as_deref().unwrap_or_default(),
            field_selector: field_selector.map(|it| it.0.as_str()).unwrap_or_default(),
            ..auth::Attributes::of(user)
        };
        let decision = self.authorizer.authorize(&attributes);
        let unreadable = [&asked.field_selector, &asked.label_selector];
        let error = unreadable.into_iter().flatten().find_map(|it| it.1.clone());
        cel_library::Decision {
            allowed: decision.is_allowed(),
            reason: decision.reason().to_owned(),
            error,
        }
    }
}

/// Who answers the expressions of a request what its user may do.
pub(crate) fn asking(
    attributes: &Attributes<'_>,
    authorizer: &Arc<dyn auth::Authorizer>,
) -> Asking {
    let answers = Answers { authorizer: Arc::clone(authorizer), user: attributes.user.clone() };
    Asking {
        authorizer: Arc::new(answers),
        resource: cel_library::Attributes {
            group: attributes.group.into(),
            resource: attributes.resource.into(),
            subresource: attributes.subresource.into(),
            namespace: namespace_of(attributes).into(),
            name: attributes.name.into(),
            ..cel_library::Attributes::default()
        },
    }
}
