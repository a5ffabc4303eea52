//! The contract of stores holds for one that encrypts.

use std::sync::Arc;

use component_base::{RealClock, SystemRandom};
use encryption::{EncryptedStore, GroupResource, Owners, Parts};
use storage::memory::MemoryStore;
use storage::{Key, conformance};

use crate::providers::config;

/// The largest value is smaller here, by what encryption adds.
const LIMITS: &str = "too_large_keys_and_values_are_refused";

/// Every key is a secret's.
#[derive(Debug)]
struct Everything;

impl Owners for Everything {
    fn resource_of(&self, _key: &Key) -> Option<GroupResource> {
        Some(GroupResource { group: String::new(), resource: "secrets".into() })
    }
}

#[tokio::test]
async fn the_contract_of_stores_holds() {
    let file = config("[aesgcm: {keys: [KEY1]}]");
    for case in conformance::CASES.iter().filter(|it| it.name != LIMITS) {
        let parts = Parts {
            clock: Arc::new(RealClock),
            random: Arc::new(SystemRandom::new()),
            layout: Arc::new(Everything),
            server: "me".to_owned(),
        };
        let inner = Arc::new(MemoryStore::new(Arc::new(RealClock)));
        let store = EncryptedStore::start(inner, file.path(), parts).await.unwrap();
        println!("{}", case.name);
        (case.check)(Arc::new(store)).await;
    }
}
