//! A name server that knows the names it is told: `--answer NAME=IP`, comma separated. Every other name does not exist.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, UdpSocket};
use std::thread;

use crate::{flag, number};

/// The largest question.
const MAX_QUESTION_BYTES: usize = 512;
const HEADER_BYTES: usize = 12;
const TYPE_A: [u8; 2] = [0, 1];

/// Serves on UDP.
pub(crate) fn play(arguments: &[String]) -> Result<(), String> {
    let names = names(flag(arguments, "answer").unwrap_or_default())?;
    let address = (flag(arguments, "address").unwrap_or("0.0.0.0"), number(arguments, "port", 53)?);
    let socket = UdpSocket::bind(address)
        .map_err(|error| format!("could not listen on {address:?}: {error}"))?;
    thread::spawn(move || {
        let mut buffer = [0; MAX_QUESTION_BYTES];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            if let Some(answer) = buffer.get(..length).and_then(|it| answer(it, &names)) {
                let _ = socket.send_to(&answer, from);
            }
        }
    });
    Ok(())
}

fn names(text: &str) -> Result<BTreeMap<String, Ipv4Addr>, String> {
    let pairs = text.split(',').filter(|it| !it.is_empty());
    pairs
        .map(|pair| {
            let read = pair
                .split_once('=')
                .and_then(|(name, ip)| Some((name.to_lowercase(), ip.parse().ok()?)));
            read.ok_or_else(|| format!("{pair:?} is not NAME=IP"))
        })
        .collect()
}

/// The answer to one question; nothing where it is none.
fn answer(question: &[u8], names: &BTreeMap<String, Ipv4Addr>) -> Option<Vec<u8>> {
    let header = question.get(..HEADER_BYTES)?;
    let (name, end) = name(question)?;
    let asked = question.get(HEADER_BYTES..end + 4)?;
    let kind = question.get(end..end + 2)?;
    let found = names.get(&name);
    let ip = found.filter(|_| kind == TYPE_A);
    // Answer, recursion available; NXDOMAIN where the name is unknown.
    let flags = [0x81, if found.is_some() { 0x80 } else { 0x83 }];
    let mut out = Vec::from(header.get(..2)?);
    out.extend(flags);
    out.extend([0, 1, 0, u8::from(ip.is_some()), 0, 0, 0, 0]);
    out.extend(asked);
    if let Some(ip) = ip {
        // The name as a pointer to the question's, type A, class IN, a minute to live, four bytes.
        out.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        out.extend(ip.octets());
    }
    Some(out)
}

/// The question's name in lower case, and where it ends.
fn name(question: &[u8]) -> Option<(String, usize)> {
    let (mut labels, mut at) = (Vec::new(), HEADER_BYTES);
    loop {
        let length = usize::from(*question.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels.join("."), at));
        }
        let label = question.get(at..at + length)?;
        labels.push(String::from_utf8_lossy(label).to_lowercase());
        at += length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(kind: u8) -> Vec<u8> {
        let mut question = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        question.extend(b"\x04Info\x04cern\x02ch\x00");
        question.extend([0, kind, 0, 1]);
        question
    }

    #[test]
    fn known_names_have_addresses_and_others_do_not_exist() {
        let known = names("info.cern.ch=10.1.2.3").unwrap();
        let answered = answer(&question(1), &known).unwrap();
        assert!(answered.ends_with(&[10, 1, 2, 3]));
        let no_address = answer(&question(28), &known).unwrap();
        assert_eq!((no_address[3], no_address[7]), (0x80, 0));
        let unknown = answer(&question(1), &BTreeMap::new()).unwrap();
        assert_eq!((unknown[3], unknown[7]), (0x83, 0));
        assert_eq!(answer(&question(1)[..20], &known), None);
    }
}
