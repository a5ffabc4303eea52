//! The decision: filters, then scores, or the reasons against every node and what might be done.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use client::ObjectKey;
use compact_str::CompactString;
use smallvec::{SmallVec, smallvec};

use crate::alike::{Known, Likeness};
use crate::framework::{Check, Cycle, Failure, Prepared, Profile, Rejection, Remedy};
use crate::node::Row;
use crate::pod::PodLite;
use crate::preemption::{self, Candidate};
use crate::told::{Lap, Point, Told, bit, bits};

/// A node was found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Placement {
    /// The node.
    pub node: CompactString,
    /// How many would do.
    pub feasible: usize,
    /// How many were looked at.
    pub evaluated: usize,
    /// The rows that would do, in order; empty where there was one only.
    pub candidates: Vec<usize>,
    /// Their scores.
    pub scores: Vec<i64>,
    /// Each plugin's part of them, weighted; made when asked for.
    pub parts: Vec<(&'static str, Vec<i64>)>,
}

/// No node was found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Diagnosis {
    /// What the pod's condition says, in upstream's words.
    pub message: String,
    /// What plugins say that could do nothing for the pod, where a later one could. It is said only where that comes to
    /// nothing after all.
    pub remarks: Vec<String>,
    /// The plugins that refused a node.
    pub plugins: Vec<&'static str>,
    /// The nodes that would do once some pods are removed; the best is [`crate::preemption::best`].
    pub candidates: Vec<Candidate>,
    /// Whether it was asked who could make room.
    pub asked_for_room: bool,
    /// Whether no node is worth emptying, nor is one that was.
    pub hopeless: bool,
    /// A resource claim that nobody uses and that is to give back what it was given.
    pub deallocate: Option<ObjectKey>,
}

/// What comes out.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// Bind it.
    Place(Placement),
    /// Leave it.
    Reject(Diagnosis),
    /// It cannot be decided, and why.
    Fail(String),
}

/// How to decide where more than one answer is right, and what to tell of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct How<'e> {
    /// Chooses among equal nodes.
    pub random: u64,
    /// The row to begin at where not all are looked at.
    pub start: usize,
    /// Whether each plugin's part of the scores is wanted.
    pub parts: bool,
    /// What others say, where others have a say.
    pub others: Option<&'e Others>,
    /// The only rows that there are for the pod, sorted; `None` for all.
    pub within: Option<&'e [usize]>,
    /// What is told of the decision, where it is.
    pub told: Option<&'e Told>,
}

/// What extenders say of nodes.
#[derive(Debug, Default)]
pub struct Others {
    /// The nodes that will not do, and why.
    pub refused: BTreeMap<CompactString, Rejection>,
    /// What is added to the scores of nodes.
    pub scores: BTreeMap<CompactString, i64>,
}

/// What a plugin says of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The node.
    pub node: CompactString,
    /// The plugin that refuses it, with its reasons; `None` where it will do.
    pub refused: Option<Refused>,
}

