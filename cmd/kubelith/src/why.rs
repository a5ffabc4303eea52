//! `kubelith why KIND NAME`: why an object is as it is. A Kubelith server is asked; of any other cluster the objects are
//! listed, and the same code explains them here.

use anyhow::{Context, Result, bail};
use client::{ObjectKey, Resource};
use component_base::{Clock as _, RealClock};
use why::{Explainer, Subject, picture, what_if};

use crate::reach::{ReachOptions, Reached, built_in, is_absent, is_refused, kind_named};

/// What an explanation is made of besides [`picture::NEEDED`] and [`what_if::NEEDED_TOO`].
const NEEDED_TOO: [(&str, &str); 3] = [
    ("", "events"),
    ("discovery.k8s.io", "endpointslices"),
    ("apiregistration.k8s.io", "apiservices"),
];

/// Flags of `kubelith why`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The kind, as kubectl takes it: pod, deploy, namespaces, widgets.example.com; or KIND/NAME
    kind: String,
    /// The object's name
    name: Option<String>,
    #[command(flatten)]
    reach: ReachOptions,
}

impl Options {
    /// The kind and the name.
    fn object(&self) -> Result<(&str, &str)> {
        match (&self.name, self.kind.split_once('/')) {
            (Some(name), None) => Ok((&self.kind, name)),
            (None, Some(both)) => Ok(both),
            (Some(_), Some(_)) => bail!("{}: give KIND NAME or KIND/NAME", self.kind),
            (None, None) => bail!("give a name: kubelith why {} NAME", self.kind),
        }
    }
}

/// Runs the command.
pub(crate) fn run(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(explain(options))
}

async fn explain(options: &Options) -> Result<()> {
    let (kind, name) = options.object()?;
    let reached = options.reach.reach()?;
    let kind = kind_named(&reached, kind).await?;
    let namespace = if kind.namespaced { reached.namespace.as_str() } else { "" };
    let what = format!("{} {name}", kind.full_name());
    let object = reached.client.get(&kind, namespace, name).await;
    let object = object.with_context(|| format!("could not read {what}"))?;
    match reached.client.read(&kind.path(namespace, name, "why")).await {
        Ok(answer) => return reached.print(&answer),
        // Where the server has no such answer, or not for this user, what the user may list is explained here.
        Err(error) if is_absent(&error) || is_refused(&error) => {}
        Err(error) => return Err(error).with_context(|| format!("could not ask why of {what}")),
    }
    let going = object.at(&["metadata", "deletionTimestamp"]).is_some();
    let subject = Subject { key: ObjectKey::new(namespace, name), kind };
    here(&reached, &subject, going).await
}

/// Explains an object of a cluster that does not itself.
async fn here(reached: &Reached, subject: &Subject, going: bool) -> Result<()> {
    let kinds = reached.kinds().await?;
    let mut wanted: Vec<Resource> =
        built_in(picture::NEEDED.into_iter().chain(what_if::NEEDED_TOO).chain(NEEDED_TOO));
    wanted.push(subject.kind.clone());
    if going {
        // Anything may be left of it, or be owned by it.
        wanted.extend(kinds.iter().cloned());
    }
    // A kind that is served in several versions is listed once.
    wanted.sort_by(|a, b| (&a.group, &a.plural).cmp(&(&b.group, &b.plural)));
    wanted.dedup_by(|a, b| a.group == b.group && a.plural == b.plural);
    let gathered = reached.gather(&kinds, &wanted).await?;
    let explainer = Explainer::default();
    match explainer.explain(&gathered, subject, RealClock.now()) {
        Some(explanation) => reached.print(&explanation.to_value()),
        None => bail!("{} {} is gone", subject.kind.full_name(), subject.key.name),
    }
}

/// Everything that a play needs.
pub(crate) async fn gather_all(reached: &Reached) -> Result<why::Gathered> {
    let wanted = built_in(picture::NEEDED.into_iter().chain(what_if::NEEDED_TOO));
    reached.gather(&wanted, &wanted).await
}

#[cfg(test)]
mod tests {
    #[test]
    fn everything_that_is_needed_is_a_resource() {
        let names: Vec<_> = super::picture::NEEDED
            .into_iter()
            .chain(super::what_if::NEEDED_TOO)
            .chain(super::NEEDED_TOO)
            .collect();
        assert_eq!(super::built_in(names.clone()).len(), names.len());
    }
}
