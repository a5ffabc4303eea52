//! Bearer tokens from a file: `token,user,uid,"group1,group2"`, upstream's `--token-auth-file`.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use ring::digest::SHA256_OUTPUT_LEN;

use crate::{
    Asker, AuthenticationError, Authenticator, Credentials, Reviewed, UserInfo, token_hash,
};

/// Known tokens and whose they are. Tokens are looked up by their hash, so that how long a lookup takes tells nothing
/// about the tokens themselves.
pub struct StaticTokens(BTreeMap<[u8; SHA256_OUTPUT_LEN], Arc<UserInfo>>);

/// A line of a token file that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("token file line {line}: {why}")]
pub struct TokenFileError {
    /// Its number, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub why: &'static str,
}

impl StaticTokens {
    /// The tokens of a file's text.
    ///
    /// # Errors
    /// Where a line has fewer than three columns or an empty token.
    pub fn parse(text: &str) -> Result<Self, TokenFileError> {
        let mut tokens = BTreeMap::new();
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let columns = columns(line);
            let error = |why| TokenFileError { line: index + 1, why };
            let [token, name, uid, rest @ ..] = columns.as_slice() else {
                return Err(error("at least three columns are needed: token, user, uid"));
            };
            if token.is_empty() {
                return Err(error("the token is empty"));
            }
            let groups: Vec<&str> = rest
                .iter()
                .flat_map(|it| it.split(','))
                .map(str::trim)
                .filter(|it| !it.is_empty())
                .collect();
            let mut user = UserInfo::new(name, &groups);
            user.uid.clone_from(uid);
            tokens.insert(token_hash(token), Arc::new(user));
        }
        Ok(Self(tokens))
    }
}

/// Comma-separated columns, of which some are in double quotes.
fn columns(line: &str) -> Vec<String> {
    let mut columns = vec![String::new()];
    let mut quoted = false;
    for c in line.trim().chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => columns.push(String::new()),
            c => columns.last_mut().expect("because it begins with one column").push(c),
        }
    }
    columns
}

impl StaticTokens {
    fn find(&self, token: &str) -> Option<&Arc<UserInfo>> {
        self.0.get(&token_hash(token))
    }
}

#[async_trait]
impl Authenticator for StaticTokens {
    fn look(&self, credentials: &Credentials<'_>) -> Option<Asker> {
        Some(Ok(credentials.bearer_token().and_then(|token| self.find(token)).cloned()))
    }

    async fn review(
        &self,
        token: &str,
        _audiences: &[String],
    ) -> Result<Option<Reviewed>, AuthenticationError> {
        let user = self.find(token).map(|it| UserInfo::clone(it));
        Ok(user.map(|user| Reviewed { user, audiences: Vec::new() }))
    }
}

impl std::fmt::Debug for StaticTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The tokens themselves are secret.
        write!(f, "StaticTokens({})", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tokens_are_read_with_their_groups() {
        let tokens = StaticTokens::parse("t1,jane,7,\"dev,ops\"\n\nt2,joe,8\n").unwrap();
        let mut headers = http::HeaderMap::new();
        headers.insert(http::header::AUTHORIZATION, "Bearer t1".parse().unwrap());
        let credentials = Credentials {
            headers: &headers,
            certificates: &crate::Shown::default(),
            proxy_certificates: &crate::Shown::default(),
            warnings: &crate::Warnings::default(),
        };
        let user = tokens.authenticate(&credentials).await.unwrap().unwrap();
        assert_eq!((user.name.as_str(), user.uid.as_str()), ("jane", "7"));
        assert_eq!(user.groups, ["dev", "ops", "system:authenticated"]);
        assert_eq!(StaticTokens::parse("a,b").unwrap_err().line, 1);
    }
}
