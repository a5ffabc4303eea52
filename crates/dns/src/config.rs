//! What the server is told.

use std::net::{IpAddr, SocketAddr};

/// The DNS server of one node.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen, for UDP and TCP alike.
    pub listen: Vec<SocketAddr>,
    /// The addresses that clients know the server by: those of the `kube-dns` Service.
    pub service_ips: Vec<IpAddr>,
    /// Who is asked about other names; our own addresses among them are left out.
    pub upstreams: Vec<SocketAddr>,
    /// How many tasks answer UDP questions on each address.
    pub workers: usize,
}

impl Config {
    /// The upstreams that are not this server: asking oneself would go round for ever.
    pub(crate) fn others(&self) -> Vec<SocketAddr> {
        let same = |a: &SocketAddr, b: &SocketAddr| {
            let any = b.ip().is_unspecified() && a.ip().is_loopback();
            a.port() == b.port() && (a.ip() == b.ip() || any)
        };
        let ours = |upstream: &SocketAddr| {
            self.listen.iter().any(|listen| same(upstream, listen))
                || self.service_ips.contains(&upstream.ip())
        };
        self.upstreams.iter().copied().filter(|upstream| !ours(upstream)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_never_its_own_upstream() {
        let all = |list: &str| -> Vec<SocketAddr> {
            list.split_whitespace().map(|address| address.parse().unwrap()).collect()
        };
        let config = |listen: &str| Config {
            listen: all(listen),
            service_ips: vec!["10.96.0.10".parse().unwrap()],
            upstreams: all("127.0.0.53:53 10.244.0.1:53 10.96.0.10:53 192.0.2.53:53"),
            workers: 1,
        };
        for (listen, others) in [
            ("10.244.0.1:53", "127.0.0.53:53 192.0.2.53:53"),
            ("0.0.0.0:53", "10.244.0.1:53 192.0.2.53:53"),
            ("127.0.0.53:53", "10.244.0.1:53 192.0.2.53:53"),
            ("127.0.0.53:5353", "127.0.0.53:53 10.244.0.1:53 192.0.2.53:53"),
        ] {
            assert_eq!(config(listen).others(), all(others), "{listen}");
        }
    }
}
