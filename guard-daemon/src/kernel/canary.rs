//! The self-test: a probe in a sandbox of its own opens a file that its
//! policy denies. The open must fail and the event must come.

use std::ffi::CString;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use guard_common::event::Object;
use guard_common::limits::ABI_VERSION;
use guard_common::sandbox::SandboxEntry;
use guard_common::table::{CLASS_MAP_OFFSET, ROW_UNIT, TABLE_MAGIC, TRANSITIONS_OFFSET};

use super::{Kernel, KernelError, Ring};

/// A policy without rules: everything is denied.
pub(super) fn deny_all() -> Vec<u8> {
    // One state, one class, whose column lies behind that of the output; one
    // empty output.
    let column: u16 = 2;
    let outputs = TRANSITIONS_OFFSET + ROW_UNIT;
    let end = outputs + 72;
    let words = [
        TABLE_MAGIC,
        ABI_VERSION,
        end,
        1,
        1,
        0,
        column.into(),
        outputs,
        1,
        end,
        0,
        1,
    ];
    let mut table: Vec<u8> = words.iter().flat_map(|w: &u32| w.to_ne_bytes()).collect();
    table.resize(CLASS_MAP_OFFSET as usize, 0);
    table.extend((0..256).flat_map(|_| column.to_ne_bytes()));
    table.resize(end as usize, 0);
    table
}

/// Number of the canary's sandbox: no real one has it.
const CANARY: u64 = u64::MAX;

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
    let file = Path::new("/run/guard/canary");
    std::fs::create_dir_all("/run/guard").map_err(KernelError::io("make /run/guard"))?;
    std::fs::write(file, b"canary\n").map_err(KernelError::io("write /run/guard/canary"))?;
    let path = CString::new(file.as_os_str().as_bytes())
        .map_err(|e| KernelError::Canary(e.to_string()))?;

    let table = kernel.publish(&deny_all())?;
    let slot = kernel.allocate_slot()?;
    let entry = SandboxEntry {
        sandbox: CANARY,
        background: 1,
        valid_sets: 1,
        base: table.base,
        slot: slot.index,
        generation: 1,
        ..SandboxEntry::default()
    };
    let outcome = kernel.register(id, entry).and_then(|()| {
        crate::sys::probe::open_in_cgroup(dir.as_fd(), &path)
            .map_err(KernelError::io("start the probe"))
    });
    kernel.unregister(id);
    kernel.release_slot(slot.index);
    kernel.retire(table);
    let errno = outcome?;
    if errno != libc::EACCES {
        return Err(KernelError::Canary(match errno {
            0 => "the kernel let a probe open a file that its policy denies (is `bpf` in the active LSM list?)".into(),
            n => format!("a probe that should meet EACCES met {}", std::io::Error::from_raw_os_error(n)),
        }));
    }
    let mut seen = false;
    let mut others = Vec::new();
    kernel.drain(usize::MAX, &mut |ring, event| match &event {
        Ok(e) if e.header.sandbox == CANARY => {
            seen |= ring == Ring::Denials
                && e.object == Object::Path(file.as_os_str().as_bytes().to_vec());
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
