//! A container's environment. Pure: what it refers to was fetched before.

use std::collections::BTreeMap;

use apimachinery::Value;
use k8s_openapi::api::core::v1::{Container, EnvVar, Pod};

use crate::expand::expand;
use crate::fields::{self, FieldFacts};
use crate::objects::Missing;

/// A config map or secret by name, as it was found.
pub(crate) type Found = BTreeMap<String, Result<BTreeMap<String, Vec<u8>>, Missing>>;

/// What an environment is made from.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    pub(crate) config_maps: Found,
    pub(crate) secrets: Found,
    /// Of services, already as variables.
    pub(crate) services: Vec<(String, String)>,
    pub(crate) fields: FieldFacts,
}

/// The variables, in order.
///
/// # Errors
/// When something that is not optional is missing, in upstream's words.
pub(crate) fn environment(
    pod: &Pod,
    container: &Container,
    sources: &Sources,
) -> Result<Vec<(String, String)>, String> {
    let mut result: Vec<(String, String)> = Vec::new();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let (found, optional) = match (&from.config_map_ref, &from.secret_ref) {
            (Some(it), _) => (sources.config_maps.get(&it.name), it.optional),
            (None, Some(it)) => (sources.secrets.get(&it.name), it.optional),
            (None, None) => continue,
        };
        let data = match found {
            Some(Ok(data)) => data,
            Some(Err(missing)) if optional == Some(true) && missing.is_absent() => continue,
            Some(Err(missing)) => return Err(missing.clone().text()),
            None => continue,
        };
        for (key, value) in data {
            let name = format!("{prefix}{key}");
            if is_name(&name) {
                set(&mut result, name, String::from_utf8_lossy(value).into_owned());
            }
        }
    }
    for variable in container.env.iter().flatten() {
        if let Some(value) = value(pod, container, variable, sources, &result)? {
            set(&mut result, variable.name.clone(), value);
        }
    }
    for (name, value) in &sources.services {
        if !result.iter().any(|it| it.0 == *name) {
            result.push((name.clone(), value.clone()));
        }
    }
    Ok(result)
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=')
}

fn set(result: &mut Vec<(String, String)>, name: String, value: String) {
    result.retain(|it| it.0 != name);
    result.push((name, value));
}

fn value(
    pod: &Pod,
    container: &Container,
    variable: &EnvVar,
    sources: &Sources,
    so_far: &[(String, String)],
) -> Result<Option<String>, String> {
    let Some(from) = &variable.value_from else {
        let lookup = |name: &str| {
            let known = so_far.iter().chain(&sources.services).find(|it| it.0 == name);
            known.map(|it| it.1.clone())
        };
        return Ok(Some(expand(variable.value.as_deref().unwrap_or_default(), lookup)));
    };
    if let Some(it) = &from.field_ref {
        return fields::field(pod, &it.field_path, &sources.fields).map(Some);
    }
    if let Some(it) = &from.resource_field_ref {
        return fields::resource(pod, Some(container), it, &sources.fields).map(Some);
    }
    let namespace = crate::spec::namespace(pod);
    if let Some(it) = &from.config_map_key_ref {
        let found = sources.config_maps.get(&it.name);
        let place = format!("ConfigMap {namespace}/{}", it.name);
        return key(found, &it.key, it.optional, &place);
    }
    if let Some(it) = &from.secret_key_ref {
        let found = sources.secrets.get(&it.name);
        let place = format!("Secret {namespace}/{}", it.name);
        return key(found, &it.key, it.optional, &place);
    }
    Err(format!("environment variable {} has a source that this node does not know", variable.name))
}

fn key(
    found: Option<&Result<BTreeMap<String, Vec<u8>>, Missing>>,
    key: &str,
    optional: Option<bool>,
    place: &str,
) -> Result<Option<String>, String> {
    let optional = optional == Some(true);
    match found {
        Some(Ok(data)) => match data.get(key) {
            Some(value) => Ok(Some(String::from_utf8_lossy(value).into_owned())),
            None if optional => Ok(None),
            None => Err(format!("couldn't find key {key} in {place}")),
        },
        Some(Err(missing)) if optional && missing.is_absent() => Ok(None),
        Some(Err(missing)) => Err(missing.clone().text()),
        None => Err(format!("{place} was not read")),
    }
}

/// The names of config maps and secrets that a container's environment refers to.
pub(crate) fn references(container: &Container) -> (Vec<String>, Vec<String>) {
    let (mut config_maps, mut secrets) = (Vec::new(), Vec::new());
    for from in container.env_from.iter().flatten() {
        config_maps.extend(from.config_map_ref.iter().map(|it| it.name.clone()));
        secrets.extend(from.secret_ref.iter().map(|it| it.name.clone()));
    }
    for from in container.env.iter().flatten().filter_map(|it| it.value_from.as_ref()) {
        config_maps.extend(from.config_map_key_ref.iter().map(|it| it.name.clone()));
        secrets.extend(from.secret_key_ref.iter().map(|it| it.name.clone()));
    }
    (config_maps, secrets)
}

