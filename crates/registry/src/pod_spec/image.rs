//! The names of images: `registry:5000/path/name:tag@digest`.

/// The longest path of an image.
const PATH_LENGTH_MAX: usize = 255;
/// What is put before the path of an image of Docker's own library.
const LIBRARY: &str = "library/";
/// The longest tag of an image.
const TAG_LENGTH_MAX: usize = 128;
/// The fewest hexadecimal digits of a digest.
const DIGEST_LENGTH_MIN: usize = 32;
/// The length of an identifier, which cannot be a name.
const IDENTIFIER_LENGTH: usize = 64;

/// The tag an image is pulled by: `latest` where the name has neither tag nor digest, nothing where it has a digest
/// only. `None` where the text is no name of an image.
pub(crate) fn tag(image: &str) -> Option<&str> {
    let (rest, digest) = match image.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (image, None),
    };
    if digest.is_some_and(|digest| !is_digest(digest)) {
        return None;
    }
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    if tag.is_some_and(|tag| !is_tag(tag)) || !is_name(name) {
        return None;
    }
    match (tag, digest) {
        (Some(tag), _) => Some(tag),
        (None, Some(_)) => Some(""),
        (None, None) => Some("latest"),
    }
}

fn is_name(name: &str) -> bool {
    let hexadecimal = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    if name.len() == IDENTIFIER_LENGTH && name.bytes().all(hexadecimal) {
        return false;
    }
    let path = match name.split_once('/') {
        Some((host, path)) if is_host(host) => {
            if !is_domain(host) {
                return false;
            }
            path
        }
        _ => name,
    };
    let library = if name.contains('/') { 0 } else { LIBRARY.len() };
    library + path.len() <= PATH_LENGTH_MAX && path.split('/').all(is_component)
}

/// Whether the first part of a name is a host rather than the beginning of a path.
fn is_host(part: &str) -> bool {
    part.contains(['.', ':']) || part == "localhost" || part.bytes().any(|b| b.is_ascii_uppercase())
}

fn is_domain(host: &str) -> bool {
    let (host, port) = match host.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (host, None),
    };
    let digits = |port: &str| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    if port.is_some_and(|port| !digits(port)) {
        return false;
    }
    if let Some(address) = host.strip_prefix('[').and_then(|it| it.strip_suffix(']')) {
        return !address.is_empty() && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
    }
    host.split('.').all(|label| {
        let ends = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
        ends(label.bytes().next())
            && ends(label.bytes().last())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    })
}

/// Letters and digits in groups, set apart by `.`, `_`, `__` or any number of `-`.
fn is_component(component: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let separators = component.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    component.bytes().next().is_some_and(plain)
        && component.bytes().last().is_some_and(plain)
        && separators
            .filter(|it| !it.is_empty())
            .all(|it| matches!(it, "." | "_" | "__") || it.bytes().all(|b| b == b'-'))
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= TAG_LENGTH_MAX
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

fn is_digest(digest: &str) -> bool {
    let Some((algorithm, hash)) = digest.split_once(':') else { return false };
    let part = |part: &str| {
        part.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
            && part.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    algorithm.split(['-', '_', '+', '.']).all(part)
        && hash.len() >= DIGEST_LENGTH_MIN
        && hash.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(image: &str, expected: Option<&str>) {
        assert_eq!(tag(image), expected, "for {image}");
    }

    #[test]
    fn tags_are_found_where_upstream_finds_them() {
        check("nginx", Some("latest"));
        check("nginx:1.25", Some("1.25"));
        check("localhost:5000/a/b", Some("latest"));
        check("localhost:5000/a/b:v1", Some("v1"));
        check("EXAMPLE/a", Some("latest"));
        check("my_registry/a__b/c---d", Some("latest"));
        check("a@sha256:0123456789abcdef0123456789abcdef", Some(""));
        check("a:t@sha256:0123456789abcdef0123456789abcdef", Some("t"));
    }

    #[test]
    fn texts_that_name_no_image_have_no_tag() {
        for image in ["", "Nginx", "a b", "a:", ":t", "a/_b", "a@sha256:12", "a/", "ex..am.ple/x"] {
            check(image, None);
        }
        check("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", None);
    }
}
