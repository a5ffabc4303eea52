//! Who a process runs as: names and numbers looked up in the container's own `/etc/passwd` and `/etc/group`.

use std::path::Path;

use sys::fs::Root;

use crate::spec::{Identity, UserSpec};

/// The largest `/etc/passwd` or `/etc/group` that is read.
const MAX_FILE_BYTES: u64 = 4 << 20;
/// The most groups a process may be in, the kernel's own limit.
const MAX_GROUPS: usize = 65_536;

/// Finds the numbers for `user` below `root`.
///
/// # Errors
/// When a name is in no file.
pub(super) fn resolve(root: &Root, user: &UserSpec) -> Result<Identity, String> {
    let read = |path: &str| {
        // A container without these files is usual.
        let bytes = root.read(Path::new(path), MAX_FILE_BYTES).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    resolve_in(&read("etc/passwd"), &read("etc/group"), user)
}

struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn passwd_entry(line: &str) -> Option<PasswdEntry<'_>> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    let home = fields.nth(1).unwrap_or_default();
    Some(PasswdEntry { name, uid, gid, home })
}

fn resolve_in(passwd: &str, group: &str, user: &UserSpec) -> Result<Identity, String> {
    let number: Option<u32> = if user.user.is_empty() { Some(0) } else { user.user.parse().ok() };
    let entry = passwd
        .lines()
        .filter_map(passwd_entry)
        .find(|entry| number.map_or(entry.name == user.user, |uid| entry.uid == uid));
    let (uid, own_gid, home, name) = match (&entry, number) {
        (Some(entry), _) => (entry.uid, entry.gid, entry.home, Some(entry.name)),
        (None, Some(uid)) => (uid, 0, "/", None),
        (None, None) => {
            return Err(format!(
                "unable to find user {}: no matching entries in passwd file",
                user.user
            ));
        }
    };
    let gid = if user.group.is_empty() { own_gid } else { find_group(group, &user.group)? };
    let mut groups = vec![gid];
    groups.extend(&user.supplemental);
    if let (true, Some(name)) = (user.merge_groups, name) {
        groups.extend(groups_of(group, name));
    }
    let mut seen = std::collections::BTreeSet::new();
    groups.retain(|gid| seen.insert(*gid));
    groups.truncate(MAX_GROUPS);
    let home = if home.is_empty() { "/" } else { home };
    Ok(Identity { uid, gid, groups, home: home.to_owned() })
}

fn find_group(group: &str, wanted: &str) -> Result<u32, String> {
    if let Ok(gid) = wanted.parse() {
        return Ok(gid);
    }
    group
        .lines()
        .find_map(|line| {
            let mut fields = line.split(':');
            (fields.next()? == wanted).then(|| fields.nth(1)?.parse().ok()).flatten()
        })
        .ok_or_else(|| format!("unable to find group {wanted}: no matching entries in group file"))
}

fn groups_of<'a>(group: &'a str, name: &'a str) -> impl Iterator<Item = u32> + 'a {
    group.lines().filter_map(move |line| {
        let mut fields = line.split(':');
        let gid = fields.nth(2)?.parse().ok()?;
        fields.next()?.split(',').any(|member| member.trim() == name).then_some(gid)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:33:34:www:/srv:/bin/false\n";
    const GROUP: &str = "root:x:0:\nwheel:x:10:root,web\nweb:x:34:\nextra:x:99:other,web\n";

    fn check(user: &str, group: &str, merge_groups: bool, expected: &str) {
        let spec = UserSpec {
            user: user.into(),
            group: group.into(),
            supplemental: vec![7, 7],
            merge_groups,
        };
        let got = match resolve_in(PASSWD, GROUP, &spec) {
            Ok(id) => format!("{}:{} {:?} {}", id.uid, id.gid, id.groups, id.home),
            Err(error) => error,
        };
        assert_eq!(got, expected, "{user}:{group}");
    }

    #[test]
    fn users_and_groups_are_found_by_name_and_number() {
        check("", "", true, "0:0 [0, 7, 10] /root");
        check("web", "", true, "33:34 [34, 7, 10, 99] /srv");
        check("33", "", false, "33:34 [34, 7] /srv");
        check("1000", "", true, "1000:0 [0, 7] /");
        check("1000", "wheel", true, "1000:10 [10, 7] /");
        check("web", "5", false, "33:5 [5, 7] /srv");
        check("ghost", "", true, "unable to find user ghost: no matching entries in passwd file");
        check("0", "ghost", true, "unable to find group ghost: no matching entries in group file");
    }
}
