//! Names of images: registry, repository, tag, digest, with the defaults that users know.

use std::fmt;

/// The registry of names without one.
const DEFAULT_DOMAIN: &str = "docker.io";
/// The longest repository name.
const MAX_NAME_BYTES: usize = 255;

/// A complete name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Reference {
    /// `docker.io`, `localhost:5000`.
    pub domain: String,
    /// `library/busybox`.
    pub path: String,
    /// `latest`; may be there beside a digest.
    pub tag: Option<String>,
    /// `sha256:...`.
    pub digest: Option<String>,
}

impl Reference {
    /// Reads a name as users write it.
    ///
    /// # Errors
    /// When it is none, in the words of other runtimes.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) if is_digest(digest) => (rest, Some(digest.to_owned())),
            Some(_) => return Err("invalid reference format".into()),
            None => (text, None),
        };
        let (domain, rest) = split_domain(rest);
        let (path, tag) = match rest.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, Some(tag.to_owned())),
            _ => (rest.as_str(), None),
        };
        if path.chars().any(char::is_uppercase) {
            return Err(format!(
                "invalid reference format: repository name ({path}) must be lowercase"
            ));
        }
        let good = is_path(path) && is_domain(&domain) && tag.as_deref().is_none_or(is_tag);
        if !good || path.len() > MAX_NAME_BYTES {
            return Err("invalid reference format".into());
        }
        let tag = if tag.is_none() && digest.is_none() { Some("latest".into()) } else { tag };
        Ok(Self { domain, path: path.to_owned(), tag, digest })
    }

    /// Registry and repository.
    #[must_use]
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The name with a tag, unless there is a digest only.
    #[must_use]
    pub(crate) fn tagged(&self) -> Option<String> {
        self.tag.as_ref().map(|tag| format!("{}:{tag}", self.name()))
    }

    /// What a registry is asked for: the digest before the tag.
    #[must_use]
    pub(crate) fn object(&self) -> &str {
        self.digest.as_deref().or(self.tag.as_deref()).unwrap_or("latest")
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.domain, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

fn split_domain(text: &str) -> (String, String) {
    match text.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.chars().any(char::is_uppercase) =>
        {
            let domain = if first == "index.docker.io" { DEFAULT_DOMAIN } else { first };
            (domain.to_owned(), official(domain, rest))
        }
        _ => (DEFAULT_DOMAIN.to_owned(), official(DEFAULT_DOMAIN, text)),
    }
}

fn official(domain: &str, path: &str) -> String {
    if domain == DEFAULT_DOMAIN && !path.contains('/') {
        format!("library/{path}")
    } else {
        path.to_owned()
    }
}

fn is_domain(domain: &str) -> bool {
    let host = domain.rsplit_once(':').map_or(domain, |(host, port)| {
        if port.bytes().all(|b| b.is_ascii_digit()) { host } else { domain }
    });
    !host.is_empty()
        && (host.starts_with('[') && host.ends_with(']')
            || host.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-'))
}

fn is_path(path: &str) -> bool {
    path.split('/').all(|part| {
        let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        edge(part.bytes().next())
            && edge(part.bytes().last())
            && part.bytes().all(|b| {
                b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-')
            })
            && !part.contains("..")
    })
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= 128
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

/// Whether `text` is a digest of the one algorithm in use.
#[must_use]
pub(crate) fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| {
        hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_or_refused() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (text, expected) in [
            ("busybox", "docker.io/library/busybox:latest".to_owned()),
            ("a/b:1", "docker.io/a/b:1".to_owned()),
            ("localhost/x", "localhost/x:latest".to_owned()),
            ("localhost:5000/x/y:v1", "localhost:5000/x/y:v1".to_owned()),
            ("ghcr.io/o/r@", "invalid reference format".to_owned()),
            ("index.docker.io/busybox", "docker.io/library/busybox:latest".to_owned()),
            (&format!("busybox@{digest}"), format!("docker.io/library/busybox@{digest}")),
            (&format!("q.io/a:1@{digest}"), format!("q.io/a:1@{digest}")),
            (
                "Bad Name!!",
                "invalid reference format: repository name (library/Bad Name!!) must be lowercase"
                    .to_owned(),
            ),
            ("a//b", "invalid reference format".to_owned()),
            ("a/../b", "invalid reference format".to_owned()),
            ("", "invalid reference format".to_owned()),
            ("a:", "invalid reference format".to_owned()),
        ] {
            let got = match Reference::parse(text) {
                Ok(reference) => reference.to_string(),
                Err(error) => error,
            };
            assert_eq!(got, expected, "{text}");
        }
    }
}
