//! The search: one device after the other, back where it does not go on.

use std::cell::Cell;
use std::collections::BTreeMap;

use apimachinery::quantity::Quantity;

use super::prepare::{Candidate, Plan, Way};
use super::{AllocateError, Allocator, DEVICES_MAX, STEPS_MAX};
use crate::allocated::{Amounts, OfPool, add};
use crate::capacity;
use crate::constraint::{self, Choice};
use crate::pools::Pool;
use crate::slice::{Counters, Node};
use crate::taint;

/// After so many steps it is asked whether the search is to go on.
const STEPS_A_QUESTION: u64 = 100;

/// A device that was chosen.
#[derive(Debug, Clone)]
pub(super) struct Chosen<'a> {
    pub(super) candidate: Candidate<'a>,
    /// The request and which of its ways.
    pub(super) request: usize,
    pub(super) way: usize,
    /// What is taken of the device; of those that several may have.
    pub(super) consumed: Option<Amounts>,
}

/// For each claim its devices.
pub(super) type Solution<'a> = Vec<Vec<Chosen<'a>>>;

/// Which device is looked for.
#[derive(Debug, Clone, Copy)]
struct At {
    claim: usize,
    request: usize,
    way: usize,
    /// How many devices the request has already.
    device: usize,
    /// Where among the candidates to go on.
    start: usize,
}

/// Why the search does not go on.
enum Stop {
    /// The claim would get more devices than it may.
    TooMany,
    Error(AllocateError),
}

impl From<AllocateError> for Stop {
    fn from(error: AllocateError) -> Self {
        Self::Error(error)
    }
}

pub(super) struct Search<'s, 'a> {
    allocator: &'s Allocator<'a>,
    node: Node<'s>,
    pools: &'s [Pool<'a>],
    plan: &'s Plan<'a>,
    candidates: &'s [Candidate<'a>],
    /// What others have of each pool.
    taken_of: Vec<OfPool<'a>>,
    /// Which of the candidates others have, once that was asked.
    taken: Vec<Cell<Option<bool>>>,
    /// How often each was chosen.
    used: Vec<u32>,
    chosen: Solution<'a>,
    /// What is left of the counters of a pool, as far as others go.
    counters: BTreeMap<usize, CounterSets<'a>>,
    steps: u64,
}

type CounterSets<'a> = BTreeMap<(&'a str, &'a str), Quantity>;

