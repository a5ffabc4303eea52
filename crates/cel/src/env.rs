//! What an expression can use: variables, object types, functions and macros.

use std::sync::{Arc, LazyLock};

use crate::composition::{self, Composition};
use crate::decl::Functions;
use crate::library::{self, Library};
use crate::macros::Macros;
use crate::parser::Syntax;
use crate::program::Program;
use crate::schema::{DeclType, Declarations, TypeProvider};
use crate::source::{Issue, IssueKind, Issues};
use crate::types::Type;
use crate::{check, cost, parser, plan};

/// A version of Kubernetes: libraries appear with one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The first number.
    pub major: u16,
    /// The second number.
    pub minor: u16,
}

impl Version {
    /// The version this is.
    pub const CURRENT: Self = Self { major: 1, minor: 37 };
    /// The oldest: what was there from the start.
    pub const FIRST: Self = Self { major: 1, minor: 0 };

    /// `1.MINOR`
    #[must_use]
    pub const fn v1(minor: u16) -> Self {
        Self { major: 1, minor }
    }
}

/// What an expression can use. Cheap to clone and to extend.
#[derive(Debug, Clone)]
pub struct Env {
    pub(crate) functions: Arc<Functions>,
    pub(crate) syntax: Syntax,
    pub(crate) validates_literals: bool,
    pub(crate) folds_constants: bool,
    pub(crate) mixed_literals: bool,
    pub(crate) container: Arc<str>,
    pub(crate) variables: Arc<Vec<Variable>>,
    pub(crate) declarations: Arc<Declarations>,
    pub(crate) provider: Option<Arc<dyn TypeProvider>>,
}

/// A declared variable.
#[derive(Debug, Clone)]
pub(crate) struct Variable {
    pub(crate) name: Arc<str>,
    pub(crate) ty: Type,
    pub(crate) decl: Option<Arc<DeclType>>,
}

/// What a variable is declared as.
#[derive(Debug, Clone)]
pub enum VariableType {
    /// By type alone.
    Type(Type),
    /// By its schema, which also says how JSON is read and how large values can be.
    Schema(Arc<DeclType>),
}

impl From<Type> for VariableType {
    fn from(ty: Type) -> Self {
        Self::Type(ty)
    }
}

impl From<Arc<DeclType>> for VariableType {
    fn from(decl: Arc<DeclType>) -> Self {
        Self::Schema(decl)
    }
}

static CURRENT: LazyLock<Env> = LazyLock::new(|| Env::build(Version::CURRENT));

impl Env {
    /// The environment of this version of Kubernetes.
    #[must_use]
    pub fn kubernetes() -> Self {
        CURRENT.clone()
    }

    /// The environment for expressions that must mean the same on servers of `version`.
    #[must_use]
    pub fn compatible_with(version: Version) -> Self {
        if version == Version::CURRENT { Self::kubernetes() } else { Self::build(version) }
    }

    fn build(version: Version) -> Self {
        let mut env = Self {
            functions: Arc::default(),
            syntax: Syntax::default(),
            validates_literals: version >= Version::v1(29),
            folds_constants: true,
            mixed_literals: false,
            container: "".into(),
            variables: Arc::default(),
            declarations: Arc::default(),
            provider: None,
        };
        for (since, until, library) in library::INTRODUCED {
            if *since <= version && until.is_none_or(|until| version < until) {
                env = env.with_library(*library);
            }
        }
        env
    }

    /// The same with one library more.
    #[must_use]
    pub fn with_library(mut self, library: Library) -> Self {
        let functions = Arc::make_mut(&mut self.functions);
        for table in library.tables() {
            functions.add(table);
        }
        let Macros { optionals, two_variables, bindings, math, lists } = &mut self.syntax.macros;
        match library {
            Library::Optionals => {
                *optionals = true;
                self.syntax.optionals = true;
            }
            Library::TwoVariableComprehensions => *two_variables = true,
            Library::Bindings => *bindings = true,
            Library::Math => *math = true,
            Library::ListsExtended => *lists = true,
            _ => {}
        }
        self
    }

    /// The same with a variable more. Object types in a schema become known with it.
    #[must_use]
    pub fn with_variable(mut self, name: &str, ty: impl Into<VariableType>) -> Self {
        let (ty, decl) = match ty.into() {
            VariableType::Type(ty) => (ty, None),
            VariableType::Schema(decl) => {
                Arc::make_mut(&mut self.declarations).add(&decl);
                (decl.ty().clone(), Some(decl))
            }
        };
        Arc::make_mut(&mut self.variables).push(Variable { name: name.into(), ty, decl });
        self
    }

