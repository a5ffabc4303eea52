//! Selectors of devices: CEL expressions about `device`. Upstream: `dynamic-resource-allocation/cel`.
//!
//! Knows what an expression sees of a device and what it may cost; not who asks for devices.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use cel::schema::DeclField;
use cel::{Activation, Budget, DeclType, Env, EvalError, Issue, IssueKind, Issues, Library};
use cel::{Program, Type, Val};
use compact_str::CompactString;
use parking_lot::Mutex;

use crate::slice::{Attribute, Device};

/// What one selector may cost: by its estimate when it is written, and when it is run.
pub const COST_MAX: u64 = 1_000_000;
/// How many compiled selectors are kept.
const CACHED_MAX: usize = 1000;

const DEVICE: &str = "device";
/// How long an attribute's value may be.
const VALUE_MAX: i64 = 64;
/// How many attributes and capacities a device may have.
const QUALITIES_MAX: i64 = 32;
/// How long the name of a driver may be.
const DRIVER_MAX: i64 = 63;

static ENV: LazyLock<Env> = LazyLock::new(|| {
    let by_domain =
        |value: DeclType| DeclType::map(DeclType::map(value, QUALITIES_MAX), QUALITIES_MAX);
    let field = |name: &str, decl: DeclType| DeclField {
        name: name.into(),
        json_name: name.into(),
        decl: Arc::new(decl),
    };
    let device = DeclType::object(
        "kubernetes.DRADevice",
        vec![
            field("driver", DeclType::text(DRIVER_MAX)),
            field("allowMultipleAllocations", DeclType::boolean()),
            field("attributes", by_domain(DeclType::dynamic_of(VALUE_MAX))),
            field("capacity", by_domain(DeclType::quantity())),
        ],
    );
    Env::kubernetes().with_library(Library::Bindings).with_variable(DEVICE, Arc::new(device))
});

/// A compiled selector.
#[derive(Debug)]
pub struct Selector(Program);

impl Selector {
    /// Reads an expression.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn compile(text: &str) -> Result<Self, Issues> {
        match ENV.compile(text, &[Type::Bool]) {
            Ok(program) => Ok(Self(program)),
            // What is known when it runs only is looked at then.
            Err(issues) if is_about_output(&issues) => {
                ENV.compile(text, &[Type::Dyn]).map(Self).map_err(|_| issues)
            }
            Err(issues) => Err(issues),
        }
    }

    /// What it costs at most, by its estimate.
    #[must_use]
    pub fn cost_max(&self) -> u64 {
        self.0.cost_estimate().max
    }

    /// Whether a device is meant.
    ///
    /// # Errors
    /// Where the expression has no value, no truth value, or costs too much.
    pub fn matches(&self, device: &Device) -> Result<bool, EvalError> {
        let variables = Activation::new(&ENV).with(&ENV, DEVICE, seen(device)?);
        let mut budget = Budget::new(u64::MAX).with_call_limit(COST_MAX);
        let value = self.0.eval(&variables, &mut budget)?;
        value.as_bool().ok_or_else(|| {
            let found = value.type_of();
            let found = found.name();
            EvalError::new(format!("CEL result of type {found} could not be converted to bool"))
        })
    }
}

fn is_about_output(issues: &Issues) -> bool {
    matches!(issues.0.as_slice(), [Issue { kind: IssueKind::OutputType, .. }])
}

/// What an expression sees of a device. Domains that the device says nothing about are empty, not absent.
fn seen(device: &Device) -> Result<Val<'_>, EvalError> {
    let attributes = device.attributes.iter().map(|(name, it)| Ok((name, attribute(it)?)));
    let attributes = by_domain(device, attributes)?;
    let capacity = device.capacity.iter().map(|(name, it)| Ok((name, Val::quantity(it.value))));
    let capacity = by_domain(device, capacity)?;
    Val::map([
        (Val::string("driver"), Val::string(&device.id.driver)),
        (Val::string("allowMultipleAllocations"), Val::Bool(device.shared)),
        (Val::string("attributes"), attributes),
        (Val::string("capacity"), capacity),
    ])
}

