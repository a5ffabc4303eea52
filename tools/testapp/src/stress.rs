//! Takes memory and processor time: `-mem-total`, `-mem-alloc-size`, `-mem-alloc-sleep`, `-cpus`.

use std::hint::black_box;
use std::thread;
use std::time::Duration;

use crate::{flag, number};

/// Suffixes of quantities and durations, longest first.
const BYTES: &[(&str, f64)] =
    &[("Ki", 1024.0), ("Mi", 1048576.0), ("Gi", 1073741824.0), ("k", 1e3), ("M", 1e6), ("G", 1e9)];
const SECONDS: &[(&str, f64)] =
    &[("ms", 1e-3), ("us", 1e-6), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];

/// Starts taking.
pub(crate) fn play(arguments: &[String]) -> Result<(), String> {
    let measured = |name, default, units| match flag(arguments, name) {
        None => Ok(default),
        Some(text) => amount(text, units).ok_or_else(|| format!("-{name} {text:?} is no amount")),
    };
    let total = measured("mem-total", 0.0, BYTES)?;
    let step = measured("mem-alloc-size", 4096.0, BYTES)?.max(4096.0);
    let pause = Duration::from_secs_f64(measured("mem-alloc-sleep", 0.001, SECONDS)?.max(0.0));
    let processors = number(arguments, "cpus", 0_u32)?;
    eprintln!(
        "Allocating {total} bytes memory, in {step} byte chunks, with a {pause:?} sleep between allocations"
    );
    thread::spawn(move || take(total, step, pause));
    eprintln!("Spawning {processors} threads to consume CPU");
    for _ in 0..processors {
        thread::spawn(|| {
            let mut count = 0_u64;
            loop {
                count = black_box(count.wrapping_add(1));
            }
        });
    }
    Ok(())
}

fn take(total: f64, step: f64, pause: Duration) {
    let mut held = Vec::new();
    let mut taken = 0.0;
    while taken < total {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "positive, and a size"
        )]
        let mut chunk = vec![0_u8; step as usize];
        // Pages are only taken once they are written to.
        chunk.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
        held.push(black_box(chunk));
        taken += step;
        thread::sleep(pause);
    }
    eprintln!("Allocated {taken} bytes");
    loop {
        black_box(&held);
        thread::park();
    }
}

fn amount(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let parsed = units.iter().find_map(|(suffix, factor)| {
        text.strip_suffix(suffix)?.parse::<f64>().ok().map(|number| number * factor)
    });
    parsed.or_else(|| text.parse().ok()).filter(|it: &f64| it.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_units() {
        assert_eq!(amount("150Mi", BYTES), Some(157_286_400.0));
        assert_eq!(amount("10M", BYTES), Some(1e7));
        assert_eq!(amount("1ms", SECONDS), Some(0.001));
        assert_eq!(amount("2m", SECONDS), Some(120.0));
        assert_eq!(amount("x", BYTES), None);
    }
}
