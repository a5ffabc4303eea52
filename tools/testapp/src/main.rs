//! The program in the test images. It plays, by the name it is called or by its first argument, what the documents
//! under test expect their images to run. It knows nothing of Kubernetes.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "its output is a container's log")]
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "it is a program under test: its time is real and it has no engine"
)]

mod http;
mod proxy;
mod resolver;
mod stress;
mod web;

use std::path::Path;
use std::process::ExitCode;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// A part the program can play.
type Play = fn(&[String]) -> Result<(), String>;

/// Name, and what is done under it.
const PLAYS: &[(&str, Play)] = &[
    ("pause", |_| Ok(())),
    ("liveness", web::liveness),
    ("netexec", web::netexec),
    ("health", web::health),
    ("hello-app", web::hello),
    ("stress", stress::play),
    ("goproxy", proxy::play),
    ("resolver", resolver::play),
];

fn main() -> ExitCode {
    let mut arguments = std::env::args();
    let called = arguments.next().unwrap_or_default();
    let mut rest: Vec<String> = arguments.collect();
    let name = Path::new(&called).file_name().and_then(|it| it.to_str()).unwrap_or_default();
    let play = find(name).or_else(|| {
        let named = rest.first().and_then(|it| find(it))?;
        rest.remove(0);
        Some(named)
    });
    let Some(play) = play else {
        let names: Vec<&str> = PLAYS.iter().map(|(name, _)| *name).collect();
        eprintln!("say what to play: {}", names.join(", "));
        return ExitCode::from(2);
    };
    match run(play, &rest) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn find(name: &str) -> Option<Play> {
    PLAYS.iter().find(|(known, _)| *known == name).map(|(_, play)| *play)
}

/// A play starts its threads and returns; the program ends when it is told to.
fn run(play: Play, arguments: &[String]) -> Result<(), String> {
    // Before anything is served: whoever sees the program answer may end it.
    let mut signals = Signals::new([SIGTERM, SIGINT])
        .map_err(|it| format!("could not wait for signals: {it}"))?;
    play(arguments)?;
    if let Some(signal) = signals.forever().next() {
        println!("signal {signal}: ending");
    }
    Ok(())
}

/// The value of `--name=value`, `-name value` and their mixtures.
fn flag<'a>(arguments: &'a [String], name: &str) -> Option<&'a str> {
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let bare = argument.trim_start_matches('-');
        if bare.len() == argument.len() {
            continue;
        }
        if bare == name {
            return rest.next().map(String::as_str);
        }
        if let Some((key, value)) = bare.split_once('=')
            && key == name
        {
            return Some(value);
        }
    }
    None
}

/// A flag that is a number.
fn number<T: std::str::FromStr>(arguments: &[String], name: &str, default: T) -> Result<T, String> {
    match flag(arguments, name) {
        None => Ok(default),
        Some(text) => text.parse().map_err(|_| format!("--{name} {text:?} is no number")),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn flags_are_read_in_every_shape() {
        let arguments = ["-cpus", "2", "--port=8080", "-logtostderr"].map(str::to_owned);
        assert_eq!(super::flag(&arguments, "cpus"), Some("2"));
        assert_eq!(super::number(&arguments, "port", 1_u16), Ok(8080));
        assert_eq!(super::number(&arguments, "udp-port", 1_u16), Ok(1));
        assert!(super::number(&arguments, "logtostderr", 1_u16).is_ok());
        assert!(super::number(&["-cpus", "x"].map(str::to_owned), "cpus", 1_u16).is_err());
    }
}