fn attribute(attribute: &Attribute) -> Result<Val<'_>, EvalError> {
    Ok(match attribute {
        Attribute::Bool(truth) => Val::Bool(*truth),
        Attribute::Int(number) => Val::Int(*number),
        Attribute::String(text) => Val::string(text),
        Attribute::Version(text) => Val::semver(text)?,
        Attribute::Unknown => return Err(EvalError::new("unsupported attribute value")),
    })
}

fn by_domain<'d>(
    device: &'d Device,
    qualities: impl Iterator<Item = Result<(&'d CompactString, Val<'d>), EvalError>>,
) -> Result<Val<'d>, EvalError> {
    let mut domains: BTreeMap<&str, Vec<(Val<'d>, Val<'d>)>> = BTreeMap::new();
    for quality in qualities {
        let (name, value) = quality?;
        let (domain, name) = name.split_once('/').unwrap_or((&device.id.driver, name));
        domains.entry(domain).or_default().push((Val::string(name), value));
    }
    let domains = domains.into_iter().map(|(domain, values)| {
        let values = Val::map(unique(values));
        values.map(|it| (Val::string(domain), it))
    });
    let domains = domains.collect::<Result<Vec<_>, _>>()?;
    Val::map_with_default(domains, Val::map([])?)
}

/// The last of those that have one name: `driver/name` and `name` are one.
fn unique<'d>(values: Vec<(Val<'d>, Val<'d>)>) -> impl Iterator<Item = (Val<'d>, Val<'d>)> {
    let named =
        values.into_iter().map(|(key, value)| (key.as_str().map(str::to_owned), key, value));
    let by_name: BTreeMap<Option<String>, (Val<'d>, Val<'d>)> =
        named.map(|(name, key, value)| (name, (key, value))).collect();
    by_name.into_values()
}

/// How many selectors are remembered of a slice.
const REMEMBERED_MAX: usize = 16;

/// Which devices of a slice selectors mean, as far as that was asked: a slice does not change.
#[derive(Debug, Default)]
pub(crate) struct Matches(Mutex<Vec<(Compiled, Vec<Option<bool>>)>>);

