//! What is known of requests before devices are tried: their classes, and what "all" devices are.

use std::cell::RefCell;

use crate::allocate::{AllocateError, Allocator, DEPTH_MAX, DEVICES_MAX};
use crate::claim::{Ask, Claim, ConstraintKind, Mode, Request};
use crate::pools::{Pool, PoolState};
use crate::selector::Compiled;
use crate::slice::{Class, Device, Node, Place, Slice};

/// A way of a request: claim, request, way.
pub(super) type WayIndex = (usize, usize, usize);

/// A device, with where it comes from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate<'a> {
    pub(super) device: &'a Device,
    pub(super) slice: &'a Slice,
    /// Its place in the slice.
    pub(super) index: usize,
    /// The pool's place among the pools of the node.
    pub(super) pool: usize,
    /// Its own place among the devices of the node.
    pub(super) place: usize,
}

/// All devices that can be had on a node, in the order in which they are tried.
pub(super) fn candidates<'a>(pools: &[Pool<'a>]) -> Vec<Candidate<'a>> {
    let usable = pools.iter().enumerate().filter(|(_, it)| it.state == PoolState::Usable);
    let slices = usable.flat_map(|(pool, it)| it.slices.iter().map(move |slice| (pool, *slice)));
    let devices = slices.flat_map(|(pool, slice)| {
        let devices = slice.devices.iter().enumerate();
        devices.map(move |(index, device)| Candidate { device, slice, index, pool, place: 0 })
    });
    devices.enumerate().map(|(place, it)| Candidate { place, ..it }).collect()
}

/// A way to serve a request.
#[derive(Debug)]
pub(super) struct Way<'a> {
    pub(super) index: WayIndex,
    pub(super) ask: &'a Ask,
    pub(super) class: &'a Class,
    /// How many devices it needs.
    pub(super) count: usize,
    /// The devices, where it needs all.
    pub(super) all: Option<Vec<Candidate<'a>>>,
    /// The selectors of class and request.
    selectors: Vec<(Option<&'a Class>, usize, Compiled)>,
    /// Which devices of the node it can have, as far as that is known.
    selectable: RefCell<Vec<Option<bool>>>,
}

/// For each claim, for each request, the ways.
pub(super) type Plan<'a> = Vec<Vec<Vec<Way<'a>>>>;

/// # Errors
/// Where a claim cannot be served anywhere, or not here.
pub(super) fn prepare<'a>(
    allocator: &'a Allocator<'a>,
    node: Node<'_>,
    pools: &[Pool<'a>],
    candidates: &[Candidate<'a>],
) -> Result<Plan<'a>, AllocateError> {
    let mut plan = Vec::with_capacity(allocator.claims.len());
    let mut depth = 0;
    for (place, claim) in allocator.claims.iter().enumerate() {
        let mut least = 0usize;
        let mut requests = Vec::with_capacity(claim.requests.len());
        for (at, request) in claim.requests.iter().enumerate() {
            let ways = request.ways.iter().enumerate().map(|(way, ask)| {
                let index = (place, at, way);
                prepare_way(
                    &Preparing { allocator, node, pools, candidates, claim: claim.as_ref() },
                    request,
                    ask,
                    index,
                )
            });
            let ways = ways.collect::<Result<Vec<_>, _>>()?;
            least = least.saturating_add(ways.iter().map(|it| it.count).min().unwrap_or(0));
            requests.push(ways);
        }
        let key = claim.key();
        if least > DEVICES_MAX {
            return Err(AllocateError::Claim(format!(
                "claim {key}: number of requested devices {least} exceeds the claim limit of {DEVICES_MAX}"
            )));
        }
        let unknown = |it: &&crate::claim::Constraint| it.kind == ConstraintKind::Unknown;
        if let Some(index) = claim.constraints.iter().position(|it| unknown(&it)) {
            return Err(AllocateError::Claim(format!(
                "claim {key}, constraint #{index}: empty constraint (unsupported constraint type?)"
            )));
        }
        depth += claim.requests.len() + DEVICES_MAX;
        plan.push(requests);
    }
    if depth > DEPTH_MAX {
        let claims = allocator.claims.len();
        let why = format!("{claims} claims may come to more than {DEPTH_MAX} requests and devices");
        return Err(AllocateError::Claim(why));
    }
    Ok(plan)
}

struct Preparing<'p, 'a> {
    allocator: &'p Allocator<'a>,
    node: Node<'p>,
    pools: &'p [Pool<'a>],
    candidates: &'p [Candidate<'a>],
    claim: &'a Claim,
}

