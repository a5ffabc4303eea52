//! Rules for addresses and networks. As upstream, they allow leading zeros in IPv4, with a warning.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Problems;
use crate::field::quote;

const CIDR_PROBLEM: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

/// Reads an address; octets may have leading zeros. An IPv4 address inside IPv6 comes out as IPv4.
#[must_use]
pub fn parse_ip(text: &str) -> Option<IpAddr> {
    read(text).map(|address| address.to_canonical())
}

/// Reads a network as `address/bits`. The address need not be the network's first.
#[must_use]
pub fn parse_cidr(text: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = text.split_once('/')?;
    if bits.is_empty() || !bits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let bits: u8 = bits.parse().ok()?;
    let read = read(address)?;
    if bits > if read.is_ipv4() { 32 } else { 128 } {
        return None;
    }
    let address = read.to_canonical();
    let mapped = read.is_ipv6() && address.is_ipv4();
    if mapped && bits < 96 {
        return Some((read, bits));
    }
    Some((address, if mapped { bits - 96 } else { bits }))
}

fn read(text: &str) -> Option<IpAddr> {
    if !text.contains(':') {
        return read_v4(text).map(IpAddr::V4);
    }
    if let Ok(address) = text.parse::<Ipv6Addr>() {
        return Some(IpAddr::V6(address));
    }
    let (head, tail) = text.rsplit_once(':')?;
    let tail = read_v4(tail)?;
    format!("{head}:{tail}").parse().ok().map(IpAddr::V6)
}

fn read_v4(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        if part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let digits = part.trim_start_matches('0');
        *octet = if digits.is_empty() { 0 } else { digits.parse().ok()? };
    }
    parts.next().is_none().then(|| octets.into())
}

/// An address of either family.
#[must_use]
pub fn ip(value: &str) -> Problems {
    let problem = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
    super::one_if(parse_ip(value).is_none(), || problem.into())
}

/// An IPv4 address.
#[must_use]
pub fn ipv4(value: &str) -> Problems {
    let fine = parse_ip(value).is_some_and(|address| address.is_ipv4());
    super::one_if(!fine, || "must be a valid IPv4 address".into())
}

/// An IPv6 address.
#[must_use]
pub fn ipv6(value: &str) -> Problems {
    let fine = parse_ip(value).is_some_and(|address| address.is_ipv6());
    super::one_if(!fine, || "must be a valid IPv6 address".into())
}

/// A network.
#[must_use]
pub fn cidr(value: &str) -> Problems {
    super::one_if(parse_cidr(value).is_none(), || CIDR_PROBLEM.into())
}

/// An address with the size of its network, in canonical form.
#[must_use]
pub fn interface_address(value: &str) -> Problems {
    let Some((address, bits)) = parse_cidr(value) else { return vec![CIDR_PROBLEM.into()] };
    let canonical = format!("{address}/{bits}");
    super::one_if(value != canonical, || {
        format!("must be in canonical form ({})", quote(&canonical))
    })
}

/// What a client is warned of about a valid address, without the field's path.
#[must_use]
pub fn ip_warnings(value: &str) -> Vec<String> {
    let Some(address) = parse_ip(value) else { return Vec::new() };
    let text = address.to_string();
    if text == value {
        return Vec::new();
    }
    let (shown, better) = (quote(value), quote(&text));
    vec![if address.is_ipv4() || value.parse::<Ipv6Addr>().is_err() {
        format!(
            "non-standard IP address {shown} will be considered invalid in a future Kubernetes \
             release: use {better}"
        )
    } else {
        format!("IPv6 address {shown} should be in RFC 5952 canonical format ({better})")
    }]
}

/// What a client is warned of about a valid network, without the field's path.
#[must_use]
pub fn cidr_warnings(value: &str) -> Vec<String> {
    let Some((address, bits)) = parse_cidr(value) else { return Vec::new() };
    let network = format!("{}/{bits}", first_of(address, bits));
    let shown = quote(value);
    let mut warnings = Vec::new();
    if first_of(address, bits) != address {
        let whole = format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 });
        warnings.push(format!(
            "CIDR value {shown} is ambiguous in this context (should be {} or {}?)",
            quote(&network),
            quote(&whole)
        ));
    }
    let strict = value.split_once('/').is_some_and(|(text, size)| {
        text.parse::<IpAddr>().is_ok_and(|read| read.to_canonical() == read)
            && size == bits.to_string()
    });
    if !strict {
        warnings.push(format!(
            "non-standard CIDR value {shown} will be considered invalid in a future Kubernetes \
             release: use {}",
            quote(&network)
        ));
    } else if warnings.is_empty() && network != value {
        warnings.push(format!(
            "IPv6 CIDR value {shown} should be in RFC 5952 canonical format ({})",
            quote(&network)
        ));
    }
    warnings
}

/// The address with the bits behind the network's size cleared.
fn first_of(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(it) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits.min(32))).unwrap_or(0);
            Ipv4Addr::from(u32::from(it) & mask).into()
        }
        IpAddr::V6(it) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits.min(128))).unwrap_or(0);
            Ipv6Addr::from(u128::from(it) & mask).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_networks() {
        for (value, fine) in [
            ("10.0.0.1", true),
            ("010.000.0.1", true),
            ("::1", true),
            ("::ffff:1.2.3.4", true),
            ("::ffff:1.2.3.04", true),
            ("", false),
            ("1.2.3", false),
            ("1.2.3.4.5", false),
            ("256.1.1.1", false),
            ("a", false),
            ("fe80::1%eth0", false),
            ("1.2.3.4/8", false),
        ] {
            assert_eq!(ip(value).is_empty(), fine, "{value}");
        }
        for (value, fine) in [
            ("10.0.0.0/8", true),
            ("10.0.0.1/32", true),
            ("::/0", true),
            ("10.0.0.0/33", false),
            ("10.0.0.0", false),
            ("10.0.0.0/", false),
            ("::/129", false),
            ("/8", false),
            ("1.1.1.1/+8", false),
        ] {
            assert_eq!(cidr(value).is_empty(), fine, "{value}");
        }
        assert_eq!(ipv4("::1"), ["must be a valid IPv4 address"]);
        assert_eq!(ipv6("1.1.1.1"), ["must be a valid IPv6 address"]);
        assert_eq!(
            interface_address("10.1.2.3/08"),
            ["must be in canonical form (\"10.1.2.3/8\")"]
        );
    }

    #[test]
    fn odd_forms_are_warned_of() {
        assert_eq!(ip_warnings("10.0.0.1"), Vec::<String>::new());
        assert_eq!(
            ip_warnings("010.0.0.1"),
            [
                "non-standard IP address \"010.0.0.1\" will be considered invalid in a future Kubernetes release: use \"10.0.0.1\""
            ]
        );
        assert_eq!(
            ip_warnings("2001:DB8::1"),
            [
                "IPv6 address \"2001:DB8::1\" should be in RFC 5952 canonical format (\"2001:db8::1\")"
            ]
        );
        assert_eq!(
            cidr_warnings("10.1.2.3/8"),
            [
                "CIDR value \"10.1.2.3/8\" is ambiguous in this context (should be \"10.0.0.0/8\" or \"10.1.2.3/32\"?)"
            ]
        );
        assert_eq!(
            cidr_warnings("2001:DB8::/32"),
            [
                "IPv6 CIDR value \"2001:DB8::/32\" should be in RFC 5952 canonical format (\"2001:db8::/32\")"
            ]
        );
        assert_eq!(cidr_warnings("0.0.0.0/0"), Vec::<String>::new());
    }
}
