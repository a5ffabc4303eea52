//! Processes: clone, reap, signal, and what a process gives up before it becomes another program.
//!
//! Everything here acts on the calling thread or process only, and is meant for single-threaded callers where
//! it says so.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

/// A process that was made.
#[derive(Debug)]
pub struct Child {
    /// Its id in the caller's namespace.
    pub pid: i32,
    /// Readable once it is gone.
    pub pidfd: OwnedFd,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself.
    Code(i32),
    /// By a signal.
    Signal(i32),
}

impl Exit {
    /// As a shell shows it: 128 and the signal's number when killed.
    #[must_use]
    pub fn shell_code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Which new namespaces a child gets, and its cgroup where that can be had at birth.
#[derive(Debug, Default)]
pub struct CloneRequest<'a> {
    /// Of `libc::CLONE_NEW*`.
    pub namespaces: i32,
    /// A cgroup v2 directory to be born in.
    pub into_cgroup: Option<BorrowedFd<'a>>,
}

/// Makes a copy of the calling process: `None` in the child.
///
/// # Safety
/// The caller must be single-threaded: a lock held by another thread would stay locked in the child for ever.
///
/// # Errors
/// When the kernel refuses.
pub unsafe fn clone_process(request: &CloneRequest<'_>) -> io::Result<Option<Child>> {
    let mut pidfd: RawFd = -1;
    // SAFETY: all-zero bytes are a valid `clone_args`: integers only.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    let flags = libc::CLONE_PIDFD | request.namespaces;
    args.flags = u64::from(flags.cast_unsigned());
    args.pidfd = ptr::from_mut(&mut pidfd) as u64;
    args.exit_signal = u64::from(libc::SIGCHLD.cast_unsigned());
    if let Some(cgroup) = request.into_cgroup {
        args.flags |= 0x2_0000_0000; // CLONE_INTO_CGROUP, which does not fit libc's type
        args.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
    }
    // SAFETY: `args` is initialised and outlives the call; no stack and no shared memory are asked for, so the
    // child continues here on its own copy; the caller promises that there is one thread.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of_val(&args)) })?;
    if pid == 0 {
        return Ok(None);
    }
    // SAFETY: the kernel stored a descriptor that nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    let pid = i32::try_from(pid).expect("because process ids fit 22 bits");
    Ok(Some(Child { pid, pidfd }))
}

/// Ends the process at once: no destructors, no flushing. For children made by [`clone_process`].
pub fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Takes one ended child, if there is one.
///
/// # Errors
/// When there are no children at all (`ECHILD`).
pub fn reap_one() -> io::Result<Option<(i32, Exit)>> {
    wait(-1, libc::WNOHANG)
}

/// Waits for the child `pid`.
///
/// # Errors
/// When it is not a child.
pub fn wait_for(pid: i32) -> io::Result<Exit> {
    loop {
        match wait(pid, 0) {
            Ok(Some((_, exit))) => return Ok(exit),
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn wait(pid: i32, options: i32) -> io::Result<Option<(i32, Exit)>> {
    let mut status = 0;
    // SAFETY: `status` is a valid place for the answer.
    let got = unsafe { libc::waitpid(pid, &raw mut status, options) };
    if got < 0 {
        return Err(io::Error::last_os_error());
    }
    if got == 0 {
        return Ok(None);
    }
    let exit = if libc::WIFSIGNALED(status) {
        Exit::Signal(libc::WTERMSIG(status))
    } else {
        Exit::Code(libc::WEXITSTATUS(status))
    };
    Ok(Some((got, exit)))
}

/// A descriptor of a running process, readable once it is gone.
///
/// # Errors
/// When there is no such process.
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: plain integers.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    let fd = RawFd::try_from(fd).expect("because descriptors fit an int");
    // SAFETY: the kernel made it for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends a signal through a pidfd: never to a reused process id.
///
/// # Errors
/// `ESRCH` when the process is gone.
pub fn pidfd_kill(pidfd: impl AsFd, signal: i32) -> io::Result<()> {
    // SAFETY: plain integers and no signal information.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_fd().as_raw_fd(),
            signal,
            ptr::null::<libc::siginfo_t>(),
            0,
        )
    })
    .map(drop)
}

