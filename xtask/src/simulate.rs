//! `cargo xtask sim`: builds and runs the simulation (`crates/sim`). Seeds are fixed in CI; by night it runs until it is told.

use anyhow::Result;

use crate::Places;
use crate::command;

/// The seeds of CI, and how many operations each has: some minutes of a build that is not optimised.
const SEEDS: (u64, u64) = (1, 4);
const OPERATIONS: u64 = 900;
/// Of one of them the second run must be the first, to the byte.
const TWICE: (u64, u64) = (1, 300);

/// Flags of `cargo xtask sim`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The first seed
    #[arg(long, default_value_t = 1, value_name = "S")]
    seed: u64,
    /// Operations of each seed
    #[arg(long, default_value_t = 5_000, value_name = "N")]
    operations: u64,
    /// How many seeds are run, one after the other
    #[arg(long, default_value_t = 1, value_name = "COUNT")]
    seeds: u64,
    /// Begin no more seeds after so many minutes; without --seeds as many as there is time for
    #[arg(long, value_name = "M")]
    minutes: Option<u64>,
    /// How many seeds are run side by side
    #[arg(long, default_value_t = 1, value_name = "N")]
    jobs: usize,
    /// Run each seed twice, and compare
    #[arg(long)]
    twice: bool,
    /// Go on after a seed that failed
    #[arg(long)]
    keep_going: bool,
    /// Print everything that happens
    #[arg(long)]
    verbose: bool,
    /// Do not optimise: built sooner, and some twenty times slower
    #[arg(long)]
    debug: bool,
}

impl Options {
    fn arguments(&self) -> Vec<String> {
        let endless = self.minutes.is_some() && self.seeds == 1;
        let seeds = if endless { u64::MAX / 4 } else { self.seeds };
        let mut arguments = vec![
            format!("--seed={}", self.seed),
            format!("--operations={}", self.operations),
            format!("--seeds={seeds}"),
            format!("--jobs={}", self.jobs),
        ];
        arguments.extend(self.minutes.map(|it| format!("--minutes={it}")));
        let flags =
            [("twice", self.twice), ("keep-going", self.keep_going), ("verbose", self.verbose)];
        let flags = flags.iter().filter(|it| it.1);
        arguments.extend(flags.map(|(name, _)| format!("--{name}")));
        arguments
    }
}

/// Runs seeds.
pub(crate) fn run(places: &Places, options: &Options) -> Result<()> {
    start(places, !options.debug, &options.arguments())
}

/// Runs the seeds of CI.
pub(crate) fn run_fixed(places: &Places) -> Result<()> {
    let arguments = |seed: u64, seeds: u64, operations: u64| {
        ["seed", "seeds", "operations"]
            .into_iter()
            .zip([seed, seeds, operations])
            .map(|(name, value)| format!("--{name}={value}"))
            .collect::<Vec<_>>()
    };
    let mut twice = arguments(TWICE.0, 1, TWICE.1);
    twice.push("--twice".into());
    start(places, false, &twice)?;
    start(places, false, &arguments(SEEDS.0, SEEDS.1, OPERATIONS))
}

fn start(places: &Places, optimised: bool, arguments: &[String]) -> Result<()> {
    if !optimised {
        places.build(&["simulate"])?;
        let program = places.built().join("simulate");
        return command::run(&program.to_string_lossy(), arguments, &places.root);
    }
    let mut all: Vec<&str> =
        vec!["run", "--quiet", "--package", "simulate", "--profile", "fast", "--"];
    all.extend(arguments.iter().map(String::as_str));
    command::run("cargo", &all, &places.root)
}
