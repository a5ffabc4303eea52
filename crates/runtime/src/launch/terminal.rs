//! A terminal inside the container's own `devpts`; its other end goes to the shim.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use sys::fs::Root;
use sys::mount;

use super::{Report, Stdio, sure};
use crate::shim::wire;
use crate::spec::Identity;

/// The ioctl that opens the other end of a terminal without a path.
const TIOCGPTPEER: libc::c_ulong = 0x5441;

/// Makes a terminal, makes it the session's, and sends the controlling end over `report`.
pub(super) fn open(root: &Root, identity: &Identity, report: &OwnedFd) -> Result<Stdio, String> {
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    let master =
        sure(root.open_at(Path::new("dev/pts/ptmx"), flags, Mode::empty()), "open a terminal")?;
    let slave = sure(peer(&master), "open the terminal's other end")?;
    let owner = rustix::fs::Uid::from_raw(identity.uid);
    sure(rustix::fs::fchown(&slave, Some(owner), None).map_err(Into::into), "own the terminal")?;
    sure(
        rustix::process::ioctl_tiocsctty(&slave).map_err(Into::into),
        "make the terminal the session's",
    )?;
    sure(wire::send(report, &Report::default(), &[&master]), "hand the terminal over")?;
    let copy = |fd: &OwnedFd| sure(fd.try_clone(), "copy the terminal");
    Ok(Stdio { stdin: copy(&slave)?, stdout: copy(&slave)?, stderr: slave })
}

/// Gives a container that is started with a terminal that terminal as its console.
///
/// An exec must not: the terminal goes with it, and the mount would stay.
pub(super) fn mount_console(root: &Root, terminal: &OwnedFd) -> Result<(), String> {
    let console = Path::new("dev/console");
    if root.locate(console).is_err()
        && let Ok(place) = root.make_file(console, 0o600)
        && let Ok(tree) = mount::clone_tree(terminal, false)
    {
        sure(mount::attach(tree, place), "mount the console")?;
    }
    Ok(())
}

fn peer(master: &OwnedFd) -> std::io::Result<OwnedFd> {
    let unlock = 0_i32;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: the ioctls take a pointer to an integer and an integer; the new descriptor is ours alone.
    unsafe {
        if libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock) < 0 {
            return Err(std::io::Error::last_os_error());
        }
        let fd = libc::ioctl(master.as_raw_fd(), TIOCGPTPEER, flags);
        if fd < 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(fd))
    }
}
