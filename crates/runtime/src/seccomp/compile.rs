//! From a profile to the kernel's instructions.
//!
//! One comparison after the other: the kernel remembers which calls are always allowed and does not run the
//! filter for them.

use std::collections::BTreeMap;

use sys::process::FilterInstruction;

use super::profile::{Action, Compare, Condition, Profile, Rule};

/// The longest program that the kernel takes.
const MAX_INSTRUCTIONS: usize = 4096;

#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 0xc000_00b7;
/// Calls of the x32 interface have this bit.
#[cfg(target_arch = "x86_64")]
const X32: u32 = 0x4000_0000;
const ENOSYS: u16 = 38;

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const RETURN: u16 = 0x06;
const JUMP: u16 = 0x05;
const IF_EQUAL: u16 = 0x15;
const IF_GREATER: u16 = 0x25;
const IF_GREATER_OR_EQUAL: u16 = 0x35;

/// Where the kernel puts what is asked about.
const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const OFFSET_ARGS: u32 = 16;

/// The program of a profile. Calls that this machine does not have are left out, as elsewhere.
pub(super) fn compile(profile: &Profile) -> Result<Vec<FilterInstruction>, String> {
    let mut by_number: BTreeMap<u32, Vec<&Rule>> = BTreeMap::new();
    for rule in &profile.rules {
        if let Some(number) = number(&rule.name) {
            by_number.entry(number).or_default().push(rule);
        }
    }
    let default = profile.default_action.code();
    let mut program = vec![
        plain(LOAD, OFFSET_ARCH),
        jump(IF_EQUAL, AUDIT_ARCH, 1, 0),
        // Programs of another architecture.
        plain(RETURN, Action::KillProcess.code()),
        plain(LOAD, OFFSET_NUMBER),
    ];
    #[cfg(target_arch = "x86_64")]
    program.extend([
        jump(IF_GREATER_OR_EQUAL, X32, 0, 1),
        plain(RETURN, Action::Errno(ENOSYS).code()),
    ]);
    for (number, rules) in by_number {
        let body = body(&rules, default);
        let length = u32::try_from(body.len()).map_err(|_| "it is too long".to_owned())?;
        match body.as_slice() {
            [only] => program.extend([jump(IF_EQUAL, number, 0, 1), *only]),
            _ => {
                program.extend([jump(IF_EQUAL, number, 1, 0), plain(JUMP, length)]);
                program.extend(body);
            }
        }
    }
    program.push(plain(RETURN, default));
    if program.len() > MAX_INSTRUCTIONS {
        return Err(format!("it needs more than {MAX_INSTRUCTIONS} instructions"));
    }
    Ok(program)
}

fn number(name: &str) -> Option<u32> {
    let call: syscalls::Sysno = name.parse().ok()?;
    u32::try_from(call.id()).ok()
}

/// What is done for one call: the first rule whose conditions hold.
fn body(rules: &[&Rule], default: u32) -> Vec<FilterInstruction> {
    let mut all = Vec::new();
    for rule in rules {
        let mut checks = Vec::new();
        // From the last to the first: each knows how much follows it.
        let mut rest = 1;
        for condition in rule.conditions.iter().rev() {
            let check = check(*condition, rest);
            rest += check.len();
            checks.push(check);
        }
        all.extend(checks.into_iter().rev().flatten());
        all.push(plain(RETURN, rule.action.code()));
        if rule.conditions.is_empty() {
            return all;
        }
    }
    all.push(plain(RETURN, default));
    all
}

