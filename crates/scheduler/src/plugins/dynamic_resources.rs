//! DynamicResources, as far as pods without resource claims go. A pod with claims is refused and told so.

use crate::framework::{Cycle, Failure, Filter, PostFilter, Prepared, Profile, Rejection, Remedy};

/// Upstream's plugin of that name.
#[derive(Debug)]
pub(super) struct DynamicResources;

const NAME: &str = "DynamicResources";

impl Filter for DynamicResources {
    fn name(&self) -> &'static str {
        NAME
    }

    fn prepare<'a>(&'a self, cycle: Cycle<'a>) -> Prepared<'a> {
        if cycle.pod.ask.has_resource_claims {
            let reason = "this scheduler does not allocate resource claims yet";
            return Prepared::Reject(Rejection::for_good(reason));
        }
        Prepared::Skip
    }
}

impl PostFilter for DynamicResources {
    fn name(&self) -> &'static str {
        NAME
    }

    fn remedy(&self, profile: &Profile, failure: &Failure<'_, '_>) -> Remedy {
        let own = profile.filters.iter().position(|it| it.name() == NAME);
        // Upstream looks for what its own preparation left; where another plugin refused before that, it finds nothing,
        // says so, and ends the search for a remedy.
        if failure.refused_by.zip(own).is_some_and(|(by, own)| by < own) {
            return Remedy::Stop("not found".into());
        }
        Remedy::Nothing("no new claims to deallocate".into())
    }
}
