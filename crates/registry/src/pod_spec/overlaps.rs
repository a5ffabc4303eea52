//! Files of a volume that stand in each other's way: two at one path, or one where another needs a directory.
//!
//! Upstream: `warningsForOverlappingVirtualPaths` in `pkg/api/pod/warnings.go`.

use std::fmt;

use apimachinery::Value;

/// Kinds of projected sources that have a path themselves.
const SINGLE: [(&str, &str); 2] =
    [("serviceAccountToken", "ServiceAccountToken"), ("clusterTrustBundle", "ClusterTrustBundle")];
/// The files of a pod's certificate.
const CERTIFICATE: [(&str, &str); 3] = [
    ("certificateChainPath", "PodCertificate chain"),
    ("keyPath", "PodCertificate key"),
    ("credentialBundlePath", "PodCertificate credential bundle"),
];

/// A file, and what of a projection it is from; nothing where the volume has one source.
struct File<'v> {
    path: &'v str,
    source: String,
}

impl fmt::Display for File<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.source.as_str() {
            "" => write!(f, "{:?}", self.path),
            source => write!(f, "{:?} ({source})", self.path),
        }
    }
}

impl File<'_> {
    /// Whether one of two is the other, or lies below it.
    fn meets(&self, other: &Self) -> bool {
        let below = |whole: &str, part: &str| {
            whole.strip_prefix(part).is_some_and(|it| it.is_empty() || it.starts_with('/'))
        };
        let named = !self.path.is_empty() && !other.path.is_empty();
        named && (below(self.path, other.path) || below(other.path, self.path))
    }
}

/// What to warn of in the volumes of a pod's spec.
pub(super) fn warn(spec: &Value, found: &mut Vec<String>) {
    for volume in spec.items_at(&["volumes"]) {
        let name = volume.str_at(&["name"]);
        for (kind, shown, of) in
            [("configMap", "ConfigMap", "name"), ("secret", "Secret", "secretName")]
        {
            let Some(source) = volume.get(kind) else { continue };
            let what = format!("{shown} {:?}", source.str_at(&[of]));
            overlaps(name, &what, &listed(source, ""), found);
        }
        if let Some(source) = volume.get("downwardAPI") {
            overlaps(name, "DownwardAPI", &listed(source, ""), found);
        }
        let mut files = Vec::new();
        for source in volume.items_at(&["projected", "sources"]) {
            if source.as_object().is_none_or(|it| it.iter().all(|(_, it)| it.is_null())) {
                found.push(format!("volume {name:?} (Projected) has no sources provided"));
            }
            projected(source, &mut files);
        }
        overlaps(name, "Projected", &files, found);
    }
}

/// The files that a source names.
fn listed<'v>(source: &'v Value, of: &str) -> Vec<File<'v>> {
    let paths = source.items_at(&["items"]).iter().map(|it| it.str_at(&["path"]));
    paths.map(|path| file(path, of)).collect()
}

fn file<'v>(path: &'v str, of: &str) -> File<'v> {
    File { path: path.trim_end_matches('/'), source: of.to_owned() }
}

/// The files that are known of one source of a projection.
fn projected<'v>(source: &'v Value, files: &mut Vec<File<'v>>) {
    for (kind, shown) in [("configMap", "ConfigMap"), ("secret", "Secret")] {
        if let Some(source) = source.get(kind) {
            files.extend(listed(source, &format!("{shown} {:?}", source.str_at(&["name"]))));
        }
    }
    if let Some(source) = source.get("downwardAPI") {
        files.extend(listed(source, "DownwardAPI"));
    }
    for (kind, shown) in SINGLE {
        let Some(source) = source.get(kind) else { continue };
        let named = ["name", "signerName"].map(|it| source.str_at(&[it]));
        let named = named.into_iter().find(|it| !it.is_empty());
        let shown = named.map_or_else(|| shown.to_owned(), |it| format!("{shown} {it:?}"));
        files.push(file(source.str_at(&["path"]), &shown));
    }
    for (member, shown) in CERTIFICATE {
        let path = source.str_at(&["podCertificate", member]);
        files.extend((!path.is_empty()).then(|| file(path, shown)));
    }
}

fn overlaps(volume: &str, what: &str, files: &[File<'_>], found: &mut Vec<String>) {
    for (index, file) in files.iter().enumerate() {
        for other in files[..index].iter().filter(|it| file.meets(it)) {
            found.push(format!(
                "volume {volume:?} ({what}): overlapping paths: {file} with {other}"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::json;

    #[test]
    fn files_that_stand_in_each_others_way_are_told() {
        let check = |volume: &str, expected: &[&str]| {
            let text = format!(r#"{{"volumes":[{{"name":"v",{volume}}}]}}"#);
            let mut found = Vec::new();
            super::warn(&json::parse(text.as_bytes()).unwrap(), &mut found);
            assert_eq!(found, expected, "{volume}");
        };
        let items = |paths: &[&str]| {
            let items: Vec<String> =
                paths.iter().map(|it| format!(r#"{{"key":"k","path":"{it}"}}"#)).collect();
            format!(r#""items":[{}]"#, items.join(","))
        };
        let map = |paths: &[&str]| format!(r#""configMap":{{"name":"m",{}}}"#, items(paths));
        check(&map(&["a", "ab", "b/c", "b/d"]), &[]);
        let told = "volume \"v\" (ConfigMap \"m\"): overlapping paths: \"a/b\" with \"a\"";
        check(&map(&["a", "a/b"]), &[told]);
        let told = "volume \"v\" (ConfigMap \"m\"): overlapping paths: \"a\" with \"a\"";
        check(&map(&["a", "a/"]), &[told]);
        let secret = format!(r#""secret":{{"secretName":"s",{}}}"#, items(&["x/y", "x"]));
        let told = "volume \"v\" (Secret \"s\"): overlapping paths: \"x\" with \"x/y\"";
        check(&secret, &[told]);
        let sources = format!(
            r#""projected":{{"sources":[{{{}}},{{"serviceAccountToken":{{"path":"a"}}}},{{}}]}}"#,
            map(&["a"])
        );
        check(
            &sources,
            &[
                "volume \"v\" (Projected) has no sources provided",
                "volume \"v\" (Projected): overlapping paths: \"a\" (ServiceAccountToken) with \"a\" (ConfigMap \"m\")",
            ],
        );
    }
}
