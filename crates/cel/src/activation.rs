//! The values of variables for one evaluation, or for all expressions of one request.

use std::cell::RefCell;

use crate::budget::Budget;
use crate::composition::Composition;
use crate::env::Env;
use crate::error::EvalError;
use crate::value::{Result, Val};

/// The values of an environment's variables.
#[derive(Debug)]
pub struct Activation<'v> {
    values: Vec<Option<Val<'v>>>,
    composed: Option<Composed<'v>>,
}

#[derive(Debug)]
struct Composed<'v> {
    variable: usize,
    composition: &'v Composition,
    /// What was evaluated already.
    known: RefCell<Vec<Option<Result<Val<'v>>>>>,
}

impl<'v> Activation<'v> {
    /// Nothing is set.
    #[must_use]
    pub fn new(env: &Env) -> Self {
        Self { values: vec![None; env.variables.len()], composed: None }
    }

    /// Sets a variable. One that the environment does not declare is not kept, since no expression can read it.
    #[must_use]
    pub fn with(mut self, env: &Env, name: &str, value: Val<'v>) -> Self {
        if let Some((index, _)) = env.variable(name) {
            if self.values.len() <= index {
                self.values.resize(index + 1, None);
            }
            self.values[index] = Some(value);
        }
        self
    }

    /// Sets a variable to a JSON value, read by the schema that it was declared with.
    ///
    /// # Errors
    /// Where the value is not what the schema says.
    pub fn with_json(
        self,
        env: &'v Env,
        name: &str,
        value: &'v apimachinery::Value,
    ) -> Result<Self> {
        let decl = env.variable(name).and_then(|(_, it)| it.decl.as_deref());
        Ok(self.with(env, name, Val::json(value, decl)?))
    }

    /// Sets `variables` to expressions that are evaluated when they are needed.
    #[must_use]
    pub fn with_composition(mut self, composition: &'v Composition) -> Self {
        if let Some((variable, _)) = composition.env().variable(crate::composition::VARIABLES) {
            let known = RefCell::new(vec![None; composition.len()]);
            self.composed = Some(Composed { variable, composition, known });
        }
        self
    }

    pub(crate) fn get(&self, variable: usize) -> Option<Val<'v>> {
        self.values.get(variable)?.clone()
    }

    /// Whether a variable is `variables`.
    pub(crate) fn is_composed(&self, variable: usize) -> bool {
        self.composed.as_ref().is_some_and(|it| it.variable == variable)
    }

    /// `variables.NAME`; the first to ask pays.
    pub(crate) fn composed(&self, name: &str, budget: &mut Budget<'_>) -> Result<Val<'v>> {
        let missing = || EvalError::no_such_key(name);
        let Composed { composition, known, .. } = self.composed.as_ref().ok_or_else(missing)?;
        let (index, program) = composition.get(name).ok_or_else(missing)?;
        if let Some(known) = known.borrow().get(index).and_then(Clone::clone) {
            return known;
        }
        let value = program.eval(self, budget);
        if let Some(slot) = known.borrow_mut().get_mut(index) {
            *slot = Some(value.clone());
        }
        value
    }
}
