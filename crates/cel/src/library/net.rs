//! Addresses and networks, read strictly: no leading zeros, no zones, no IPv4 inside IPv6.

use std::net::{IpAddr, Ipv6Addr};

use apimachinery::field::quote;

use super::opaque::Opaque;
use super::standard::no_overload;
use crate::decl::{Decl, f};
use crate::error::EvalError;
use crate::value::{Result, Val};

fn parse_ip(text: &str) -> Result<IpAddr> {
    if let Some((address, _)) = text.split_once('%')
        && address.parse::<Ipv6Addr>().is_ok()
    {
        return Err(EvalError::new(format!(
            "IP address {} with zone value is not allowed",
            quote(text)
        )));
    }
    let ip: IpAddr = text.parse().map_err(|_| {
        let shown = quote(text);
        EvalError::new(format!(
            "IP Address {shown} parse error during conversion from string: ParseAddr({shown}): unable to parse IP"
        ))
    })?;
    refuse_mapped(ip, text)?;
    Ok(ip)
}

fn refuse_mapped(ip: IpAddr, text: &str) -> Result<()> {
    match ip {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Err(EvalError::new(format!("IPv4-mapped IPv6 address {} is not allowed", quote(text))))
        }
        _ => Ok(()),
    }
}

fn parse_cidr(text: &str) -> Result<(IpAddr, u8)> {
    let read = || {
        let (address, bits) = text.rsplit_once('/')?;
        let is_number = !bits.is_empty() && bits.bytes().all(|it| it.is_ascii_digit());
        let is_plain = bits == "0" || !bits.starts_with('0');
        let bits: u8 = bits.parse().ok().filter(|_| is_number && is_plain)?;
        let ip: IpAddr = address.parse().ok()?;
        (bits <= if ip.is_ipv4() { 32 } else { 128 }).then_some((ip, bits))
    };
    let (ip, bits) = read().ok_or_else(|| {
        let shown = quote(text);
        EvalError::new(format!(
            "network address parse error during conversion from string: netip.ParsePrefix({shown}): invalid prefix"
        ))
    })?;
    refuse_mapped(ip, text)?;
    Ok((ip, bits))
}

/// The network's first address.
fn masked(ip: IpAddr, bits: u8) -> IpAddr {
    match ip {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            IpAddr::V4((u32::from(v4) & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            IpAddr::V6((u128::from(v6) & mask).into())
        }
    }
}

fn contains((network, bits): (IpAddr, u8), ip: IpAddr) -> bool {
    network.is_ipv4() == ip.is_ipv4() && masked(network, bits) == masked(ip, bits)
}

fn ip(value: Option<&Val<'_>>) -> Result<IpAddr> {
    match value {
        Some(Val::String(text)) => parse_ip(text),
        Some(Val::Opaque(it)) => match &**it {
            Opaque::Ip(ip) => Ok(*ip),
            _ => Err(EvalError::no_such_overload()),
        },
        _ => Err(EvalError::no_such_overload()),
    }
}

fn cidr(value: Option<&Val<'_>>) -> Result<(IpAddr, u8)> {
    match value {
        Some(Val::String(text)) => parse_cidr(text),
        Some(Val::Opaque(it)) => match &**it {
            Opaque::Cidr(ip, bits) => Ok((*ip, *bits)),
            _ => Err(EvalError::no_such_overload()),
        },
        _ => Err(EvalError::no_such_overload()),
    }
}

fn test<'v>(args: &[Val<'v>], of: fn(IpAddr) -> bool) -> Result<Val<'v>> {
    ip(args.first()).map(|it| Val::Bool(of(it)))
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

fn is_link_local_multicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    }
}

fn is_broadcast(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V4(v4) if v4.is_broadcast())
}

fn is_global_unicast(ip: IpAddr) -> bool {
    !(ip.is_unspecified()
        || ip.is_loopback()
        || ip.is_multicast()
        || is_link_local(ip)
        || is_broadcast(ip))
}

