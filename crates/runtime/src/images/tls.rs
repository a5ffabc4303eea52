//! Whom to trust when talking to a registry.

use std::fs;
use std::io;

use component_base::tls::Trust;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};

use super::registries::HostTls;

/// Where distributions keep the authorities that they trust.
const SYSTEM_AUTHORITIES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// The configuration for a host.
pub(super) fn client_config(tls: &HostTls) -> Result<ClientConfig, String> {
    let trust = if tls.insecure_skip_verify {
        Trust::Anybody
    } else {
        Trust::Authorities(authorities(&tls.ca_file)?)
    };
    let builder = component_base::tls::client(trust).map_err(|e| e.to_string())?;
    if tls.cert_file.is_empty() {
        return Ok(builder.with_no_client_auth());
    }
    let certificates = certificates(&tls.cert_file)?;
    let key = read(&tls.key_file)?;
    let key = rustls_pemfile::private_key(&mut key.as_slice())
        .map_err(|e| format!("read {}: {e}", tls.key_file))?
        .ok_or_else(|| format!("no private key in {}", tls.key_file))?;
    builder.with_client_auth_cert(certificates, key).map_err(|e| e.to_string())
}

fn authorities(file: &str) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    if !file.is_empty() {
        roots.add_parsable_certificates(certificates(file)?);
        return Ok(roots);
    }
    if let Some(system) = SYSTEM_AUTHORITIES.iter().find(|path| fs::exists(path).unwrap_or(false)) {
        roots.add_parsable_certificates(certificates(system)?);
    }
    Ok(roots)
}

fn certificates(file: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = read(file)?;
    rustls_pemfile::certs(&mut text.as_slice())
        .collect::<io::Result<Vec<_>>>()
        .map_err(|e| format!("read {file}: {e}"))
}

fn read(file: &str) -> Result<Vec<u8>, String> {
    fs::read(file).map_err(|e| format!("read {file}: {e}"))
}
