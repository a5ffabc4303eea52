//! What is remembered of a sandbox's network: one small file each, so that a crash between any two steps leaves
//! something that can be finished or undone.
//!
//! A file is written beside and renamed into place, which a killed process survives. It is not synced: after a
//! loss of power the sandboxes are gone too, and a file that cannot be read is rubbish to be removed.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::NetworkError;

/// The transport protocol of a host port. The kernels we support need not have SCTP, so there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// A port of the host that leads to a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortMapping {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The host's address; any where there is none.
    pub host_ip: Option<IpAddr>,
    /// The host's port.
    pub host_port: u16,
    /// The pod's port.
    pub container_port: u16,
}

/// What a sandbox has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Record {
    pub(crate) ips: Vec<IpAddr>,
    pub(crate) ports: Vec<PortMapping>,
}

impl Record {
    fn encode(&self) -> String {
        let ips = self.ips.iter().map(|ip| format!("ip {ip}\n"));
        let ports = self.ports.iter().map(|port| {
            let any = || "*".to_owned();
            let address = port.host_ip.map_or_else(any, |ip| ip.to_string());
            let PortMapping { protocol, host_port, container_port, .. } = port;
            format!("port {protocol} {address} {host_port} {container_port}\n")
        });
        ips.chain(ports).chain(["end\n".to_owned()]).collect()
    }

    fn decode(text: &str) -> Option<Self> {
        // The last line shows that the file is whole.
        let lines = text.strip_suffix("end\n")?.lines();
        let mut record = Self::default();
        for line in lines {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["ip", ip] => record.ips.push(ip.parse().ok()?),
                ["port", protocol, address, host_port, container_port] => {
                    record.ports.push(PortMapping {
                        protocol: match protocol {
                            "TCP" => Protocol::Tcp,
                            "UDP" => Protocol::Udp,
                            _ => return None,
                        },
                        host_ip: match address {
                            "*" => None,
                            address => Some(address.parse().ok()?),
                        },
                        host_port: host_port.parse().ok()?,
                        container_port: container_port.parse().ok()?,
                    });
                }
                _ => return None,
            }
        }
        Some(record)
    }
}

/// The directory of records.
#[derive(Debug)]
pub(crate) struct Records {
    directory: PathBuf,
}

const PENDING: &str = ".pending";

impl Records {
    pub(crate) fn open(state_dir: &Path) -> Result<Self, NetworkError> {
        let directory = state_dir.join("sandboxes");
        fs::create_dir_all(&directory).map_err(failed("create directory", &directory))?;
        Ok(Self { directory })
    }

    /// Every record that can be read. Others are removed: what they stood for is found by its link.
    pub(crate) fn load(&self) -> Result<BTreeMap<String, Record>, NetworkError> {
        let mut records = BTreeMap::new();
        let failed_here = || failed("read directory", &self.directory);
        for entry in fs::read_dir(&self.directory).map_err(failed_here())? {
            let path = entry.map_err(failed_here())?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let text = fs::read_to_string(&path).unwrap_or_default();
            match Record::decode(&text) {
                Some(record) if !name.ends_with(PENDING) => {
                    records.insert(name.to_owned(), record);
                }
                _ => fs::remove_file(&path).map_err(failed("remove", &path))?,
            }
        }
        Ok(records)
    }

    pub(crate) fn write(&self, sandbox: &str, record: &Record) -> Result<(), NetworkError> {
        let path = self.directory.join(sandbox);
        let pending = self.directory.join(format!("{sandbox}{PENDING}"));
        fs::write(&pending, record.encode()).map_err(failed("write", &pending))?;
        fs::rename(&pending, &path).map_err(failed("rename into place", &path))
    }

    pub(crate) fn remove(&self, sandbox: &str) -> Result<(), NetworkError> {
        let path = self.directory.join(sandbox);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(failed("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn remove_all(&self) -> Result<(), NetworkError> {
        fs::remove_dir_all(&self.directory).map_err(failed("remove", &self.directory))
    }
}

fn failed<'a>(
    verb: &'static str,
    path: &'a Path,
) -> impl FnOnce(std::io::Error) -> NetworkError + 'a {
    move |source| NetworkError::State { verb, path: path.to_owned(), source }
}

/// Sandbox ids become names of files: they must be plain, and not look like what is pending.
pub(crate) fn check_id(sandbox: &str) -> Result<(), NetworkError> {
    const LENGTH_MAX: usize = 128;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if sandbox.is_empty() || sandbox.len() > LENGTH_MAX || !sandbox.bytes().all(plain) {
        return Err(NetworkError::SandboxId(sandbox.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let port = |host_ip, protocol| PortMapping {
            protocol,
            host_ip,
            host_port: 8080,
            container_port: 80,
        };
        Record {
            ips: vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
            ports: vec![
                port(None, Protocol::Tcp),
                port(Some("192.0.2.1".parse().unwrap()), Protocol::Udp),
            ],
        }
    }

    #[test]
    fn a_record_survives_and_half_a_record_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::open(directory.path()).unwrap();
        records.write("whole", &record()).unwrap();
        let text = record().encode();
        for (name, text) in [("torn", &text[..20]), ("alien", "hello\nend\n"), ("x.pending", &text)]
        {
            fs::write(directory.path().join("sandboxes").join(name), text).unwrap();
        }
        assert_eq!(records.load().unwrap(), BTreeMap::from([("whole".to_owned(), record())]));
        let left = fs::read_dir(directory.path().join("sandboxes")).unwrap().count();
        assert_eq!(left, 1);
        records.remove("whole").unwrap();
        records.remove("whole").unwrap();
        assert_eq!(records.load().unwrap(), BTreeMap::new());
    }

    #[test]
    fn an_id_is_a_plain_name() {
        for (id, good) in [("a1-b_2", true), ("", false), ("../x", false), ("a.pending", false)] {
            assert_eq!(check_id(id).is_ok(), good, "{id}");
        }
    }
}
