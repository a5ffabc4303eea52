//! Selections: from variables and values along fields, keys and indexes.

use super::Machine;
use crate::error::EvalError;
use crate::library::convert;
use crate::program::{By, Path, Root, Step};
use crate::value::{Result, Text, Val, double_to_int};

impl<'v, 'o: 'v> Machine<'v, 'o, '_, '_> {
    pub(super) fn path(&mut self, path: &'v Path) -> Result<Val<'v>> {
        if self.asks_for_variable(path) {
            self.charge(1)?;
            return Ok(Val::Bool(true));
        }
        let (mut value, mut steps) = self.root(path)?;
        let mut optional = false;
        let last = if path.test_only { steps.split_last() } else { None };
        if let Some((_, rest)) = last {
            steps = rest;
        }
        for step in steps {
            if let Val::Optional(inner) = value {
                optional = true;
                match inner {
                    Some(inner) => value = (*inner).clone(),
                    None => return self.nothing(path),
                }
            }
            optional |= step.optional;
            match self.step(&value, step)? {
                Some(next) => value = next,
                None if optional => return self.nothing(path),
                None => return Err(self.missing(&value, step)),
            }
        }
        self.charge(path.cost)?;
        if let Some((step, _)) = last {
            return self.test(value, step).map(Val::Bool);
        }
        Ok(if optional { Val::some(value) } else { value })
    }

    /// `has(variables.x)`: what the checker let pass is there.
    fn asks_for_variable(&self, path: &Path) -> bool {
        let is_composed =
            matches!(&path.root, Root::Variable(index, _) if self.variables.is_composed(*index));
        is_composed && path.test_only && path.steps.len() == 1
    }

    fn nothing(&mut self, path: &Path) -> Result<Val<'v>> {
        self.charge(path.cost)?;
        Ok(if path.test_only { Val::Bool(false) } else { Val::Optional(None) })
    }

    /// Where a path starts, and the steps that are left.
    fn root(&mut self, path: &'v Path) -> Result<(Val<'v>, &'v [Step])> {
        let unknown = |name: &str| EvalError::new(format!("no such attribute(s): {name}"));
        let value = match &path.root {
            Root::Variable(index, _) if self.variables.is_composed(*index) => {
                let Some((Step { by: By::Field(name), .. }, rest)) = path.steps.split_first()
                else {
                    return Err(unknown(crate::composition::VARIABLES));
                };
                self.charge(1)?;
                let value = self.variables.composed(name, self.budget)?;
                return Ok((value, rest));
            }
            Root::Variable(index, name) => {
                self.variables.get(*index).ok_or_else(|| unknown(name))?
            }
            Root::Slot(slot) => self.slots[*slot].clone(),
            Root::Node(node) => self.eval(node)?,
            Root::Unknown(name) => return Err(unknown(name)),
        };
        Ok((value, &path.steps))
    }

    /// What a step selects, if it is there.
    fn step(&mut self, value: &Val<'v>, step: &'v Step) -> Result<Option<Val<'v>>> {
        match &step.by {
            By::Field(name) => {
                self.charge(1)?;
                match value {
                    Val::Map(map) => map.member(name),
                    Val::List(_) => select(value, &Val::String(Text::Borrowed(name))),
                    _ => Ok(None),
                }
            }
            By::Key(key) => {
                self.charge(1)?;
                select(value, &super::constant(key))
            }
            By::Node(node, cost) => {
                let key = self.eval(node)?;
                self.charge(*cost)?;
                let found = select(value, &key)?;
                if found.is_none() {
                    self.missed = key;
                }
                Ok(found)
            }
        }
    }

    fn test(&mut self, value: Val<'v>, step: &'v Step) -> Result<bool> {
        match value {
            Val::Optional(None) => {
                self.charge(1)?;
                Ok(false)
            }
            Val::Optional(Some(inner)) => Ok(self.step(&inner, step)?.is_some()),
            value => Ok(self.step(&value, step)?.is_some()),
        }
    }

    /// Why a step found nothing.
    fn missing(&self, value: &Val<'v>, step: &'v Step) -> EvalError {
        let key = match &step.by {
            By::Field(name) => name.to_string(),
            By::Key(key) => convert::show(key),
            By::Node(..) => convert::show(&self.missed),
        };
        match value {
            Val::List(_) => EvalError::new(format!("index out of bounds: {key}")),
            _ => EvalError::no_such_key(&key),
        }
    }
}

/// The item or value for a key.
fn select<'v>(value: &Val<'v>, key: &Val<'v>) -> Result<Option<Val<'v>>> {
    match value {
        Val::Map(map) => match key {
            Val::Bool(_) | Val::Int(_) | Val::Uint(_) | Val::Double(_) | Val::String(_) => {
                map.get(key)
            }
            other => {
                let name = other.type_of();
                Err(EvalError::new(format!("unsupported key type: {}", name.name())))
            }
        },
        Val::List(list) => {
            let index = match key {
                Val::Int(index) => Some(*index),
                Val::Uint(index) => i64::try_from(*index).ok(),
                Val::Double(index) => double_to_int(*index),
                _ => None,
            };
            let unsupported = || {
                let name = key.type_of();
                EvalError::new(format!("unsupported index type '{}' in list", name.name()))
            };
            let index = index.ok_or_else(unsupported)?;
            let index = usize::try_from(index).ok().filter(|it| *it < list.len());
            index.map(|index| list.get(index)).transpose()
        }
        _ => Ok(None),
    }
}