/// A plugin, and its reasons.
pub type Refused = (&'static str, Vec<String>);

type Checks<'a> = Vec<(&'static str, Box<dyn Check + 'a>)>;

/// Chooses a node for a pod.
#[must_use]
pub fn decide(cycle: Cycle<'_>, profile: &Profile, how: How<'_>) -> Decision {
    let rows = cycle.cluster.rows();
    if rows.is_empty() {
        let message = "no nodes available to schedule pods".to_owned();
        return Decision::Reject(Diagnosis { message, ..Diagnosis::default() });
    }
    let mut lap = Lap::begin(how.told);
    let checks = match prepare(cycle, profile, how.told) {
        Ok(checks) => checks,
        Err((checks, whole)) => {
            lap.end(Point::PreFilter, None, "Unschedulable");
            return refuse_whole(cycle, profile, &checks, &whole, how);
        }
    };
    lap.end(Point::PreFilter, None, "Success");
    let field = Field { told: how.told, within: how.within, ..Field::new(cycle, &checks) };
    let found = field.promised(how.others).or_else(|| quick(&field, profile, how));
    if let Some(placement) = found {
        lap.end(Point::Filter, None, "Success");
        return Decision::Place(placement);
    }
    let mut sample = field.sample(profile, how.start);
    field.tell_of_checks();
    if let Some(failure) = field.failure() {
        return Decision::Fail(failure);
    }
    if let Some(others) = how.others {
        field.leave_to(others, &mut sample);
    }
    if sample.feasible.is_empty() {
        lap.end(Point::Filter, None, "Unschedulable");
        return refuse(&field, profile, &sample.marks, how);
    }
    lap.end(Point::Filter, None, "Success");
    let scores = sample.feasible.len() > 1;
    let placement = choose(cycle, profile, sample, how);
    if scores {
        lap.end(Point::Score, None, "Success");
    }
    Decision::Place(placement)
}

/// The nodes that will do, before others are asked, by name; empty where there are none.
#[must_use]
pub fn feasible(cycle: Cycle<'_>, profile: &Profile, how: How<'_>) -> Vec<CompactString> {
    let Ok(checks) = prepare(cycle, profile, None) else { return Vec::new() };
    let field = Field { within: how.within, ..Field::new(cycle, &checks) };
    let sample = field.sample(profile, how.start);
    let rows = cycle.cluster.rows();
    sample.feasible.iter().map(|row| rows[*row].node.name.clone()).collect()
}

/// The node that is being emptied for the pod, where it will do by now, before others are asked.
#[must_use]
pub fn promised(cycle: Cycle<'_>, profile: &Profile, how: How<'_>) -> Option<CompactString> {
    cycle.nominated_row()?;
    let checks = prepare(cycle, profile, None).ok()?;
    let field = Field { within: how.within, ..Field::new(cycle, &checks) };
    field.promised(None).map(|it| it.node)
}

/// What becomes of a pod on every node: the first plugin that refuses it, or none. For people who ask why; nothing is
/// left out, and nothing is remembered.
#[must_use]
pub fn verdicts(cycle: Cycle<'_>, profile: &Profile) -> Vec<Verdict> {
    let checks = prepare(cycle, profile, None);
    let rows = cycle.cluster.rows().iter();
    rows.map(|row| Verdict { node: row.node.name.clone(), refused: judge(cycle, &checks, row) })
        .collect()
}

/// What becomes of a pod on one node, as [`verdicts`]; `None` where it will do.
#[must_use]
pub fn verdict_on(cycle: Cycle<'_>, profile: &Profile, row: &Row) -> Option<Refused> {
    judge(cycle, &prepare(cycle, profile, None), row)
}

/// Whether what is said of each node for a pod depends on that node alone.
pub(crate) fn is_local(cycle: Cycle<'_>, profile: &Profile) -> bool {
    prepare(cycle, profile, None).is_ok_and(|it| it.iter().all(|(_, check)| check.is_local()))
}

/// What is told of a node, once every filter has looked at the pod.
fn judge<'a>(
    cycle: Cycle<'a>,
    prepared: &Result<Checks<'a>, (Checks<'a>, Whole)>,
    row: &Row,
) -> Option<Refused> {
    let told = |name, it: &Rejection| (name, it.reasons.iter().map(ToString::to_string).collect());
    match prepared {
        Err((_, whole)) => Some(told(whole.name, &whole.rejection)),
        Ok(checks) => {
            let refused = check_with_nominated(cycle, checks, row).err();
            refused.map(|(name, rejection)| told(name, &rejection))
        }
    }
}

/// Has every filter look at the pod.
fn prepare<'a>(
    cycle: Cycle<'a>,
    profile: &'a Profile,
    told: Option<&Told>,
) -> Result<Checks<'a>, (Checks<'a>, Whole)> {
    let mut checks = Vec::with_capacity(profile.filters.len());
    let (mut looked, mut ready) = (0, 0);
    let mut whole = None;
    let mut lap = Lap::of_one(told);
    for (place, filter) in profile.filters.iter().enumerate() {
        looked |= bit(place);
        let status = match filter.prepare(cycle) {
            Prepared::Skip => "Skip",
            Prepared::Ready(check) => {
                checks.push((filter.name(), check));
                ready |= bit(place);
                "Success"
            }
            Prepared::Reject(rejection) => {
                whole = Some(Whole { place, name: filter.name(), rejection });
                "Unschedulable"
            }
        };
        lap.end(Point::PreFilter, Some(filter.name()), status);
        if whole.is_some() {
            break;
        }
    }
    if let Some(told) = told {
        told.looked.set(told.looked.get() | looked);
        told.filtered.set(told.filtered.get() | ready);
    }
    match whole {
        Some(whole) => Err((checks, whole)),
        None => Ok(checks),
    }
}

