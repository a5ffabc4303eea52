//! `cargo xtask replay --controllers`: recorded stories of requests and played nodes, against the controllers of a fresh
//! server of ours.
//!
//! Two files stand beside each other: how many stories of each family are right (`docs/replay-controllers.tsv`), and which are
//! known to be wrong, with the reason (`docs/replay-controllers-exceptions.tsv`). A story that is wrong and not among those is
//! played again with few others, since stories wait in real time; what is wrong then too is news.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result, bail};

use super::{Options, Server, exceptions, text, write};
use crate::Places;
use crate::command::program;

/// How the controllers ran when the stories were recorded: the flags of the recording, and what upstream's have not.
const FLAGS: &[&str] = &[
    "--disable=agent,proxy,dns,scheduler,metrics",
    "--kube-controller-manager-arg=node-monitor-period=500ms",
    "--kube-controller-manager-arg=node-monitor-grace-period=4s",
    "--kube-controller-manager-arg=node-startup-grace-period=6s",
    "--kube-controller-manager-arg=node-eviction-rate=50",
    "--kube-controller-manager-arg=secondary-node-eviction-rate=50",
    "--kube-controller-manager-arg=pvclaimbinder-sync-period=2s",
    "--kube-controller-manager-arg=horizontal-pod-autoscaler-sync-period=2s",
    "--kube-controller-manager-arg=terminated-pod-gc-threshold=120",
    "--kube-controller-manager-arg=allocate-node-cidrs=false",
];
/// How many stories are played at once: they wait, most of the time.
const JOBS: &str = "14";
/// How many are where they are played for the second time.
const JOBS_AGAIN: &str = "3";
/// How many stories may be news before the run fails: a machine that is busy with other things is late for some.
const MAX_NEWS: usize = 10;
/// Stories that take longer than the others together, unless they are asked for.
const LONG: &str = "\"long\":";

/// Plays the stories; fails where others are wrong than those that are known.
pub(super) fn run(places: &Places, options: &Options) -> Result<()> {
    let stories = stories(places, options.long)?;
    let server = Server::start(places, FLAGS)?;
    let player = Player {
        places,
        script: text(&places.reference.join("../tools/scenario.py")),
        url: server.url(),
        show: options.show.to_string(),
        family: match options.topic.as_slice() {
            [only] => Some(only),
            _ => None,
        },
    };
    let printed = player.play(&stories, JOBS)?;
    let mut right = counts(&printed);
    let known = exceptions(&places.root.join("docs/replay-controllers-exceptions.tsv"))?;
    let mut news: BTreeSet<String> =
        wrong(&printed).into_iter().filter(|it| !known.contains_key(*it)).map(Into::into).collect();
    if !news.is_empty() {
        println!("played again: {}", news.iter().cloned().collect::<Vec<_>>().join(", "));
        let again = stories.lines().filter(|line| news.contains(&name(line)));
        let again: String = again.flat_map(|line| [line, "\n"]).collect();
        let printed = player.play(&again, JOBS_AGAIN)?;
        for (family, (now_right, _)) in counts(&printed) {
            if let Some((before, _)) = right.get_mut(&family) {
                *before += now_right;
            }
        }
        let still = wrong(&printed);
        news.retain(|story| still.contains(story.as_str()));
    }
    for story in &news {
        println!("{story} is wrong, and docs/replay-controllers-exceptions.tsv does not say why");
    }
    if options.write {
        return write(&places.root.join("docs/replay-controllers.tsv"), &right);
    }
    if news.len() > MAX_NEWS {
        bail!("{} stories are wrong that were not known to be", news.len());
    }
    Ok(())
}

/// The name of the story on a line.
fn name(line: &str) -> String {
    let story: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
    story["id"].as_str().unwrap_or_default().to_owned()
}

/// Plays stories with the tool that recorded them.
struct Player<'a> {
    places: &'a Places,
    script: String,
    url: &'a str,
    show: String,
    family: Option<&'a String>,
}

impl Player<'_> {
    /// What the tool printed.
    fn play(&self, stories: &str, jobs: &str) -> Result<String> {
        let directory = tempfile::tempdir()?;
        let file = directory.path().join("stories.jsonl");
        fs::write(&file, stories).context("could not write the stories")?;
        let file = text(&file);
        let mut arguments = vec![self.script.as_str(), &file, "--server", self.url];
        arguments.extend(["--token", "replay", "--check", "--jobs", jobs, "--show", &self.show]);
        if let Some(family) = self.family {
            arguments.extend(["--only", family]);
        }
        // It exits with failure as long as anything is wrong: what it prints is what counts.
        let output = program("python3", &arguments, &self.places.root)
            .output()
            .context("could not start python3")?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        print!("{printed}");
        if counts(&printed).is_empty() {
            bail!("the player printed no result: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(printed)
    }
}

/// The stories that are played, one a line.
fn stories(places: &Places, long: bool) -> Result<String> {
    let path = places.reference.join("controllers.jsonl");
    let all =
        fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
    let kept = all.lines().filter(|line| long || !line.contains(LONG));
    Ok(kept.flat_map(|line| [line, "\n"]).collect())
}

/// Family to (right, all), read from lines such as `gc   6 of    9 scenarios,    12 of    14 results`.
fn counts(printed: &str) -> BTreeMap<String, (u32, u32)> {
    let mut counts = BTreeMap::new();
    for line in printed.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [family, right, "of", all, "scenarios,", ..] = words[..]
            && let (Ok(right), Ok(all)) = (right.parse(), all.parse())
        {
            counts.insert(family.to_owned(), (right, all));
        }
    }
    counts
}

/// The stories that went wrong: their names stand at the beginnings of lines.
fn wrong(printed: &str) -> BTreeSet<&str> {
    let names = printed.lines().filter(|line| !line.starts_with(' ') && line.contains('/'));
    names.filter(|line| !line.contains(' ')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_player_prints_is_read() {
        let printed = "gc/background\n    3: /3/v1/pods/-: missing {}\n    and 2 more\ngc   8 of    9 scenarios,    12 of    14 results\n12 s\n";
        assert_eq!(counts(printed), BTreeMap::from([("gc".to_owned(), (8, 9))]));
        assert_eq!(wrong(printed), BTreeSet::from(["gc/background"]));
    }
}
