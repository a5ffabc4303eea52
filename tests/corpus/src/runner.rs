//! Runs tests side by side, tells how each ended. It knows nothing of what they do.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Result, bail};
use owo_colors::OwoColorize;

use crate::case::{Case, Shared};
use crate::cluster::Cluster;

/// A test.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Test {
    /// What it shows, with the ids of its documents.
    pub(crate) name: &'static str,
    pub(crate) run: fn(Case<'_>) -> Result<()>,
    /// Whether nothing else may run at the same time.
    pub(crate) alone: bool,
}

/// Those whose names contain one of the texts; all without any.
pub(crate) fn choose(all: Vec<Test>, only: &[String]) -> Result<Vec<Test>> {
    let chosen: Vec<Test> = all
        .into_iter()
        .filter(|it| only.is_empty() || only.iter().any(|text| it.name.contains(text)))
        .collect();
    if chosen.is_empty() {
        bail!("no test has {} in its name", only.join(" or "));
    }
    Ok(chosen)
}

/// Runs all; whether all passed comes back.
pub(crate) fn run(cluster: &Cluster<'_>, tests: &[Test], jobs: usize) -> bool {
    let begun = Instant::now();
    let (alone, together): (Vec<&Test>, Vec<&Test>) = tests.iter().partition(|it| it.alone);
    let queue = Mutex::new(together.into_iter().enumerate().collect::<VecDeque<_>>());
    let failed = Mutex::new(Vec::new());
    let shared = Shared::default();
    let one = |number: usize, test: &Test| {
        if let Err(error) = attempt(cluster, &shared, number, test) {
            lock(&failed).push((test.name, error));
        }
    };
    thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let next = lock(&queue).pop_front();
                    let Some((number, test)) = next else { return };
                    one(number, test);
                }
            });
        }
    });
    let count = tests.len();
    alone.into_iter().enumerate().for_each(|(number, test)| one(count + number, test));
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    for (name, error) in &failed {
        println!("\n{} {name}\n{error:#}", "failed:".red().bold());
    }
    println!(
        "\n{} of {count} passed in {:.0} s",
        count - failed.len(),
        begun.elapsed().as_secs_f64()
    );
    failed.is_empty()
}

fn attempt(cluster: &Cluster<'_>, shared: &Shared, number: usize, test: &Test) -> Result<()> {
    let begun = Instant::now();
    let namespace = format!("test-{number}");
    let case = Case { cluster, kubectl: &cluster.kubectl, namespace: &namespace, shared };
    let done = cluster.kubectl.make_namespace(&namespace).and_then(|()| (test.run)(case));
    let seconds = begun.elapsed().as_secs_f64();
    match &done {
        Ok(()) => println!("{} {} ({seconds:.1} s)", "ok".green(), test.name),
        Err(_) => println!("{} {} ({seconds:.1} s)", "failed".red(), test.name),
    }
    // What is left of a test would take room from the next.
    let _ = cluster.kubectl.run(&["delete", "namespace", &namespace, "--wait=false"]);
    done
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