/// Decides by what pods of the same class were told before, where every plugin judges nodes one by one.
fn quick(field: &Field<'_, '_>, profile: &Profile, how: How<'_>) -> Option<Placement> {
    let cycle = field.cycle;
    let all_count = matches!(profile.percentage.0, 0 | 100);
    // A pod for which a node is being emptied does not come before itself: no other is like it.
    let all = how.others.is_none() && how.within.is_none();
    let alone = !how.parts && all && !cycle.cluster.is_nominated(&cycle.pod.key);
    let local = all_count
        && alone
        && field.checks.iter().all(|(_, check)| check.is_local())
        && profile.scores.iter().all(|(score, _)| score.is_local(cycle));
    if !local {
        return None;
    }
    let rows = cycle.cluster.rows();
    let (alike, remembered) = (cycle.cluster.alike(), cycle.cluster.remembered());
    let labels = field.checks.iter().any(|(_, check)| check.looks_at_labels());
    let like = Likeness::of(cycle.pod, &profile.scheduler_name, labels);
    let judge = |row: usize| {
        check_with_nominated(cycle, field.checks, &rows[row]).ok()?;
        let mut total = [0];
        add_scores(cycle, profile, &[row], &mut total, (None, None));
        Some(total[0])
    };
    let best = match alike.best(&like, remembered, how.random, judge) {
        Known::Nothing => return None,
        Known::All(best) => best?,
        Known::Seen => {
            let at = remembered.now();
            alike.learn(&like, &field.judge_all(profile), at);
            match alike.best(&like, remembered, how.random, judge) {
                Known::All(best) => best?,
                Known::Nothing | Known::Seen => return None,
            }
        }
    };
    if let Some(told) = how.told {
        // What they said before is what decides.
        told.scored.set(bits(profile.scores.len()));
    }
    Some(Placement {
        node: rows[best.row].node.name.clone(),
        feasible: best.feasible,
        evaluated: rows.len(),
        ..Placement::default()
    })
}

/// The nodes that are asked about, and who asks.
struct Field<'a, 'c> {
    cycle: Cycle<'a>,
    checks: &'c [(&'static str, Box<dyn Check + 'a>)],
    /// The only rows that are asked about, where plugins said so, and those plugins.
    only: Option<Vec<usize>>,
    /// The only rows that there are for the pod, where somebody else said so.
    within: Option<&'c [usize]>,
    left_out_by: Vec<&'static str>,
    /// The rows that are being emptied for pods that come before this one, sorted.
    nominated: Vec<usize>,
    told: Option<&'c Told>,
    /// How long each check took so far, where that is told.
    took: RefCell<SmallVec<[Duration; 16]>>,
}

/// What came of asking.
struct Sample {
    /// For each row 0, one more than the check that refused it, or one of the marks below.
    marks: Vec<u8>,
    /// The rows that will do, in the order in which they were asked about.
    feasible: Vec<usize>,
    evaluated: usize,
}

/// Marks a node that a plugin left out before anything was asked.
const LEFT_OUT: u8 = u8::MAX;
/// Marks one that will not do once the pods are there for which it is being emptied.
const NOMINATED: u8 = LEFT_OUT - 1;
/// Marks one that was not asked about, since there were enough.
const UNSEEN: u8 = LEFT_OUT - 2;
/// Marks one that others refused.
const OTHERS: u8 = LEFT_OUT - 3;

/// How many rows are asked about at once: few, since the others need not be asked about once enough will do.
const CHUNK: usize = 64;

