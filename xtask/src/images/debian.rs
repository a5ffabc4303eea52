//! Debian's packages as trees of files: resolved and fetched by apt as if nothing were installed, unpacked without
//! their scripts. It knows nothing of images.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::catalog::DEBIAN;
use super::text;
use crate::command::{output, run};

/// What no container reads.
const LEFT_OUT: &[&str] = &[
    "./usr/share/doc/*",
    "./usr/share/man/*",
    "./usr/share/locale/*",
    "./usr/share/info/*",
    "./usr/share/lintian/*",
];

/// Directories of one `/usr`.
const MERGED: &[&str] = &["bin", "sbin", "lib", "lib64"];

/// Apt with an own idea of what is installed.
#[derive(Debug)]
pub(super) struct Packages {
    directory: PathBuf,
}

impl Packages {
    pub(super) fn open(directory: &Path) -> Result<Self> {
        for name in ["archives/partial", "nothing/partial"] {
            fs::create_dir_all(directory.join(name))?;
        }
        fs::write(directory.join("status"), "")?;
        Ok(Self { directory: directory.to_owned() })
    }

    /// Unpacks the base of all images of Debian.
    pub(super) fn base(&self, into: &Path) -> Result<()> {
        self.unpack(&self.closure(DEBIAN)?, into)?;
        let etc = into.join("etc");
        for (master, file) in [("passwd.master", "passwd"), ("group.master", "group")] {
            fs::copy(into.join("usr/share/base-passwd").join(master), etc.join(file))?;
        }
        std::os::unix::fs::symlink("mawk", into.join("usr/bin/awk")).context("could not link awk")
    }

    /// Unpacks packages and what they need beyond the base.
    pub(super) fn beyond_base(&self, packages: &[&str], into: &Path) -> Result<()> {
        let base = self.closure(DEBIAN)?;
        let all: Vec<&str> = DEBIAN.iter().chain(packages).copied().collect();
        let more = self.closure(&all)?;
        self.unpack(&more.difference(&base).cloned().collect(), into)
    }

    /// Fetches packages with all that they depend on; file names come back.
    fn closure(&self, packages: &[&str]) -> Result<BTreeSet<String>> {
        // What lies among the archives is not printed: an empty directory of them has everything printed.
        let files = file_names(&output(
            "apt-get",
            &self.arguments("nothing", &["--print-uris"], packages),
            Path::new("/"),
        )?)?;
        if files.iter().any(|it| !self.directory.join("archives").join(it).exists()) {
            let arguments = self.arguments("archives", &["--download-only"], packages);
            output("apt-get", &arguments, Path::new("/"))?;
        }
        Ok(files)
    }

    fn arguments(&self, archives: &str, options: &[&str], packages: &[&str]) -> Vec<String> {
        let own = [
            format!("-oDir::State::status={}", text(&self.directory.join("status"))),
            format!("-oDir::Cache={}", text(&self.directory)),
            format!("-oDir::Cache::archives={}", text(&self.directory.join(archives))),
        ];
        // The archives are root's: no other user is to fetch them.
        let words = ["-qq", "-y", "--no-install-recommends", "-oAPT::Sandbox::User=root"];
        let words = words.iter().chain(options).chain(&["install"]).chain(packages);
        own.into_iter().chain(words.map(|it| (*it).to_owned())).collect()
    }

    fn unpack(&self, files: &BTreeSet<String>, into: &Path) -> Result<()> {
        for name in MERGED {
            fs::create_dir_all(into.join("usr").join(name))?;
            std::os::unix::fs::symlink(format!("usr/{name}"), into.join(name))?;
        }
        let left_out: String = LEFT_OUT.iter().map(|it| format!(" --exclude='{it}'")).collect();
        let script = format!(
            "set -e -o pipefail; dpkg-deb --fsys-tarfile \"$1\" | tar -x -C \"$2\" --keep-directory-symlink{left_out}"
        );
        for file in files {
            let archive = text(&self.directory.join("archives").join(file));
            run("bash", &["-c", &script, "bash", &archive, &text(into)], into)
                .with_context(|| format!("could not unpack {file}"))?;
        }
        Ok(())
    }
}

/// The second word of each line of `--print-uris`.
fn file_names(uris: &str) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for line in uris.lines().filter(|it| it.starts_with('\'')) {
        let Some(name) = line.split_whitespace().nth(1) else {
            bail!("apt-get printed {line:?}, where a package's address was expected");
        };
        names.insert(name.to_owned());
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_are_read_from_addresses() {
        let uris = "'http://h/pool/a_1%3a2_amd64.deb' a_1%3a2_amd64.deb 22164 SHA256:00\nnoise\n";
        assert_eq!(super::file_names(uris).unwrap(), ["a_1%3a2_amd64.deb".to_owned()].into());
        assert!(super::file_names("'http://h/a'").is_err());
    }
}
