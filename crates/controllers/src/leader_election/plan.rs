//! One step of an election: ask the candidates whether they are there, wait for their answers, give the lease to the best.
//!
//! All of it is told from the lease and the candidates: nothing is remembered between two steps.

use std::cmp::Ordering;
use std::sync::Arc;

use apimachinery::{Value, time, value};
use client::Resource;
use controller::{Action, Plan};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use registry::SemanticVersion;

use super::Observed;

/// When a lease is looked at again, to see that it is renewed.
const AGAIN: SignedDuration = SignedDuration::from_secs(5);
/// How long candidates may take to answer, and how long an answer counts.
const ELECTION: SignedDuration = SignedDuration::from_secs(5);
/// How long a lease is good that was given and not taken yet, in seconds.
const LEASE_SECONDS: i64 = 5;
/// How long a candidate may be silent.
const CANDIDATE: SignedDuration = SignedDuration::from_mins(30);
/// What comes after a moment.
pub(super) const MOMENT: SignedDuration = SignedDuration::from_millis(1);
/// How leaders are chosen here; any other way is somebody else's.
const OLDEST: &str = "OldestEmulationVersion";

fn at(object: &Value, member: &str) -> Option<Timestamp> {
    object.str_at(&["spec", member]).parse().ok()
}

fn after(time: Timestamp, span: SignedDuration) -> Timestamp {
    time.saturating_add(span).unwrap_or(Timestamp::MAX)
}

/// Whether a candidate was asked and has not answered yet.
pub(super) fn is_pending(candidate: &Value) -> bool {
    let (asked, renewed) = (at(candidate, "pingTime"), at(candidate, "renewTime"));
    asked.is_some_and(|asked| renewed.is_none_or(|renewed| renewed < asked))
}

/// Until when a candidate counts.
pub(super) fn expires_at(candidate: &Value) -> Option<Timestamp> {
    at(candidate, "renewTime").map(|it| after(it, CANDIDATE))
}

/// Whether nobody holds a lease any more.
fn is_expired(lease: &Value, now: Timestamp) -> bool {
    let seconds = lease.i64_at(&["spec", "leaseDurationSeconds"]);
    let until = at(lease, "renewTime").zip(seconds);
    until.is_none_or(|(renewed, it)| after(renewed, SignedDuration::from_secs(it)) < now)
}

fn holder(lease: &Value) -> &str {
    lease.str_at(&["spec", "holderIdentity"])
}

fn name(object: &Value) -> &str {
    object.str_at(&["metadata", "name"])
}

/// What is to be done for a lease now.
pub(super) fn plan(observed: &Observed, candidates: &Resource, now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    let lease = observed.lease.as_deref();
    let counts = |it: &&Arc<Value>| expires_at(it).is_some_and(|until| until >= now);
    let standing: Vec<&Value> =
        observed.candidates.iter().filter(counts).map(AsRef::as_ref).collect();
    if standing.is_empty() {
        return plan;
    }
    plan.requeue_by(after(now, AGAIN));
    match is_needed(lease, &standing, now) {
        Ok(true) => {}
        Ok(false) => return plan,
        Err(why) => {
            plan.error = Some(why);
            return plan;
        }
    }
    if ask(&mut plan, &standing, candidates, now) {
        return plan;
    }
    // Those that answer; where none does yet, a moment later some may.
    let answers = |it: &&Value| at(it, "renewTime").is_some_and(|it| after(it, ELECTION) > now);
    let answering: Vec<&Value> = standing.into_iter().filter(answers).collect();
    if answering.is_empty() {
        return plan;
    }
    match strategy(&answering) {
        Ok(strategy) => elect(&mut plan, observed, (&answering, &strategy), now),
        Err(why) => plan.error = Some(why),
    }
    plan
}

/// Whether somebody else is to hold the lease, or it is time to ask all anyway.
fn is_needed(lease: Option<&Value>, standing: &[&Value], now: Timestamp) -> Result<bool, String> {
    let Some(lease) = lease else { return Ok(true) };
    if is_expired(lease, now) || holder(lease).is_empty() {
        return Ok(true);
    }
    // All are asked at half the time that they may be silent, so that none is given up that is there.
    let old = |it: &&Value| at(it, "renewTime").is_some_and(|it| after(it, CANDIDATE / 2) < now);
    if standing.iter().any(old) {
        return Ok(true);
    }
    if strategy(standing)? != OLDEST {
        return Ok(false);
    }
    Ok(best(standing).is_some_and(|it| name(it) != holder(lease)))
}

