//! Running other programs, with errors that say which and how.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// A program with its arguments.
pub(crate) fn program(name: &str, arguments: &[impl AsRef<str>], directory: &Path) -> Command {
    let arguments = arguments.iter().map(AsRef::as_ref);
    let mut command = Command::new(name);
    command.args(arguments).current_dir(directory).stdin(Stdio::null());
    command
}

/// Runs a program whose output people see.
pub(crate) fn run(name: &str, arguments: &[impl AsRef<str>], directory: &Path) -> Result<()> {
    let status = program(name, arguments, directory)
        .status()
        .with_context(|| format!("could not start {name}"))?;
    if !status.success() {
        bail!("`{name} {}` failed: {status}", line(arguments));
    }
    Ok(())
}

/// Runs a program and gives what it prints.
pub(crate) fn output(
    name: &str,
    arguments: &[impl AsRef<str>],
    directory: &Path,
) -> Result<String> {
    let output = program(name, arguments, directory)
        .output()
        .with_context(|| format!("could not start {name}"))?;
    if !output.status.success() {
        bail!(
            "`{name} {}` failed: {}\n{}",
            line(arguments),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn line(arguments: &[impl AsRef<str>]) -> String {
    arguments.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(" ")
}

/// Whether a program can be found.
pub(crate) fn exists(name: &str) -> bool {
    let paths = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    paths.iter().any(|path| Path::new(path).join(name).exists())
}
