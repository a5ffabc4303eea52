//! Finding the program to run and becoming it, with the texts that users know for what goes wrong.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The path of `program`, looked up in `PATH` of `env` when it has no slash.
///
/// # Errors
/// The text that ends a user's message: `exec: "x": executable file not found in $PATH`.
pub(crate) fn find(program: &str, env: &[String]) -> Result<PathBuf, String> {
    if program.contains('/') {
        return match usable(Path::new(program)) {
            Ok(()) => Ok(PathBuf::from(program)),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Err(format!("exec: {program:?}: permission denied"))
            }
            Err(error) => Err(format!("exec: {program:?}: stat {program}: {}", os_text(&error))),
        };
    }
    // No name of a program: upstream's runtime does not look for these.
    if matches!(program, "" | "." | "..") {
        return Err(format!("exec: {program:?}: executable file not found in $PATH"));
    }
    let path = env.iter().rev().find_map(|e| e.strip_prefix("PATH=")).unwrap_or_default();
    let mut refused = false;
    for dir in path.split(':') {
        let dir = if dir.is_empty() { "." } else { dir };
        let candidate = Path::new(dir).join(program);
        match usable(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(error) => refused |= error.kind() == io::ErrorKind::PermissionDenied,
        }
    }
    // A file that may not be executed counts as found, badly, only when nothing better comes.
    let why = if refused { "permission denied" } else { "executable file not found in $PATH" };
    Err(format!("exec: {program:?}: {why}"))
}

fn usable(path: &Path) -> io::Result<()> {
    let meta = fs::metadata(path)?;
    if meta.is_dir() || meta.permissions().mode() & 0o111 == 0 {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    Ok(())
}

/// An error as C and Go print it: no number, no capital.
pub(crate) fn os_text(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}

/// Strings as the kernel takes them.
///
/// # Errors
/// When one has a zero byte.
pub(crate) fn c_strings(list: &[String]) -> Result<Vec<CString>, String> {
    list.iter()
        .map(|s| CString::new(s.as_str()).map_err(|_| format!("{s:?} has a zero byte")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_or_refused_in_known_words() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        fs::write(at("plain"), b"x").unwrap();
        fs::write(at("good"), b"x").unwrap();
        fs::set_permissions(at("good"), fs::Permissions::from_mode(0o755)).unwrap();
        let env = vec![format!("PATH=/nonexistent:{}", dir.path().display())];
        assert_eq!(find("good", &env).unwrap(), Path::new(&at("good")));
        for (program, expected) in [
            ("nope".to_owned(), "exec: \"nope\": executable file not found in $PATH".to_owned()),
            (String::new(), "exec: \"\": executable file not found in $PATH".to_owned()),
            ("..".to_owned(), "exec: \"..\": executable file not found in $PATH".to_owned()),
            ("plain".to_owned(), "exec: \"plain\": permission denied".to_owned()),
            (at("plain"), format!("exec: {:?}: permission denied", at("plain"))),
            ("/".to_owned(), "exec: \"/\": permission denied".to_owned()),
            (
                "/nope".to_owned(),
                "exec: \"/nope\": stat /nope: no such file or directory".to_owned(),
            ),
        ] {
            assert_eq!(find(&program, &env).unwrap_err(), expected);
        }
    }
}
