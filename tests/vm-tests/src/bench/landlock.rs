//! The yardstick: Landlock with rules for the same files.

/// Rights of a ruleset (uapi/linux/landlock.h).
#[derive(Clone, Copy)]
pub struct Rights(u64);

/// READ_FILE and READ_DIR.
pub const READ: Rights = Rights(1 << 2 | 1 << 3);
/// REMOVE_FILE and MAKE_REG.
pub const CHANGE: Rights = Rights(1 << 5 | 1 << 8);

#[repr(C)]
struct RulesetAttr {
    handled_access_fs: u64,
}

#[repr(C, packed)]
struct PathBeneath {
    allowed_access: u64,
    parent_fd: i32,
}

/// Puts the calling process under a ruleset of `rules` rules.
pub fn restrict(rules: usize, rights: Rights) {
    let attr = RulesetAttr {
        handled_access_fs: rights.0,
    };
    // SAFETY: each call reads a live struct of the size that it is given.
    unsafe {
        let ruleset = libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const attr,
            size_of::<RulesetAttr>(),
            0,
        );
        let error = std::io::Error::last_os_error();
        assert!(ruleset >= 0, "landlock: {error}");
        let add = |path: &str| {
            let path = std::ffi::CString::new(path).expect("no NUL");
            let parent_fd = libc::open(path.as_ptr(), libc::O_PATH);
            assert!(parent_fd >= 0, "open for a rule");
            let rule = PathBeneath {
                allowed_access: rights.0,
                parent_fd,
            };
            assert_eq!(
                libc::syscall(libc::SYS_landlock_add_rule, ruleset, 1, &raw const rule, 0),
                0,
                "add a rule"
            );
            libc::close(parent_fd);
        };
        for n in 1..rules {
            add(&format!("/opt/tool{n:04}"));
        }
        add("/dir00001");
        assert_eq!(
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
            0,
            "no_new_privs"
        );
        assert_eq!(
            libc::syscall(libc::SYS_landlock_restrict_self, ruleset, 0),
            0,
            "restrict"
        );
    }
}
