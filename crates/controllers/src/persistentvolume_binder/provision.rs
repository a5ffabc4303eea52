//! Having a volume made for a claim: which class it is, who makes it, and what is told meanwhile.

use apimachinery::Value;

use client::csi_translation;
use client::volumes::{annotation, leaves_class_open};

use super::MIGRATED_TO;

/// Says that claims which name no class get this one; the second is its older name.
const IS_DEFAULT: [&str; 2] = [
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
];
/// Who is to make a claim's volume; the second is its older name, which provisioners still read.
pub(super) const PROVISIONER: [&str; 2] =
    ["volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"];

/// Upstream makes directories of the machine that its controllers run on, where a flag for tests says so.
const NO_HOST_PATH: &str = "Failed to create provisioner: provisioning in volume plugin \"kubernetes.io/host-path\" is disabled";

/// The CSI driver that a provisioner's work has gone to.
pub(super) fn migrated(provisioner: &str) -> Option<&'static str> {
    csi_translation::plugin(provisioner).map(|it| it.driver)
}

/// Who makes volumes of a class.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Maker {
    /// What claims are to name.
    pub(super) name: String,
    /// Why it makes none, which is told once the claim names it; `None` where it works outside of this program.
    pub(super) refusal: Option<&'static str>,
}

/// Who makes volumes of a class.
///
/// # Errors
/// In upstream's words: names that begin with `kubernetes.io/` mean what upstream has built in.
pub(super) fn provisioner(class: &Value) -> Result<Maker, String> {
    let outside = |name: &str| Ok(Maker { name: name.to_owned(), refusal: None });
    let name = class.str_at(&["provisioner"]);
    if let Some(driver) = migrated(name) {
        return outside(driver);
    }
    match name {
        "kubernetes.io/host-path" => {
            Ok(Maker { name: name.to_owned(), refusal: Some(NO_HOST_PATH) })
        }
        "kubernetes.io/nfs" => Err("no provisionable volume plugin matched".to_owned()),
        _ if name.starts_with("kubernetes.io/") => {
            Err(format!("no volume plugin matched name: {name}"))
        }
        _ => outside(name),
    }
}

/// What is told while another program makes the volume.
pub(super) fn waiting_for(provisioner: &str) -> String {
    format!(
        "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the \
         system administrator. If volume creation is delayed, please verify that the provisioner is running and \
         correctly registered."
    )
}

/// The class of claims that name none: the newest of those that say so, of several the first by name.
pub(super) fn default_class<'a>(classes: impl Iterator<Item = &'a Value>) -> Option<&'a Value> {
    let says = |it: &&Value| IS_DEFAULT.iter().any(|key| annotation(it, key) == Some("true"));
    let order = |it: &&Value| {
        let created = it.str_at(&["metadata", "creationTimestamp"]).to_owned();
        (created, std::cmp::Reverse(super::name(it).to_owned()))
    };
    classes.filter(says).max_by_key(order)
}

/// A claim with the class that it gets because it names none.
pub(super) fn with_default_class(claim: &Value, default: Option<&Value>) -> Option<Value> {
    let class = default.filter(|_| leaves_class_open(claim))?;
    let mut claim = claim.clone();
    claim.set_at(&["spec", "storageClassName"], super::name(class));
    Some(claim)
}

/// A claim that says who is to make its volume; `None` where it says so already.
pub(super) fn with_provisioner(claim: &Value, provisioner: &str) -> Option<Value> {
    if annotation(claim, PROVISIONER[0]) == Some(provisioner) {
        return None;
    }
    let mut claim = claim.clone();
    for key in PROVISIONER {
        claim.set_at(&["metadata", "annotations", key], provisioner);
    }
    Some(claim)
}

/// A claim or volume that tells which driver does its maker's work, if any; `None` where it does.
pub(super) fn with_migration(object: &Value, maker: &str) -> Option<Value> {
    let (driver, told) = (migrated(maker), annotation(object, MIGRATED_TO));
    if driver == told.filter(|it| !it.is_empty()) {
        return None;
    }
    let mut object = object.clone();
    match driver {
        Some(driver) => object.set_at(&["metadata", "annotations", MIGRATED_TO], driver),
        None => drop(object.remove_at(&["metadata", "annotations", MIGRATED_TO])),
    }
    Some(object)
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    #[test]
    fn the_newest_default_class_is_taken() {
        let class = |name: &str, created: &str, default: &str| {
            value!({"metadata": {"name": name, "creationTimestamp": created,
                "annotations": {"storageclass.kubernetes.io/is-default-class": default}}})
        };
        let classes = [
            class("old", "2020-01-01T00:00:00Z", "true"),
            class("b", "2021-01-01T00:00:00Z", "true"),
            class("a", "2021-01-01T00:00:00Z", "true"),
            class("newest", "2022-01-01T00:00:00Z", "false"),
        ];
        assert_eq!(super::super::name(default_class(classes.iter()).unwrap()), "a");
        let open = value!({"spec": {}});
        let claim = with_default_class(&open, Some(&classes[0])).unwrap();
        assert_eq!(claim.str_at(&["spec", "storageClassName"]), "old");
        let none = value!({"spec": {"storageClassName": ""}});
        assert!(with_default_class(&none, Some(&classes[0])).is_none());
    }

    #[test]
    fn whose_work_has_gone_to_a_driver_is_told() {
        let object = |told: &str| value!({"metadata": {"annotations": {"pv.kubernetes.io/migrated-to": told}}});
        let plain = value!({"metadata": {}});
        let (in_tree, driver) = ("kubernetes.io/aws-ebs", "ebs.csi.aws.com");
        assert_eq!(with_migration(&plain, in_tree), Some(object(driver)));
        assert_eq!(with_migration(&object(driver), in_tree), None);
        assert_eq!(with_migration(&plain, driver), None);
        assert!(
            annotation(&with_migration(&object(driver), driver).unwrap(), MIGRATED_TO).is_none()
        );
    }

    #[test]
    fn what_upstream_has_built_in_is_not_waited_for() {
        let check = |name: &str, expected: Result<&str, &str>| {
            let class = value!({"provisioner": name});
            let maker = provisioner(&class);
            let maker = maker.as_ref().map(|it| it.refusal.unwrap_or(&it.name));
            assert_eq!(maker.map_err(String::as_str), expected);
        };
        check("example.com/p", Ok("example.com/p"));
        check("kubernetes.io/aws-ebs", Ok("ebs.csi.aws.com"));
        check("kubernetes.io/host-path", Ok(NO_HOST_PATH));
        check(
            "kubernetes.io/no-provisioner",
            Err("no volume plugin matched name: kubernetes.io/no-provisioner"),
        );
    }
}
