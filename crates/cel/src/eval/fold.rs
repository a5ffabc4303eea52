//! Loops. What they cost is what upstream's general comprehension costs, step by step.

use super::Machine;
use crate::error::EvalError;
use crate::limits::SELECT;
use crate::program::{Fold, FoldKind, Node};
use crate::value::{Entries, List, Map, Result, Val};

/// What is looped over.
enum Range<'v> {
    List(List<'v>),
    Map(Vec<Val<'v>>, Map<'v>),
}

impl Range<'_> {
    fn len(&self) -> usize {
        match self {
            Self::List(list) => list.len(),
            Self::Map(keys, _) => keys.len(),
        }
    }
}

/// The condition of `all`: `@not_strictly_false(accu)`.
const ALL_CONDITION: u64 = SELECT + 1;
/// The condition of `exists`: `@not_strictly_false(!accu)`.
const EXISTS_CONDITION: u64 = SELECT + 2;

impl<'v, 'o: 'v> Machine<'v, 'o, '_, '_> {
    pub(super) fn fold(&mut self, fold: &'v Fold) -> Result<Val<'v>> {
        let range = match self.eval(&fold.range)? {
            Val::List(list) => Range::List(list),
            Val::Map(map) => Range::Map(map.keys(), map),
            other => {
                let name = other.type_of();
                return Err(EvalError::new(format!(
                    "got '{}', expected iterable type",
                    name.name()
                )));
            }
        };
        match &fold.kind {
            FoldKind::All(test) => self.quantify(fold, &range, test, true),
            FoldKind::Exists(test) => self.quantify(fold, &range, test, false),
            FoldKind::ExistsOne(test) => self.exists_one(fold, &range, test),
            FoldKind::Collect { filter, value, costs } => {
                self.collect(fold, &range, (filter.as_ref(), value), *costs)
            }
            FoldKind::Insert { filter, keyed, value, cost } => {
                self.charge(*cost)?;
                self.insert(fold, &range, (filter.as_ref(), value), *keyed)
            }
        }
    }

    /// Sets the loop's variables for a turn.
    fn enter(&mut self, fold: &Fold, range: &Range<'v>, turn: usize) -> Result<()> {
        self.turn()?;
        let (first, second) = match range {
            Range::List(list) if fold.two_variables => {
                (Val::Int(i64::try_from(turn).unwrap_or(i64::MAX)), list.get(turn)?)
            }
            Range::List(list) => (list.get(turn)?, Val::Null),
            Range::Map(keys, map) if fold.two_variables => {
                (keys[turn].clone(), map.get(&keys[turn])?.unwrap_or_default())
            }
            Range::Map(keys, _) => (keys[turn].clone(), Val::Null),
        };
        self.slots[fold.slot] = first;
        if fold.two_variables {
            self.slots[fold.slot + 1] = second;
        }
        Ok(())
    }

    /// `all` ends at the first that does not hold, `exists` at the first that does; errors count only if none decides.
    fn quantify(
        &mut self,
        fold: &'v Fold,
        range: &Range<'v>,
        test: &'v Node,
        all: bool,
    ) -> Result<Val<'v>> {
        let mut failure = None;
        for turn in 0..range.len() {
            self.enter(fold, range, turn)?;
            self.charge(if all { ALL_CONDITION } else { EXISTS_CONDITION } + SELECT)?;
            match self.truth(test) {
                Ok(truth) if truth != all => {
                    // Where something is left, the condition is looked at once more.
                    let again = if turn + 1 < range.len() { ALL_CONDITION } else { 0 };
                    let again = if all || again == 0 { again } else { EXISTS_CONDITION };
                    self.charge(again + SELECT)?;
                    return Ok(Val::Bool(!all));
                }
                Ok(_) => {}
                Err(error) if error.is_absorbable() => {
                    failure.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        self.charge(SELECT)?;
        failure.map_or(Ok(Val::Bool(all)), Err)
    }

    fn exists_one(&mut self, fold: &'v Fold, range: &Range<'v>, test: &'v Node) -> Result<Val<'v>> {
        let mut count = 0;
        for turn in 0..range.len() {
            self.enter(fold, range, turn)?;
            if self.truth(test)? {
                self.charge(SELECT + 1)?;
                count += 1;
            }
        }
        self.charge(SELECT + 1)?;
        Ok(Val::Bool(count == 1))
    }

    fn passes(&mut self, filter: Option<&'v Node>) -> Result<bool> {
        filter.map_or(Ok(true), |it| self.truth(it))
    }

    fn collect(
        &mut self,
        fold: &'v Fold,
        range: &Range<'v>,
        (filter, value): (Option<&'v Node>, &'v Node),
        (first, each): (u64, u64),
    ) -> Result<Val<'v>> {
        self.charge(first)?;
        let mut items = Vec::new();
        for turn in 0..range.len() {
            self.enter(fold, range, turn)?;
            if self.passes(filter)? {
                let value = self.eval(value)?;
                self.charge(SELECT + each + 1)?;
                items.push(value);
            }
        }
        self.charge(SELECT)?;
        Ok(Val::list(items))
    }

    fn insert(
        &mut self,
        fold: &'v Fold,
        range: &Range<'v>,
        (filter, value): (Option<&'v Node>, &'v Node),
        keyed: bool,
    ) -> Result<Val<'v>> {
        const REPEATED: &str = "insert failed: key already exists: ";
        let mut entries = Entries::default();
        for turn in 0..range.len() {
            self.enter(fold, range, turn)?;
            if !self.passes(filter)? {
                continue;
            }
            let key = keyed.then(|| self.slots[fold.slot].clone());
            let value = self.eval(value)?;
            self.charge(SELECT + u64::from(keyed) + 1)?;
            match (key, value) {
                (Some(key), value) => entries.insert(key, value, REPEATED)?,
                (None, Val::Map(map)) => {
                    for (key, value) in map.entries()? {
                        entries.insert(key, value, REPEATED)?;
                    }
                }
                (None, _) => return Err(EvalError::no_such_overload()),
            }
        }
        self.charge(SELECT)?;
        Ok(Val::Map(Map::new(entries)))
    }
}
