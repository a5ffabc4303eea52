//! Runs seeds of the simulation and says how they went: what `cargo xtask sim` starts.

#![allow(clippy::print_stdout, reason = "this is a program for people")]
#![allow(clippy::disallowed_types, reason = "the tool itself measures real time")]

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use sim::{Plan, Report};

/// As the product has it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Runs seeds of the simulation.
#[derive(Debug, Clone, Parser)]
struct Options {
    /// The first seed
    #[arg(long, default_value_t = 1, value_name = "S")]
    seed: u64,
    /// Operations of each seed
    #[arg(long, default_value_t = 5_000, value_name = "N")]
    operations: u64,
    /// How many seeds are run, one after the other
    #[arg(long, default_value_t = 1, value_name = "COUNT")]
    seeds: u64,
    /// Begin no more seeds after so many minutes
    #[arg(long, value_name = "M")]
    minutes: Option<u64>,
    /// How many seeds are run side by side, each in a thread of its own
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
}

/// What all seeds together came to.
#[derive(Debug, Default)]
struct Sum {
    seeds: u64,
    operations: u64,
    violations: u64,
    trace: u64,
}

fn main() -> ExitCode {
    let options = Options::parse();
    if options.verbose {
        let filter = tracing_subscriber::EnvFilter::new("info");
        tracing_subscriber::fmt().with_env_filter(filter).without_time().init();
    }
    let sum = Mutex::new(Sum::default());
    let next = AtomicU64::new(options.seed);
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.max(1) {
            scope.spawn(|| work(&options, &next, &sum, began));
        }
    });
    let Ok(sum) = sum.into_inner() else { return ExitCode::FAILURE };
    println!(
        "operations={} violations={} seeds={} trace={:016x}",
        sum.operations, sum.violations, sum.seeds, sum.trace
    );
    if sum.violations == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn work(options: &Options, next: &AtomicU64, sum: &Mutex<Sum>, began: Instant) {
    let limit = options.minutes.map(|it| Duration::from_secs(it * 60));
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        let late = limit.is_some_and(|limit| began.elapsed() >= limit);
        if seed >= options.seed.saturating_add(options.seeds) || late {
            return;
        }
        let violations = one(options, seed, sum);
        if violations > 0 && !options.keep_going {
            next.store(u64::MAX / 2, Ordering::Relaxed);
            return;
        }
    }
}

/// Runs a seed; how many rules it broke.
fn one(options: &Options, seed: u64, sum: &Mutex<Sum>) -> u64 {
    let plan = Plan { seed, operations: options.operations, echo: options.verbose };
    let began = Instant::now();
    let report = sim::run(plan, &|_| {});
    tell(&report, began.elapsed());
    let mut violations = report.violated;
    if options.twice {
        let again = sim::run(plan, &|_| {});
        if again.trace != report.trace {
            violations += 1;
            println!("seed {seed}: the second run is another one: {:016x}", again.trace);
        }
    }
    if violations > 0 {
        let operations = options.operations;
        println!("replay: cargo xtask sim --seed {seed} --operations {operations}");
    }
    if let Ok(mut sum) = sum.lock() {
        sum.seeds += 1;
        sum.operations += report.operations;
        sum.violations += violations;
        sum.trace ^= report.trace.rotate_left(u32::try_from(seed % 64).unwrap_or(0));
    }
    violations
}

fn tell(report: &Report, took: Duration) {
    let Report { seed, operations, revisions, violated, trace, .. } = report;
    let seconds = took.as_secs_f64();
    println!(
        "seed {seed}: {operations} operations, {revisions} revisions, {:.0} s there, {seconds:.1} s here, \
         {violated} violations, trace {trace:016x}",
        report.virtual_time.as_secs_f64()
    );
    for violation in &report.violations {
        violation.before.iter().for_each(|line| println!("  {line}"));
        println!("VIOLATION of \"{}\": {}", violation.rule, violation.what);
    }
}
