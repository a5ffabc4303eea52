//! A profile as its readers find it.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use component_base::RealClock;
use grpc::wire::{Field, fields};

use super::*;

fn spin_for_the_profile(done: &AtomicBool, turns: &AtomicU64) {
    while !done.load(Ordering::Relaxed) {
        turns.fetch_add(1, Ordering::Relaxed);
    }
}

async fn text(path: &str) -> (u16, String) {
    let page = page(path, None, &RealClock).await;
    (page.code, String::from_utf8(page.body).unwrap())
}

#[tokio::test]
async fn what_there_is_is_listed_and_what_is_not_says_so() {
    let (code, index) = text("").await;
    assert!(code == 200 && index.contains("href=\"profile\"") && index.contains("goroutine"));
    let (code, line) = text("cmdline").await;
    assert!(code == 200 && line.contains("profiling-") && !line.ends_with('\0'), "{line:?}");
    for (name, _) in MISSING {
        let (code, why) = text(name).await;
        assert!(code == 501 && why.starts_with(&format!("{name} is not here: ")), "{why}");
    }
    assert_eq!(text("nothing").await, (404, "Unknown profile\n".to_owned()));
    let long = page("profile", Some("601"), &RealClock).await;
    assert_eq!(long.code, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_profile_names_what_takes_time_and_there_is_one_at_a_time() {
    let (done, turns) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let busy = {
        let (done, turns) = (Arc::clone(&done), Arc::clone(&turns));
        std::thread::Builder::new()
            .name("busy".into())
            .spawn(move || spin_for_the_profile(&done, &turns))
            .unwrap()
    };
    let (one, other) = tokio::join!(
        page("profile", Some("1"), &RealClock),
        page("profile", Some("1"), &RealClock)
    );
    done.store(true, Ordering::Relaxed);
    busy.join().unwrap();
    let (good, bad) = if one.code == 200 { (one, other) } else { (other, one) };
    let why = String::from_utf8(bad.body).unwrap();
    assert_eq!(
        (bad.code, why.as_str()),
        (500, "Could not enable CPU profiling: cpu profiling already in use\n")
    );
    assert_eq!((good.code, good.file), (200, Some("profile")));
    let mut profile = Vec::new();
    flate2::read::GzDecoder::new(good.body.as_slice()).read_to_end(&mut profile).unwrap();
    let fields = fields(&profile).unwrap();
    let messages = |wanted: u32| {
        let all = fields.iter().filter_map(move |it| match it {
            (number, Field::Bytes(bytes)) if *number == wanted => Some(*bytes),
            _ => None,
        });
        all.collect::<Vec<&[u8]>>()
    };
    let texts: Vec<&str> =
        messages(6).into_iter().map(|it| std::str::from_utf8(it).unwrap()).collect();
    assert_eq!(texts[..5], ["", "samples", "count", "cpu", "nanoseconds"]);
    assert!(texts.iter().any(|it| it.contains("spin_for_the_profile")), "{texts:?}");
    assert!(texts.contains(&"busy"), "threads are told by name");
    // Whatever is referred to is there.
    let locations: BTreeSet<u64> = messages(4).into_iter().map(|it| numbers(it, 1)[0]).collect();
    let samples = messages(2);
    assert!(!samples.is_empty());
    for sample in samples {
        assert!(numbers(sample, 1).iter().all(|it| locations.contains(it)));
        let values = numbers(sample, 2);
        assert_eq!(values[1], values[0] * 10_000_000);
    }
}

fn numbers(message: &[u8], wanted: u32) -> Vec<u64> {
    let all = fields(message).unwrap().into_iter();
    all.filter_map(|it| match it {
        (number, Field::Varint(value)) if number == wanted => Some(value),
        _ => None,
    })
    .collect()
}
