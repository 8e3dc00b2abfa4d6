//! The self-test: a probe in a sandbox of its own opens a file that its
//! policy allows. Then the file's directory is renamed, and the policy denies:
//! the open must fail, although the directory was remembered, and the event
//! must come.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use guard_common::event::Object;
use guard_common::sandbox::SandboxEntry;

use super::{Kernel, KernelError, Ring};
use crate::policy::lookup::Lookup;
use crate::policy::{self, CompiledPolicy, Document, ResolveContext};

/// Number of the canary's sandbox: no real one has it.
const CANARY: u64 = u64::MAX;

/// What the probe opens: allowed, and denied.
const OPEN: &CStr = c"/run/guard/canary/open/file";
const SHUT: &CStr = c"/run/guard/canary/shut/file";
const POLICY: &str = "version = 1\n[files]\nread = ['/run/guard/canary/open/**']\n";

fn policy() -> Result<CompiledPolicy, String> {
    let lookup = Lookup::built_in();
    let context = ResolveContext {
        home: None,
        cwd: PathBuf::from("/"),
        tmp: PathBuf::from("/tmp"),
        args: Vec::new(),
        set: Vec::new(),
        includes: &lookup,
        launch: None,
        own: Vec::new(),
    };
    let document = Document::parse(POLICY.as_bytes(), "self-test").map_err(|e| e.to_string())?;
    let resolved = policy::resolve(&document, &context).map_err(|e| e.to_string())?;
    policy::compile_sets(&[&resolved]).map_err(|e| e.to_string())
}

/// The directory that is renamed, as long as the self-test takes.
struct Tree;

impl Tree {
    const ROOT: &'static str = "/run/guard/canary";

    fn new() -> std::io::Result<Self> {
        // A file of that name is an earlier version's.
        let _ = std::fs::remove_file(Self::ROOT);
        let _ = std::fs::remove_dir_all(Self::ROOT);
        let open = Path::new(Self::ROOT).join("open");
        std::fs::create_dir_all(&open)?;
        std::fs::write(open.join("file"), b"canary\n")?;
        Ok(Self)
    }

    fn rename(&self) -> std::io::Result<()> {
        let root = Path::new(Self::ROOT);
        std::fs::rename(root.join("open"), root.join("shut"))
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(Self::ROOT);
    }
}

/// The error numbers that the probe meets: where it may open, again, and
/// where it may not any more.
fn attempts(cgroup: BorrowedFd<'_>, tree: &Tree) -> Result<[i32; 3], KernelError> {
    let open = |path| {
        crate::sys::probe::open_in_cgroup(cgroup, path).map_err(KernelError::io("start the probe"))
    };
    let before = [open(OPEN)?, open(OPEN)?];
    tree.rename()
        .map_err(KernelError::io("rename /run/guard/canary/open"))?;
    Ok([before[0], before[1], open(SHUT)?])
}

/// Whether that is what the policy says.
fn verdict(met: [i32; 3]) -> Result<(), KernelError> {
    let wrong = match met {
        [0, 0, libc::EACCES] => return Ok(()),
        [0, 0, 0] => {
            "the kernel let a probe open a file that its policy denies (is `bpf` in the active LSM list?)"
                .to_owned()
        }
        [0, 0, other] => format!("a probe that should meet EACCES met {}", name(other)),
        [first, again, _] => format!(
            "a probe that should open a file met {}, then {}",
            name(first),
            name(again)
        ),
    };
    Err(KernelError::Canary(wrong))
}

fn name(errno: i32) -> String {
    match errno {
        0 => "no error".to_owned(),
        n => std::io::Error::from_raw_os_error(n).to_string(),
    }
}

pub(super) fn run(kernel: &mut Kernel, parent: &Path) -> Result<(), KernelError> {
    let cgroup = parent.join(".canary");
    std::fs::create_dir_all(&cgroup).map_err(KernelError::io(format!(
        "make the cgroup {}",
        cgroup.display()
    )))?;
    let result = probe(kernel, &cgroup);
    // A cgroup that cannot be removed is swept at the next start.
    let _ = std::fs::remove_dir(&cgroup);
    result
}

fn probe(kernel: &mut Kernel, cgroup: &Path) -> Result<(), KernelError> {
    let dir = std::fs::File::open(cgroup).map_err(KernelError::io(format!(
        "open the cgroup {}",
        cgroup.display()
    )))?;
    let id = dir
        .metadata()
        .map_err(KernelError::io("read a cgroup's id"))?
        .ino();
    let tree = Tree::new().map_err(KernelError::io("make /run/guard/canary"))?;
    let policy = policy().map_err(KernelError::Canary)?;
    let table = kernel.publish(policy.table())?;
    let slot = kernel.allocate_slot()?;
    let entry = SandboxEntry {
        sandbox: CANARY,
        background: policy.background(),
        valid_sets: policy.valid_sets(),
        base: table.base,
        slot: slot.index,
        generation: 1,
        ..SandboxEntry::default()
    };
    let outcome = kernel
        .register(id, entry)
        .and_then(|()| attempts(dir.as_fd(), &tree));
    kernel.unregister(id);
    kernel.release_slot(slot.index);
    kernel.retire(table);
    verdict(outcome?)?;
    let mut seen = false;
    let mut others = Vec::new();
    kernel.drain(usize::MAX, &mut |ring, event| match &event {
        Ok(e) if e.header.sandbox == CANARY => {
            seen |= ring == Ring::Denials && e.object == Object::Path(SHUT.to_bytes().to_vec());
        }
        _ => others.push((ring, event)),
    });
    kernel.put_back(others);
    if seen {
        Ok(())
    } else {
        Err(KernelError::Canary(
            "the kernel denied the probe's open but no event with its path came".into(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_policy_says_is_a_pass() {
        assert!(verdict([0, 0, libc::EACCES]).is_ok());
        for wrong in [
            [0, 0, 0],
            [0, 0, libc::ENOENT],
            [libc::EACCES, 0, libc::EACCES],
            [0, libc::EACCES, libc::EACCES],
            [libc::EACCES; 3],
        ] {
            assert!(verdict(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn its_policy_compiles() {
        policy().unwrap();
    }
}
