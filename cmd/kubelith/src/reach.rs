//! Commands that ask a cluster as its user: which cluster, what is listed, and how answers are printed.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use apimachinery::Value;
use client::call::ListParams;
use client::transport::Transport;
use client::{Client, ClientError, Resource};
use futures::{StreamExt as _, stream};
use why::Gathered;
use why::text::{Style, render};

use crate::http::{Access, HttpTransport};

/// How many lists are read at once.
const LISTS_AT_ONCE: usize = 8;

/// How a command reaches the cluster, and how it answers.
#[derive(Debug, clap::Args)]
pub(crate) struct ReachOptions {
    /// How the cluster is reached (default: $KUBECONFIG, then ~/.kube/config)
    #[arg(long, value_name = "FILE", global = true)]
    kubeconfig: Option<PathBuf>,
    /// Namespace (default: the kubeconfig's)
    #[arg(short, long, value_name = "NAMESPACE", global = true)]
    namespace: Option<String>,
    /// How the answer is written
    #[arg(short, long, value_enum, default_value_t = Output::Text, global = true)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// For people
    Text,
    /// For programs
    Json,
}

/// A cluster that is reached.
pub(crate) struct Reached {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    output: Output,
}

impl ReachOptions {
    pub(crate) fn reach(&self) -> Result<Reached> {
        let path = self.kubeconfig.clone().or_else(found).context(
            "say how the cluster is reached: --kubeconfig, $KUBECONFIG, or the file ~/.kube/config",
        )?;
        let access = Access::read(&path)?;
        let of_context = Some(access.namespace().to_owned()).filter(|it| !it.is_empty());
        let namespace = self.namespace.clone().or(of_context);
        let transport = Arc::new(HttpTransport::new(&access)?) as Arc<dyn Transport>;
        Ok(Reached {
            client: Client::new(transport, concat!("kubelith/", env!("CARGO_PKG_VERSION"))),
            namespace: namespace.unwrap_or_else(|| "default".to_owned()),
            output: self.output,
        })
    }
}

/// The kubeconfig that kubectl would take.
fn found() -> Option<PathBuf> {
    let named = std::env::var_os("KUBECONFIG").filter(|it| !it.is_empty());
    if let Some(named) = named {
        return std::env::split_paths(&named).next();
    }
    let own = std::env::home_dir()?.join(".kube/config");
    own.exists().then_some(own)
}

impl Reached {
    /// Prints an explanation or a report.
    pub(crate) fn print(&self, answer: &Value) -> Result<()> {
        let text = match self.output {
            Output::Json => {
                let parsed = serde_json::from_slice::<serde_json::Value>(
                    &apimachinery::json::to_vec(answer),
                )?;
                serde_json::to_string_pretty(&parsed)? + "\n"
            }
            Output::Text => {
                let plain = std::env::var_os("NO_COLOR").is_some_and(|it| !it.is_empty());
                let colours = std::io::stdout().is_terminal() && !plain;
                render(answer, if colours { Style::Coloured } else { Style::Plain })
            }
        };
        std::io::stdout().write_all(text.as_bytes()).context("could not print the answer")
    }

    /// Lists these resources, in all namespaces. What the cluster does not serve has no objects; what may not be read is
    /// told of, since the answer may be wrong without it.
    #[allow(clippy::print_stderr, reason = "warnings of a command go there")]
    pub(crate) async fn gather(&self, kinds: &[Resource], of: &[Resource]) -> Result<Gathered> {
        let mut gathered = Gathered::serving(kinds.to_vec());
        let read = |kind: Resource| async move {
            let list = self.client.list(&kind, "", &ListParams::default()).await;
            (kind, list)
        };
        let mut lists = stream::iter(of.iter().cloned().map(read)).buffer_unordered(LISTS_AT_ONCE);
        let mut refused = Vec::new();
        while let Some((kind, list)) = lists.next().await {
            match list {
                Ok(list) => list
                    .items
                    .into_iter()
                    .for_each(|it| gathered.set(&kind.group, &kind.plural, it)),
                Err(error) if is_absent(&error) => {}
                Err(error) if is_refused(&error) => refused.push(kind.full_name()),
                Err(error) => {
                    return Err(
                        anyhow!(error).context(format!("could not list {}", kind.full_name()))
                    );
                }
            }
        }
        if !refused.is_empty() {
            refused.sort();
            eprintln!(
                "warning: not allowed to list {}: the answer goes without",
                refused.join(", ")
            );
        }
        Ok(gathered)
    }