impl<'s, 'a> Search<'s, 'a> {
    pub(super) fn new(
        allocator: &'s Allocator<'a>,
        node: Node<'s>,
        pools: &'s [Pool<'a>],
        plan: &'s Plan<'a>,
        candidates: &'s [Candidate<'a>],
    ) -> Self {
        let allocated = allocator.supply.allocated;
        let of = |pool: &Pool<'a>| allocated.of_pool(pool.driver, pool.name);
        Self {
            allocator,
            node,
            pools,
            plan,
            candidates,
            taken_of: pools.iter().map(of).collect(),
            taken: vec![Cell::new(None); candidates.len()],
            used: vec![0; candidates.len()],
            chosen: vec![Vec::new(); plan.len()],
            counters: BTreeMap::new(),
            steps: 0,
        }
    }

    pub(super) fn run(mut self) -> Result<Option<Solution<'a>>, AllocateError> {
        if self.is_hopeless() {
            return Ok(None);
        }
        match self.claim(0) {
            Ok(true) => Ok(Some(self.chosen)),
            Ok(false) | Err(Stop::TooMany) => Ok(None),
            Err(Stop::Error(error)) => Err(error),
        }
    }

    /// Whether some request cannot be served even if it were the only one.
    fn is_hopeless(&self) -> bool {
        let mut requests = self
            .plan
            .iter()
            .enumerate()
            .flat_map(|(claim, it)| it.iter().map(move |it| (claim, it)));
        requests.any(|(claim, ways)| {
            ways.iter().all(|way| {
                let at = At { claim, request: 0, way: 0, device: 0, start: 0 };
                way.all.is_none() && way.count > 0 && self.too_few_left(at, way, 0)
            })
        })
    }

    fn step(&mut self) -> Result<(), AllocateError> {
        self.steps += 1;
        let left = &self.allocator.steps_left;
        let asked = self.steps.is_multiple_of(STEPS_A_QUESTION) || self.steps == 1;
        let interrupted = asked && (self.allocator.supply.interrupted)();
        if interrupted || self.steps > STEPS_MAX || left.get() == 0 {
            return Err(AllocateError::TimedOut);
        }
        left.set(left.get() - 1);
        Ok(())
    }

    /// Serves a claim and all after it.
    fn claim(&mut self, claim: usize) -> Result<bool, Stop> {
        if claim >= self.plan.len() { Ok(true) } else { self.request(claim, 0) }
    }

    /// Serves a request and all after it.
    fn request(&mut self, claim: usize, request: usize) -> Result<bool, Stop> {
        let Some(ways) = self.plan[claim].get(request) else {
            // Another choice for this claim may leave more for the next.
            return match self.claim(claim + 1) {
                Err(Stop::TooMany) => Ok(false),
                other => other,
            };
        };
        let prioritized = self.allocator.claims[claim].requests[request].prioritized;
        let mut all_too_many = true;
        for way in 0..ways.len() {
            let at = At { claim, request, way, device: 0, start: 0 };
            match self.device(at) {
                Err(Stop::TooMany) if prioritized => {}
                Ok(false) => all_too_many = false,
                done => return done,
            }
        }
        if prioritized && all_too_many { Err(Stop::TooMany) } else { Ok(false) }
    }

    /// Finds one more device for a request, and serves all after it.
    fn device(&mut self, at: At) -> Result<bool, Stop> {
        self.step()?;
        let plan = self.plan;
        let way = &plan[at.claim][at.request][at.way];
        if way.all.as_ref().is_some_and(Vec::is_empty) {
            return Ok(false);
        }
        if at.device >= way.count {
            return self.request(at.claim, at.request + 1);
        }
        if self.chosen[at.claim].len() + way.count - at.device > DEVICES_MAX {
            return Err(Stop::TooMany);
        }
        match &way.all {
            Some(all) => self.one_of_all(at, way, all[at.device]),
            None => self.any(at, way),
        }
    }

    fn one_of_all(&mut self, at: At, way: &Way<'a>, next: Candidate<'a>) -> Result<bool, Stop> {
        if let Some(key) = self.breaks_constraint(at, way, next) {
            return Err(AllocateError::Claim(key).into());
        }
        if !self.choose(at, way, next)? {
            return Ok(false);
        }
        let done = self.device(At { device: at.device + 1, ..at });
        if !matches!(done, Ok(true)) {
            self.give_back(at.claim);
        }
        done
    }

    fn any(&mut self, at: At, way: &Way<'a>) -> Result<bool, Stop> {
        for place in at.start..self.candidates.len() {
            let candidate = self.candidates[place];
            if self.in_use(at, way, candidate)
                || !self.allocator.is_selectable(way, candidate, self.node)?
                || !self.choose(at, way, candidate)?
            {
                continue;
            }
            let done = self.device(At { device: at.device + 1, start: place + 1, ..at });
            if matches!(done, Ok(true)) {
                return done;
            }
            self.give_back(at.claim);
            done?;
            if self.too_few_left(at, way, place + 1) {
                return Ok(false);
            }
        }
        Ok(false)
    }

    /// Whether fewer devices are left to try than are needed, so that there is no need to.
    fn too_few_left(&self, at: At, way: &Way<'a>, from: usize) -> bool {
        let needed = way.count - at.device;
        let mut left = 0;
        for candidate in self.candidates.get(from..).unwrap_or_default() {
            if self.in_use(at, way, *candidate) {
                continue;
            }
            match self.allocator.is_selectable(way, *candidate, self.node) {
                Ok(true) => left += 1,
                Ok(false) => {}
                // To be told when it is tried.
                Err(_) => return false,
            }
            if left >= needed {
                return false;
            }
        }
        true
    }

    fn everything(&self) -> impl Iterator<Item = &Chosen<'a>> {
        self.chosen.iter().flatten()
    }

    fn in_use(&self, at: At, way: &Way<'_>, candidate: Candidate<'a>) -> bool {
        let used = self.used[candidate.place] > 0 && !candidate.device.shared;
        if way.ask.admin {
            let mut own = self.chosen[at.claim].iter();
            return used && own.any(|it| it.candidate.place == candidate.place);
        }
        used || self.is_taken(candidate)
    }

    fn is_taken(&self, candidate: Candidate<'a>) -> bool {
        let known = &self.taken[candidate.place];
        known.get().unwrap_or_else(|| {
            let taken = self.taken_of[candidate.pool].is_taken(&candidate.device.id.device);
            known.set(Some(taken));
            taken
        })
    }

    fn give_back(&mut self, claim: usize) {
        if let Some(it) = self.chosen[claim].pop() {
            self.used[it.candidate.place] -= 1;
        }
    }

    /// Takes a device, where it can be had.
    fn choose(&mut self, at: At, way: &Way<'a>, candidate: Candidate<'a>) -> Result<bool, Stop> {
        let device = candidate.device;
        if self.in_use(at, way, candidate) || !self.has_counters(candidate) {
            return Ok(false);
        }
        if taint::keep_away(&device.taints, &way.ask.tolerations)
            || self.breaks_constraint(at, way, candidate).is_some()
        {
            return Ok(false);
        }
        let mut consumed = None;
        if !capacity::is_plain(&way.ask.capacity, device) {
            let wanted = capacity::consumed(&way.ask.capacity, device).map_err(|why| {
                let key = self.allocator.claims[at.claim].key();
                AllocateError::Claim(format!("claim {key}, request {}: {why}", way.ask.name))
            })?;
            let Some(wanted) = wanted else { return Ok(false) };
            if !capacity::fits(device, &self.consumed(candidate), &wanted) {
                return Ok(false);
            }
            consumed = device.shared.then_some(wanted);
        }
        self.used[candidate.place] += 1;
        self.chosen[at.claim].push(Chosen {
            candidate,
            request: at.request,
            way: at.way,
            consumed,
        });
        Ok(true)
    }

    /// What others have of a device, and what was chosen of it.
    fn consumed(&self, of: Candidate<'a>) -> Amounts {
        let others = self.allocator.supply.allocated.consumed(&of.device.id);
        let mut sum = others.cloned().unwrap_or_default();
        if self.used[of.place] > 0 {
            let chosen = self.everything().filter(|it| it.candidate.place == of.place);
            chosen.filter_map(|it| it.consumed.as_ref()).for_each(|it| add(&mut sum, it));
        }
        sum
    }

    fn breaks_constraint(&self, at: At, way: &Way<'a>, next: Candidate<'a>) -> Option<String> {
        let claim = &self.allocator.claims[at.claim];
        let choice = |request: usize, way: usize, it: Candidate<'a>| Choice {
            request: &claim.requests[request],
            way,
            device: it.device,
        };
        let broken = claim.constraints.iter().any(|constraint| {
            let chosen = self.chosen[at.claim].iter();
            let chosen = chosen.map(|it| choice(it.request, it.way, it.candidate));
            !constraint::allows(constraint, chosen, choice(at.request, at.way, next))
        });
        broken.then(|| {
            let (key, name, id) = (claim.key(), &way.ask.name, &next.device.id);
            format!(
                "claim {key}, request {name}: cannot add device {id} because a claim constraint would not be satisfied"
            )
        })
    }

    /// Whether enough is left of what the devices of a pool use up together.
    fn has_counters(&mut self, candidate: Candidate<'a>) -> bool {
        let device = candidate.device;
        if device.consumes.is_empty() {
            return true;
        }
        let shared = device.shared
            && (self.allocator.supply.allocated.consumed(&device.id).is_some()
                || self.used[candidate.place] > 0);
        if shared {
            // It has been paid for by the first who got it.
            return true;
        }
        let mut left = self.counters_left(candidate.pool).clone();
        let mut paid: Vec<usize> = Vec::new();
        for it in self.everything().filter(|it| it.candidate.pool == candidate.pool) {
            if !paid.contains(&it.candidate.place) {
                paid.push(it.candidate.place);
                subtract(&mut left, &it.candidate.device.consumes);
            }
        }
        subtract(&mut left, &device.consumes);
        device.consumes.iter().all(|used| {
            let mut names = used.amounts.keys();
            names.all(|name| left.get(&(&*used.set, &**name)).is_none_or(|it| it.sign() >= 0))
        })
    }

    fn counters_left(&mut self, pool: usize) -> &CounterSets<'a> {
        let (pools, allocated) = (self.pools, self.allocator.supply.allocated);
        self.counters.entry(pool).or_insert_with(|| {
            let pool = &pools[pool];
            let sets = pool.counters.values();
            let amounts = sets.flat_map(|set| {
                set.amounts.iter().map(|(name, amount)| ((&*set.set, &**name), *amount))
            });
            let mut left = amounts.collect();
            for device in pool.all_devices().filter(|it| allocated.is_used(&it.id)) {
                subtract(&mut left, &device.consumes);
            }
            left
        })
    }
}

fn subtract<'a>(left: &mut CounterSets<'a>, used: &'a [Counters]) {
    for counters in used {
        for (name, amount) in &counters.amounts {
            if let Some(left) = left.get_mut(&(&*counters.set, &**name)) {
                *left -= *amount;
            }
        }
    }
}
