//! Paths of the node in pods: checked, and made where that was asked for.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use k8s_openapi::api::core::v1::HostPathVolumeSource;

/// Checks a path against its type.
///
/// # Errors
/// In upstream's words.
pub(super) fn check(source: &HostPathVolumeSource) -> io::Result<()> {
    let path = Path::new(&source.path);
    let found = path.metadata().ok();
    let type_ = source.type_.as_deref().unwrap_or_default();
    let refuse = |what: &str| {
        let text = format!("hostPath type check failed: {} is not {what}", source.path);
        Err(io::Error::new(io::ErrorKind::InvalidInput, text))
    };
    let is =
        |test: fn(&fs::FileType) -> bool| found.as_ref().is_some_and(|it| test(&it.file_type()));
    match type_ {
        "" => Ok(()),
        "DirectoryOrCreate" if found.is_none() => {
            fs::create_dir_all(path)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        }
        "FileOrCreate" if found.is_none() => {
            fs::File::create_new(path)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o644))
        }
        "Directory" | "DirectoryOrCreate" if !is(fs::FileType::is_dir) => refuse("a directory"),
        "File" | "FileOrCreate" if !is(fs::FileType::is_file) => refuse("a file"),
        "Socket" if !is(FileTypeExt::is_socket) => refuse("a socket file"),
        "CharDevice" if !is(FileTypeExt::is_char_device) => refuse("a character device"),
        "BlockDevice" if !is(FileTypeExt::is_block_device) => refuse("a block device"),
        "Directory" | "DirectoryOrCreate" | "File" | "FileOrCreate" | "Socket" | "CharDevice"
        | "BlockDevice" => Ok(()),
        other => {
            let text = format!("{other} is an invalid volume type");
            Err(io::Error::new(io::ErrorKind::InvalidInput, text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_checked_and_made() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        for (name, type_, expected) in [
            ("none", "", ""),
            ("none", "Directory", "is not a directory"),
            ("file", "Directory", "is not a directory"),
            ("file", "File", ""),
            ("new-dir", "DirectoryOrCreate", ""),
            ("new-file", "FileOrCreate", ""),
            ("file", "Socket", "is not a socket file"),
            ("file", "Odd", "is an invalid volume type"),
        ] {
            let path = dir.path().join(name).display().to_string();
            let source = HostPathVolumeSource { path, type_: Some(type_.into()) };
            let text = check(&source).map_err(|it| it.to_string()).err().unwrap_or_default();
            assert!(text.ends_with(expected), "{name} {type_}: {text}");
        }
        assert!(dir.path().join("new-dir").is_dir() && dir.path().join("new-file").is_file());
    }
}
