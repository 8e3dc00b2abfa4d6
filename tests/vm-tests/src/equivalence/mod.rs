//! The kernel and the reference matcher agree, through real operations on
//! random paths under random policies. The reference agrees with a naive
//! matcher on many more pairs in guard-daemon's own tests.

mod operations;

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsRawFd as _;

use guard_common::matcher::SliceTable;
use guard_common::sandbox::SANDBOX_LOG_ALLOWS;
use guard_daemon::kernel::Kernel;
use guard_daemon::policy::CompiledPolicy;
use guard_daemon::policy::arbitrary::{FileRules, Random, files, path_near, text};

use crate::Test;
use crate::compile;
use crate::sandbox::Sandbox;
use operations::Operation;

pub const TESTS: &[Test] = &[("equivalence_of_kernel_and_reference", agree)];

/// Cases of a policy, an operation, and its paths.
const CASES: usize = 20_000;
/// Cases under each policy.
const OF_ONE_POLICY: usize = 200;

/// Asks a process in the sandbox to do something, and hears what came of it.
struct Inside {
    orders: PipeWriter,
    answers: PipeReader,
}

impl Inside {
    fn ask(&mut self, operation: Operation, path: &[u8], to: &[u8]) -> i32 {
        let lengths = [path.len() as u16, to.len() as u16].map(u16::to_ne_bytes);
        let order = [&[operation as u8][..], &lengths.concat(), path, to].concat();
        self.orders.write_all(&order).expect("an order");
        let mut answer = [0; 4];
        self.answers.read_exact(&mut answer).expect("an answer");
        i32::from_ne_bytes(answer)
    }
}

/// What the process in the sandbox does: orders, until there are no more.
fn obey(mut orders: PipeReader, mut answers: PipeWriter) -> Vec<i32> {
    let mut head = [0; 5];
    while orders.read_exact(&mut head).is_ok() {
        let length = |at: usize| usize::from(u16::from_ne_bytes([head[at], head[at + 1]]));
        let mut paths = [vec![0; length(1)], vec![0; length(3)]];
        for path in &mut paths {
            orders.read_exact(path).expect("a path");
        }
        let [path, to] = paths.map(|path| CString::new(path).expect("no NUL"));
        let operation = Operation::ALL[usize::from(head[0])];
        let answer = operation.perform(&path, &to);
        answers.write_all(&answer.to_ne_bytes()).expect("an answer");
    }
    Vec::new()
}

/// Refused and allowed, by operation.
type Seen = BTreeMap<u8, [usize; 2]>;

fn agree(kernel: &mut Kernel) {
    let seed = 20_261_121;
    let mut random = Random::new(seed);
    let mut seen = Seen::new();
    let mut cases = 0;
    while cases < CASES {
        let rules = files(&mut random);
        let policy = compile::sets(&[&text(&rules)]);
        let sandbox = Sandbox::new(
            kernel,
            policy.table(),
            policy.background(),
            policy.valid_sets(),
            // What is reported is walked in another way.
            SANDBOX_LOG_ALLOWS * u32::from(cases % 2 == 0),
        );
        let (orders_read, orders) = std::io::pipe().expect("a pipe");
        let (answers, answers_write) = std::io::pipe().expect("a pipe");
        let parents = [orders.as_raw_fd(), answers.as_raw_fd()];
        let child = sandbox.start(|| {
            // Else there would never be an end of orders.
            // SAFETY: the child's copies, which nothing in it uses.
            parents.iter().for_each(|fd| unsafe {
                libc::close(*fd);
            });
            obey(orders_read, answers_write)
        });
        let mut inside = Inside { orders, answers };
        for _ in 0..OF_ONE_POLICY {
            let one = Case::random(&mut random, &rules);
            cases += usize::from(one.check(&policy, &mut inside, &rules, &mut seen));
        }
        drop(inside);
        child.results();
        sandbox.events(kernel);
        sandbox.end(kernel);
    }
    println!("{cases} cases, seed {seed}");
    for (operation, [refused, allowed]) in &seen {
        let name = format!("{:?}", Operation::ALL[usize::from(*operation)]);
        println!("  {name:20} {refused:6} refused, {allowed:6} allowed");
        assert!(*refused > 0 && *allowed > 0, "{name} was always the same");
    }
    assert_eq!(seen.len(), Operation::ALL.len(), "every operation was met");
}

/// One operation and its paths.
struct Case {
    operation: Operation,
    path: Vec<u8>,
    to: Vec<u8>,
}

impl Case {
    fn random(random: &mut Random, rules: &FileRules) -> Self {
        let operation = Operation::ALL[random.below(Operation::ALL.len())];
        let path = path_near(random, rules, false);
        let to = match random.below(3) {
            // Moves within a directory are the usual ones.
            0 => {
                let parent = path.iter().rposition(|b| *b == b'/').unwrap_or(0);
                [&path[..parent], b"/moved"].concat()
            }
            _ => path_near(random, rules, false),
        };
        Self {
            operation,
            path,
            to,
        }
    }

    /// False when its paths cannot be made as the operation needs them.
    fn check(
        &self,
        policy: &CompiledPolicy,
        inside: &mut Inside,
        rules: &FileRules,
        seen: &mut Seen,
    ) -> bool {
        let Self {
            operation,
            path,
            to,
        } = self;
        if !operation.set_up(path, to) {
            return false;
        }
        let table = SliceTable(policy.table());
        let expected = operation.judged(table, policy.background(), path, to);
        let answer = inside.ask(*operation, path, to);
        let refused = answer == libc::EACCES;
        assert!(
            refused != expected && (refused || answer == 0),
            "{operation:?} {} {} is answered {answer}, the reference says {expected}, under\n{}",
            String::from_utf8_lossy(path),
            String::from_utf8_lossy(to),
            text(rules)
        );
        seen.entry(*operation as u8).or_default()[usize::from(expected)] += 1;
        true
    }
}