impl<'a, 'c> Field<'a, 'c> {
    fn new(cycle: Cycle<'a>, checks: &'c [(&'static str, Box<dyn Check + 'a>)]) -> Self {
        let mut only: Option<Vec<usize>> = None;
        let mut left_out_by = Vec::new();
        for (name, check) in checks {
            let Some(names) = check.only() else { continue };
            left_out_by.push(*name);
            let mut rows: Vec<usize> =
                names.iter().filter_map(|name| cycle.cluster.position(name)).collect();
            rows.sort_unstable();
            rows.dedup();
            if let Some(before) = &only {
                rows.retain(|row| before.contains(row));
            }
            only = Some(rows);
        }
        let promised = cycle.cluster.nominated();
        let promised = promised.filter(|(_, pods)| pods.iter().any(|it| ahead(cycle, it)));
        let mut nominated: Vec<usize> =
            promised.filter_map(|(node, _)| cycle.cluster.position(node)).collect();
        nominated.sort_unstable();
        let took = RefCell::default();
        Self { cycle, checks, only, within: None, left_out_by, nominated, told: None, took }
    }

    /// The node that is being emptied for the pod, where it will do by now: the others are not asked about.
    fn promised(&self, others: Option<&Others>) -> Option<Placement> {
        let row = self.cycle.nominated_row()?;
        let there_is = self.within.is_none_or(|it| it.binary_search(&row).is_ok());
        let node = &self.cycle.cluster.rows()[row].node.name;
        let refused = others.is_some_and(|it| it.refused.contains_key(node));
        if !there_is || refused {
            return None;
        }
        check_with_nominated(self.cycle, self.checks, &self.cycle.cluster.rows()[row]).ok()?;
        let node = node.clone();
        Some(Placement { node, feasible: 1, evaluated: 1, ..Placement::default() })
    }

    /// Asks about nodes from `start` on, until enough will do.
    fn sample(&self, profile: &Profile, start: usize) -> Sample {
        let count = self.cycle.cluster.rows().len();
        match (&self.only, self.within) {
            (None, None) => {}
            (Some(only), None) => return self.sample_only(only, count),
            (None, Some(within)) => return self.sample_only(within, count),
            (Some(only), Some(within)) => {
                let both = only.iter().copied().filter(|it| within.binary_search(it).is_ok());
                return self.sample_only(&both.collect::<Vec<_>>(), count);
            }
        }
        let (start, enough) = (start % count.max(1), profile.percentage.enough(count));
        let mut sample = Sample { marks: vec![0; count], feasible: Vec::new(), evaluated: 0 };
        let ring = [start..count, 0..start];
        let chunks = ring.iter().flat_map(|part| {
            part.clone().step_by(CHUNK).map(|from| from..part.end.min(from + CHUNK))
        });
        for chunk in chunks {
            if sample.feasible.len() >= enough {
                sample.marks[chunk].fill(UNSEEN);
                continue;
            }
            self.sweep(chunk.clone(), &mut sample.marks[chunk.clone()]);
            for row in chunk {
                if sample.feasible.len() >= enough {
                    sample.marks[row] = UNSEEN;
                    continue;
                }
                sample.evaluated += 1;
                if sample.marks[row] == 0 {
                    sample.feasible.push(row);
                }
            }
        }
        sample
    }

    fn sample_only(&self, only: &[usize], count: usize) -> Sample {
        let mut marks = vec![if self.within.is_some() { UNSEEN } else { LEFT_OUT }; count];
        for row in self.within.into_iter().flatten() {
            marks[*row] = LEFT_OUT;
        }
        for row in only {
            marks[*row] = 0;
            self.sweep(*row..*row + 1, &mut marks[*row..=*row]);
        }
        let feasible = only.iter().copied().filter(|row| marks[*row] == 0).collect();
        Sample { marks, feasible, evaluated: only.len() }
    }

    /// Marks the rows of a range that will not do.
    fn sweep(&self, range: Range<usize>, marks: &mut [u8]) {
        let cluster = self.cycle.cluster;
        let mut lap = Lap::of_one(self.told);
        let mut took = self.took.borrow_mut();
        for ((index, (_, check)), mark) in self.checks.iter().enumerate().zip(1u8..) {
            check.sweep(cluster, range.clone(), marks, mark);
            if lap.is_on() {
                took.resize(self.checks.len(), Duration::ZERO);
                took[index] += lap.split();
            }
        }
        let from = self.nominated.partition_point(|row| *row < range.start);
        for row in self.nominated[from..].iter().copied().take_while(|row| *row < range.end) {
            if marks[row - range.start] != 0 {
                continue;
            }
            if check_with_nominated(self.cycle, self.checks, &cluster.rows()[row]).is_err() {
                marks[row - range.start] = NOMINATED;
            }
        }
    }

