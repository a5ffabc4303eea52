//! `kubectl cp` from containers whose `tar` answers what it should not: nothing gets outside of where it was to go.

use std::path::Path;

use anyhow::{Result, ensure};

use crate::case::{Case, container, number, text};
use crate::process::finish;
use crate::runner::Test;

pub(super) const TESTS: &[Test] =
    &[Test { name: "kubectl cp, of archives that lie", run: lies, alone: false }];

/// Content of what must not be changed.
const SECRET: &str = "untouched";

/// Kind, name, target of a link, content.
type Entry<'a> = (u8, &'a str, &'a str, &'a str);

/// An archive whose entries are written as they are.
fn archive(entries: &[Entry<'_>]) -> String {
    let mut bytes = String::new();
    for (kind, name, target, content) in entries {
        let mut header = vec![0_u8; 512];
        let mut put = |at: usize, text: &str| {
            header[at..at + text.len()].copy_from_slice(text.as_bytes());
        };
        put(0, name);
        put(100, "0000644\0");
        put(108, "0000000\0");
        put(116, "0000000\0");
        put(124, &format!("{:011o}\0", content.len()));
        put(136, "00000000000\0");
        put(148, "        ");
        put(157, target);
        put(257, "ustar\x0000");
        header[156] = *kind;
        let sum: u32 = header.iter().copied().map(u32::from).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        bytes.push_str(&String::from_utf8_lossy(&header));
        bytes.push_str(content);
        bytes.push_str(&"\0".repeat(content.len().next_multiple_of(512) - content.len()));
    }
    bytes.push_str(&"\0".repeat(1024));
    bytes
}

/// Every file below, and what is in it.
fn files(below: &Path) -> Result<Vec<(String, String)>> {
    let (mut found, mut waiting) = (Vec::new(), vec![below.to_owned()]);
    while let Some(directory) = waiting.pop() {
        for entry in std::fs::read_dir(directory)? {
            let path = entry?.path();
            if path.is_symlink() {
                found.push((path.strip_prefix(below)?.display().to_string(), "a link".into()));
            } else if path.is_dir() {
                waiting.push(path);
            } else {
                let name = path.strip_prefix(below)?.display().to_string();
                found.push((name, std::fs::read_to_string(&path)?));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// What is tried, by which entries, what kubectl says of it, and the files there are then.
type Lie<'a> = (&'a str, Vec<Entry<'a>>, &'a str, &'a [(&'a str, &'a str)]);

fn lies(case: Case<'_>) -> Result<()> {
    const FILE: u8 = b'0';
    const HARD_LINK: u8 = b'1';
    const LINK: u8 = b'2';
    let outside = tempfile::tempdir()?;
    std::fs::write(outside.path().join("secret"), SECRET)?;
    let victim = outside.path().to_string_lossy().into_owned();
    let (upwards, absolute) =
        ("tmp/loot/../../../escaped".to_owned(), format!("{victim}/absolute"));
    let fine: Entry<'_> = (FILE, "tmp/loot/fine", "", "fine");

    case.line("run liar --image=busybox --restart=Never -- sleep 3600")?;
    case.ready(&["liar"])?;
    let script = "rm /bin/tar; printf '#!/bin/sh\\ncat /lie\\n' > /bin/tar; chmod +x /bin/tar";
    case.exec("liar", &["sh", "-c", script])?;
    let there = format!("{}/liar:/tmp/loot", case.namespace);

    let all: [Lie<'_>; 4] = [
        (
            "names that lead upwards",
            vec![fine, (FILE, &upwards, "", "escaped")],
            "is outside target destination, skipping",
            &[("there/fine", "fine")],
        ),
        (
            "a link, and a file through it",
            vec![
                fine,
                (LINK, "tmp/loot/out", &victim, ""),
                (FILE, "tmp/loot/out/through", "", "inside"),
            ],
            "skipping symlink: ",
            &[("there/fine", "fine"), ("there/out/through", "inside")],
        ),
        (
            "a name from the root",
            vec![(FILE, &absolute, "", "escaped")],
            "tar contents corrupted",
            &[],
        ),
        (
            "a hard link",
            vec![(HARD_LINK, "tmp/loot/secret", &absolute, "")],
            "",
            &[("there/secret", "")],
        ),
    ];
    for (what, entries, told, wanted) in all {
        let lie = archive(&entries);
        case.with_input(&["exec", "-i", "liar", "--", "sh", "-c", "cat > /lie"], &lie)?;
        let place = tempfile::tempdir_in(outside.path())?;
        let into = place.path().join("there");
        let mut copy = case.command(&format!("cp {there} {}", into.display()));
        let output = finish(&mut copy)?;
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(complaint.contains(told), "{what}: {complaint}");
        let found = files(place.path())?;
        let found: Vec<(&str, &str)> =
            found.iter().map(|(name, content)| (name.as_str(), content.as_str())).collect();
        ensure!(found == wanted, "{what}: {found:?}\n{complaint}");
    }
    let left = files(outside.path())?;
    ensure!(left == [("secret".to_owned(), SECRET.to_owned())], "{left:?}");

    // The node has run a command, and nothing else has happened there.
    let pod = case.get("pod", "liar")?;
    ensure!(text(&pod, "/status/phase") == "Running", "{pod}");
    ensure!(number(container(&pod, ""), "/restartCount") == 0, "{pod}");
    case.remove(&["liar"])
}
