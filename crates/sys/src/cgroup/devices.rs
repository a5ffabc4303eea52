//! Device rules for version 2, where a program of the kernel's own machine takes the place of files.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use super::plan::DeviceRule;

/// One instruction: code, registers, offset, operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
struct Instruction {
    code: u8,
    /// The destination in the low half, the source in the high one.
    registers: u8,
    offset: i16,
    operand: i32,
}

const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xb7;
const MOVE_REGISTER: u8 = 0xbf;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_IF_NOT: u8 = 0x55;
const EXIT: u8 = 0x95;

/// Registers: the answer, what is asked about, and its parts.
const ANSWER: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;

fn plain(code: u8, register: u8, offset: i16, operand: i32) -> Instruction {
    Instruction { code, registers: register, offset, operand }
}

/// The program that allows what a rule allows, and nothing else.
fn program(rules: &[DeviceRule]) -> Vec<Instruction> {
    let load = |to: u8, offset| Instruction {
        code: LOAD_WORD,
        registers: to | CONTEXT << 4,
        offset,
        operand: 0,
    };
    // The kernel gives kind and access in one word, then major and minor number.
    let mut all = vec![
        load(KIND, 0),
        plain(AND, KIND, 0, 0xffff),
        load(ACCESS, 0),
        plain(SHIFT_RIGHT, ACCESS, 0, 16),
        load(MAJOR, 4),
        load(MINOR, 8),
    ];
    for rule in rules {
        all.extend(rule_instructions(rule));
    }
    all.extend([plain(MOVE, ANSWER, 0, 0), plain(EXIT, 0, 0, 0)]);
    all
}

fn rule_instructions(rule: &DeviceRule) -> Vec<Instruction> {
    let mut checks: Vec<Vec<Instruction>> = Vec::new();
    let equals = |register, value| vec![plain(JUMP_IF_NOT, register, 0, value)];
    match rule.kind {
        'b' => checks.push(equals(KIND, 1)),
        'c' => checks.push(equals(KIND, 2)),
        _ => {}
    }
    let bit = |letter: char, bit: i32| if rule.access.contains(letter) { bit } else { 0 };
    let allowed = bit('m', 1) | bit('r', 2) | bit('w', 4);
    checks.push(vec![
        Instruction {
            code: MOVE_REGISTER,
            registers: SCRATCH | ACCESS << 4,
            offset: 0,
            operand: 0,
        },
        plain(AND, SCRATCH, 0, !allowed),
        plain(JUMP_IF_NOT, SCRATCH, 0, 0),
    ]);
    for (register, number) in [(MAJOR, rule.major), (MINOR, rule.minor)] {
        if let Some(number) = number {
            checks.push(equals(register, number.cast_signed()));
        }
    }
    let mut body: Vec<Instruction> = checks.into_iter().flatten().collect();
    body.extend([plain(MOVE, ANSWER, 0, 1), plain(EXIT, 0, 0, 0)]);
    // A check that fails goes on behind this rule.
    let length = body.len();
    for (index, instruction) in body.iter_mut().enumerate() {
        if instruction.code == JUMP_IF_NOT {
            instruction.offset = i16::try_from(length - index - 1)
                .expect("because a rule has fewer than a dozen instructions");
        }
    }
    body
}

/// Lets the processes of the version 2 group at `dir` use only devices that a rule allows.
///
/// # Errors
/// When the kernel refuses the program.
pub fn limit_devices(dir: &Path, rules: &[DeviceRule]) -> io::Result<()> {
    const CGROUP_DEVICE_PROGRAM: u32 = 15;
    const CGROUP_DEVICE_ATTACH: u32 = 6;
    const ALLOW_MULTI: u32 = 2;
    const PROG_LOAD: i32 = 5;
    const PROG_ATTACH: i32 = 8;
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log: [u64; 2],
    }
    #[repr(C)]
    struct Attach {
        target: u32,
        program: u32,
        kind: u32,
        flags: u32,
    }
    let instructions = program(rules);
    let load = Load {
        kind: CGROUP_DEVICE_PROGRAM,
        count: u32::try_from(instructions.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        instructions: instructions.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log: [0; 2],
    };
    // SAFETY: the structure is the beginning of the kernel's, and all it points to outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const load, size_of::<Load>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = RawFd::try_from(fd).expect("because descriptors fit an int");
    // SAFETY: the kernel made it for us alone.
    let program = unsafe { OwnedFd::from_raw_fd(fd) };
    let group = File::open(dir)?;
    let attach = Attach {
        target: group.as_raw_fd().cast_unsigned(),
        program: program.as_raw_fd().cast_unsigned(),
        kind: CGROUP_DEVICE_ATTACH,
        flags: ALLOW_MULTI,
    };
    // SAFETY: the structure is the beginning of the kernel's and outlives the call.
    let done = unsafe {
        libc::syscall(libc::SYS_bpf, PROG_ATTACH, &raw const attach, size_of::<Attach>())
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::super::Hierarchies;
    use super::*;

    fn rule(kind: char, major: Option<u32>, minor: Option<u32>, access: &str) -> DeviceRule {
        DeviceRule { kind, major, minor, access: access.into() }
    }

    #[test]
    fn a_rule_that_fails_leads_to_the_next() {
        let body = rule_instructions(&rule('c', Some(1), Some(3), "rw"));
        let jumps: Vec<i16> =
            body.iter().filter(|i| i.code == JUMP_IF_NOT).map(|i| i.offset).collect();
        assert_eq!(body.len(), 8);
        assert_eq!(jumps, [7, 4, 3, 2]);
    }

    /// The kernel itself says what the program allows, where there is a version 2 hierarchy to try it on.
    #[test]
    fn the_kernel_follows_the_rules() {
        let found = Hierarchies::detect().unwrap();
        let (Some(v2), true) = (&found.v2, rustix::process::geteuid().is_root()) else {
            println!("skipped: needs root and cgroup version 2");
            return;
        };
        let dir = v2.join(format!("kubelith-devices-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let rules = [rule('c', Some(1), Some(3), "rwm"), rule('c', Some(1), Some(5), "r")];
        limit_devices(&dir, &rules).unwrap();
        let script = format!(
            "echo 0 > {}/cgroup.procs; cat /dev/null && echo x > /dev/null && echo null; \
             head -c1 /dev/zero >/dev/null && echo zero; (echo x > /dev/zero) 2>/dev/null || echo readonly; \
             (cat /dev/full) 2>/dev/null || echo nofull",
            dir.display()
        );
        let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        std::fs::remove_dir(&dir).unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "null\nzero\nreadonly\nnofull\n");
    }
}