    /// Tells how long each check took.
    fn tell_of_checks(&self) {
        let Some(told) = self.told else { return };
        for ((name, _), took) in self.checks.iter().zip(self.took.borrow().iter()) {
            told.took(Point::Filter, name, *took);
        }
    }

    /// Why the pod cannot be decided about, where a check found that out.
    fn failure(&self) -> Option<String> {
        let mut checks = self.checks.iter();
        checks.find_map(|(name, check)| {
            check.failure().map(|why| format!("running \"{name}\" filter plugin: {why}"))
        })
    }

    /// The score of every row that will do.
    fn judge_all(&self, profile: &Profile) -> Vec<Option<i64>> {
        let count = self.cycle.cluster.rows().len();
        let mut marks = vec![0; count];
        self.sweep(0..count, &mut marks);
        let feasible: Vec<usize> = (0..count).filter(|row| marks[*row] == 0).collect();
        let mut totals = vec![0; feasible.len()];
        add_scores(self.cycle, profile, &feasible, &mut totals, (None, None));
        let mut verdicts = vec![None; count];
        for (row, total) in feasible.iter().zip(totals) {
            verdicts[*row] = Some(total);
        }
        verdicts
    }

    /// Takes out the nodes that others refused.
    fn leave_to(&self, others: &Others, sample: &mut Sample) {
        let rows = self.cycle.cluster.rows();
        let marks = &mut sample.marks;
        sample.feasible.retain(|row| {
            let refused = others.refused.contains_key(&rows[*row].node.name);
            if refused {
                marks[*row] = OTHERS;
            }
            !refused
        });
    }

    fn refusal(&self, index: usize, mark: u8, others: Option<&Others>) -> Option<Rejection> {
        let row = || &self.cycle.cluster.rows()[index];
        match mark {
            LEFT_OUT | UNSEEN => None,
            OTHERS => others?.refused.get(&row().node.name).cloned(),
            // Who refused it is known, and nobody else is thought to be there.
            _ if self.nominated.binary_search(&index).is_err() && mark != NOMINATED => {
                let check = usize::from(mark).checked_sub(1).and_then(|it| self.checks.get(it));
                check.and_then(|(_, check)| check.refusal(self.cycle.cluster, index))
            }
            _ => check_with_nominated(self.cycle, self.checks, row()).err().map(|(_, it)| it),
        }
    }
}

/// Asks every check about a node.
///
/// # Errors
/// The first refusal, and whose it is.
pub(crate) fn check_all(
    checks: &[(&'static str, Box<dyn Check + '_>)],
    row: &Row,
) -> Result<(), (&'static str, Rejection)> {
    checks.iter().try_for_each(|(name, check)| check.check(row).map_err(|it| (*name, it)))
}

/// Asks every check about a node, once as if the pods it is being emptied for were there, and once as it is.
pub(crate) fn check_with_nominated(
    cycle: Cycle<'_>,
    checks: &[(&'static str, Box<dyn Check + '_>)],
    row: &Row,
) -> Result<(), (&'static str, Rejection)> {
    let pods = cycle.cluster.nominated_on(&row.node.name);
    let mut pods = pods.iter().filter(|it| ahead(cycle, it)).peekable();
    if pods.peek().is_some() {
        let mut forks: Vec<_> = checks.iter().map(|(name, it)| (*name, it.fork())).collect();
        let mut thought = row.clone();
        for pod in pods {
            thought.add(std::sync::Arc::clone(pod));
            forks.iter_mut().for_each(|(_, check)| check.pod_added(&thought, pod));
        }
        check_all(&forks, &thought)?;
    }
    check_all(checks, row)
}

/// Whether a pod that was promised a node comes before the one to be placed.
fn ahead(cycle: Cycle<'_>, other: &PodLite) -> bool {
    other.priority >= cycle.pod.priority && other.key != cycle.pod.key
}