/// The data of a config map or secret, decoded.
pub(crate) fn data_of(object: &Value, is_secret: bool) -> BTreeMap<String, Vec<u8>> {
    use base64::Engine;
    let decode =
        |text: &str| base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_default();
    let members = |field: &str| -> Vec<(String, String)> {
        let map = object.get(field).and_then(Value::as_object);
        let all = map.into_iter().flat_map(|it| it.iter());
        all.map(|(k, v)| (k.to_owned(), v.as_str().unwrap_or_default().to_owned())).collect()
    };
    let plain = members("data").into_iter().map(|(k, v)| {
        let bytes = if is_secret { decode(&v) } else { v.into_bytes() };
        (k, bytes)
    });
    let binary = members("binaryData").into_iter().map(|(k, v)| (k, decode(&v)));
    plain.chain(binary).collect()
}

/// The variables by which containers find services, in the form of linked containers of old.
pub(crate) fn service_variables(services: &[Value]) -> Vec<(String, String)> {
    let mut result = Vec::new();
    for service in services {
        let ip = service.str_at(&["spec", "clusterIP"]);
        let ports = service.items_at(&["spec", "ports"]);
        if ip.is_empty() || ip == "None" || ports.is_empty() {
            continue;
        }
        let upper = |name: &str| name.to_uppercase().replace('-', "_");
        let prefix = upper(service.str_at(&["metadata", "name"]));
        let number = |port: &Value| port.i64_at(&["port"]).unwrap_or_default();
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        result.push((format!("{prefix}_SERVICE_HOST"), ip.to_owned()));
        result.push((format!("{prefix}_SERVICE_PORT"), number(&ports[0]).to_string()));
        for port in ports.iter().filter(|it| !it.str_at(&["name"]).is_empty()) {
            let name = format!("{prefix}_SERVICE_PORT_{}", upper(port.str_at(&["name"])));
            result.push((name, number(port).to_string()));
        }
        for (index, port) in ports.iter().enumerate() {
            let protocol = match port.str_at(&["protocol"]) {
                "" => "TCP",
                other => other,
            };
            let lower = protocol.to_lowercase();
            let url = format!("{lower}://{host}:{}", number(port));
            if index == 0 {
                result.push((format!("{prefix}_PORT"), url.clone()));
            }
            let link = format!("{prefix}_PORT_{}_{protocol}", number(port));
            result.push((link.clone(), url));
            result.push((format!("{link}_PROTO"), lower));
            result.push((format!("{link}_PORT"), number(port).to_string()));
            result.push((format!("{link}_ADDR"), ip.to_owned()));
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, data: &[(&str, &str)]) -> Found {
        let data = data.iter().map(|(k, v)| ((*k).to_owned(), v.as_bytes().to_vec())).collect();
        let absent = Err(Missing::Absent("configmap \"none\" not found".into()));
        [(name.to_owned(), Ok(data)), ("none".to_owned(), absent)].into()
    }

    fn check(container: &str, expected: &str) {
        let pod = Pod::default();
        let container: Container = serde_json::from_str(container).unwrap();
        let sources = Sources {
            config_maps: found("cm", &[("a", "1"), ("b.c", "2"), ("1bad", "3")]),
            secrets: found("se", &[("s", "x")]),
            services: vec![("SVC".into(), "10.0.0.1".into())],
            fields: FieldFacts::default(),
        };
        let text = match environment(&pod, &container, &sources) {
            Ok(all) => all.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" "),
            Err(error) => format!("error: {error}"),
        };
        assert_eq!(text, expected);
    }

    #[test]
    fn variables_come_from_everywhere() {
        check(
            r#"{"name":"c","env":[{"name":"A","value":"1"},{"name":"B","value":"$(A)-$(NOPE)-$$(A)-$(SVC)"},
            {"name":"K","valueFrom":{"configMapKeyRef":{"name":"cm","key":"a"}}},
            {"name":"O","valueFrom":{"configMapKeyRef":{"name":"none","key":"a","optional":true}}}],
            "envFrom":[{"configMapRef":{"name":"cm"}},{"prefix":"P_","secretRef":{"name":"se"}}]}"#,
            "1bad=3 a=1 b.c=2 P_s=x A=1 B=1-$(NOPE)-$(A)-10.0.0.1 K=1 SVC=10.0.0.1",
        );
        check(
            r#"{"name":"c","env":[{"name":"A","valueFrom":{"configMapKeyRef":{"name":"cm","key":"zz"}}}]}"#,
            "error: couldn't find key zz in ConfigMap /cm",
        );
        check(
            r#"{"name":"c","envFrom":[{"configMapRef":{"name":"none"}}]}"#,
            "error: configmap \"none\" not found",
        );
    }

    #[test]
    fn services_become_variables() {
        let service = apimachinery::value!({"metadata": {"name": "my-svc"}, "spec": {"clusterIP": "10.0.0.5",
            "ports": [{"name": "web", "port": 80, "protocol": "TCP"}]}});
        let text: Vec<String> =
            service_variables(&[service]).iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(
            text.join(" "),
            "MY_SVC_SERVICE_HOST=10.0.0.5 MY_SVC_SERVICE_PORT=80 MY_SVC_SERVICE_PORT_WEB=80 MY_SVC_PORT=tcp://10.0.0.5:80 \
             MY_SVC_PORT_80_TCP=tcp://10.0.0.5:80 MY_SVC_PORT_80_TCP_PROTO=tcp MY_SVC_PORT_80_TCP_PORT=80 MY_SVC_PORT_80_TCP_ADDR=10.0.0.5"
        );
    }
}