/// Goes on with what follows when the condition holds, else skips that and `rest` instructions more.
fn check(condition: Condition, rest: usize) -> Vec<FilterInstruction> {
    let low_at = OFFSET_ARGS + 8 * u32::from(condition.index);
    let high_at = low_at + 4;
    let skip = u8::try_from(rest).unwrap_or(u8::MAX);
    let (value, mask) = match condition.compare {
        Compare::Masked(mask, value) => (value, mask),
        Compare::NotEqual(v)
        | Compare::Less(v)
        | Compare::LessOrEqual(v)
        | Compare::Equal(v)
        | Compare::GreaterOrEqual(v)
        | Compare::Greater(v) => (v, u64::MAX),
    };
    let (high, low) = halves(value);
    let (mask_high, mask_low) = halves(mask);
    match condition.compare {
        Compare::Equal(_) => vec![
            plain(LOAD, high_at),
            jump(IF_EQUAL, high, 0, skip + 2),
            plain(LOAD, low_at),
            jump(IF_EQUAL, low, 0, skip),
        ],
        Compare::Masked(..) => vec![
            plain(LOAD, high_at),
            plain(AND, mask_high),
            jump(IF_EQUAL, high, 0, skip + 3),
            plain(LOAD, low_at),
            plain(AND, mask_low),
            jump(IF_EQUAL, low, 0, skip),
        ],
        Compare::NotEqual(_) => vec![
            plain(LOAD, high_at),
            jump(IF_EQUAL, high, 0, 2),
            plain(LOAD, low_at),
            jump(IF_EQUAL, low, skip, 0),
        ],
        Compare::Greater(_) => more(high_at, low_at, value, IF_GREATER, skip),
        Compare::GreaterOrEqual(_) => more(high_at, low_at, value, IF_GREATER_OR_EQUAL, skip),
        Compare::LessOrEqual(_) => less(high_at, low_at, value, IF_GREATER, skip),
        Compare::Less(_) => less(high_at, low_at, value, IF_GREATER_OR_EQUAL, skip),
    }
}

fn more(high_at: u32, low_at: u32, value: u64, low_test: u16, skip: u8) -> Vec<FilterInstruction> {
    let (high, low) = halves(value);
    vec![
        plain(LOAD, high_at),
        jump(IF_GREATER, high, 3, 0),
        jump(IF_EQUAL, high, 0, skip + 2),
        plain(LOAD, low_at),
        jump(low_test, low, 0, skip),
    ]
}

/// Not `low_test`, seen from the other side.
fn less(high_at: u32, low_at: u32, value: u64, low_test: u16, skip: u8) -> Vec<FilterInstruction> {
    let (high, low) = halves(value);
    vec![
        plain(LOAD, high_at),
        jump(IF_GREATER, high, skip + 3, 0),
        jump(IF_EQUAL, high, 0, 2),
        plain(LOAD, low_at),
        jump(low_test, low, skip, 0),
    ]
}

fn halves(value: u64) -> (u32, u32) {
    let low = u32::try_from(value & 0xffff_ffff).expect("because half of 64 bits was taken");
    let high = u32::try_from(value >> 32).expect("because half of 64 bits was taken");
    (high, low)
}

fn plain(code: u16, k: u32) -> FilterInstruction {
    FilterInstruction { code, jt: 0, jf: 0, k }
}