/// Asks those who have not said for a while that they are there; whether there is something to wait for.
fn ask(plan: &mut Plan, standing: &[&Value], resource: &Resource, now: Timestamp) -> bool {
    let mut waits = false;
    for candidate in standing {
        let (asked, renewed) = (at(candidate, "pingTime"), at(candidate, "renewTime"));
        let pending = is_pending(candidate);
        let lately = |it: Option<Timestamp>| it.is_some_and(|it| after(it, ELECTION) > now);
        if pending && lately(asked) {
            waits = true;
        } else if !lately(renewed) && !pending {
            let mut object = Value::clone(candidate);
            object.set_at(&["spec", "pingTime"], time::format_micro_time(now).as_str());
            plan.act(Action::Update { resource: resource.clone(), subresource: "", object });
            waits = true;
        }
    }
    waits
}

/// How a leader is chosen: as the newest of the candidates wants it.
fn strategy(candidates: &[&Value]) -> Result<String, String> {
    let of = |it: &Value| it.str_at(&["spec", "strategy"]).to_owned();
    let version = |it: &Value| SemanticVersion::parse(it.str_at(&["spec", "binaryVersion"]));
    let Some((first, rest)) = candidates.split_first() else { return Err("no candidates".into()) };
    let (mut chosen, mut highest, mut whose) = (of(first), version(first), name(first));
    for candidate in rest {
        match version(candidate).cmp(&highest) {
            Ordering::Greater => {
                (chosen, highest, whose) = (of(candidate), version(candidate), name(candidate));
            }
            Ordering::Equal if of(candidate) != chosen => {
                return Err(format!(
                    "candidates {whose:?}, {:?} at same binary version but received differing strategies {chosen}, {}",
                    name(candidate),
                    of(candidate)
                ));
            }
            Ordering::Equal | Ordering::Less => {}
        }
    }
    Ok(chosen)
}

/// The one that behaves as the oldest version, of these the oldest build, of these the one that was there first.
fn best<'c>(candidates: &[&'c Value]) -> Option<&'c Value> {
    let version = |it: &Value, member: &str| SemanticVersion::parse(it.str_at(&["spec", member]));
    let key = |it: &Value| {
        let created: Option<Timestamp> = it.str_at(&["metadata", "creationTimestamp"]).parse().ok();
        Some((version(it, "emulationVersion")?, version(it, "binaryVersion")?, created))
    };
    let known = candidates.iter().filter_map(|it| Some((key(it)?, *it)));
    known.min_by(|a, b| a.0.cmp(&b.0)).map(|it| it.1)
}

