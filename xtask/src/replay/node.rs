//! `cargo xtask replay --node`: what upstream's kubelet did with pods, played to a node of ours.
//!
//! Which recordings may be wrong, and why, stands in `docs/replay-node-exceptions.tsv`. What is wrong and not among them is
//! played again by itself, since the player waits in real time; what is wrong then too is news, and the run fails.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

use super::{Options, exceptions, write};
use crate::{Places, corpus};

/// Which recordings may be wrong: name, reason.
const EXCEPTIONS: &str = "docs/replay-node-exceptions.tsv";

/// Plays the recordings; fails where others are wrong than those that are known.
pub(super) fn run(places: &Places, options: &Options) -> Result<()> {
    let Some(printed) = corpus::recordings(places, &options.topic, options.show > 0)? else {
        return Ok(());
    };
    print!("{printed}");
    let Some((mut right, all)) = count(&printed) else { bail!("the player printed no result") };
    let known = exceptions(&places.root.join(EXCEPTIONS))?;
    let mut news: Vec<String> = wrong(&printed).map(Into::into).collect();
    news.retain(|it| !known.contains_key(it));
    if !news.is_empty() {
        println!("played again: {}", news.join(", "));
        let printed = corpus::recordings(places, &news, true)?.unwrap_or_default();
        print!("{printed}");
        let wrong: Vec<&str> = wrong(&printed).collect();
        let before = news.len();
        news.retain(|it| wrong.contains(&it.as_str()));
        right += u32::try_from(before - news.len())?;
    }
    if options.write {
        let right = BTreeMap::from([("node".to_owned(), (right, all))]);
        return write(&places.root.join("docs/replay-node.tsv"), &right);
    }
    if !news.is_empty() {
        bail!("{EXCEPTIONS} does not say why these are wrong: {}", news.join(", "));
    }
    Ok(())
}

/// The last line's numbers: `61/64 right`.
fn count(printed: &str) -> Option<(u32, u32)> {
    let (right, all) =
        printed.lines().rev().find_map(|it| it.strip_suffix(" right"))?.split_once('/')?;
    Some((right.parse().ok()?, all.parse().ok()?))
}

/// The recordings that went wrong: their names stand alone on lines, what differs is indented below.
fn wrong(printed: &str) -> impl Iterator<Item = &str> {
    let lines = printed.lines().zip(printed.lines().skip(1));
    lines
        .filter(|(line, next)| !line.is_empty() && !line.contains(' ') && next.starts_with("    "))
        .map(|(line, _)| line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_player_prints_is_read() {
        let printed = "images: 36 names\nshare-pid\n    output 0: want a\n              got b\nsec-user\n    end: c\n62/64 right\n";
        assert_eq!(count(printed), Some((62, 64)));
        assert_eq!(wrong(printed).collect::<Vec<_>>(), ["share-pid", "sec-user"]);
    }
}