fn prepare_way<'a>(
    at: &Preparing<'_, 'a>,
    request: &'a Request,
    ask: &'a Ask,
    index: WayIndex,
) -> Result<Way<'a>, AllocateError> {
    let told = |why: String| {
        AllocateError::Claim(format!("claim {}, request {}{why}", at.claim.key(), ask.name))
    };
    debug_assert!(request.ways.contains(ask), "because it is one of its ways");
    if let Some(place) = ask.selectors.iter().position(Option::is_none) {
        return Err(told(format!(
            ", selector #{place}: CEL expression empty (unsupported selector type?)"
        )));
    }
    if ask.class.is_empty() {
        return Err(told(": missing device class name (unsupported request type?)".into()));
    }
    let class = at.allocator.supply.classes.get(&ask.class).ok_or_else(|| {
        let missing = format!("deviceclass.resource.k8s.io \"{}\" not found", ask.class);
        told(format!(": could not retrieve device class {}: {missing}", ask.class))
    })?;
    let compile = |of: Option<&'a Class>, texts: &'a [Option<compact_str::CompactString>]| {
        let known = texts.iter().enumerate().filter_map(|(place, it)| Some((place, it.as_ref()?)));
        known
            .map(|(place, text)| (of, place, at.allocator.supply.selectors.get(text)))
            .collect::<Vec<_>>()
    };
    let mut selectors = compile(Some(class), &class.selectors);
    selectors.extend(compile(None, &ask.selectors));
    let selectable = RefCell::new(vec![None; at.candidates.len()]);
    let mut way = Way { index, ask, class, count: 0, all: None, selectors, selectable };
    match ask.mode {
        Mode::Exactly(count) => way.count = usize::try_from(count).unwrap_or_default(),
        Mode::All => {
            let all = all_devices(at, &way, &told)?;
            way.count = all.len();
            way.all = Some(all);
        }
        Mode::Unknown => return Err(told(": unsupported count mode".into())),
    }
    Ok(way)
}

fn all_devices<'a>(
    at: &Preparing<'_, 'a>,
    way: &Way<'a>,
    told: &dyn Fn(String) -> AllocateError,
) -> Result<Vec<Candidate<'a>>, AllocateError> {
    for pool in at.pools {
        let state = match &pool.state {
            PoolState::Usable => continue,
            PoolState::Incomplete => "being updated",
            PoolState::Invalid(_) => "invalid",
        };
        let id = format!("{}/{}", pool.driver, pool.name);
        return Err(told(format!(
            ": asks for all devices, but resource pool {id} is currently {state}"
        )));
    }
    let mut all = Vec::new();
    for candidate in at.candidates {
        if at.allocator.is_selectable(way, *candidate, at.node)? {
            all.push(*candidate);
        }
    }
    Ok(all)
}

impl<'a> Allocator<'a> {
    /// Whether a device is of the class, selected, and within the node's reach.
    pub(super) fn is_selectable(
        &self,
        way: &Way<'a>,
        candidate: Candidate<'a>,
        node: Node<'_>,
    ) -> Result<bool, AllocateError> {
        if let Some(known) = way.selectable.borrow()[candidate.place] {
            return Ok(known);
        }
        let selectable = self.is_selected(way, candidate)?
            && (candidate.slice.place != Place::PerDevice || candidate.device.place.reaches(node));
        way.selectable.borrow_mut()[candidate.place] = Some(selectable);
        Ok(selectable)
    }

    fn is_selected(&self, way: &Way<'a>, it: Candidate<'a>) -> Result<bool, AllocateError> {
        for (class, place, compiled) in &way.selectors {
            let known = it.slice.matches.get(compiled, it.index);
            if known == Some(false) {
                return Ok(false);
            }
            if known == Some(true) {
                continue;
            }
            let of = || match class {
                Some(class) => format!("class {}", class.name),
                None => format!("claim {}", self.claims[way.index.0].key()),
            };
            let selector = match compiled.as_ref() {
                Ok(selector) => selector,
                Err(why) => {
                    let why = format!("{}: selector #{place}: CEL compile error: {why}", of());
                    return Err(AllocateError::Claim(why));
                }
            };
            let selected = selector.matches(it.device).map_err(|error| {
                let on = &it.device.id;
                let of = of();
                AllocateError::Claim(format!(
                    "{of}: selector #{place} on device {on}: CEL runtime error: {error}"
                ))
            })?;
            it.slice.matches.set(compiled, it.index, selected);
            if !selected {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
