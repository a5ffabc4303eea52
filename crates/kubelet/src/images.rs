//! Images of containers: when they are pulled, how often it is tried, and what people are told.

use std::collections::BTreeMap;

use apimachinery::Value;
use client::events::EventType;
use cri::{AuthConfig, CriError, Image, ImageSpec};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::environment::data_of;
use crate::objects::{Sort, User};
use crate::pod::backoff::{BackOff, IMAGE_PULL, go_duration};
use crate::pod::memory::StartFailure;
use crate::shared::Shared;
use crate::spec::{self, ContainerKind};

/// Pulls at once.
const PARALLEL_PULLS: usize = 4;
/// Between tries of a start that failed for a reason that no event ends.
pub(crate) const RETRY: jiff::SignedDuration = jiff::SignedDuration::from_secs(10);

/// How long a failed pull is shown as such before it is shown as backing off.
const SHOWN: jiff::SignedDuration = jiff::SignedDuration::from_secs(1);

/// What is known of pulls.
#[derive(Debug)]
pub(crate) struct Pulls {
    permits: Semaphore,
    /// By pod and image.
    back_offs: Mutex<BTreeMap<(String, String), (BackOff, String)>>,
}

impl Pulls {
    pub(crate) fn new() -> Self {
        Self { permits: Semaphore::new(PARALLEL_PULLS), back_offs: Mutex::default() }
    }

    pub(crate) fn forget(&self, uid: &str) {
        self.back_offs.lock().retain(|(pod, _), _| pod != uid);
    }
}

/// Upstream's default: what has no fixed tag is pulled always.
fn policy<'c>(container: &'c Container, image: &str) -> &'c str {
    container.image_pull_policy.as_deref().unwrap_or_else(|| {
        let tag = image.rsplit('/').next().and_then(|it| it.split_once(':')).map(|it| it.1);
        if !image.contains('@') && matches!(tag, None | Some("latest")) {
            "Always"
        } else {
            "IfNotPresent"
        }
    })
}

/// Why a name is none, in upstream's words.
pub(crate) fn check_name(image: &str) -> Result<(), String> {
    let name = image.split('@').next().unwrap_or_default();
    let (path, tag) = match name.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
        _ => (name, None),
    };
    let is_domain = |it: &str| it.contains(['.', ':']) || it == "localhost";
    let repository = match path.split_once('/') {
        Some((first, rest)) if is_domain(first) => rest.to_owned(),
        Some(_) => path.to_owned(),
        None => format!("library/{path}"),
    };
    let why = if repository.chars().any(char::is_uppercase) {
        format!("invalid reference format: repository name ({repository}) must be lowercase")
    } else {
        let part = |it: &str| {
            !it.is_empty()
                && it.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
                && it.starts_with(|c: char| c.is_ascii_alphanumeric())
                && it.ends_with(|c: char| c.is_ascii_alphanumeric())
        };
        let is_tag = |it: &str| {
            !it.is_empty()
                && it.len() <= 128
                && it.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        if repository.split('/').all(part) && tag.is_none_or(is_tag) {
            return Ok(());
        }
        "invalid reference format".to_owned()
    };
    Err(format!(
        "Failed to apply default image tag {image:?}: couldn't parse image name {image:?}: {why}"
    ))
}

/// The image of a container, here and ready.
///
/// # Errors
/// Why the container cannot start yet; people were told.
pub(crate) async fn ensure(
    shared: &Shared,
    pod: &Pod,
    (kind, container): (ContainerKind, &Container),
    user: &User,
) -> Result<Image, StartFailure> {
    let image = container.image.clone().unwrap_or_default();
    let tell = |event: EventType, reason: &str, message: &str| {
        shared.container_event(pod, (kind, &container.name), (event, reason), message);
    };
    let fail = |reason: &str, message: String, retry_at: Timestamp| {
        tell(EventType::Warning, "Failed", &format!("Error: {reason}"));
        StartFailure { reason: reason.to_owned(), message, retry_at }
    };
    let later = shared.clock.now().checked_add(RETRY).unwrap_or(Timestamp::MAX);
    if let Err(message) = check_name(&image) {
        tell(EventType::Warning, "InspectFailed", &message);
        return Err(fail("InvalidImageName", message, later));
    }
    let spec = ImageSpec::new(image.clone());
    let present = match shared.images.image_status(&spec).await {
        Ok(it) => it,
        Err(error) => {
            let message = format!("Failed to inspect image {image:?}: {}", error.to_rpc());
            tell(EventType::Warning, "InspectFailed", &message);
            return Err(fail("ImageInspectError", message, later));
        }
    };
    let policy = policy(container, &image);
    match present {
        Some(it) if policy != "Always" => {
            let message = format!(
                "Container image {image:?} already present on machine and can be accessed by the pod"
            );
            tell(EventType::Normal, "Pulled", &message);
            return Ok(it);
        }
        None if policy == "Never" => {
            let message =
                format!("Container image {image:?} is not present with pull policy of Never");
            tell(EventType::Warning, "ErrImageNeverPull", &message);
            return Err(fail("ErrImageNeverPull", message, later));
        }
        _ => {}
    }
    let key = (spec::uid(pod).to_owned(), image.clone());
    if let Some((until, last)) = waits(shared, &key) {
        let text = format!("Back-off pulling image {image:?}");
        tell(EventType::Normal, "BackOff", &text);
        return Err(fail("ImagePullBackOff", format!("{text}: {last}"), until));
    }
    tell(EventType::Normal, "Pulling", &format!("Pulling image {image:?}"));
    match pull(shared, pod, &spec, user).await {
        Ok((got, message)) => {
            shared.pulls.back_offs.lock().remove(&key);
            tell(EventType::Normal, "Pulled", &message);
            Ok(got)
        }
        Err(error) => {
            let text = error.to_rpc();
            tell(EventType::Warning, "Failed", &format!("Failed to pull image {image:?}: {text}"));
            note_failure(shared, &key, &format!("ErrImagePull: {text}"));
            let soon = shared.clock.now().checked_add(SHOWN).unwrap_or(Timestamp::MAX);
            Err(fail("ErrImagePull", text, soon))
        }
    }
}

