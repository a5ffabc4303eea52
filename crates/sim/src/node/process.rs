//! A process of a pod: what becomes of it as time goes by.

use std::time::Duration;

use apimachinery::Value;
use tokio::time::Instant;

use crate::dice::Dice;

/// The annotation that says after how many seconds a process exits; without it runs on.
pub(crate) const SECONDS: &str = "sim/seconds";
/// The annotation that says how often, in a thousand, it exits with an error.
pub(crate) const FAIL: &str = "sim/fail";
/// What a process exits with that was killed.
const KILLED: i64 = 137;
/// How often, in a thousand, a process crashes that should run on.
const CRASHES: u32 = 15;

/// Where a process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Started at this time.
    Waiting(Instant),
    /// Runs.
    Running,
    /// Over, with this code.
    Exited(i64),
    /// Refused by the node: the pod does not fit.
    Refused,
}

/// A process.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    pub(crate) stage: Stage,
    pub(crate) restarts: i64,
    ready_at: Instant,
    exits: Option<(Instant, i64)>,
    kill_at: Option<Instant>,
}

/// What moves a process on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moved {
    Not,
    Began,
    Ended,
}

impl Process {
    /// A process that is started soon.
    pub(crate) fn starting(dice: &Dice, restarts: i64) -> Self {
        let now = Instant::now();
        Self {
            stage: Stage::Waiting(now + dice.millis(50, 2_500)),
            restarts,
            ready_at: now,
            exits: None,
            kill_at: None,
        }
    }

    /// One that never ran, or of which nothing is left.
    pub(crate) fn over(stage: Stage) -> Self {
        Self { stage, restarts: 0, ready_at: Instant::now(), exits: None, kill_at: None }
    }

    pub(crate) fn killed() -> Self {
        Self::over(Stage::Exited(KILLED))
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.stage == Stage::Running && Instant::now() >= self.ready_at && self.kill_at.is_none()
    }

    /// Asks it to end.
    pub(crate) fn ask_to_end(&mut self, dice: &Dice, grace: Duration) {
        match self.stage {
            Stage::Waiting(_) => self.stage = Stage::Exited(KILLED),
            Stage::Running if self.kill_at.is_none() => {
                let wants = dice.millis(10, 3_000);
                self.kill_at = Some(Instant::now() + wants.min(grace));
            }
            Stage::Running | Stage::Exited(_) | Stage::Refused => {}
        }
    }

    /// When it moves next of its own accord.
    pub(crate) fn next(&self) -> Option<Instant> {
        let now = Instant::now();
        match self.stage {
            Stage::Waiting(at) => Some(at),
            Stage::Running => {
                let ready = (self.ready_at > now).then_some(self.ready_at);
                let exit = self.exits.map(|it| it.0);
                [ready, exit, self.kill_at].into_iter().flatten().min()
            }
            Stage::Exited(_) | Stage::Refused => None,
        }
    }

    /// Moves it to where it is by now.
    pub(crate) fn go_on(&mut self, pod: &Value, dice: &Dice) -> Moved {
        let now = Instant::now();
        match self.stage {
            Stage::Waiting(at) if at <= now => {
                self.begin(pod, dice);
                Moved::Began
            }
            Stage::Running if self.kill_at.is_some_and(|at| at <= now) => {
                self.stage = Stage::Exited(KILLED);
                Moved::Ended
            }
            Stage::Running => match self.exits {
                Some((at, code)) if at <= now => {
                    self.stage = Stage::Exited(code);
                    Moved::Ended
                }
                _ => Moved::Not,
            },
            Stage::Waiting(_) | Stage::Exited(_) | Stage::Refused => Moved::Not,
        }
    }

    fn begin(&mut self, pod: &Value, dice: &Dice) {
        let now = Instant::now();
        let said = |name: &str| -> Option<u64> {
            pod.str_at(&["metadata", "annotations", name]).parse().ok()
        };
        self.stage = Stage::Running;
        self.ready_at = now + dice.millis(0, 2_000);
        self.kill_at = None;
        let fails = said(FAIL).and_then(|it| u32::try_from(it).ok()).unwrap_or(0);
        self.exits = match said(SECONDS) {
            Some(seconds) => {
                let code = i64::from(dice.chance(fails));
                Some((now + Duration::from_secs(seconds) + dice.millis(0, 900), code))
            }
            None if dice.chance(CRASHES) => Some((now + dice.millis(500, 60_000), 2)),
            None => None,
        };
    }
}