/// A plugin's part of the scores.
type Parts = Vec<(&'static str, Vec<i64>)>;

/// Adds what every plugin gives to the scores of these rows.
fn add_scores(
    cycle: Cycle<'_>,
    profile: &Profile,
    feasible: &[usize],
    totals: &mut [i64],
    (mut parts, told): (Option<&mut Parts>, Option<&Told>),
) {
    let mut lap = Lap::of_one(told);
    let mut scored = 0;
    let mut scratch: SmallVec<[i64; 1]> = smallvec![0; feasible.len()];
    for (place, (plugin, weight)) in profile.scores.iter().enumerate() {
        let says = plugin.score(cycle, feasible, &mut scratch);
        lap.end(Point::Score, Some(plugin.name()), if says { "Success" } else { "Skip" });
        if !says {
            continue;
        }
        scored |= bit(place);
        for (total, score) in totals.iter_mut().zip(&scratch) {
            *total += score * weight;
        }
        if let Some(parts) = &mut parts {
            parts.push((plugin.name(), scratch.iter().map(|it| it * weight).collect()));
        }
    }
    if let Some(told) = told {
        told.scored.set(told.scored.get() | scored);
    }
}

fn choose(cycle: Cycle<'_>, profile: &Profile, sample: Sample, how: How<'_>) -> Placement {
    let rows = cycle.cluster.rows();
    let name = |index: usize| rows[index].node.name.clone();
    let Sample { feasible, evaluated, .. } = sample;
    if let [only] = feasible.as_slice() {
        return Placement { node: name(*only), feasible: 1, evaluated, ..Placement::default() };
    }
    let mut totals = vec![0i64; feasible.len()];
    let mut parts = Vec::new();
    let wanted = how.parts.then_some(&mut parts);
    add_scores(cycle, profile, &feasible, &mut totals, (wanted, how.told));
    if let Some(others) = how.others {
        for (total, row) in totals.iter_mut().zip(&feasible) {
            *total += others.scores.get(&rows[*row].node.name).copied().unwrap_or_default();
        }
    }
    let best = totals.iter().copied().max().unwrap_or_default();
    let winners = totals.iter().filter(|it| **it == best).count() as u64;
    let nth = usize::try_from(how.random % winners.max(1)).unwrap_or_default();
    let mut winners = (0..totals.len()).filter(|index| totals[*index] == best);
    let winner = winners.nth(nth).unwrap_or_default();
    Placement {
        node: name(feasible[winner]),
        feasible: feasible.len(),
        evaluated,
        candidates: feasible,
        scores: totals,
        parts,
    }
}

fn refuse(field: &Field<'_, '_>, profile: &Profile, marks: &[u8], how: How<'_>) -> Decision {
    let refusals: Vec<Option<Rejection>> = marks
        .iter()
        .enumerate()
        .map(|(index, mark)| field.refusal(index, *mark, how.others))
        .collect();
    let left_out = left_out(&field.left_out_by);
    let mut plugins: Vec<&'static str> = field.left_out_by.clone();
    let mut marked = [false; 256];
    marks.iter().for_each(|mark| marked[usize::from(*mark)] = true);
    let refusing = field.checks.iter().zip(&marked[1..]).filter(|(_, marked)| **marked);
    plugins.extend(refusing.map(|((name, _), _)| *name));
    plugins.sort_unstable();
    plugins.dedup();
    let failure = Failure {
        cycle: field.cycle,
        checks: field.checks,
        refusals: &refusals,
        refused_by: None,
        nodes: field.within.map_or(refusals.len(), <[usize]>::len),
        random: how.random,
    };
    let seen = refusals.iter().zip(marks).filter(|(_, mark)| **mark != UNSEEN);
    let text = histogram(seen.map(|(it, _)| it.as_ref().unwrap_or(&left_out)));
    Decision::Reject(diagnose(profile, &failure, (&text, plugins), how.told))
}

fn left_out(by: &[&str]) -> Rejection {
    Rejection::for_good(format!("node(s) didn't satisfy plugin(s) [{}]", by.join(" ")))
}

/// The refusal of a pod as a whole.
struct Whole {
    place: usize,
    name: &'static str,
    rejection: Rejection,
}

fn refuse_whole<'a>(
    cycle: Cycle<'a>,
    profile: &Profile,
    checks: &[(&'static str, Box<dyn Check + 'a>)],
    whole: &Whole,
    how: How<'_>,
) -> Decision {
    let refusals = vec![Some(whole.rejection.clone()); cycle.cluster.rows().len()];
    let failure = Failure {
        cycle,
        checks,
        refusals: &refusals,
        refused_by: Some(whole.place),
        nodes: how.within.map_or(refusals.len(), <[usize]>::len),
        random: how.random,
    };
    let text = whole.rejection.reasons.join(", ");
    Decision::Reject(diagnose(profile, &failure, (&text, vec![whole.name]), how.told))
}

