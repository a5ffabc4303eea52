//! StorageVersion: in which versions the servers of a cluster store and can read the objects of a resource.

use apimachinery::{FieldErrors, Path, Value, time, validation, value};
use jiff::Timestamp;

use crate::declaration::Declaration;
use crate::{Rules, table};

/// How many servers a row names.
const SHOWN_MAX: usize = 3;
const NO_API_VERSION: &str = "an apiVersion is a DNS-1035 label, which must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyVersion')";

pub(super) fn resource() -> Declaration {
    Declaration {
        group: "internal.apiserver.k8s.io",
        version: "v1alpha1",
        resource: "storageversions",
        name: |name, _| name_problems(name),
        validate_status: |it, _, errors| validate(&it["status"], &Path::new("status"), errors),
        row: |it, now| {
            let common = it.str_at(&["status", "commonEncodingVersion"]);
            let common = if common.is_empty() { "<unset>" } else { common };
            let name = it.str_at(&["metadata", "name"]);
            vec![name.into(), common.into(), servers(it).into(), table::created(it, now)]
        },
        rules: Rules { has_status: true, unconditional_update: false, ..Declaration::PLAIN.rules },
        ..Declaration::PLAIN
    }
}

/// `apiserver-a=apps/v1,apiserver-b=apps/v1`
fn servers(storage_version: &Value) -> String {
    let all = storage_version.items_at(&["status", "storageVersions"]);
    let shown = all
        .iter()
        .take(SHOWN_MAX)
        .map(|it| format!("{}={}", it.str_at(&["apiServerID"]), it.str_at(&["encodingVersion"])));
    let shown = shown.collect::<Vec<_>>().join(",");
    match all.len().saturating_sub(SHOWN_MAX) {
        0 if shown.is_empty() => "<unset>".into(),
        0 => shown,
        more => format!("{shown} + {more} more..."),
    }
}

fn name_problems(name: &str) -> Vec<String> {
    let Some((group, resource)) = name.rsplit_once('.') else {
        return vec!["name must be in the form of <group>.<resource>".into()];
    };
    let group = validation::dns1123_subdomain(group);
    let resource = validation::dns1035_label(resource);
    let group = group.iter().map(|it| format!("the group segment {it}"));
    group.chain(resource.iter().map(|it| format!("the resource segment {it}"))).collect()
}

fn validate(status: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let servers = path.child("storageVersions");
    for (index, server) in status.items_at(&["storageVersions"]).iter().enumerate() {
        validate_server(server, &servers.index(index), errors);
    }
    validate_common(status, &path.child("commonEncodingVersion"), errors);
    validate_conditions(status.items_at(&["conditions"]), path, errors);
}

fn validate_server(server: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let identity = server.str_at(&["apiServerID"]);
    let problems = validation::dns1123_subdomain(identity);
    errors.invalid_all(&path.child("apiServerID"), identity, problems);
    let encoding = server.str_at(&["encodingVersion"]);
    check_version(encoding, &path.child("encodingVersion"), errors);
    let decodable = server.items_at(&["decodableVersions"]);
    let at = path.child("decodableVersions");
    for (index, version) in decodable.iter().enumerate() {
        check_version(version.as_str().unwrap_or_default(), &at.index(index), errors);
    }
    if !decodable.iter().any(|it| it.as_str() == Some(encoding)) {
        let detail = format!("decodableVersions must include encodingVersion {encoding}");
        errors.invalid(&at, &Value::from(decodable.to_vec()), &detail);
    }
}

fn check_version(version: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let problems = version_problems(version);
    if !problems.is_empty() {
        errors.invalid_text(path, version, &problems.join(","));
    }
}

/// What is wrong with `apps/v1` or `v1`.
fn version_problems(text: &str) -> Vec<String> {
    let parts: Vec<&str> = text.split('/').collect();
    let of = |part: &str, text: &str, problems: fn(&str) -> Vec<String>| -> Vec<String> {
        let all = if text.is_empty() { vec!["must be non-empty".into()] } else { problems(text) };
        all.iter().map(|it| format!("{part} part: {it}")).collect()
    };
    let (group, version) = match parts[..] {
        [version] => (Vec::new(), version),
        [group, version] => (of("group", group, validation::dns1123_subdomain), version),
        _ => return vec![NO_API_VERSION.into()],
    };
    group.into_iter().chain(of("version", version, validation::dns1035_label)).collect()
}

/// The version in which all servers store, if there is one.
fn common(status: &Value) -> Option<&str> {
    let mut versions =
        status.items_at(&["storageVersions"]).iter().map(|it| it.str_at(&["encodingVersion"]));
    let first = versions.next()?;
    versions.all(|it| it == first).then_some(first)
}

fn validate_common(status: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let said = status.at(&["commonEncodingVersion"]).and_then(Value::as_str);
    match (common(status), said) {
        (None, Some(said)) => errors.invalid_text(
            path,
            said,
            "should be nil if servers do not agree on the same encoding version, or if there is no server reporting the supported versions yet",
        ),
        (Some(is), None) => {
            errors.invalid(path, &Value::Null, &format!("the common encoding version is {is}"));
        }
        (Some(is), Some(said)) if is != said => {
            errors.invalid_text(path, said, &format!("the actual common encoding version is {is}"));
        }
        _ => {}
    }
}

