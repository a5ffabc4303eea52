//! PodTemplate.

use apimachinery::Value;

use crate::declaration::Declaration;
use crate::pod_spec::defaults;

pub(super) fn resource() -> Declaration {
    Declaration { resource: "podtemplates", default, ..Declaration::PLAIN }
}

fn default(value: &mut Value) {
    defaults::template(value.get_mut("template"));
}