fn diagnose(
    profile: &Profile,
    failure: &Failure<'_, '_>,
    (text, plugins): (&str, Vec<&'static str>),
    told: Option<&Told>,
) -> Diagnosis {
    let mut all = Lap::begin(told.filter(|_| !profile.post_filters.is_empty()));
    let diagnosis = ask_for_remedies(profile, failure, (text, plugins), told);
    let found = !diagnosis.candidates.is_empty();
    all.end(Point::PostFilter, None, if found { "Success" } else { "Unschedulable" });
    diagnosis
}

fn ask_for_remedies(
    profile: &Profile,
    failure: &Failure<'_, '_>,
    (text, plugins): (&str, Vec<&'static str>),
    told: Option<&Told>,
) -> Diagnosis {
    let mut lap = Lap::of_one(told);
    let count = failure.nodes;
    let mut message = unavailable(count, text);
    let mut remarks: Vec<String> = Vec::new();
    let (mut asked_for_room, mut hopeless, mut deallocate) = (false, false, None);
    for plugin in profile.post_filters.iter() {
        asked_for_room |= plugin.name() == preemption::NAME;
        let remedy = plugin.remedy(profile, failure);
        let helps = matches!(remedy, Remedy::Preempt(_) | Remedy::Deallocate { .. });
        let status = if helps { "Success" } else { "Unschedulable" };
        lap.end(Point::PostFilter, Some(plugin.name()), status);
        match remedy {
            Remedy::Nothing(remark) => remarks.push(remark),
            Remedy::Hopeless(remark) => {
                remarks.push(remark);
                hopeless = true;
            }
            Remedy::Stop(remark) => {
                remarks = vec![remark];
                break;
            }
            Remedy::Deallocate { claim, remark } => {
                remarks.push(remark);
                deallocate = Some(claim);
            }
            Remedy::Preempt(candidates) => {
                return Diagnosis {
                    message,
                    remarks,
                    plugins,
                    candidates,
                    asked_for_room,
                    hopeless: false,
                    deallocate,
                };
            }
        }
    }
    remarks.retain(|it| !it.is_empty());
    if !remarks.is_empty() {
        message = format!("{message} {}", remarks.join(", "));
    }
    let (remarks, candidates) = (Vec::new(), Vec::new());
    Diagnosis { message, remarks, plugins, candidates, asked_for_room, hopeless, deallocate }
}

/// Why none of so many nodes will do, where anything is known of it.
pub(crate) fn unavailable(nodes: usize, why: &str) -> String {
    match why {
        "" => format!("0/{nodes} nodes are available:"),
        why => format!("0/{nodes} nodes are available: {why}."),
    }
}

/// `1 Insufficient memory, 3 Insufficient cpu`, sorted as text as upstream sorts it.
pub(crate) fn histogram<'r>(refusals: impl Iterator<Item = &'r Rejection>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    // Neighbours are refused alike, mostly.
    let (mut last, mut times) = ("", 0usize);
    for reason in refusals.flat_map(|it| &it.reasons) {
        if reason != last {
            *counts.entry(last).or_default() += times;
            (last, times) = (reason, 0);
        }
        times += 1;
    }
    *counts.entry(last).or_default() += times;
    counts.retain(|_, times| *times > 0);
    let mut lines: Vec<String> = counts.iter().map(|(it, count)| format!("{count} {it}")).collect();
    lines.sort_unstable();
    lines.join(", ")
}
