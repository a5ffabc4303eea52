//! A request as reviews and expressions see it.

use std::borrow::Cow;
use std::sync::Arc;

use api::ResourceFacts;
use apimachinery::{Object, Status, Value, value};
use auth::UserInfo;
use cel::library as cel_library;
use parking_lot::Mutex;
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

/// What is asked of an authorizer that cannot answer at once, for all expressions of a request together. The cost of a
/// question lets a policy ask fewer.
const MAX_QUESTIONS: usize = 64;

/// Who answers the expressions of a request.
///
/// Expressions do not wait. Where an authorizer has to, an expression is told so, and evaluated again once the answer is
/// known.
#[derive(Debug)]
struct Answers {
    authorizer: Arc<dyn auth::Authorizer>,
    user: UserInfo,
    waited: Mutex<Waited>,
}

#[derive(Debug, Default)]
struct Waited {
    known: Vec<(cel_library::Attributes, auth::Decision)>,
    wanted: Option<cel_library::Attributes>,
}

impl Answers {
    /// What is asked, about whom.
    fn attributes<'a>(
        &'a self,
        account: Option<&'a UserInfo>,
        asked: &'a cel_library::Attributes,
    ) -> auth::Attributes<'a> {
        // What cannot be read widens the question.
        fn text(it: Option<&(String, Option<String>)>) -> &str {
            it.filter(|it| it.1.is_none()).map(|it| it.0.as_str()).unwrap_or_default()
        }
        auth::Attributes {
            verb: &asked.verb,
            group: &asked.group,
            // Upstream asks for any version.
            version: if asked.path.is_some() { "" } else { "*" },
            resource: &asked.resource,
            subresource: &asked.subresource,
            namespace: &asked.namespace,
            name: &asked.name,
            path: asked.path.as_deref().unwrap_or_default(),
            field_selector: text(asked.field_selector.as_ref()),
            label_selector: text(asked.label_selector.as_ref()),
            ..auth::Attributes::of(account.unwrap_or(&self.user))
        }
    }

    /// The answer, where it is known without waiting; what it is not is noted.
    fn known(&self, asked: &cel_library::Attributes) -> Option<auth::Decision> {
        let account = account(asked);
        if let Some(decision) = self.authorizer.decide(&self.attributes(account.as_ref(), asked)) {
            return Some(decision);
        }
        let waited = &mut *self.waited.lock();
        if let Some((_, decision)) = waited.known.iter().find(|it| it.0 == *asked) {
            return Some(decision.clone());
        }
        if waited.known.len() < MAX_QUESTIONS {
            waited.wanted.get_or_insert_with(|| asked.clone());
        }
        None
    }

    fn wanted(&self) -> Option<cel_library::Attributes> {
        self.waited.lock().wanted.take()
    }

    async fn learn(&self, asked: cel_library::Attributes) {
        let account = account(&asked);
        let decision = {
            let attributes = self.attributes(account.as_ref(), &asked);
            self.authorizer.authorize(&attributes).await
        };
        self.waited.lock().known.push((asked, decision));
    }
}

fn account(asked: &cel_library::Attributes) -> Option<UserInfo> {
    let account = asked.service_account.as_ref()?;
    Some(UserInfo::service_account(&account.namespace, &account.name))
}

impl cel_library::Authorizer for Answers {
    fn authorize(&self, asked: &cel_library::Attributes) -> cel_library::Decision {
        let Some(decision) = self.known(asked) else {
            let error = Some("the answer is not known yet".to_owned());
            return cel_library::Decision { error, ..cel_library::Decision::default() };
        };
        let unreadable = [&asked.field_selector, &asked.label_selector];
        let error = unreadable.into_iter().flatten().find_map(|it| it.1.clone());
        cel_library::Decision {
            allowed: decision.is_allowed(),
            reason: decision.reason().to_owned(),
            error,
        }
    }
}

/// What expressions may ask about a request.
pub(crate) struct Questions {
    asking: Asking,
    answers: Arc<Answers>,
}

impl Questions {
    pub(crate) fn asking(&self) -> &Asking {
        &self.asking
    }

    /// What `evaluate` gives once all it asks is answered.
    pub(crate) async fn settle<T>(&self, evaluate: impl Fn() -> T) -> T {
        loop {
            let result = evaluate();
            let Some(wanted) = self.answers.wanted() else { return result };
            drop(result);
            self.answers.learn(wanted).await;
        }
    }
}

/// Who answers the expressions of a request what its user may do.
pub(crate) fn questions(
    attributes: &Attributes<'_>,
    authorizer: &Arc<dyn auth::Authorizer>,
) -> Questions {
    let answers = Arc::new(Answers {
        authorizer: Arc::clone(authorizer),
        user: attributes.user.clone(),
        waited: Mutex::default(),
    });
    let asking = Asking {
        authorizer: Arc::clone(&answers) as Arc<dyn cel_library::Authorizer>,
        resource: cel_library::Attributes {
            group: attributes.group.into(),
            resource: attributes.resource.into(),
            subresource: attributes.subresource.into(),
            namespace: namespace_of(attributes).into(),
            name: attributes.name.into(),
            ..cel_library::Attributes::default()
        },
    };
    Questions { asking, answers }
}
