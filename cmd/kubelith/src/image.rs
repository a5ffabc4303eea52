//! `kubelith image`: the images of the node on this machine.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use apimachinery::Value;
use http::Method;
use indicatif::ProgressBar;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::node::Options as NodeOptions;
use crate::{control, node};

/// Digits of an image's id that are shown.
const ID_DIGITS: usize = 12;
const SPIN: Duration = Duration::from_millis(100);

/// Flags of `kubelith image`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    command: Command,
    /// The data directory of the running server or agent
    #[arg(long, default_value = node::options::DATA_DIR, value_name = "DIR", global = true, value_parser = crate::data_dir::place)]
    data_dir: PathBuf,
    /// Where that process has its sockets (default: as that process finds it)
    #[arg(long, value_name = "DIR", global = true, value_parser = crate::data_dir::place)]
    state_dir: Option<PathBuf>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Import archives: OCI layouts, or what `docker save` writes
    Import {
        /// The archives
        #[arg(required = true)]
        archives: Vec<PathBuf>,
    },
    /// List images
    #[command(visible_alias = "list")]
    Ls,
    /// Remove images by name or id
    Rm {
        /// Names or ids
        #[arg(required = true)]
        names: Vec<String>,
    },
}

/// Runs the command.
pub(crate) fn run(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(carry_out(options))
}

#[allow(clippy::print_stdout, reason = "printing is what the command is for")]
async fn carry_out(options: &Options) -> Result<()> {
    let state_dir = NodeOptions::state_dir_of(options.state_dir.as_deref(), &options.data_dir);
    match &options.command {
        Command::Import { archives } => {
            for archive in archives {
                for id in import(&state_dir, archive).await? {
                    println!("{id}");
                }
            }
        }
        Command::Ls => print(&control::ask(&state_dir, Method::GET, "").await?),
        Command::Rm { names } => {
            for name in names {
                let query = format!("?name={}", utf8_percent_encode(name, NON_ALPHANUMERIC));
                control::ask(&state_dir, Method::DELETE, &query).await?;
                println!("removed {name}");
            }
        }
    }
    Ok(())
}

async fn import(state_dir: &Path, archive: &Path) -> Result<Vec<String>> {
    let shown = archive.display();
    let path = std::fs::canonicalize(archive).with_context(|| format!("could not read {shown}"))?;
    let Some(path) = path.to_str() else { bail!("{shown}: the path is not UTF-8") };
    let bar = if std::io::stderr().is_terminal() {
        ProgressBar::new_spinner()
    } else {
        ProgressBar::hidden()
    };
    bar.set_message(format!("importing {shown}"));
    bar.enable_steady_tick(SPIN);
    let query = format!("?path={}", utf8_percent_encode(path, NON_ALPHANUMERIC));
    let ids = control::ask(state_dir, Method::POST, &query).await;
    bar.finish_and_clear();
    let ids = ids.with_context(|| format!("could not import {shown}"))?;
    let ids = ids.as_array().unwrap_or_default().iter();
    Ok(ids.filter_map(Value::as_str).map(str::to_owned).collect())
}

#[allow(clippy::print_stdout, reason = "printing is what the command is for")]
fn print(images: &Value) {
    let mut rows = vec![["IMAGE".to_owned(), "ID".to_owned(), "SIZE".to_owned()]];
    for image in images.as_array().unwrap_or_default() {
        let id = image.str_at(&["id"]).trim_start_matches("sha256:");
        let id = id.get(..ID_DIGITS).unwrap_or(id).to_owned();
        let size = image.i64_at(&["size"]).unwrap_or_default();
        let size = indicatif::DecimalBytes(u64::try_from(size).unwrap_or_default()).to_string();
        let mut names = image.items_at(&["tags"]);
        if names.is_empty() {
            names = image.items_at(&["digests"]);
        }
        for name in names.iter().filter_map(Value::as_str) {
            rows.push([name.to_owned(), id.clone(), size.clone()]);
        }
        if names.is_empty() {
            rows.push(["<none>".to_owned(), id, size]);
        }
    }
    rows[1..].sort();
    let width = rows.iter().map(|it| it[0].len()).max().unwrap_or_default();
    for [name, id, size] in rows {
        println!("{name:width$}  {id:ID_DIGITS$}  {size}");
    }
}