impl Clone for Matches {
    /// A copy may become another slice.
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for Matches {
    /// What is remembered does not tell slices apart.
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Matches {
    /// What is known of a selector and the device in this place.
    pub(crate) fn get(&self, selector: &Compiled, place: usize) -> Option<bool> {
        let known = self.0.lock();
        let (_, devices) = known.iter().find(|(it, _)| Arc::ptr_eq(it, selector))?;
        devices.get(place).copied().flatten()
    }

    /// Remembers it.
    pub(crate) fn set(&self, selector: &Compiled, place: usize, means: bool) {
        let mut known = self.0.lock();
        let at = known.iter().position(|(it, _)| Arc::ptr_eq(it, selector));
        let at = at.unwrap_or_else(|| {
            if known.len() >= REMEMBERED_MAX {
                known.remove(0);
            }
            known.push((Arc::clone(selector), Vec::new()));
            known.len() - 1
        });
        let devices = &mut known[at].1;
        if devices.len() <= place {
            devices.resize(place + 1, None);
        }
        devices[place] = Some(means);
    }
}

/// Compiled selectors by their text, for as many as are in use.
#[derive(Debug, Default)]
pub struct Selectors(Mutex<BTreeMap<CompactString, Compiled>>);

/// A selector, or what is wrong with it.
pub(crate) type Compiled = Arc<Result<Selector, String>>;

impl Selectors {
    /// The selector of a text, compiled where it is new.
    pub(crate) fn get(&self, text: &CompactString) -> Compiled {
        let mut known = self.0.lock();
        if let Some(compiled) = known.get(text) {
            return Arc::clone(compiled);
        }
        if known.len() >= CACHED_MAX {
            known.clear();
        }
        let compiled: Compiled = Arc::new(
            Selector::compile(text).map_err(|issues| format!("compilation failed: {issues}")),
        );
        known.insert(text.clone(), Arc::clone(&compiled));
        compiled
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;
    use crate::slice::Slice;

    fn check(cases: &[(&str, Result<bool, &str>)]) {
        let slice = Slice::from_value(&value!({
            "metadata": {"name": "s"},
            "spec": {"driver": "d.example.com", "nodeName": "n", "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1},
                "devices": [{"name": "gpu-0", "allowMultipleAllocations": true,
                    "attributes": {
                        "model": {"string": "a100"}, "index": {"int": 3}, "healthy": {"bool": true},
                        "d.example.com/version": {"version": "1.2.3-beta"}, "other.example.com/zone": {"string": "z"}
                    },
                    "capacity": {"memory": {"value": "80Gi"}, "other.example.com/lanes": {"value": "16"}}}]}
        }));
        for (text, expected) in cases {
            let selector = Selector::compile(text).unwrap_or_else(|it| panic!("{text}: {it}"));
            assert!(selector.cost_max() <= COST_MAX, "{text} costs {}", selector.cost_max());
            let found = selector.matches(&slice.devices[0]).map_err(|it| it.to_string());
            let expected = expected.map_err(str::to_owned);
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn expressions_see_what_a_device_has() {
        check(&[
            ("device.driver == 'd.example.com'", Ok(true)),
            ("device.allowMultipleAllocations", Ok(true)),
            ("device.attributes['d.example.com'].model == 'a100'", Ok(true)),
            ("device.attributes['d.example.com'].model.startsWith('h')", Ok(false)),
            ("device.attributes['d.example.com'].index > 2", Ok(true)),
            ("device.attributes['d.example.com'].healthy", Ok(true)),
            ("device.attributes['other.example.com'].zone == 'z'", Ok(true)),
            ("device.attributes['d.example.com'].version.isLessThan(semver('1.2.3'))", Ok(true)),
            ("device.attributes['d.example.com'].version.major() == 1", Ok(true)),
            ("device.capacity['d.example.com'].memory.compareTo(quantity('40Gi')) > 0", Ok(true)),
            ("device.capacity['other.example.com'].lanes.isGreaterThan(quantity('16'))", Ok(false)),
            (
                "cel.bind(d, device.attributes['d.example.com'], d.model == 'a100' && d.index == 3)",
                Ok(true),
            ),
            ("'nope.example.com' in device.attributes", Ok(false)),
            ("'model' in device.attributes['d.example.com']", Ok(true)),
            ("'x' in device.attributes['nope.example.com']", Ok(false)),
            ("device.attributes['d.example.com'].?nope.orValue('x') == 'x'", Ok(true)),
            ("device.attributes['d.example.com'].nope == 'x'", Err("no such key: nope")),
            ("device.attributes['nope.example.com'].model == 'x'", Err("no such key: model")),
            (
                "device.attributes['d.example.com'].index",
                Err("CEL result of type int could not be converted to bool"),
            ),
        ]);
    }

    #[test]
    fn what_is_wrong_is_told_when_it_is_written() {
        for (text, expected) in [
            ("device.nope", "undefined field 'nope'"),
            ("1", "must evaluate to bool"),
            ("device.driver", "must evaluate to bool"),
            ("device.driver ==", "Syntax error"),
        ] {
            let issues = Selector::compile(text).unwrap_err().to_string();
            assert!(issues.contains(expected), "{text}: {issues}");
        }
    }

    #[test]
    fn what_costs_too_much_is_estimated_and_stopped() {
        let loops = "['1','2','3','4','5','6','7','8','9','10'].all(X, REST)";
        let text = ["a", "b", "c", "d", "e", "f"]
            .iter()
            .fold("device.driver.contains('x') || device.driver == ''".to_owned(), |rest, name| {
                loops.replace('X', name).replace("REST", &rest)
            });
        let selector = Selector::compile(&text).unwrap();
        assert!(selector.cost_max() > COST_MAX);
        let device = Device::default();
        let error = selector.matches(&device).unwrap_err();
        assert!(matches!(error, EvalError::CostLimitExceeded), "{error}");
    }
}
