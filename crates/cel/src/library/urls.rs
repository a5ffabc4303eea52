//! URLs as Go reads them: a request's URI, so no fragment.

use super::opaque::Opaque;
use super::standard::no_overload;
use crate::decl::{Decl, f};
use crate::error::EvalError;
use crate::value::{Entries, Map, Result, Val};

/// A URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    scheme: String,
    host: String,
    path: String,
    query: String,
    user: String,
}

impl Url {
    /// Reads an absolute URL or an absolute path.
    pub(crate) fn parse(text: &str) -> std::result::Result<Self, String> {
        let refused = |why: &str| Err(format!("parse {}: {why}", apimachinery::field::quote(text)));
        if text.bytes().any(|byte| byte < 0x20 || byte == 0x7f) {
            return refused("net/url: invalid control character in URL");
        }
        if text.is_empty() {
            return refused("empty url");
        }
        let (scheme, rest) = match scheme(text) {
            Ok(parts) => parts,
            Err(why) => return refused(why),
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let url = Self { scheme: scheme.to_lowercase(), query: query.into(), ..Self::empty() };
        if !rest.starts_with('/') {
            return match scheme {
                "" if rest != "*" => refused("invalid URI for request"),
                "" => Ok(Self { path: rest.into(), ..url }),
                _ => Ok(url),
            };
        }
        let (authority, path) = match rest.strip_prefix("//").filter(|_| !scheme.is_empty()) {
            Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
            None => ("", rest),
        };
        let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
        if let Err(why) = check_host(host) {
            return refused(&why);
        }
        let Some(unescaped) = unescape(path, false) else { return refused("invalid URL escape") };
        let path = if is_encoded(path) { path.to_owned() } else { escape(&unescaped) };
        let host = unescape(host, false).map(|it| String::from_utf8_lossy(&it).into_owned());
        let Some(host) = host else { return refused("invalid URL escape") };
        Ok(Self { host, path, user: user.into(), ..url })
    }

    fn empty() -> Self {
        let none = String::new;
        Self { scheme: none(), host: none(), path: none(), query: none(), user: none() }
    }

    fn hostname(&self) -> &str {
        let host = match self.host.rfind(':') {
            Some(colon) if is_port(&self.host[colon..]) => &self.host[..colon],
            _ => &self.host,
        };
        host.strip_prefix('[').and_then(|it| it.strip_suffix(']')).unwrap_or(host)
    }

    fn port(&self) -> &str {
        match self.host.rfind(':') {
            Some(colon) if is_port(&self.host[colon..]) => &self.host[colon + 1..],
            _ => "",
        }
    }

    /// The values of each name in the query; what is malformed is left out.
    fn query(&self) -> Vec<(String, Vec<String>)> {
        let mut values: Vec<(String, Vec<String>)> = Vec::new();
        for pair in self.query.split('&').filter(|it| !it.is_empty() && !it.contains(';')) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let text = |it: &str| Some(String::from_utf8_lossy(&unescape(it, true)?).into_owned());
            let (Some(name), Some(value)) = (text(name), text(value)) else { continue };
            match values.iter_mut().find(|it| it.0 == name) {
                Some((_, known)) => known.push(value),
                None => values.push((name, vec![value])),
            }
        }
        values
    }
}

fn scheme(text: &str) -> std::result::Result<(&str, &str), &'static str> {
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if at > 0 => {}
            b':' if at == 0 => return Err("missing protocol scheme"),
            b':' => return Ok((&text[..at], &text[at + 1..])),
            _ => break,
        }
    }
    Ok(("", text))
}

fn is_port(text: &str) -> bool {
    text.is_empty()
        || text.strip_prefix(':').is_some_and(|it| it.bytes().all(|byte| byte.is_ascii_digit()))
}

fn check_host(host: &str) -> std::result::Result<(), String> {
    let port = match host.strip_prefix('[') {
        Some(rest) => match rest.rfind(']') {
            Some(end) => &rest[end + 1..],
            None => return Err("missing ']' in host".into()),
        },
        None => match host.rfind(':') {
            Some(colon) => &host[colon..],
            None => "",
        },
    };
    if !is_port(port) {
        return Err(format!("invalid port {} after host", apimachinery::field::quote(port)));
    }
    let allowed = |it: u8| {
        it.is_ascii_alphanumeric() || it >= 0x80 || b"-_.~!$&'()*+,;=:[]<>\"%".contains(&it)
    };
    match host.bytes().find(|it| !allowed(*it)) {
        Some(byte) => {
            let shown = apimachinery::field::quote(&char::from(byte).to_string());
            Err(format!("invalid character {shown} in host name"))
        }
        None => Ok(()),
    }
}

fn unescape(text: &str, plus_is_space: bool) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let mut digit = || bytes.next().and_then(|it| char::from(it).to_digit(16));
                let (high, low) = (digit()?, digit()?);
                out.push(u8::try_from(high * 16 + low).ok()?);
            }
            b'+' if plus_is_space => out.push(b' '),
            other => out.push(other),
        }
    }
    Some(out)
}

fn stands_for_itself(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&byte)
}

fn is_encoded(path: &str) -> bool {
    path.bytes().all(|it| stands_for_itself(it) || b"!'()*[]%".contains(&it))
}

fn escape(path: &[u8]) -> String {
    let mut out = String::new();
    for byte in path {
        if stands_for_itself(*byte) {
            out.push(char::from(*byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn url<'a>(args: &'a [Val<'_>]) -> Result<&'a Url> {
    match args {
        [Val::Opaque(it)] => match &**it {
            Opaque::Url(url) => Ok(url),
            _ => Err(EvalError::no_such_overload()),
        },
        _ => Err(EvalError::no_such_overload()),
    }
}

pub(super) const FUNCTIONS: &[Decl] = &[
    f("url", "string_to_url", "(string) -> kubernetes.URL", |args| match args {
        [Val::String(text)] => match Url::parse(text) {
            Ok(url) => Ok(Val::opaque(Opaque::Url(url))),
            Err(why) => {
                Err(EvalError::new(format!("URL parse error during conversion from string: {why}")))
            }
        },
        _ => no_overload(),
    }),
    f("isURL", "is_url_string", "(string) -> bool", |args| match args {
        [Val::String(text)] => Ok(Val::Bool(Url::parse(text).is_ok())),
        _ => no_overload(),
    }),
    f("getScheme", "url_get_scheme", "kubernetes.URL.() -> string", |args| {
        url(args).map(|it| Val::string(&it.scheme))
    }),
    f("getHost", "url_get_host", "kubernetes.URL.() -> string", |args| {
        url(args).map(|it| Val::string(&it.host))
    }),
    f("getHostname", "url_get_hostname", "kubernetes.URL.() -> string", |args| {
        url(args).map(|it| Val::string(it.hostname()))
    }),
    f("getPort", "url_get_port", "kubernetes.URL.() -> string", |args| {
        url(args).map(|it| Val::string(it.port()))
    }),
    f("getEscapedPath", "url_get_escaped_path", "kubernetes.URL.() -> string", |args| {
        url(args).map(|it| Val::string(&it.path))
    }),
    f("getQuery", "url_get_query", "kubernetes.URL.() -> map(string, list(string))", |args| {
        let mut entries = Entries::default();
        for (name, values) in url(args)?.query() {
            let values = values.iter().map(|it| Val::string(it)).collect();
            entries.insert(Val::string(&name), Val::list(values), "repeated query key: ")?;
        }
        Ok(Val::Map(Map::new(entries)))
    }),
];
