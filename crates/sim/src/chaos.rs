//! What goes wrong in a fault phase, and how it is put right again.

use std::sync::Arc;

use client::Resource;
use client::call::DeleteParams;
use tokio::time::Instant;

use crate::clock::SteppedClock;
use crate::dice::Dice;
use crate::ledger::Ledger;
use crate::node::Machine;
use crate::observer::Observer;
use crate::plane::Process;
use crate::server::Slot;
use crate::workload::User;

/// How often, in a thousand operations, something goes wrong with the control plane and with machines.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Climate {
    plane: u32,
    machines: u32,
}

/// The weather of a phase. Where the control plane is left alone, rules that allow for old knowledge allow for less.
const CLIMATES: [Climate; 5] = [
    Climate { plane: 0, machines: 0 },
    Climate { plane: 0, machines: 12 },
    Climate { plane: 0, machines: 25 },
    Climate { plane: 10, machines: 8 },
    Climate { plane: 30, machines: 15 },
];
/// How far a clock is off at most, in milliseconds.
const STEP_MS: i64 = 60_000;

/// How something is put right.
#[derive(Debug, Clone, Copy)]
enum Undo {
    JoinProcess(usize),
    StartProcess(usize),
    StartServer,
    JoinMachine(usize),
    StartMachine(usize),
    SetClock(usize),
}

/// Everything that can go wrong, and what has.
#[derive(Debug)]
pub(crate) struct Chaos {
    pub(crate) processes: Vec<Process>,
    pub(crate) machines: Vec<Machine>,
    pub(crate) slot: Arc<Slot>,
    pub(crate) server_clock: SteppedClock,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) observer: Arc<Observer>,
    dice: Dice,
    due: Vec<(Instant, Undo)>,
    climate: Climate,
}

/// What chaos is made of.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) processes: Vec<Process>,
    pub(crate) machines: Vec<Machine>,
    pub(crate) slot: Arc<Slot>,
    pub(crate) server_clock: SteppedClock,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) observer: Arc<Observer>,
}

impl Chaos {
    pub(crate) fn new(parts: Parts, seed: u64) -> Self {
        let Parts { processes, machines, slot, server_clock, ledger, observer } = parts;
        let dice = Dice::new(seed, "chaos");
        let (due, climate) = (Vec::new(), CLIMATES[0]);
        Self { processes, machines, slot, server_clock, ledger, observer, dice, due, climate }
    }

    /// Starts everything.
    pub(crate) fn start(&mut self) {
        self.processes.iter_mut().for_each(Process::start);
        self.machines.iter_mut().for_each(Machine::start_agent);
    }

    /// Puts right what is due, and now and then lets something go wrong.
    pub(crate) async fn strike(&mut self, user: &User) {
        self.put_right(false).await;
        if self.dice.chance(self.climate.plane) {
            match self.dice.below(6) {
                0 | 1 => self.cut_process(),
                2 | 3 => self.crash_process(),
                4 => self.crash_server(),
                _ => self.step_clock(),
            }
        }
        if self.dice.chance(self.climate.machines) {
            match self.dice.below(4) {
                0 => self.cut_machine(),
                1 => self.stop_agent(),
                _ => self.power_off(user).await,
            }
        }
    }

    /// Another phase begins.
    pub(crate) fn begin(&mut self) {
        self.climate = CLIMATES[self.dice.below(CLIMATES.len())];
        self.tell(&format!("{:?}", self.climate));
    }

    /// Puts everything right.
    pub(crate) async fn end(&mut self) {
        self.put_right(true).await;
    }

    /// Ends every process, for good.
    pub(crate) fn crash_all(&mut self) {
        self.processes.iter_mut().for_each(Process::crash);
        self.slot.crash();
    }

    fn later(&mut self, low_ms: u64, high_ms: u64, undo: Undo) {
        let at = Instant::now() + self.dice.millis(low_ms, high_ms);
        self.due.push((at, undo));
    }

    fn tell(&self, what: &str) {
        self.ledger.note(|| format!("!! {what}"));
    }

