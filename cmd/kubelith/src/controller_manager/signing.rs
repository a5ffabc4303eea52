//! Flags of who signs certificates that are asked for by CertificateSigningRequests.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use controllers::certificates::{CertificateSigner, Signers};

use crate::control_plane::seconds;
use crate::pki::Authority;

/// Upstream's flags of signing.
#[derive(Debug, Clone, clap::Args)]
#[group(id = "signing")]
#[command(next_help_heading = "kube-controller-manager")]
#[allow(clippy::struct_field_names, reason = "they are upstream's names")]
pub(super) struct SigningOptions {
    /// How long a certificate that the cluster signs is good at most
    #[arg(long, default_value = "8760h", value_name = "DURATION", value_parser = seconds)]
    cluster_signing_duration: i64,
    /// Authority that signs all certificates that are asked for, in PEM (default: the server's own; alone none, and none are signed)
    #[arg(long, value_name = "FILE", requires = "cluster_signing_key_file")]
    cluster_signing_cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "cluster_signing_cert_file")]
    cluster_signing_key_file: Option<PathBuf>,
    /// Authority that signs kubernetes.io/kube-apiserver-client, in place of one for all
    #[arg(long, value_name = "FILE", requires = "cluster_signing_kube_apiserver_client_key_file")]
    cluster_signing_kube_apiserver_client_cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "cluster_signing_kube_apiserver_client_cert_file")]
    cluster_signing_kube_apiserver_client_key_file: Option<PathBuf>,
    /// Authority that signs kubernetes.io/kube-apiserver-client-kubelet, in place of one for all
    #[arg(long, value_name = "FILE", requires = "cluster_signing_kubelet_client_key_file")]
    cluster_signing_kubelet_client_cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "cluster_signing_kubelet_client_cert_file")]
    cluster_signing_kubelet_client_key_file: Option<PathBuf>,
    /// Authority that signs kubernetes.io/kubelet-serving, in place of one for all
    #[arg(long, value_name = "FILE", requires = "cluster_signing_kubelet_serving_key_file")]
    cluster_signing_kubelet_serving_cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "cluster_signing_kubelet_serving_cert_file")]
    cluster_signing_kubelet_serving_key_file: Option<PathBuf>,
}

/// An authority that signs.
type Signs = Arc<dyn CertificateSigner>;

fn read(certificate: Option<&PathBuf>, key: Option<&PathBuf>) -> Result<Option<Signs>> {
    // Upstream's own flags may be given empty.
    let given = |it: Option<&PathBuf>| it.filter(|it| !it.as_os_str().is_empty()).cloned();
    let (Some(certificate), Some(key)) = (given(certificate), given(key)) else { return Ok(None) };
    let authority = Authority::read(Path::new(&certificate), Path::new(&key))?;
    Ok(Some(Arc::new(authority)))
}

impl SigningOptions {
    pub(super) fn duration(&self) -> Duration {
        Duration::from_secs(self.cluster_signing_duration.unsigned_abs())
    }

    /// Who signs; `own` where no file says.
    ///
    /// # Errors
    /// What cannot be read; one for all beside others (upstream refuses that too).
    pub(super) fn signers(&self, own: Option<&Signs>) -> Result<Signers> {
        let all =
            read(self.cluster_signing_cert_file.as_ref(), self.cluster_signing_key_file.as_ref())?;
        let of_each = Signers {
            client: read(
                self.cluster_signing_kube_apiserver_client_cert_file.as_ref(),
                self.cluster_signing_kube_apiserver_client_key_file.as_ref(),
            )?,
            node_client: read(
                self.cluster_signing_kubelet_client_cert_file.as_ref(),
                self.cluster_signing_kubelet_client_key_file.as_ref(),
            )?,
            node_serving: read(
                self.cluster_signing_kubelet_serving_cert_file.as_ref(),
                self.cluster_signing_kubelet_serving_key_file.as_ref(),
            )?,
        };
        match (all, of_each.is_empty()) {
            (Some(_), false) => {
                bail!(
                    "cannot specify --cluster-signing-{{cert,key}}-file and other --cluster-signing-*-file flags at \
                     the same time"
                )
            }
            (Some(all), true) => Ok(Signers::all(&all)),
            (None, false) => Ok(of_each),
            (None, true) => Ok(own.map(Signers::all).unwrap_or_default()),
        }
    }
}
