//! `kubelith what-if`: what would happen if nodes were drained or lost, or a manifest applied. Reads the cluster, and
//! changes nothing.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use apimachinery::Value;
use why::Explainer;
use why::what_if::{Action, play};

use crate::reach::ReachOptions;
use crate::why::gather_all;

/// The largest manifest, in bytes.
const MAX_MANIFEST_BYTES: u64 = 16 << 20;

/// Flags of `kubelith what-if`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    reach: ReachOptions,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Drain nodes: which pods move where, which wait, and which budgets keep theirs
    Drain {
        /// The nodes
        #[arg(required = true, value_name = "NODE")]
        nodes: Vec<String>,
    },
    /// Lose nodes for good: which pods move where, which wait, and which budgets are broken
    Lose {
        /// The nodes
        #[arg(required = true, value_name = "NODE")]
        nodes: Vec<String>,
    },
    /// Apply a manifest: where its pods would go, and whom they would push away
    Apply {
        /// A file with objects in YAML or JSON; - is standard input
        #[arg(short, long, required = true, value_name = "FILE")]
        filename: Vec<PathBuf>,
    },
}

/// Runs the command.
pub(crate) fn run(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(carry_out(options))
}

async fn carry_out(options: &Options) -> Result<()> {
    let reached = options.reach.reach()?;
    let action = match &options.command {
        Command::Drain { nodes } => Action::Drain(nodes.clone()),
        Command::Lose { nodes } => Action::Lose(nodes.clone()),
        Command::Apply { filename } => {
            let read = filename.iter().map(|it| read(it)).collect::<Result<Vec<_>>>()?;
            let objects: Vec<Value> = read.into_iter().flatten().collect();
            if objects.is_empty() {
                bail!("there are no objects to apply");
            }
            Action::Apply { objects, namespace: reached.namespace.clone() }
        }
    };
    let gathered = gather_all(&reached).await?;
    let report = play(&Explainer::default(), &gathered, &action)?;
    reached.print(&report.to_value())
}

/// The objects in a file, those of lists one by one.
fn read(path: &Path) -> Result<Vec<Value>> {
    let shown = path.display();
    let mut text = Vec::new();
    let limit = MAX_MANIFEST_BYTES + 1;
    let count = if path.as_os_str() == "-" {
        std::io::stdin().take(limit).read_to_end(&mut text)
    } else {
        let file = std::fs::File::open(path).with_context(|| format!("could not read {shown}"))?;
        file.take(limit).read_to_end(&mut text)
    };
    if count.with_context(|| format!("could not read {shown}"))? as u64 > MAX_MANIFEST_BYTES {
        bail!("{shown} is too large: a manifest has at most {MAX_MANIFEST_BYTES} bytes");
    }
    let text = String::from_utf8(text).with_context(|| format!("{shown} is not UTF-8"))?;
    objects(&text).with_context(|| shown.to_string())
}

/// The objects of several documents.
fn objects(text: &str) -> Result<Vec<Value>> {
    let mut all = Vec::new();
    for document in documents(text) {
        let value = apimachinery::yaml::parse(document.as_bytes()).map_err(|it| anyhow!("{it}"))?;
        match &value {
            Value::Null => {}
            Value::Object(_) if value.str_at(&["kind"]).ends_with("List") => {
                all.extend_from_slice(value.items_at(&["items"]));
            }
            Value::Object(_) if value.str_at(&["kind"]).is_empty() => {
                bail!("an object has no kind");
            }
            Value::Object(_) => all.push(value),
            _ => bail!("a document is no object"),
        }
    }
    Ok(all)
}

/// The parts between lines that begin with `---`.
fn documents(text: &str) -> Vec<String> {
    let mut all = vec![String::new()];
    for line in text.lines() {
        if line.starts_with("---") {
            all.push(String::new());
        } else if let Some(last) = all.last_mut() {
            last.push_str(line);
            last.push('\n');
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_have_several_documents_and_lists() {
        let text = "kind: A\n---\n# nothing\n--- \nkind: List\nitems:\n- {kind: B}\n- {kind: C}\n";
        let kinds: Vec<String> =
            objects(text).unwrap().iter().map(|it| it.str_at(&["kind"]).to_owned()).collect();
        assert_eq!(kinds, ["A", "B", "C"]);
        assert!(objects("a: 1").unwrap_err().to_string().contains("no kind"));
        assert!(objects("- 1").unwrap_err().to_string().contains("no object"));
    }
}
