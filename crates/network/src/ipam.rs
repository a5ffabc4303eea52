//! Which address of the node's ranges belongs to which sandbox.
//!
//! Knows nothing of files or links: who is in it is told to it at start.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::NetworkError;
use crate::config::nth;

/// The addresses of one range.
#[derive(Debug)]
struct Range {
    cidr: IpNet,
    /// Offsets that pods may have: not the network's name, the gateway, and IPv4's broadcast.
    first: u128,
    last: u128,
    /// Where the search goes on, so that an address rests before it is used again.
    next: u128,
}

/// The addresses of all ranges of a node.
#[derive(Debug)]
pub(crate) struct Ipam {
    ranges: Vec<Range>,
    taken: BTreeMap<IpAddr, String>,
}

impl Ipam {
    pub(crate) fn new(cidrs: &[IpNet]) -> Self {
        let ranges = cidrs.iter().map(|cidr| Range::new(*cidr)).collect();
        Self { ranges, taken: BTreeMap::new() }
    }

    /// Takes one address of each range. None is taken where one range has none left.
    pub(crate) fn allocate(&mut self, sandbox: &str) -> Result<Vec<IpAddr>, NetworkError> {
        let mut found = Vec::with_capacity(self.ranges.len());
        for range in &self.ranges {
            found.push(range.free(&self.taken)?);
        }
        for (range, (offset, ip)) in self.ranges.iter_mut().zip(&found) {
            range.next = offset + 1;
            self.taken.insert(*ip, sandbox.to_owned());
        }
        Ok(found.into_iter().map(|(_, ip)| ip).collect())
    }

    /// Notes an address that a sandbox has since before; false where another one has it.
    pub(crate) fn adopt(&mut self, ip: IpAddr, sandbox: &str) -> bool {
        let owner = self.taken.entry(ip).or_insert_with(|| sandbox.to_owned());
        for range in self.ranges.iter_mut().filter(|range| range.cidr.contains(&ip)) {
            range.next = range.next.max(range.offset(ip) + 1);
        }
        owner == sandbox
    }

    pub(crate) fn release(&mut self, ips: &[IpAddr], sandbox: &str) {
        for ip in ips {
            if self.taken.get(ip).is_some_and(|owner| owner == sandbox) {
                self.taken.remove(ip);
            }
        }
    }
}

impl Range {
    fn new(cidr: IpNet) -> Self {
        let bits = u32::from(cidr.max_prefix_len() - cidr.prefix_len());
        let size = 1_u128.checked_shl(bits).unwrap_or(u128::MAX);
        let last = size - if matches!(cidr, IpNet::V4(_)) { 2 } else { 1 };
        Self { cidr, first: 2, last, next: 2 }
    }

    fn free(&self, taken: &BTreeMap<IpAddr, String>) -> Result<(u128, IpAddr), NetworkError> {
        let start = if self.next > self.last { self.first } else { self.next };
        // Among one more candidates than there are taken addresses, one is free.
        let bound = u128::try_from(taken.len()).unwrap_or(u128::MAX).saturating_add(1);
        let candidates = (start..=self.last).chain(self.first..start);
        let limit = usize::try_from(bound).unwrap_or(usize::MAX);
        candidates
            .take(limit)
            .map(|offset| (offset, nth(&self.cidr, offset)))
            .find(|(_, ip)| !taken.contains_key(ip))
            .ok_or_else(|| {
                let inside = taken.keys().filter(|ip| self.cidr.contains(*ip)).count();
                NetworkError::NoFreeAddress { range: self.cidr, taken: inside }
            })
    }

    fn offset(&self, ip: IpAddr) -> u128 {
        match (self.cidr.network(), ip) {
            (IpAddr::V4(base), IpAddr::V4(ip)) => {
                u128::from(ip.to_bits().wrapping_sub(base.to_bits()))
            }
            (IpAddr::V6(base), IpAddr::V6(ip)) => ip.to_bits().wrapping_sub(base.to_bits()),
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipam(cidrs: &[&str]) -> Ipam {
        Ipam::new(&cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect::<Vec<_>>())
    }

    fn text(ips: &[IpAddr]) -> String {
        ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn addresses_are_given_one_after_the_other_and_rest_before_reuse() {
        let mut ipam = ipam(&["10.0.0.0/29", "fd00::/64"]);
        let given: Vec<_> = (0..5).map(|n| ipam.allocate(&format!("s{n}")).unwrap()).collect();
        assert_eq!(text(&given[0]), "10.0.0.2 fd00::2");
        assert_eq!(text(&given[4]), "10.0.0.6 fd00::6");
        let error = ipam.allocate("late").unwrap_err().to_string();
        assert_eq!(error, "no addresses available in range 10.0.0.0/29: all 5 are taken");
        ipam.release(&given[1], "s1");
        ipam.release(&given[2], "not the owner");
        assert_eq!(text(&ipam.allocate("again").unwrap()), "10.0.0.3 fd00::7");
        assert!(ipam.allocate("late").is_err());
    }

    #[test]
    fn an_adopted_address_belongs_to_who_had_it_first() {
        let mut ipam = ipam(&["10.0.0.0/24"]);
        assert!(ipam.adopt("10.0.0.9".parse().unwrap(), "a"));
        assert!(ipam.adopt("10.0.0.9".parse().unwrap(), "a"));
        assert!(!ipam.adopt("10.0.0.9".parse().unwrap(), "b"));
        assert_eq!(text(&ipam.allocate("c").unwrap()), "10.0.0.10");
    }

    #[test]
    fn a_whole_ipv6_space_does_not_overflow() {
        assert_eq!(text(&ipam(&["::/0"]).allocate("a").unwrap()), "::2");
    }
}
