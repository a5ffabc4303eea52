//! What an API server presents and whose certificates it believes, of files that are read again when they change.

use std::path::PathBuf;

use anyhow::{Context, Result};
use apiserver::client_certificates::Speaking;
use component_base::ShutdownSignal;

use crate::access::Options;
use crate::sni::{Named, NamedFiles};
use crate::{files, tls};

/// Takes anew what files say, each time that they change, and tells what has changed; where it cannot be used what was taken
/// before stays.
pub(crate) fn renew(
    files: Vec<PathBuf>,
    stop: ShutdownSignal,
    changed: &'static str,
    take: impl Fn() -> Result<()> + Send + Sync + 'static,
) {
    tokio::spawn(files::follow(files, stop, async move |_| match take() {
        Ok(()) => tracing::info!("{changed}"),
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "{changed}, and cannot be used");
        }
    }));
}

/// The certificate of the flags, where there is one.
pub(crate) fn of_files(access: &Options, stop: &ShutdownSignal) -> Result<Option<tls::Serving>> {
    let Some((identity, files)) = access.presented()? else { return Ok(None) };
    let certificate = tls::Serving::new(&identity)
        .with_context(|| format!("could not use {files:?} as the server's certificate"))?;
    let (access, following) = (access.clone(), certificate.clone());
    renew(files, stop.clone(), "the server's certificate has changed", move || {
        let (identity, _) = access.presented()?.context("there is none")?;
        following.replace(&identity)
    });
    Ok(Some(certificate))
}

/// Presents certificates by name too.
pub(crate) fn by_name(
    all: &[NamedFiles],
    certificate: &tls::Serving,
    stop: &ShutdownSignal,
) -> Result<()> {
    if all.is_empty() {
        return Ok(());
    }
    certificate.replace_named(Named::read(all).context("--tls-sni-cert-key")?);
    let files = all.iter().flat_map(|it| [it.certificate.clone(), it.key.clone()]).collect();
    let (all, certificate) = (all.to_vec(), certificate.clone());
    renew(files, stop.clone(), "certificates of names have changed", move || {
        certificate.replace_named(Named::read(&all)?);
        Ok(())
    });
    Ok(())
}

/// Whose certificates are good: of clients by these authorities of the server's own and those of the flags, and of front
/// proxies.
pub(crate) fn speaking(
    access: &Options,
    certificate: &tls::Serving,
    (own, front_proxies): (String, String),
    stop: ShutdownSignal,
) -> Result<Speaking> {
    let (access, certificate) = (access.clone(), certificate.clone());
    let files = access.authority_files();
    let make = move || {
        let authorities = access.authorities(&own, &front_proxies)?;
        certificate.api_server_tls(&authorities.clients, &authorities.front_proxies)
    };
    let speaking = Speaking::from(make()?);
    if !files.is_empty() {
        let following = speaking.clone();
        renew(files, stop, "the authorities of clients have changed", move || {
            following.replace(make()?);
            Ok(())
        });
    }
    Ok(speaking)
}