    /// The same with an object type more, by its fields.
    #[must_use]
    pub fn with_object_type(
        mut self,
        name: &str,
        fields: impl IntoIterator<Item = (Arc<str>, Type)>,
    ) -> Self {
        Arc::make_mut(&mut self.declarations).add_fields(name, fields);
        self
    }

    /// The same with the object types of a provider.
    #[must_use]
    pub fn with_provider(mut self, provider: Arc<dyn TypeProvider>) -> Self {
        self.provider = Some(provider);
        self
    }

    /// The same where names are looked up in this namespace first.
    #[must_use]
    pub fn with_container(mut self, container: &str) -> Self {
        self.container = container.into();
        self
    }

    /// The same where lists and maps may be written with values of different types.
    #[must_use]
    pub fn with_mixed_literals(mut self) -> Self {
        self.mixed_literals = true;
        self.validates_literals = false;
        self
    }

    /// The same where fields may be named in backquotes. Kubernetes does not allow it.
    #[must_use]
    pub fn with_escaped_names(mut self) -> Self {
        self.syntax.escaped_names = true;
        self
    }

    /// The same where constants are evaluated, and paid for, each time.
    #[must_use]
    pub fn without_folding(mut self) -> Self {
        self.folds_constants = false;
        self
    }

    /// An expression that may be evaluated. Its result is of one of the types; of any, where none is named.
    ///
    /// # Errors
    /// All that is wrong with the text.
    pub fn compile(&self, text: &str, expected: &[Type]) -> Result<Program, Issues> {
        let parsed = parser::parse(text, self.syntax)?;
        let checked = check::check(self, parsed)?;
        let output = checked.output();
        if !expected.is_empty() && !expected.contains(&output) {
            let names = expected.iter().map(Type::name).collect::<Vec<_>>();
            let message = match names.as_slice() {
                [only] => format!("must evaluate to {only}"),
                several => format!("must evaluate to one of [{}]", several.join(" ")),
            };
            return Err(Issues::one(Issue::unplaced(IssueKind::OutputType, message)));
        }
        let estimate = cost::estimate(self, &checked);
        let (root, slots) = plan::plan(self, &checked)?;
        Ok(Program::new(root, slots, output, estimate, checked.variables_used()))
    }

    /// An expression that is not type-checked: for tools and tests. Kubernetes checks all of its own.
    ///
    /// # Errors
    /// Where the text does not parse.
    pub fn compile_unchecked(&self, text: &str) -> Result<Program, Issues> {
        let checked = check::unchecked(parser::parse(text, self.syntax)?);
        let (root, slots) = plan::plan(self, &checked)?;
        Ok(Program::new(root, slots, Type::Dyn, cost::CostEstimate::UNKNOWN, Vec::new()))
    }

    /// Whether an expression reads a field of a variable by its name: `name.field` or `name.?field`. One that does not
    /// parse reads nothing.
    #[must_use]
    pub fn selects(&self, text: &str, name: &str, field: &str) -> bool {
        parser::parse(text, self.syntax).is_ok_and(|it| it.expr.selects(name, field))
    }

    /// Expressions that others refer to as `variables.NAME`, evaluated when they are needed.
    #[must_use]
    pub fn compose(&self) -> Composition {
        composition::new(self)
    }

    pub(crate) fn variable(&self, name: &str) -> Option<(usize, &Variable)> {
        let found = self.variables.iter().enumerate().rev();
        let name = name.trim_start_matches('.');
        found.into_iter().find(|(_, it)| &*it.name == name)
    }

    pub(crate) fn has_type(&self, name: &str) -> bool {
        self.declarations.has_type(name)
            || self.provider.as_ref().is_some_and(|it| it.has_type(name))
    }

    pub(crate) fn field(&self, type_name: &str, field: &str) -> Option<Type> {
        let known = self.declarations.field(type_name, field);
        known.or_else(|| self.provider.as_ref()?.field(type_name, field))
    }

    /// The names that a name can stand for, the innermost namespace first.
    pub(crate) fn candidates(&self, name: &str) -> Vec<String> {
        if let Some(absolute) = name.strip_prefix('.') {
            return vec![absolute.to_owned()];
        }
        let mut candidates = Vec::new();
        let mut container = &*self.container;
        while !container.is_empty() {
            candidates.push(format!("{container}.{name}"));
            container = container.rsplit_once('.').map_or("", |it| it.0);
        }
        candidates.push(name.to_owned());
        candidates
    }
}
