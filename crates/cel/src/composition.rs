//! Expressions by name that others refer to as `variables.NAME`. Each is evaluated at most once a request, when it is
//! needed, and may refer to those before it.

use std::sync::Arc;

use crate::env::Env;
use crate::program::Program;
use crate::source::Issues;
use crate::types::Type;

pub(crate) const VARIABLES: &str = "variables";
const TYPE_NAME: &str = "kubernetes.variables";

/// Expressions by name, in order.
#[derive(Debug)]
pub struct Composition {
    base: Env,
    env: Env,
    programs: Vec<(Arc<str>, Program)>,
    /// The types of all names, of those with errors too.
    types: Vec<(Arc<str>, Type)>,
}

pub(crate) fn new(base: &Env) -> Composition {
    let base = base.clone().with_variable(VARIABLES, Type::object(TYPE_NAME));
    let env = base.clone().with_object_type(TYPE_NAME, []);
    Composition { base, env, programs: Vec::new(), types: Vec::new() }
}

impl Composition {
    /// The environment of expressions that refer to these.
    #[must_use]
    pub fn env(&self) -> &Env {
        &self.env
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.programs.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.programs.is_empty()
    }

    /// Adds an expression. It can refer to those added before. Where it has errors, the name is known with any type, so
    /// that what refers to it has no errors for that.
    ///
    /// # Errors
    /// All that is wrong with the text.
    pub fn define(&mut self, name: &str, text: &str) -> Result<(), Issues> {
        let compiled = self.env.compile(text, &[]);
        let ty = compiled.as_ref().map_or(Type::Dyn, |it| it.output_type().clone());
        self.types.push((name.into(), ty));
        self.env = self.base.clone().with_object_type(TYPE_NAME, self.types.iter().cloned());
        self.programs.push((name.into(), compiled?));
        Ok(())
    }

    pub(crate) fn get(&self, name: &str) -> Option<(usize, &Program)> {
        let index = self.programs.iter().rposition(|it| &*it.0 == name)?;
        Some((index, &self.programs[index].1))
    }
}
