//! The kernel and the reference matcher agree, through real opens of random
//! paths under random policies. The reference agrees with a naive matcher on
//! many more pairs in guard-daemon's own tests.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use guard_common::matcher::{SliceTable, Verdict, decide};
use guard_common::table::FileAccess;
use guard_daemon::kernel::Kernel;
use guard_daemon::policy::arbitrary::{Random, files, path_near, text};

use crate::Test;
use crate::child::errno;
use crate::compile;
use crate::sandbox::Sandbox;

pub const TESTS: &[Test] = &[("equivalence_of_kernel_and_reference", agree)];

/// Pairs of a policy and a path.
const PAIRS: usize = 5_000;
/// Paths under each policy.
const PATHS: usize = 100;

/// Makes the path exist; false where a former path is in its way.
fn make(path: &[u8]) -> bool {
    let path = Path::new(OsStr::from_bytes(path));
    if path.exists() {
        return true;
    }
    let Some(parent) = path.parent() else {
        return false;
    };
    if std::fs::create_dir_all(parent).is_err() || std::fs::write(path, b"").is_err() {
        return false;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).is_ok()
}

/// What the kernel says of one access: 0 or an error number.
fn ask(path: &CString, access: &[FileAccess]) -> i32 {
    match access {
        [FileAccess::Exec] => {
            let none: [*const libc::c_char; 1] = [std::ptr::null()];
            // SAFETY: NUL-terminated path, empty argument lists; the file is
            // empty, so that the call never succeeds.
            errno(unsafe { libc::execve(path.as_ptr(), none.as_ptr(), none.as_ptr()) }.into())
        }
        _ => {
            let flags = match access {
                [FileAccess::Read] => libc::O_RDONLY,
                [FileAccess::Write] => libc::O_WRONLY,
                _ => libc::O_RDWR,
            };
            // SAFETY: a NUL-terminated path; closed at once.
            unsafe {
                let fd = libc::open(path.as_ptr(), flags | libc::O_CLOEXEC);
                let result = errno(fd.into());
                if fd >= 0 {
                    libc::close(fd);
                }
                result
            }
        }
    }
}

fn agree(kernel: &mut Kernel) {
    const READ_WRITE: &[FileAccess] = &[FileAccess::Read, FileAccess::Write];
    let seed = 20_261_121;
    let mut random = Random::new(seed);
    let (mut pairs, mut allowed) = (0, 0);
    while pairs < PAIRS {
        let rules = files(&mut random);
        let policy = compile::sets(&[&text(&rules)]);
        let sandbox = Sandbox::new(
            kernel,
            policy.table(),
            policy.background(),
            policy.valid_sets(),
            0,
        );
        let paths: Vec<Vec<u8>> = (0..PATHS)
            .map(|_| path_near(&mut random, &rules, false))
            .filter(|path| make(path))
            .collect();
        let mut asked: Vec<(&[u8], &[FileAccess])> = Vec::new();
        for path in &paths {
            asked.push((path, &[FileAccess::Read]));
            if Path::new(OsStr::from_bytes(path)).is_file() {
                asked.push((path, &[FileAccess::Write]));
                asked.push((path, READ_WRITE));
                asked.push((path, &[FileAccess::Exec]));
            }
        }
        let answers = sandbox.run(|| {
            asked
                .iter()
                .map(|(path, access)| ask(&CString::new(*path).expect("no NUL"), access))
                .collect()
        });
        assert_eq!(answers.len(), asked.len());
        for ((path, access), answer) in asked.iter().zip(answers) {
            let expected = access
                .iter()
                .map(|a| {
                    decide(
                        SliceTable(policy.table()).path_masks(path, *a),
                        policy.background(),
                    )
                })
                .max()
                .expect("some access");
            let by_rules = access
                .iter()
                .map(|a| decide(policy.masks_by_rules(path, *a), policy.background()))
                .max();
            assert_eq!(by_rules, Some(expected), "rules and table, seed {seed}");
            // An empty file that may be executed is ENOEXEC.
            let passed = if *access == [FileAccess::Exec] {
                libc::ENOEXEC
            } else {
                0
            };
            let right = if expected == Verdict::Allow {
                passed
            } else {
                libc::EACCES
            };
            assert_eq!(
                answer,
                right,
                "seed {seed}, {access:?} {}, {expected:?} by the reference, under\n{}",
                String::from_utf8_lossy(path),
                text(&rules)
            );
            allowed += usize::from(expected == Verdict::Allow);
        }
        pairs += paths.len();
        sandbox.events(kernel);
        sandbox.end(kernel);
    }
    println!("{pairs} pairs, {allowed} accesses allowed");
    assert!(
        allowed > PAIRS / 50,
        "too few allowed accesses to mean anything: {allowed}"
    );
}
