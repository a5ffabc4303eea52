//! `/debug/pprof`: where this process spends its processor time, as `go tool pprof` and its kin read it, and what else of
//! Go's pages means anything here.
//!
//! Upstream: `net/http/pprof`, by `k8s.io/apiserver/pkg/server/routes`. Nothing is done, and nothing costs anything, until
//! somebody asks. Who may ask is the server's business.

mod encode;

use std::time::Duration;

use component_base::Clock;
use component_base::task::BlockingPool;
use pprof::{ProfilerGuard, ProfilerGuardBuilder};

/// How often a second of processor time is looked at (Go's rate).
const HERTZ: i32 = 100;
/// Of a profile that does not say, and of the longest (upstream's ends with the connection).
const SECONDS: u64 = 30;
const SECONDS_MAX: u64 = 600;
/// Frames of these are not walked: one may be in the middle of what walking needs itself.
const NOT_WALKED: [&str; 4] = ["libc", "libgcc", "pthread", "vdso"];
/// Go's profiles that nothing here answers to, and why.
const MISSING: [(&str, &str); 8] = [
    ("allocs", "allocations are not sampled: jemalloc is built without its profiler"),
    ("block", "waiting of tasks is not sampled"),
    ("goroutine", "there are no goroutines: tasks have no stacks of their own"),
    ("heap", "allocations are not sampled: jemalloc is built without its profiler"),
    ("mutex", "waiting for locks is not sampled"),
    ("symbol", "profiles name their functions themselves"),
    ("threadcreate", "making of threads is not sampled"),
    ("trace", "there is no trace of a scheduler: see --tracing-config-file for traces of requests"),
];

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The code of HTTP.
    pub code: u16,
    /// The media type.
    pub media_type: &'static str,
    /// The name of a file that it is to be saved as.
    pub file: Option<&'static str>,
    /// What it says.
    pub body: Vec<u8>,
}

impl Page {
    fn text(code: u16, text: impl Into<String>) -> Self {
        let media_type = "text/plain; charset=utf-8";
        Self { code, media_type, file: None, body: text.into().into_bytes() }
    }
}

/// The page of a path below `/debug/pprof/`; `seconds` is the parameter of that name.
pub async fn page(path: &str, seconds: Option<&str>, clock: &dyn Clock) -> Page {
    match path.trim_end_matches('/') {
        "" => index(),
        "profile" => profile(seconds, clock).await,
        "cmdline" => match std::fs::read("/proc/self/cmdline") {
            Ok(line) => Page { body: ended(line), ..Page::text(200, "") },
            Err(error) => Page::text(500, format!("could not read the command line: {error}\n")),
        },
        name => match MISSING.iter().find(|(it, _)| *it == name) {
            Some((name, why)) => Page::text(501, format!("{name} is not here: {why}\n")),
            None => Page::text(404, "Unknown profile\n"),
        },
    }
}

/// The kernel ends each word, Go parts them.
fn ended(mut line: Vec<u8>) -> Vec<u8> {
    line.pop_if(|last| *last == 0);
    line
}

fn index() -> Page {
    let mut text = "<html>\n<head>\n<title>/debug/pprof/</title>\n</head>\n<body>\n/debug/pprof/\n<ul>\n\
        <li><a href=\"profile\">profile</a>: processor time; seconds=N says for how long</li>\n\
        <li><a href=\"cmdline\">cmdline</a>: how this process was started</li>\n</ul>\nNot here:\n<ul>\n"
        .to_owned();
    for (name, why) in MISSING {
        text.push_str(&format!("<li>{name}: {why}</li>\n"));
    }
    text.push_str("</ul>\n</body>\n</html>\n");
    Page { media_type: "text/html; charset=utf-8", ..Page::text(200, text) }
}

/// How long is asked for. What is no number of seconds is as good as nothing, as with Go.
fn asked(seconds: Option<&str>) -> Result<Duration, Page> {
    let seconds = seconds.and_then(|it| it.parse().ok()).filter(|it| *it > 0).unwrap_or(SECONDS);
    if seconds > SECONDS_MAX {
        let why = format!("profile duration exceeds the most there is, {SECONDS_MAX} seconds\n");
        return Err(Page::text(400, why));
    }
    Ok(Duration::from_secs(seconds))
}

async fn profile(seconds: Option<&str>, clock: &dyn Clock) -> Page {
    let asked = match asked(seconds) {
        Ok(asked) => asked,
        Err(page) => return page,
    };
    match sampled(asked, clock).await {
        Ok(body) => {
            Page { code: 200, media_type: "application/octet-stream", file: Some("profile"), body }
        }
        Err(error) => Page::text(500, format!("Could not enable CPU profiling: {error}\n")),
    }
}

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
enum ProfileError {
    #[error("cpu profiling already in use")]
    InUse,
    #[error("{0}")]
    Failed(String),
}

/// Samples this process for a while. Where this is dropped before, sampling ends.
async fn sampled(length: Duration, clock: &dyn Clock) -> Result<Vec<u8>, ProfileError> {
    let pool = BlockingPool::new("profile", 1);
    let failed = |error: &dyn std::fmt::Display| ProfileError::Failed(error.to_string());
    // Libraries and their parts are looked at, which reads files.
    let begun = pool.run(begin).await.map_err(|error| failed(&error))?;
    let began = clock.now();
    let guard = begun?;
    tokio::time::sleep(length).await;
    let nanos = |it: i128| u64::try_from(it).unwrap_or_default();
    let (at, took) = (began.as_nanosecond(), clock.now().as_nanosecond() - began.as_nanosecond());
    let done = pool.run(move || {
        let report = guard.report().build();
        drop(guard);
        let report = report.map_err(|error| ProfileError::Failed(error.to_string()))?;
        encode::packed(&report.data, HERTZ.unsigned_abs(), (nanos(at), nanos(took)))
            .map_err(|error| ProfileError::Failed(error.to_string()))
    });
    done.await.map_err(|error| failed(&error))?
}

fn begin() -> Result<ProfilerGuard<'static>, ProfileError> {
    let builder = ProfilerGuardBuilder::default().frequency(HERTZ).blocklist(&NOT_WALKED);
    builder.build().map_err(|error| match error {
        pprof::Error::Running => ProfileError::InUse,
        other => ProfileError::Failed(other.to_string()),
    })
}

#[cfg(test)]
mod tests;