/// Writes who is to hold the lease.
fn elect(
    plan: &mut Plan,
    observed: &Observed,
    (answering, strategy): (&[&Value], &str),
    now: Timestamp,
) {
    let leader = match strategy {
        OLDEST => match best(answering) {
            Some(leader) => Some(name(leader)),
            None => return,
        },
        // Somebody else's to say.
        _ => None,
    };
    let resource = Resource::of::<Lease>();
    let renewed = time::format_micro_time(now);
    let Some(old) = observed.lease.as_deref() else {
        let first = answering[0];
        let namespace = first.str_at(&["metadata", "namespace"]).to_owned();
        let mut object = value!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": (first.str_at(&["spec", "leaseName"])), "namespace": (namespace.as_str())},
            "spec": {"strategy": strategy, "leaseDurationSeconds": LEASE_SECONDS,
                "renewTime": (renewed.as_str())}
        });
        if let Some(leader) = leader {
            object.set_at(&["spec", "holderIdentity"], leader);
        }
        tracing::info!(lease = first.str_at(&["spec", "leaseName"]), leader, "a lease is made");
        plan.act(Action::Create { resource, namespace, object, exists_is_fine: false });
        return;
    };
    let mut object = old.clone();
    object.set_at(&["spec", "strategy"], strategy);
    if let Some(leader) = leader {
        let holder = holder(old);
        if holder.is_empty() || is_expired(old, now) && holder != leader {
            tracing::info!(lease = name(old), leader, "a lease is given to another");
            object.remove_at(&["spec", "preferredHolder"]);
            object.remove_at(&["spec", "acquireTime"]);
            object.set_at(&["spec", "holderIdentity"], leader);
            object.set_at(&["spec", "renewTime"], renewed.as_str());
            object.set_at(&["spec", "leaseDurationSeconds"], LEASE_SECONDS);
        } else if holder != leader {
            tracing::info!(lease = name(old), holder, leader, "a lease is to go to another");
            object.set_at(&["spec", "preferredHolder"], leader);
        }
    }
    if object != *old {
        plan.act(Action::Update { resource, subresource: "", object });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-01-01T12:00:00Z";

    /// `name emulation binary renewed asked`, times in seconds from now.
    fn candidate(text: &str) -> Arc<Value> {
        let parts: Vec<&str> = text.split(' ').collect();
        let now: Timestamp = NOW.parse().unwrap();
        let moment = |text: &str| after(now, SignedDuration::from_secs(text.parse().unwrap()));
        let time = |text: &str| time::format_micro_time(moment(text));
        let mut it = value!({"metadata": {"name": (parts[0]), "namespace": "kube-system",
                "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"leaseName": "l", "strategy": OLDEST, "emulationVersion": (parts[1]),
                "binaryVersion": (parts[2]), "renewTime": (time(parts[3]).as_str())}});
        if let Some(asked) = parts.get(4) {
            it.set_at(&["spec", "pingTime"], time(asked).as_str());
        }
        Arc::new(it)
    }

    fn lease(holder: &str, renewed: i64) -> Value {
        let renewed = after(NOW.parse().unwrap(), SignedDuration::from_secs(renewed));
        value!({"metadata": {"name": "l", "namespace": "kube-system"},
            "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15, "strategy": OLDEST,
                "renewTime": (time::format_micro_time(renewed).as_str())}})
    }

    /// What is written: `ping NAME`, `lease HOLDER>PREFERRED`.
    fn check(candidates: &[&str], lease: Option<Value>, expected: &str) {
        let observed = Observed {
            lease: lease.map(Arc::new),
            candidates: candidates.iter().map(|it| candidate(it)).collect(),
        };
        let resource = Resource::built_in("coordination.k8s.io", "leasecandidates");
        let plan = plan(&observed, &resource, NOW.parse().unwrap());
        let actions = plan.stages.iter().flat_map(|it| &it.actions);
        let told = actions.map(|it| match &it.action {
            Action::Update { object, resource, .. } if resource.plural == "leasecandidates" => {
                format!("ping {}", name(object))
            }
            Action::Update { object, .. } | Action::Create { object, .. } => {
                format!("lease {}>{}", holder(object), object.str_at(&["spec", "preferredHolder"]))
            }
            other => format!("{other:?}"),
        });
        let mut told: Vec<String> = told.collect();
        told.extend(plan.error);
        assert_eq!(told.join(", "), expected, "{candidates:?}");
    }

    #[test]
    fn a_lease_goes_to_the_oldest_of_those_that_answer() {
        let (old, new) = ("old 1.36.0 1.37.0 -1", "new 1.37.0 1.37.0 -1");
        check(&[new], None, "lease new>");
        check(&[new, old], None, "lease old>");
        check(&["b 1.37.0 1.38.0 -1", "a 1.37.0 1.37.0 -1"], None, "lease a>");
        // Asked first, where they said nothing for a while; waited for; given up.
        check(&["a 1.37.0 1.37.0 -60", new], None, "ping a");
        check(&["a 1.36.0 1.37.0 -60 -2", new], None, "");
        check(&["a 1.36.0 1.37.0 -60 -6", new], None, "lease new>");
        check(&["a 1.36.0 1.37.0 -60 -6"], None, "");
        // Silent for more than half an hour: it is none.
        check(&["a 1.36.0 1.37.0 -1801"], None, "");
    }

    #[test]
    fn a_lease_that_is_held_changes_hands_when_it_was_left() {
        let (old, new) = ("old 1.36.0 1.37.0 -1", "new 1.37.0 1.37.0 -1");
        check(&[old, new], Some(lease("old", -1)), "");
        check(&[old, new], Some(lease("new", -1)), "lease new>old");
        check(&[old, new], Some(lease("new", -20)), "lease old>");
        check(&[old], Some(lease("", -1)), "lease old>");
        // At half their time they are asked although nothing else is to be done.
        check(&["a 1.37.0 1.37.0 -901"], Some(lease("a", -1)), "ping a");
    }

    #[test]
    fn those_of_one_version_must_agree_how() {
        let mut other = Arc::unwrap_or_clone(candidate("b 1.37.0 1.37.0 -1"));
        other.set_at(&["spec", "strategy"], "example.com/mine");
        let first = candidate("a 1.37.0 1.37.0 -1");
        let expected = "candidates \"a\", \"b\" at same binary version but received differing strategies \
                        OldestEmulationVersion, example.com/mine";
        assert_eq!(strategy(&[&first, &other]), Err(expected.to_owned()));
        other.set_at(&["spec", "binaryVersion"], "1.38.0");
        assert_eq!(strategy(&[&first, &other]).as_deref(), Ok("example.com/mine"));
    }
}
