//! `kubelith datastore`: copies of the store in one file, stores made of them, and moves from one store to another.

mod transfer;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use apimachinery::Value;
use clap::Subcommand;
use component_base::task::BlockingPool;
use component_base::{ShutdownSignal, SystemRandom};
use futures::FutureExt as _;
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use storage_embedded::{Copied, EmbeddedStore};

use self::transfer::Place;
use crate::etcd::EtcdAccess;
use crate::{control, data_dir, node};

/// Below the data directory: where the running server is asked for a copy.
const SOCKET: &str = "store.sock";
/// The store, below the data directory, and where one goes that is replaced.
const STORE: &str = "store";
const REPLACED: &str = "store.replaced";

/// Flags of `kubelith datastore`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The server's data directory
    #[arg(long, default_value = node::options::DATA_DIR, value_name = "DIR", value_parser = crate::data_dir::place, global = true)]
    data_dir: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Copies of all objects in one file. Keys and certificates (DATA_DIR/pki) and what runs on nodes are not in them.
    #[command(subcommand)]
    Snapshot(Snapshot),
    /// Copy all objects from one store to another, and compare both by checksum. What is copied from may be in use
    Migrate {
        /// embedded:DATA_DIR, etcd:URL,URL or snapshot:FILE
        #[arg(long, value_name = "STORE")]
        from: Place,
        /// embedded:DATA_DIR or etcd:URL,URL, where there are no objects yet, or snapshot:FILE
        #[arg(long, value_name = "STORE")]
        to: Place,
        #[command(flatten)]
        etcd: EtcdAccess,
    },
}

#[derive(Debug, Subcommand)]
enum Snapshot {
    /// Write a copy, while the server runs or not
    Save {
        /// The file, which must not be there yet
        file: PathBuf,
        /// Of the objects in this etcd instead: https://HOST:PORT,...
        #[arg(long, value_delimiter = ',', value_name = "URL")]
        etcd_servers: Vec<String>,
        #[command(flatten)]
        etcd: EtcdAccess,
    },
    /// Read a copy to its end: whether it is whole, and what is in it
    Status {
        /// The file
        file: PathBuf,
    },
    /// Put a copy in place of the store of a server that does not run. Revisions go on a billion later, so that clients
    /// which have seen more look at everything anew
    Restore {
        /// The file
        file: PathBuf,
        /// The store that is there is kept beside it, as store.replaced
        #[arg(long)]
        replace: bool,
        /// Into this etcd instead, where there are no objects yet: https://HOST:PORT,...
        #[arg(long, value_delimiter = ',', value_name = "URL", conflicts_with = "replace")]
        etcd_servers: Vec<String>,
        #[command(flatten)]
        etcd: EtcdAccess,
    },
}

/// Runs the command.
pub(crate) fn run(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let command = match &options.command {
        Command::Snapshot(command) => command,
        Command::Migrate { from, to, etcd } => {
            return runtime.block_on(transfer::run(from, to, etcd));
        }
    };
    match command {
        Snapshot::Save { file, etcd_servers, etcd } if !etcd_servers.is_empty() => {
            let (from, to) = (Place::Etcd(etcd_servers.clone()), Place::Snapshot(file.clone()));
            runtime.block_on(transfer::run(&from, &to, etcd))?;
        }
        Snapshot::Restore { file, etcd_servers, etcd, .. } if !etcd_servers.is_empty() => {
            let (from, to) = (Place::Snapshot(file.clone()), Place::Etcd(etcd_servers.clone()));
            runtime.block_on(transfer::run(&from, &to, etcd))?;
        }
        Snapshot::Save { file, .. } => {
            let saved = runtime.block_on(save(&options.data_dir, file))?;
            tell(&format!("{}: {saved}", file.display()));
        }
        Snapshot::Status { file } => {
            tell(&format!("{}: {}", file.display(), shown(&storage_embedded::inspect(file)?)));
        }
        Snapshot::Restore { file, replace, .. } => restore(&options.data_dir, file, *replace)?,
    }
    Ok(())
}

#[allow(clippy::print_stdout, reason = "telling is part of the command")]
fn tell(line: &str) {
    println!("{line}");
}

fn shown(copied: &Copied) -> String {
    let size = indicatif::DecimalBytes(copied.bytes);
    format!("revision {}, {} keys, {size}", copied.rev, copied.keys)
}

/// By the server where one runs, else by this process.
async fn save(data_dir: &Path, file: &Path) -> Result<String> {
    let file = std::path::absolute(file)?;
    let Some(name) = file.to_str() else { bail!("{}: the path is not UTF-8", file.display()) };
    if let Ok(stream) = control::connect(&data_dir.join(SOCKET)).await {
        let path = utf8_percent_encode(name, NON_ALPHANUMERIC);
        let uri = format!("/snapshot?path={path}");
        let saved = control::request(stream, Method::POST, &uri).await?;
        return Ok(saved.as_str().unwrap_or_default().to_owned());
    }
    if !data_dir.join(STORE).exists() {
        bail!("there is no store in {}; --data-dir gives another", data_dir.display());
    }
    let _held = data_dir::hold(data_dir)?;
    let fatal = |why: &str| tracing::error!(why, "the store has failed");
    let dir = data_dir.join(STORE);
    let store = EmbeddedStore::open(&storage_embedded::Options::new(dir, Arc::new(fatal)))?;
    Ok(shown(&store.copy(&file)?))
}

/// Writes copies for other processes, until `stop`. A server whose data directory has too long a name for a socket goes
/// without.
pub(crate) fn serve(data_dir: &Path, store: &Arc<EmbeddedStore>, stop: ShutdownSignal) {
    let store = Arc::clone(store);
    let pool = BlockingPool::new("copy of the store", 1);
    let commands = move |method: Method, path: String, argument: String| {
        let (store, one) = (Arc::clone(&store), pool.clone());
        async move {
            if (method, path.as_str()) != (Method::POST, "/snapshot") {
                return Err("there is no such command".to_owned());
            }
            let file = PathBuf::from(argument);
            let copied = one.run(move || store.copy(&file)).await;
            let copied = copied.map_err(|error| error.to_string())?;
            let copied = copied.map_err(|error| format!("{:#}", anyhow::Error::new(error)))?;
            Ok(Value::from(shown(&copied)))
        }
        .boxed()
    };
    if let Err(error) = control::listen(&data_dir.join(SOCKET), Arc::new(commands), stop) {
        let error = format!("{error:#}");
        tracing::warn!(error, "the store can only be copied while this server is stopped");
    }
}

fn restore(data_dir: &Path, file: &Path, replace: bool) -> Result<()> {
    // Before anything is touched.
    storage_embedded::inspect(file)?;
    let _held = data_dir::hold(data_dir)?;
    let (store, replaced) = (data_dir.join(STORE), data_dir.join(REPLACED));
    if store.exists() {
        if !replace {
            bail!(
                "there is a store in {}: say --replace to keep it as {REPLACED}",
                data_dir.display()
            );
        }
        if replaced.exists() {
            bail!("{} is there already, of an earlier time: remove it", replaced.display());
        }
        std::fs::rename(&store, &replaced)
            .with_context(|| format!("could not rename {}", store.display()))?;
    }
    let copied = storage_embedded::restore(file, &store, &SystemRandom::new())?;
    tell(&format!("{}: {}", store.display(), shown(&copied)));
    Ok(())
}