fn contains_ip<'v>(args: &[Val<'v>]) -> Result<Val<'v>> {
    Ok(Val::Bool(contains(cidr(args.first())?, ip(args.get(1))?)))
}

fn contains_cidr<'v>(args: &[Val<'v>]) -> Result<Val<'v>> {
    let (outer, inner) = (cidr(args.first())?, cidr(args.get(1))?);
    Ok(Val::Bool(outer.1 <= inner.1 && contains(outer, masked(inner.0, inner.1))))
}

fn to_string<'v>(args: &[Val<'v>]) -> Result<Val<'v>> {
    args.first().map_or_else(no_overload, super::convert::to_string)
}

/// Addresses.
pub(super) const IP: &[Decl] = &[
    f("ip", "string_to_ip", "(string) -> net.IP", |args| {
        ip(args.first()).map(|it| Val::opaque(Opaque::Ip(it)))
    }),
    f("isIP", "is_ip", "(string) -> bool", |args| match args {
        [Val::String(text)] => Ok(Val::Bool(parse_ip(text).is_ok())),
        _ => no_overload(),
    }),
    f("ip.isCanonical", "ip_is_canonical", "(string) -> bool", |args| match args {
        [Val::String(text)] => Ok(Val::Bool(parse_ip(text)?.to_string() == **text)),
        _ => no_overload(),
    }),
    f("family", "ip_family", "net.IP.() -> int", |args| {
        ip(args.first()).map(|it| Val::Int(if it.is_ipv4() { 4 } else { 6 }))
    }),
    f("isUnspecified", "ip_is_unspecified", "net.IP.() -> bool", |args| {
        test(args, |it| it.is_unspecified())
    }),
    f("isLoopback", "ip_is_loopback", "net.IP.() -> bool", |args| {
        test(args, |it| it.is_loopback())
    }),
    f("isLinkLocalMulticast", "ip_is_link_local_multicast", "net.IP.() -> bool", |args| {
        test(args, is_link_local_multicast)
    }),
    f("isLinkLocalUnicast", "ip_is_link_local_unicast", "net.IP.() -> bool", |args| {
        test(args, is_link_local)
    }),
    f("isGlobalUnicast", "ip_is_global_unicast", "net.IP.() -> bool", |args| {
        test(args, is_global_unicast)
    }),
    f("string", "ip_to_string", "(net.IP) -> string", to_string),
];

/// Networks.
pub(super) const CIDR: &[Decl] = &[
    f("cidr", "string_to_cidr", "(string) -> net.CIDR", |args| {
        cidr(args.first()).map(|(ip, bits)| Val::opaque(Opaque::Cidr(ip, bits)))
    }),
    f("isCIDR", "is_cidr", "(string) -> bool", |args| match args {
        [Val::String(text)] => Ok(Val::Bool(parse_cidr(text).is_ok())),
        _ => no_overload(),
    }),
    f("containsIP", "cidr_contains_ip_string", "net.CIDR.(string) -> bool", contains_ip),
    f("containsIP", "cidr_contains_ip_ip", "net.CIDR.(net.IP) -> bool", contains_ip),
    f("containsCIDR", "cidr_contains_cidr_string", "net.CIDR.(string) -> bool", contains_cidr),
    f("containsCIDR", "cidr_contains_cidr", "net.CIDR.(net.CIDR) -> bool", contains_cidr),
    f("ip", "cidr_ip", "net.CIDR.() -> net.IP", |args| {
        cidr(args.first()).map(|it| Val::opaque(Opaque::Ip(it.0)))
    }),
    f("prefixLength", "cidr_prefix_length", "net.CIDR.() -> int", |args| {
        cidr(args.first()).map(|it| Val::Int(i64::from(it.1)))
    }),
    f("masked", "cidr_masked", "net.CIDR.() -> net.CIDR", |args| {
        let (ip, bits) = cidr(args.first())?;
        Ok(Val::opaque(Opaque::Cidr(masked(ip, bits), bits)))
    }),
    f("string", "cidr_to_string", "(net.CIDR) -> string", to_string),
];
