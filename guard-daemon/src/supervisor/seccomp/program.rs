//! Putting together a classic BPF program over `struct seccomp_data`
//! (include/uapi/linux/seccomp.h). All jumps go forward.

use libc::sock_filter;

// include/uapi/linux/bpf_common.h
const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const ANY_BIT: u16 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGS: u32 = 16;

/// A place in the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Label(usize);

enum Step {
    Plain(sock_filter),
    Jump(Label),
}

/// A program that is being written.
#[derive(Default)]
pub(super) struct Assembler {
    steps: Vec<Step>,
    places: Vec<usize>,
}

const fn plain(code: u16, jt: u8, jf: u8, k: u32) -> Step {
    Step::Plain(sock_filter { code, jt, jf, k })
}

impl Assembler {
    /// A place to be named later.
    pub(super) fn label(&mut self) -> Label {
        self.places.push(usize::MAX);
        Label(self.places.len() - 1)
    }

    /// The next instruction is here.
    pub(super) fn place(&mut self, label: Label) {
        self.places[label.0] = self.steps.len();
    }

    fn load(&mut self, offset: u32) {
        self.steps.push(plain(LOAD, 0, 0, offset));
    }

    /// Architecture into the accumulator.
    pub(super) fn load_arch(&mut self) {
        self.load(ARCH);
    }

    /// Number of the call into the accumulator.
    pub(super) fn load_number(&mut self) {
        self.load(NUMBER);
    }

    /// Lower half of an argument into the accumulator: where the kernel takes
    /// an `int`, it looks at no more.
    pub(super) fn load_low(&mut self, argument: u32) {
        self.load(ARGS + 8 * argument);
    }

    /// Upper half of an argument into the accumulator.
    pub(super) fn load_high(&mut self, argument: u32) {
        self.load(ARGS + 8 * argument + 4);
    }

    /// Leaves only these bits in the accumulator.
    pub(super) fn and(&mut self, mask: u32) {
        self.steps.push(plain(AND, 0, 0, mask));
    }

    fn jump_if(&mut self, code: u16, value: u32, target: Label) {
        self.steps.push(plain(code, 0, 1, value));
        self.steps.push(Step::Jump(target));
    }

    /// Goes there when the accumulator is this.
    pub(super) fn if_equal(&mut self, value: u32, target: Label) {
        self.jump_if(EQUAL, value, target);
    }

    /// Goes there when it is not.
    pub(super) fn unless_equal(&mut self, value: u32, target: Label) {
        self.steps.push(plain(EQUAL, 1, 0, value));
        self.steps.push(Step::Jump(target));
    }

    /// Goes there when the accumulator is this or more.
    pub(super) fn if_at_least(&mut self, value: u32, target: Label) {
        self.jump_if(AT_LEAST, value, target);
    }

    /// Goes there when the accumulator has any of these bits.
    pub(super) fn if_any_bit(&mut self, mask: u32, target: Label) {
        self.jump_if(ANY_BIT, mask, target);
    }

    /// Goes there.
    pub(super) fn jump(&mut self, target: Label) {
        self.steps.push(Step::Jump(target));
    }

    fn give(&mut self, action: u32) {
        self.steps.push(plain(RETURN, 0, 0, action));
    }

    /// The call goes on.
    pub(super) fn allow(&mut self) {
        self.give(libc::SECCOMP_RET_ALLOW);
    }

    /// The supervisor answers.
    pub(super) fn notify(&mut self) {
        self.give(libc::SECCOMP_RET_USER_NOTIF);
    }

    /// The call fails with this.
    pub(super) fn error(&mut self, errno: i32) {
        self.give(libc::SECCOMP_RET_ERRNO | (errno.unsigned_abs() & libc::SECCOMP_RET_DATA));
    }

    /// The program. Every label that is jumped to must have been placed behind
    /// the jump; else the program is empty, which no kernel takes.
    pub(super) fn finish(self) -> Vec<sock_filter> {
        let Self { steps, places } = self;
        let resolve = |(at, step): (usize, Step)| match step {
            Step::Plain(instruction) => Some(instruction),
            Step::Jump(Label(label)) => {
                let to = places[label].checked_sub(at + 1)?;
                Some(sock_filter {
                    code: JUMP,
                    jt: 0,
                    jf: 0,
                    k: u32::try_from(to).ok()?,
                })
            }
        };
        steps
            .into_iter()
            .enumerate()
            .map(resolve)
            .collect::<Option<Vec<_>>>()
            .unwrap_or_default()
    }
}

/// What the kernel would make of a call, by the same rules.
#[cfg(test)]
pub(super) mod model {
    use super::*;

    fn field(call: &libc::seccomp_data, offset: u32) -> u32 {
        match offset {
            NUMBER => call.nr.cast_unsigned(),
            ARCH => call.arch,
            _ => {
                let word = call.args[(offset as usize - ARGS as usize) / 8];
                (word >> (8 * (offset & 4))) as u32
            }
        }
    }

    /// Runs the program. With `constant`, as `seccomp_is_const_allow` does:
    /// `None` as soon as anything but number and architecture is read.
    pub(in super::super) fn run(
        program: &[sock_filter],
        call: &libc::seccomp_data,
        constant: bool,
    ) -> Option<u32> {
        let mut accumulator = 0;
        let mut at = 0;
        loop {
            let i = program[at];
            at += 1;
            let branch = |taken: bool| usize::from(if taken { i.jt } else { i.jf });
            match i.code {
                LOAD if constant && i.k >= ARGS => return None,
                LOAD => accumulator = field(call, i.k),
                AND => accumulator &= i.k,
                JUMP => at += i.k as usize,
                EQUAL => at += branch(accumulator == i.k),
                AT_LEAST => at += branch(accumulator >= i.k),
                ANY_BIT => at += branch(accumulator & i.k != 0),
                RETURN => return Some(i.k),
                code => panic!("no instruction {code:#x}"),
            }
        }
    }
}