fn waits(shared: &Shared, key: &(String, String)) -> Option<(Timestamp, String)> {
    let back_offs = shared.pulls.back_offs.lock();
    let (entry, last) = back_offs.get(key)?;
    let until = entry.until(IMAGE_PULL, entry.updated, shared.clock.now())?;
    Some((until, last.clone()))
}

fn note_failure(shared: &Shared, key: &(String, String), text: &str) {
    let now = shared.clock.now();
    let mut back_offs = shared.pulls.back_offs.lock();
    let before = back_offs.get(key).map(|it| it.0);
    back_offs.insert(key.clone(), (BackOff::next(before, IMAGE_PULL, now, now), text.to_owned()));
}

async fn pull(
    shared: &Shared,
    pod: &Pod,
    spec: &ImageSpec,
    user: &User,
) -> Result<(Image, String), CriError> {
    let asked = shared.clock.monotonic();
    let _permit =
        shared.pulls.permits.acquire().await.map_err(|e| CriError::unknown(e.to_string()))?;
    let begun = shared.clock.monotonic();
    let mut credentials =
        credentials(shared, pod, &spec.image, user).await.into_iter().map(Some).collect::<Vec<_>>();
    if credentials.is_empty() {
        credentials.push(None);
    }
    let mut result = Err(CriError::unknown("no credentials"));
    for auth in &credentials {
        result = shared.images.pull_image(spec, auth.as_ref(), None).await;
        if result.is_ok() {
            break;
        }
    }
    let id = result?;
    let now = shared.clock.monotonic();
    let text = |since: tokio::time::Instant| {
        let millis = i64::try_from((now - since).as_millis()).unwrap_or(i64::MAX);
        go_duration(jiff::SignedDuration::from_millis(millis))
    };
    let found = shared.images.image_status(&ImageSpec::new(id.clone())).await?;
    let image =
        found.ok_or_else(|| CriError::not_found(format!("image {id:?} is gone after its pull")))?;
    let message = format!(
        "Successfully pulled image {:?} in {} ({} including waiting). Image size: {} bytes.",
        spec.image,
        text(begun),
        text(asked),
        image.size
    );
    Ok((image, message))
}

/// What the pod's pull secrets say of the image's registry.
async fn credentials(shared: &Shared, pod: &Pod, image: &str, user: &User) -> Vec<AuthConfig> {
    let mut all = Vec::new();
    for reference in spec::spec(pod).image_pull_secrets.iter().flatten() {
        let Ok(secret) = shared.objects.get(Sort::Secret, &reference.name, user).await else {
            tracing::warn!(
                secret = reference.name,
                pod = spec::full_name(pod),
                "could not read a pull secret"
            );
            continue;
        };
        let data = data_of(&secret, true);
        let (bytes, nested) = match (data.get(".dockerconfigjson"), data.get(".dockercfg")) {
            (Some(it), _) => (it, true),
            (None, Some(it)) => (it, false),
            (None, None) => continue,
        };
        let Ok(parsed) = apimachinery::json::parse(bytes) else { continue };
        let registries =
            if nested { parsed.get("auths").cloned().unwrap_or_default() } else { parsed };
        all.extend(matching(&registries, image));
    }
    all
}

fn matching(registries: &Value, image: &str) -> Vec<AuthConfig> {
    let domain = match image.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => first,
        _ => "docker.io",
    };
    let host = |url: &str| {
        let bare = url.trim_start_matches("https://").trim_start_matches("http://");
        let bare = bare.split('/').next().unwrap_or_default();
        if bare == "index.docker.io" { "docker.io".to_owned() } else { bare.to_owned() }
    };
    let members = registries.as_object().into_iter().flat_map(|it| it.iter());
    members
        .filter(|(url, _)| host(url) == domain)
        .map(|(url, it)| AuthConfig {
            username: it.str_at(&["username"]).to_owned(),
            password: it.str_at(&["password"]).to_owned(),
            auth: it.str_at(&["auth"]).to_owned(),
            server_address: url.to_owned(),
            identity_token: it.str_at(&["identitytoken"]).to_owned(),
            registry_token: it.str_at(&["registrytoken"]).to_owned(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_none_are_refused_in_upstreams_words() {
        assert_eq!(
            check_name("Bad Name!!").unwrap_err(),
            "Failed to apply default image tag \"Bad Name!!\": couldn't parse image name \"Bad Name!!\": \
             invalid reference format: repository name (library/Bad Name!!) must be lowercase"
        );
        for good in ["busybox", "a/b:1", "localhost:5000/a", "r.io/a/b@sha256:00", "nothere:1"] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        assert!(check_name("a b").is_err());
    }

    #[test]
    fn images_without_a_fixed_tag_are_pulled_always() {
        for (image, expected) in [
            ("a", "Always"),
            ("a:latest", "Always"),
            ("r:5000/a", "Always"),
            ("a:1", "IfNotPresent"),
            ("a@sha256:0", "IfNotPresent"),
        ] {
            assert_eq!(policy(&Container::default(), image), expected, "{image}");
        }
    }
}