fn validate_conditions(conditions: &[Value], path: &Path<'_>, errors: &mut FieldErrors) {
    for (index, condition) in conditions.iter().enumerate() {
        let at = path.index(index);
        let [kind, status] = ["type", "status"].map(|it| condition.str_at(&[it]));
        let same = conditions[..index].iter().rposition(|it| it.str_at(&["type"]) == kind);
        if let Some(before) = same {
            let detail = format!(
                "the type of the condition is not unique, it also appears in conditions[{before}]"
            );
            errors.invalid_text(&at.child("type"), kind, &detail);
        }
        errors.invalid_all(&at.child("type"), kind, validation::qualified_name(kind));
        errors.invalid_all(&at.child("status"), status, validation::qualified_name(status));
        for member in ["reason", "message"] {
            if condition.str_at(&[member]).is_empty() {
                errors.required(&at.child(member), &format!("{member} cannot be empty"));
            }
        }
    }
}

/// Makes the status of a StorageVersion say in which version all servers store, and since when (upstream:
/// `SetCommonEncodingVersion`).
pub fn tell_common_encoding(storage_version: &mut Value, now: Timestamp) {
    const KIND: &str = "AllEncodingVersionsEqual";
    let common = common(&storage_version["status"]).map(str::to_owned);
    let before = storage_version.str_at(&["status", "commonEncodingVersion"]);
    let is_another = before != common.as_deref().unwrap_or_default();
    let (holds, reason, message) = match &common {
        Some(_) => ("True", "CommonEncodingVersionSet", "Common encoding version set"),
        None => ("False", "CommonEncodingVersionUnset", "Common encoding version unset"),
    };
    let mut conditions = storage_version.items_at(&["status", "conditions"]).to_vec();
    let known = conditions.iter().position(|it| it.str_at(&["type"]) == KIND);
    let old = known.map(|place| conditions.remove(place)).unwrap_or_default();
    let since = match old.str_at(&["lastTransitionTime"]) {
        since if old.str_at(&["status"]) == holds && !is_another => since.to_owned(),
        _ => time::format_time(now).to_string(),
    };
    let mut condition = value!({"type": KIND, "status": holds, "lastTransitionTime": since,
        "reason": reason, "message": message});
    if let Some(generation) = storage_version.i64_at(&["metadata", "generation"]) {
        condition.set_at(&["observedGeneration"], generation);
    }
    conditions.insert(known.unwrap_or(conditions.len()), condition);
    match common {
        Some(common) => storage_version.set_at(&["status", "commonEncodingVersion"], common),
        None => drop(storage_version.remove_at(&["status", "commonEncodingVersion"])),
    }
    storage_version.set_at(&["status", "conditions"], conditions);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(name: &str, version: &str) -> Value {
        value!({"apiServerID": name, "encodingVersion": version, "decodableVersions": [version]})
    }

    fn problems(servers: Vec<Value>, common: &str) -> Vec<String> {
        let mut status = value!({"storageVersions": servers});
        if !common.is_empty() {
            status.set_at(&["commonEncodingVersion"], common);
        }
        let mut errors = FieldErrors::new();
        validate(&status, &Path::new("status"), &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_servers_say_has_to_fit() {
        let none: Vec<String> = Vec::new();
        assert_eq!(problems(vec![server("a", "apps/v1"), server("b", "apps/v1")], "apps/v1"), none);
        assert_eq!(problems(vec![server("a", "v1"), server("b", "v2")], ""), none);
        let path = "status.commonEncodingVersion: Invalid value:";
        assert_eq!(
            problems(vec![server("a", "v1")], "v2"),
            [format!("{path} \"v2\": the actual common encoding version is v1")]
        );
        assert_eq!(
            problems(vec![server("a", "v1")], ""),
            [format!("{path} null: the common encoding version is v1")]
        );
        let decodes =
            value!({"apiServerID": "a", "encodingVersion": "v1", "decodableVersions": []});
        let why = "decodableVersions must include encodingVersion v1";
        assert_eq!(
            problems(vec![decodes], "v1"),
            [format!("status.storageVersions[0].decodableVersions: Invalid value: []: {why}")]
        );
        for (text, problem) in [
            ("/v1", "group part: must be non-empty"),
            ("a/", "version part: must be non-empty"),
            ("a/b/c", NO_API_VERSION),
        ] {
            assert_eq!(version_problems(text), [problem]);
        }
        assert_eq!(name_problems("pods"), ["name must be in the form of <group>.<resource>"]);
        assert!(name_problems("core.pods").is_empty());
    }

    #[test]
    fn what_all_agree_on_is_told() {
        let at = |text: &str| text.parse().unwrap();
        let mut it = value!({"status": {"storageVersions": [(server("a", "v1"))]}});
        tell_common_encoding(&mut it, at("2026-01-01T00:00:00Z"));
        assert_eq!(it.str_at(&["status", "commonEncodingVersion"]), "v1");
        let told = it.clone();
        tell_common_encoding(&mut it, at("2026-01-02T00:00:00Z"));
        assert_eq!(it, told);
        it.set_at(&["status", "storageVersions"], vec![server("a", "v1"), server("b", "v2")]);
        tell_common_encoding(&mut it, at("2026-01-03T00:00:00Z"));
        assert!(it.at(&["status", "commonEncodingVersion"]).is_none());
        let condition = &it.items_at(&["status", "conditions"])[0];
        assert_eq!(condition.str_at(&["reason"]), "CommonEncodingVersionUnset");
        assert_eq!(condition.str_at(&["lastTransitionTime"]), "2026-01-03T00:00:00Z");
    }
}