/// Sends a signal to a process id.
///
/// # Errors
/// `ESRCH` when the process is gone.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: plain integers.
    check(unsafe { libc::kill(pid, signal) }.into()).map(drop)
}

fn prctl(option: i32, a: libc::c_ulong, b: libc::c_ulong) -> io::Result<libc::c_long> {
    // SAFETY: the options used in this module take integers only.
    check(unsafe { libc::prctl(option, a, b, 0, 0) }.into())
}

/// Orphans below this process become its children.
///
/// # Errors
/// When the kernel is too old.
pub fn set_child_subreaper() -> io::Result<()> {
    prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0).map(drop)
}

/// Whether processes of the same user may look into this one.
///
/// # Errors
/// Never, on kernels that have it.
pub fn set_dumpable(dumpable: bool) -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, dumpable.into(), 0).map(drop)
}

/// No `execve` gains privileges any more.
///
/// # Errors
/// Never, on kernels that have it.
pub fn set_no_new_privs() -> io::Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).map(drop)
}

/// The name that `ps` shows.
///
/// # Errors
/// Never.
pub fn set_name(name: &CStr) -> io::Result<()> {
    prctl(libc::PR_SET_NAME, name.as_ptr() as libc::c_ulong, 0).map(drop)
}

/// Every descriptor from `first` on is closed at the next `execve`.
///
/// # Errors
/// When the kernel is older than 5.11.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: plain integers; nothing is closed now.
    check(unsafe {
        libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC)
    })
    .map(drop)
}

/// Closes every descriptor from `first` on, now.
///
/// # Safety
/// Nobody may use an owned descriptor from `first` on afterwards.
///
/// # Errors
/// When the kernel is older than 5.9.
pub unsafe fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: the caller promises that none of these is used again.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) }).map(drop)
}

/// All signals as a program expects them: default actions, nothing blocked.
pub fn reset_signals() {
    // The kernel's structure, all zero: the default action. The C library's call leaves out the two signals
    // that it keeps for itself, which somebody above may have ignored.
    let default = [0_u64; 4];
    let none = 0_u64;
    for signal in 1..=64 {
        // SAFETY: the structure outlives the call; default actions run no code of ours.
        unsafe {
            let old = ptr::null::<u64>();
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), old, 8);
        }
    }
    // SAFETY: the set outlives the call.
    unsafe {
        let (set, old) = (&raw const none, ptr::null::<u64>());
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, set, old, 8);
    }
}

/// Children that end leave no zombie. For a process that never waits.
pub fn ignore_children() {
    // SAFETY: ignoring runs no code.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// Blocks `signals` and gives a descriptor that reads them instead.
///
/// # Errors
/// When there are too many descriptors.
pub fn signal_fd(signals: &[i32]) -> io::Result<OwnedFd> {
    // SAFETY: the set is made before it is used; the descriptor is ours alone.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            // A signal at its default "ignore" would not be delivered to the descriptor.
            libc::signal(*signal, libc::SIG_DFL);
            libc::sigaddset(&raw mut set, *signal);
        }
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut());
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        check(fd.into())?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// A new session, and with it a new process group.
///
/// # Errors
/// When the process leads a group already.
pub fn new_session() -> io::Result<()> {
    // SAFETY: no arguments.
    check(unsafe { libc::setsid() }.into()).map(drop)
}

/// The user, the group and the other groups of this thread.
///
/// # Errors
/// Without the capabilities for it.
pub fn set_ids(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    // The raw calls: the C library's would try to reach other threads, and there are none.
    // SAFETY: the list outlives the call.
    unsafe {
        check(libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()))?;
        check(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
        check(libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
    }
    Ok(())
}

/// Permitted capabilities survive the change from root to another user, until the next `execve`.
///
/// # Errors
/// Never.
pub fn keep_capabilities(keep: bool) -> io::Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, keep.into(), 0).map(drop)
}

/// The capabilities this process may ever have again: those whose bit is set in `keep`.
///
/// # Errors
/// Without `CAP_SETPCAP`.
pub fn limit_bounding_set(keep: u64) -> io::Result<()> {
    for capability in 0..=last_capability() {
        if keep & (1 << capability) == 0 {
            prctl(libc::PR_CAPBSET_DROP, capability, 0)?;
        }
    }
    Ok(())
}

