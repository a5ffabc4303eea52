//! What stands in volumes made from objects: config maps, secrets, the pod's own fields, tokens.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, KeyToPath, ProjectedVolumeSource, Volume, VolumeProjection,
};

use super::VolumeContext;
use super::atomic::{File, Payload};
use crate::environment::data_of;
use crate::fields;
use crate::objects::Sort;
use crate::spec;

const DEFAULT_MODE: i32 = 0o644;

/// A config map or secret, and which of its keys are wanted.
#[derive(Debug, Clone, Copy)]
struct Keys<'a> {
    sort: Sort,
    name: &'a str,
    items: Option<&'a Vec<KeyToPath>>,
    optional: Option<bool>,
    mode: i32,
}

/// The files of a volume; `None` where it is not made from objects.
pub(super) async fn payload(
    cx: &VolumeContext<'_>,
    volume: &Volume,
) -> Result<Option<Payload>, String> {
    if let Some(it) = &volume.config_map {
        let (name, mode) = (it.name.as_str(), it.default_mode.unwrap_or(DEFAULT_MODE));
        let (items, optional) = (it.items.as_ref(), it.optional);
        let keys = Keys { sort: Sort::ConfigMap, name, items, optional, mode };
        return keys_payload(cx, keys).await.map(Some);
    }
    if let Some(it) = &volume.secret {
        let name = it.secret_name.as_deref().unwrap_or_default();
        let mode = it.default_mode.unwrap_or(DEFAULT_MODE);
        let (items, optional) = (it.items.as_ref(), it.optional);
        let keys = Keys { sort: Sort::Secret, name, items, optional, mode };
        return keys_payload(cx, keys).await.map(Some);
    }
    if let Some(it) = &volume.downward_api {
        let mode = it.default_mode.unwrap_or(DEFAULT_MODE);
        return downward(cx, it.items.as_ref(), mode).map(Some);
    }
    match &volume.projected {
        Some(it) => projected(cx, it).await.map(Some),
        None => Ok(None),
    }
}

async fn projected(
    cx: &VolumeContext<'_>,
    source: &ProjectedVolumeSource,
) -> Result<Payload, String> {
    let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
    let mut all = Payload::new();
    for it in source.sources.iter().flatten() {
        all.extend(projection(cx, it, mode).await?);
    }
    Ok(all)
}

async fn projection(
    cx: &VolumeContext<'_>,
    source: &VolumeProjection,
    mode: i32,
) -> Result<Payload, String> {
    if let Some(it) = &source.config_map {
        let (items, optional) = (it.items.as_ref(), it.optional);
        return keys_payload(
            cx,
            Keys { sort: Sort::ConfigMap, name: &it.name, items, optional, mode },
        )
        .await;
    }
    if let Some(it) = &source.secret {
        let (items, optional) = (it.items.as_ref(), it.optional);
        return keys_payload(
            cx,
            Keys { sort: Sort::Secret, name: &it.name, items, optional, mode },
        )
        .await;
    }
    if let Some(it) = &source.downward_api {
        return downward(cx, it.items.as_ref(), mode);
    }
    if let Some(it) = &source.service_account_token {
        let token = cx.shared.tokens.get(cx.shared, cx.pod, it).await?;
        let owner = common_user(cx);
        let grouped = super::fs_group(cx.pod).is_some();
        let mode = if owner.is_some() || grouped { 0o600 } else { mode };
        let file = File { data: token.into_bytes(), mode: bits(mode), owner };
        return Ok([(it.path.clone(), file)].into());
    }
    Err("this node does not know this kind of projection".into())
}

/// The user that all containers run as, if they say one and the same.
fn common_user(cx: &VolumeContext<'_>) -> Option<u32> {
    let of_pod = spec::spec(cx.pod).security_context.as_ref().and_then(|it| it.run_as_user);
    let containers = spec::init_containers(cx.pod).iter().chain(spec::main_containers(cx.pod));
    let mut users =
        containers.map(|it| it.security_context.as_ref().and_then(|it| it.run_as_user).or(of_pod));
    let first = users.next()??;
    users.all(|it| it == Some(first)).then(|| u32::try_from(first).ok())?
}

fn bits(mode: i32) -> u32 {
    u32::try_from(mode & 0o777).unwrap_or(0o644)
}

async fn keys_payload(cx: &VolumeContext<'_>, keys: Keys<'_>) -> Result<Payload, String> {
    let optional = keys.optional == Some(true);
    let object = match cx.shared.objects.get(keys.sort, keys.name, cx.user).await {
        Ok(it) => it,
        Err(missing) if optional && missing.is_absent() => return Ok(Payload::new()),
        Err(missing) => return Err(missing.text()),
    };
    select(data_of(&object, keys.sort == Sort::Secret), keys)
}

fn select(data: BTreeMap<String, Vec<u8>>, keys: Keys<'_>) -> Result<Payload, String> {
    let file = |data: Vec<u8>, mode: i32| File { data, mode: bits(mode), owner: None };
    let Some(items) = keys.items.filter(|it| !it.is_empty()) else {
        return Ok(data.into_iter().map(|(key, data)| (key, file(data, keys.mode))).collect());
    };
    let mut all = Payload::new();
    for item in items {
        match data.get(&item.key) {
            Some(data) => {
                let mode = item.mode.unwrap_or(keys.mode);
                all.insert(item.path.clone(), file(data.clone(), mode));
            }
            None if keys.optional == Some(true) => {}
            None if keys.sort == Sort::Secret => {
                return Err(format!("references non-existent secret key: {}", item.key));
            }
            None => {
                return Err(format!("configmap references non-existent config key: {}", item.key));
            }
        }
    }
    Ok(all)
}

fn downward(
    cx: &VolumeContext<'_>,
    items: Option<&Vec<DownwardAPIVolumeFile>>,
    mode: i32,
) -> Result<Payload, String> {
    let facts = cx.shared.field_facts(cx.pod, cx.pod_ips.clone());
    let mut all = Payload::new();
    for item in items.into_iter().flatten() {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(it), _) => fields::field(cx.pod, &it.field_path, &facts)?,
            (None, Some(it)) => fields::resource(cx.pod, None, it, &facts)?,
            (None, None) => String::new(),
        };
        let mode = bits(item.mode.unwrap_or(mode));
        all.insert(item.path.clone(), File { data: text.into_bytes(), mode, owner: None });
    }
    Ok(all)
}
