//! The runtime on the real kernel: needs root, and says so and skips without.
//!
//! The binary is its own zygote, and its own agent where one has to be killed, so it has a small harness of its
//! own that speaks what `cargo test` and nextest expect.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stdout, reason = "the harness reports there")]
#![allow(clippy::exit, reason = "the harness reports a failure so")]

mod agent;
mod escapes;
mod fixture;
mod lifecycle;
mod oracle;
mod security;
mod streams;

use std::future::Future;
use std::pin::Pin;

use fixture::Fixture;

type Run = fn(Fixture) -> Pin<Box<dyn Future<Output = Fixture> + Send>>;

macro_rules! tests {
    ($($module:ident :: $name:ident),* $(,)?) => {
        &[$((stringify!($name), |f| Box::pin($module::$name(f)))),*]
    };
}

const TESTS: &[(&str, Run)] = tests![
    lifecycle::a_container_runs_and_its_exit_and_log_are_kept,
    lifecycle::long_lines_are_cut_and_logs_are_opened_again,
    lifecycle::what_cannot_be_started_says_why,
    lifecycle::stop_asks_then_kills,
    lifecycle::events_tell_what_happens_in_order,
    lifecycle::containers_of_a_pod_share_what_they_should,
    lifecycle::shared_process_ids_have_a_first_process_that_reaps,
    lifecycle::resources_are_set_and_changed_and_measured,
    lifecycle::a_container_out_of_memory_is_killed_as_a_whole,
    lifecycle::a_restarted_agent_finds_everything_again,
    lifecycle::images_are_listed_shared_and_collected,
    lifecycle::many_pods_start_at_once,
    security::environment_user_and_capabilities_are_as_asked,
    security::a_container_sees_its_own_devices_and_file_systems,
    security::a_read_only_root_is_read_only,
    security::privileged_containers_have_everything,
    security::seccomp_profiles_are_in_force,
    security::mounts_appear_as_asked,
    streams::exec_has_streams_and_an_exit_code,
    streams::exec_has_a_terminal,
    streams::short_commands_time_out,
    streams::attach_joins_the_first_process,
    streams::ports_are_forwarded_into_the_pod,
    oracle::a_container_is_as_runc_makes_it,
    escapes::the_nodes_binary_is_out_of_reach,
    escapes::no_working_directory_lies_outside,
    escapes::links_in_volumes_lead_nowhere,
    escapes::nothing_is_mounted_over_proc,
    escapes::limits_cannot_be_lifted_from_inside,
];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("zygote") => {
            if let Err(error) = runtime::zygote::main(std::env::args_os()) {
                println!("zygote: {error}");
                std::process::exit(1);
            }
        }
        Some("agent") => agent::main(&arguments[2..]),
        _ => harness(&arguments[1..]),
    }
}

fn harness(arguments: &[String]) {
    if arguments.iter().any(|a| a == "--list") {
        if !arguments.iter().any(|a| a == "--ignored") {
            TESTS.iter().for_each(|(name, _)| println!("{name}: test"));
        }
        return;
    }
    let exact = arguments.iter().any(|a| a == "--exact");
    let filters: Vec<&String> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
    let wanted = |name: &str| {
        filters.is_empty()
            || filters.iter().any(|f| if exact { name == **f } else { name.contains(f.as_str()) })
    };
    if !rustix::process::geteuid().is_root() {
        println!("skipped: containers need root");
        return;
    }
    let mut failed = Vec::new();
    for (name, run) in TESTS.iter().filter(|(name, _)| wanted(name)) {
        let passed = std::panic::catch_unwind(|| fixture::run(name, *run)).unwrap_or(false);
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        if !passed {
            failed.push(*name);
        }
    }
    if !failed.is_empty() {
        println!("failed: {failed:?}");
        std::process::exit(101);
    }
}