    /// Every kind that the cluster serves and lists, in its preferred version.
    pub(crate) async fn kinds(&self) -> Result<Vec<Resource>> {
        let groups = self.client.read("/apis").await.context("could not read what is served")?;
        let preferred = groups.items_at(&["groups"]).iter();
        let mut paths: Vec<String> = preferred
            .map(|it| format!("/apis/{}", it.str_at(&["preferredVersion", "groupVersion"])))
            .collect();
        paths.insert(0, "/api/v1".to_owned());
        let reads = paths.into_iter().map(|path| async move { self.client.read(&path).await });
        let answers: Vec<_> = stream::iter(reads).buffered(LISTS_AT_ONCE).collect().await;
        // A group whose server does not answer has no kinds now.
        Ok(answers.into_iter().filter_map(Result::ok).flat_map(|it| listed(&it)).collect())
    }
}

/// What a discovery document lists.
fn listed(document: &Value) -> Vec<Resource> {
    let (group, version) = match document.str_at(&["groupVersion"]).split_once('/') {
        Some((group, version)) => (group, version),
        None => ("", document.str_at(&["groupVersion"])),
    };
    let resources = document.items_at(&["resources"]).iter().filter(|it| {
        let verbs = it.items_at(&["verbs"]);
        verbs.iter().any(|it| it.as_str() == Some("list")) && !it.str_at(&["name"]).contains('/')
    });
    let kind = |it: &Value| Resource {
        group: group.into(),
        version: version.into(),
        plural: it.str_at(&["name"]).into(),
        kind: it.str_at(&["kind"]).into(),
        namespaced: it.bool_at(&["namespaced"]),
    };
    resources.map(kind).collect()
}

/// The built-in kinds of these names.
pub(crate) fn built_in(
    names: impl IntoIterator<Item = (&'static str, &'static str)>,
) -> Vec<Resource> {
    let facts = |(group, name): (&str, &str)| {
        api::resources().iter().find(|it| it.group == group && it.resource == name)
    };
    names.into_iter().filter_map(facts).map(Resource::from).collect()
}

/// The kind of this name: plural, singular, short, the kind itself, or `deployments.apps`.
pub(crate) async fn kind_named(reached: &Reached, name: &str) -> Result<Resource> {
    let lower = name.to_lowercase();
    let same = |it: &api::ResourceFacts| {
        lower == it.resource
            || lower == it.singular
            || lower == it.kind.to_lowercase()
            || it.short_names.contains(&lower.as_str())
            || lower == format!("{}.{}", it.resource, it.group)
    };
    if let Some(found) = api::resources().iter().find(|it| same(it)) {
        return Ok(found.into());
    }
    let kinds = reached.kinds().await?;
    let same = |it: &&Resource| {
        lower == it.plural.as_str() || lower == it.kind.to_lowercase() || lower == it.full_name()
    };
    match kinds.iter().find(same) {
        Some(kind) => Ok(kind.clone()),
        None => bail!("the cluster has no resource {name:?}"),
    }
}

/// Whether there is nothing of that name.
pub(crate) fn is_absent(error: &ClientError) -> bool {
    matches!(error.code(), Some(404 | 405))
}

/// Whether the user may not.
pub(crate) fn is_refused(error: &ClientError) -> bool {
    matches!(error.code(), Some(401 | 403))
}