fn jump(code: u16, k: u32, jt: u8, jf: u8) -> FilterInstruction {
    FilterInstruction { code, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::super::default;
    use super::*;
    use crate::service::capability_number;

    /// What the kernel would do.
    fn run(program: &[FilterInstruction], arch: u32, number: u32, args: [u64; 6]) -> u32 {
        let load = |at: u32| match at {
            OFFSET_NUMBER => number,
            OFFSET_ARCH => arch,
            at => {
                let offset = at - OFFSET_ARGS;
                let (high, low) = halves(args[(offset / 8) as usize]);
                if offset.is_multiple_of(8) { low } else { high }
            }
        };
        let (mut at, mut a) = (0, 0_u32);
        loop {
            let i = program[at];
            at += 1;
            let mut branch = |holds: bool| at += usize::from(if holds { i.jt } else { i.jf });
            match i.code {
                LOAD => a = load(i.k),
                AND => a &= i.k,
                RETURN => return i.k,
                JUMP => at += i.k as usize,
                IF_EQUAL => branch(a == i.k),
                IF_GREATER => branch(a > i.k),
                IF_GREATER_OR_EQUAL => branch(a >= i.k),
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    fn action(profile: &Profile, name: &str, args: [u64; 6]) -> u32 {
        run(&compile(profile).unwrap(), AUDIT_ARCH, number(name).unwrap(), args)
    }

    #[test]
    fn every_comparison_is_of_64_bits() {
        let big = 0x1_0000_0005;
        for (compare, holds, fails) in [
            (Compare::Equal(big), &[big][..], &[5, big + 1, 0x2_0000_0005][..]),
            (Compare::NotEqual(big), &[5, 0x2_0000_0005], &[big]),
            (Compare::Greater(big), &[big + 1, 0x2_0000_0000], &[big, 5, 0xffff_ffff]),
            (Compare::GreaterOrEqual(big), &[big, 0x2_0000_0000], &[big - 1, 6]),
            (Compare::Less(big), &[big - 1, 0xffff_ffff], &[big, 0x2_0000_0000]),
            (Compare::LessOrEqual(big), &[big, 0], &[big + 1, 0x2_0000_0000]),
            (Compare::Masked(0x1_0000_000f, big), &[big, 0x1_0000_00f5], &[5, 0x1_0000_0004]),
        ] {
            let first = Condition { index: 1, compare };
            let second = Condition { index: 5, compare: Compare::Equal(7) };
            let rule = Rule {
                name: "read".into(),
                action: Action::Allow,
                conditions: vec![first, second],
            };
            let profile = Profile { default_action: Action::Errno(9), rules: vec![rule] };
            for (values, expected) in [(holds, Action::Allow), (fails, Action::Errno(9))] {
                for value in values {
                    let got = action(&profile, "read", [0, *value, 0, 0, 0, 7]);
                    assert_eq!(got, expected.code(), "{compare:?} {value:#x}");
                    let other = action(&profile, "read", [0, *value, 0, 0, 0, 8]);
                    assert_eq!(other, Action::Errno(9).code(), "{compare:?} {value:#x}");
                }
            }
        }
    }

    #[test]
    fn the_default_profile_denies_what_leads_out() {
        let caps = |names: &[&str]| {
            names.iter().fold(0_u64, |set, n| set | 1 << capability_number(n).unwrap())
        };
        let (allow, deny) = (Action::Allow, Action::Errno(1));
        let newuser = 0x1000_0000;
        for (held, name, arg, expected) in [
            (&[][..], "read", 0, allow),
            (&[], "mount", 0, deny),
            (&["SYS_ADMIN"], "mount", 0, allow),
            (&[], "unshare", 0, deny),
            (&[], "clone", 17, allow),
            (&[], "clone", newuser | 17, deny),
            (&["SYS_ADMIN"], "clone", newuser | 17, allow),
            (&[], "clone3", 0, Action::Errno(ENOSYS)),
            (&["SYS_ADMIN"], "clone3", 0, allow),
            (&[], "personality", 0x20008, allow),
            (&[], "personality", 0x4_0000, deny),
            (&[], "socket", 2, allow),
            (&[], "socket", 40, deny),
            (&[], "chroot", 0, deny),
            (&["SYS_CHROOT"], "chroot", 0, allow),
            (&[], "keyctl", 0, deny),
            (&[], "bpf", 0, deny),
            (&[], "kexec_load", 0, deny),
            (&[], "io_uring_setup", 0, deny),
        ] {
            let profile = default::profile(caps(held));
            let got = action(&profile, name, [arg, 0, 0, 0, 0, 0]);
            assert_eq!(got, expected.code(), "{name}({arg:#x}) with {held:?}");
        }
    }

    #[test]
    fn other_interfaces_are_refused() {
        let program = compile(&default::profile(0)).unwrap();
        assert_eq!(run(&program, 0x4000_0003, 3, [0; 6]), Action::KillProcess.code());
        #[cfg(target_arch = "x86_64")]
        assert_eq!(run(&program, AUDIT_ARCH, X32 | 1, [0; 6]), Action::Errno(ENOSYS).code());
    }

    #[test]
    fn a_profile_in_json_is_followed_or_refused() {
        let text = br#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"],
            "syscalls":[{"names":["mkdir","nosuchcall"],"action":"SCMP_ACT_ERRNO","errnoRet":13},
            {"names":["kill"],"action":"SCMP_ACT_KILL_PROCESS",
             "args":[{"index":1,"value":9,"op":"SCMP_CMP_EQ"}]}]}"#;
        let profile = Profile::parse(text, 0).unwrap();
        assert_eq!(action(&profile, "mkdir", [0; 6]), Action::Errno(13).code());
        assert_eq!(action(&profile, "kill", [1, 9, 0, 0, 0, 0]), Action::KillProcess.code());
        assert_eq!(action(&profile, "kill", [1, 15, 0, 0, 0, 0]), Action::Allow.code());
        for (text, expected) in [
            (
                r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#,
                "action \"SCMP_ACT_NOTIFY\" is not supported",
            ),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/x"}"#,
                "a listener is not supported",
            ),
        ] {
            assert_eq!(Profile::parse(text.as_bytes(), 0).unwrap_err(), expected);
        }
    }
}
