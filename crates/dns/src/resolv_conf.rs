//! The nameservers of a `resolv.conf`.

use std::net::{IpAddr, SocketAddr};

const PORT: u16 = 53;
/// As many as are ever asked; more would only make a failure slower.
const NAMESERVERS_MAX: usize = 16;

/// The nameservers that `text`, a `resolv.conf`, names, in its order and each once.
#[must_use]
pub fn nameservers(text: &str) -> Vec<SocketAddr> {
    let mut servers = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        // A scope (`fe80::1%eth0`) cannot be kept in an address of ours; such a server is left out.
        let Some(ip) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else { continue };
        let server = SocketAddr::new(ip, PORT);
        if !servers.contains(&server) && servers.len() < NAMESERVERS_MAX {
            servers.push(server);
        }
    }
    servers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nameservers_are_read_and_the_rest_is_left() {
        let text = "# nameserver 9.9.9.9\nsearch a b\nnameserver 192.0.2.1 # one\n\
            nameserver\t2001:db8::1\nnameserver 192.0.2.1\nnameserver nonsense\noptions ndots:5\n";
        let found: Vec<_> = nameservers(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["192.0.2.1:53", "[2001:db8::1]:53"]);
    }
}