    fn cut_process(&mut self) {
        let index = self.dice.below(self.processes.len());
        self.observer.storm();
        self.processes[index].link.set_cut(true);
        self.tell(&format!("{} is cut off", self.processes[index].name));
        self.later(1_000, 40_000, Undo::JoinProcess(index));
    }

    fn crash_process(&mut self) {
        let index = self.dice.below(self.processes.len());
        if !self.processes[index].is_running() {
            return;
        }
        self.observer.storm();
        self.processes[index].crash();
        self.tell(&format!("{} crashes", self.processes[index].name));
        self.later(10, 15_000, Undo::StartProcess(index));
    }

    fn crash_server(&mut self) {
        if self.slot.current().is_none() {
            return;
        }
        self.observer.storm();
        self.slot.crash();
        self.tell("the API server crashes");
        self.later(100, 4_000, Undo::StartServer);
    }

    fn cut_machine(&mut self) {
        let index = self.dice.below(self.machines.len());
        self.machines[index].link.set_cut(true);
        self.tell(&format!("{} is cut off", self.machines[index].name));
        self.later(1_000, 90_000, Undo::JoinMachine(index));
    }

    fn stop_agent(&mut self) {
        let index = self.dice.below(self.machines.len());
        if !self.machines[index].is_on() {
            return;
        }
        self.machines[index].stop_agent();
        self.tell(&format!("the agent of {} ends", self.machines[index].name));
        self.later(500, 20_000, Undo::StartMachine(index));
    }

    async fn power_off(&mut self, user: &User) {
        let index = self.dice.below(self.machines.len());
        if !self.machines[index].is_on() {
            return;
        }
        self.machines[index].power_off();
        let name = self.machines[index].name.clone();
        self.tell(&format!("{name} loses power"));
        self.later(2_000, 120_000, Undo::StartMachine(index));
        if self.dice.chance(250) {
            user.remove_node(&name).await;
        }
    }

    fn step_clock(&mut self) {
        let index = self.dice.below(1 + self.processes.len() + self.machines.len());
        let off = self.dice.between(-STEP_MS, STEP_MS);
        self.clock(index).step_to(off);
        self.tell(&format!("clock {index} is off by {off} ms"));
        self.later(2_000, 60_000, Undo::SetClock(index));
    }

    fn clock(&self, index: usize) -> &SteppedClock {
        let Some(index) = index.checked_sub(1) else { return &self.server_clock };
        let processes = self.processes.len();
        match self.processes.get(index) {
            Some(process) => &process.clock,
            None => &self.machines[index - processes].clock,
        }
    }

    async fn put_right(&mut self, all: bool) {
        let now = Instant::now();
        let (due, later) = self.due.drain(..).partition(|(at, _)| all || *at <= now);
        self.due = later;
        let due: Vec<(Instant, Undo)> = due;
        for (_, undo) in due {
            self.undo(undo).await;
        }
    }

    async fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::JoinProcess(index) => {
                self.observer.storm();
                self.processes[index].link.set_cut(false);
                self.tell(&format!("{} is back", self.processes[index].name));
            }
            Undo::StartProcess(index) => {
                self.observer.storm();
                self.processes[index].start();
                self.tell(&format!("{} starts", self.processes[index].name));
            }
            Undo::StartServer => self.start_server().await,
            Undo::JoinMachine(index) => {
                self.machines[index].link.set_cut(false);
                self.tell(&format!("{} is back", self.machines[index].name));
            }
            Undo::StartMachine(index) => {
                self.machines[index].start_agent();
                self.tell(&format!("{} starts", self.machines[index].name));
            }
            Undo::SetClock(index) => {
                self.clock(index).step_to(0);
                self.tell(&format!("clock {index} is right"));
            }
        }
    }

    async fn start_server(&mut self) {
        self.observer.storm();
        let started = self.slot.start().await;
        self.tell("the API server starts");
        if let Err(error) = started {
            self.ledger.violation("the API server starts again", error);
        }
    }
}

impl User {
    /// Says that a node is gone for good.
    async fn remove_node(&self, name: &str) {
        let place = crate::observer::Place { namespace: "".into(), name: name.into() };
        self.delete(&Resource::built_in("", "nodes"), &place, &DeleteParams::default()).await;
    }
}