/// The bits of the bounding set.
#[must_use]
pub fn bounding_set() -> u64 {
    (0..=last_capability())
        .filter(|capability| prctl(libc::PR_CAPBSET_READ, *capability, 0).is_ok_and(|on| on == 1))
        .fold(0, |set, capability| set | (1 << capability))
}

fn last_capability() -> libc::c_ulong {
    (0..64)
        .take_while(|capability| prctl(libc::PR_CAPBSET_READ, *capability, 0).is_ok())
        .last()
        .unwrap_or(0)
}

/// The three sets of a thread, as bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CapabilitySets {
    /// In force.
    pub effective: u64,
    /// May be put in force.
    pub permitted: u64,
    /// Handed on through `execve` to programs that ask.
    pub inheritable: u64,
}

/// Sets the three sets of this thread.
///
/// # Errors
/// When more is asked than is permitted.
pub fn set_capabilities(sets: CapabilitySets) -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    let header = Header { version: 0x2008_0522, pid: 0 };
    let half = |bits: u64, high: bool| {
        u32::try_from(if high { bits >> 32 } else { bits & 0xffff_ffff })
            .expect("because half of 64 bits was taken")
    };
    let mut data = [[0_u32; 3]; 2];
    for (words, high) in data.iter_mut().zip([false, true]) {
        *words =
            [half(sets.effective, high), half(sets.permitted, high), half(sets.inheritable, high)];
    }
    // SAFETY: header and data have the layout of version 3 and outlive the call.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) }).map(drop)
}

/// Adds a capability, which must be permitted and inheritable, to the ambient set.
///
/// # Errors
/// When it is not.
pub fn raise_ambient(capability: u8) -> io::Result<()> {
    prctl(libc::PR_CAP_AMBIENT, 2, capability.into()).map(drop)
}

/// One instruction of a seccomp filter: code, jump if true, jump if false, operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct FilterInstruction {
    /// The operation.
    pub code: u16,
    /// Instructions to skip when it holds.
    pub jt: u8,
    /// Instructions to skip when it does not.
    pub jf: u8,
    /// The operand.
    pub k: u32,
}

/// Puts a filter on the system calls of this thread and its children, for good.
///
/// # Errors
/// Without `CAP_SYS_ADMIN` and without [`set_no_new_privs`]; when the program is not valid.
pub fn install_filter(program: &[FilterInstruction]) -> io::Result<()> {
    #[repr(C)]
    struct Program {
        len: u16,
        filter: *const FilterInstruction,
    }
    let len = u16::try_from(program.len())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "filter is too long"))?;
    let program = Program { len, filter: program.as_ptr() };
    // SAFETY: the program has the kernel's layout and outlives the call.
    check(unsafe { libc::syscall(libc::SYS_seccomp, 1, 0, &raw const program) }).map(drop)
}

/// The soft and hard limit of a resource of `libc::RLIMIT_*`.
///
/// # Errors
/// When a hard limit is raised without `CAP_SYS_RESOURCE`.
pub fn set_rlimit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the limit outlives the call.
    check(unsafe { libc::setrlimit(resource, &raw const limit) }.into()).map(drop)
}

/// Becomes another program. Returns only when it could not.
#[must_use]
pub fn exec(path: &CStr, args: &[CString], env: &[CString]) -> io::Error {
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect()
    };
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: both lists end with null and their strings outlive the call.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Becomes the program that is open as `file`. Returns only when it could not.
#[must_use]
pub fn exec_fd(file: impl AsFd, args: &[CString], env: &[CString]) -> io::Error {
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect()
    };
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: the path is an empty string, both lists end with null, and all outlive the call.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_fd().as_raw_fd(),
            c"".as_ptr(),
            args.as_ptr(),
            env.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
    io::Error::last_os_error()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_read_as_a_shell_shows_them() {
        assert_eq!(Exit::Code(3).shell_code(), 3);
        assert_eq!(Exit::Signal(9).shell_code(), 137);
    }

    #[test]
    fn the_bounding_set_is_within_what_the_kernel_knows() {
        assert!(last_capability() >= 37);
        assert_eq!(bounding_set() >> (last_capability() + 1), 0);
    }

    #[test]
    fn a_pidfd_of_nobody_is_refused() {
        assert_eq!(pidfd_open(i32::MAX).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }
}
