//! Running code that the policy does not let run.

use std::fs;
use std::io::Write;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::attack::{At, Failure, Outcome, Reached, Technique, nothing};
use crate::place::Place;
use crate::sys::{self, call};

/// All of this family.
pub(crate) const ALL: &[Technique] = &[
    Technique::new("exec-plain", exec_plain).prepared(prepare_tool),
    Technique::new("exec-denied", exec_denied).prepared(prepare_denied),
    Technique::new("exec-own-copy", exec_own_copy),
    Technique::new("exec-loader", exec_loader).prepared(prepare_tool),
    Technique::new("exec-memfd", exec_memfd),
    Technique::new("exec-unlinked", exec_unlinked).prepared(prepare_tool),
    Technique::new("exec-o-path", exec_o_path).prepared(prepare_tool),
    Technique::new("exec-script", exec_script),
    Technique::new("exec-interpreter", exec_interpreter).prepared(prepare_interpreter),
    Technique::new("exec-preload", exec_preload).prepared(prepare_preload),
    Technique::new("map-exec", map_exec),
    Technique::new("map-exec-memfd", map_exec_memfd),
    Technique::new("protect-exec", protect_exec),
    Technique::new("pkey-protect-exec", pkey_protect_exec),
    Technique::new("read-implies-exec", read_implies_exec),
    Technique::new("setuid-program", setuid_program).prepared(prepare_setuid),
];

fn prepare_tool(place: &Place) {
    place.copy_program("open/tool");
}

/// Executes a program in a child and tells whether it ran and ended well.
fn execute(program: &Path, arguments: &[&Path]) -> Outcome {
    let mut command = std::process::Command::new(program);
    let status = command.args(arguments).status().at("execve")?;
    if status.success() {
        return Ok(Reached::Done);
    }
    Err(nothing(&format!("the program: {status}")))
}

/// `execveat` of a descriptor in a child.
fn execute_descriptor(fd: RawFd) -> Outcome {
    let arguments = [c"tool".as_ptr(), std::ptr::null()];
    let code = sys::in_child(|| {
        let at = sys::Memory::of(&arguments);
        let flags = libc::AT_EMPTY_PATH;
        match call!("execveat", libc::SYS_execveat, fd, c"", at, 0, flags) {
            Err(Failure::Stopped { errno, .. }) => errno,
            _ => 0,
        }
    })?;
    if code == 0 {
        return Ok(Reached::Done);
    }
    Err(Failure::Stopped {
        step: "execveat".into(),
        errno: code,
    })
}

/// Executes a program of its own.
fn exec_plain(place: &Place) -> Outcome {
    execute(&place.at("open/tool"), &[])
}

fn prepare_denied(place: &Place) {
    place.copy_program("bin/tool.env");
}

/// Executes a program that a rule denies, in a directory of allowed ones.
fn exec_denied(place: &Place) -> Outcome {
    execute(&place.at("bin/tool.env"), &[])
}

/// Writes a copy of a program that may be executed, and executes the copy.
fn exec_own_copy(place: &Place) -> Outcome {
    let copy = place.at("open/copy");
    fs::copy("/usr/local/bin/bypass", &copy).at("copy")?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).at("chmod")?;
    execute(&copy, &[Path::new("reached")])
}

fn loader() -> PathBuf {
    PathBuf::from("/lib64/ld-linux-x86-64.so.2")
}

/// Has the dynamic loader run it: `execve` sees only the loader.
fn exec_loader(place: &Place) -> Outcome {
    execute(&loader(), &[&place.at("open/tool")])
}

fn memfd(bytes: &[u8]) -> Result<fs::File, Failure> {
    // Without MFD_CLOEXEC: a script's descriptor must survive.
    let fd = call!("memfd_create", libc::SYS_memfd_create, c"x", 0)?;
    let mut file = fs::File::from(sys::fd(fd));
    file.write_all(bytes).at("write")?;
    Ok(file)
}

/// Executes a program from memory.
fn exec_memfd(_: &Place) -> Outcome {
    let program = fs::read("/usr/bin/true").at("open /usr/bin/true")?;
    execute_descriptor(memfd(&program)?.as_raw_fd())
}

/// Executes a program that has no name any more.
fn exec_unlinked(place: &Place) -> Outcome {
    let fd = sys::open(place.at("open/tool"), libc::O_RDONLY)?;
    fs::remove_file(place.at("open/tool")).at("unlink")?;
    execute_descriptor(fd.as_raw_fd())
}

/// Executes an `O_PATH` descriptor.
fn exec_o_path(place: &Place) -> Outcome {
    let fd = sys::open(place.at("open/tool"), libc::O_PATH)?;
    execute_descriptor(fd.as_raw_fd())
}

/// Executes a script of its own.
fn exec_script(place: &Place) -> Outcome {
    execute(&place.at("open/script.sh"), &[])
}

fn prepare_interpreter(place: &Place) {
    place.write("bin/script.sh", b"#!/usr/bin/true\n", 0o755);
}

/// Executes an allowed script whose interpreter is not allowed.
fn exec_interpreter(place: &Place) -> Outcome {
    execute(&place.at("bin/script.sh"), &[])
}

fn prepare_preload(place: &Place) {
    place.copy_program("bin/good");
    let library = fs::read("/lib/x86_64-linux-gnu/libm.so.6");
    let library = library.unwrap_or_else(|e| panic!("read a library: {e}"));
    place.write("open/evil.so", &library, 0o755);
}

/// Has an allowed program load a library of its own.
fn exec_preload(place: &Place) -> Outcome {
    let mut command = std::process::Command::new(loader());
    command.arg("--preload").arg(place.at("open/evil.so"));
    let output = command.arg(place.at("bin/good")).output().at("execve")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() && !said.contains("evil.so") {
        return Ok(Reached::Done);
    }
    let said = said.lines().next().unwrap_or_default();
    Err(nothing(&format!("the loader: {said}")))
}

/// Runs the code at an address and tells whether it is ours. A fault ends the process.
fn jump(at: usize) -> Outcome {
    // SAFETY: the mapping that was just made holds `CODE`, a function with no argument.
    let code: extern "C" fn() -> i32 = unsafe { std::mem::transmute(at) };
    if code() == 42 {
        Ok(Reached::Done)
    } else {
        Err(nothing("the code"))
    }
}

fn map(fd: &impl AsRawFd, prot: i32) -> Result<usize, Failure> {
    let (fd, flags) = (fd.as_raw_fd(), libc::MAP_PRIVATE);
    call!("mmap", libc::SYS_mmap, 0, 4096, prot, flags, fd, 0)
}

fn code(place: &Place) -> Result<std::os::fd::OwnedFd, Failure> {
    sys::open(place.at("open/code.bin"), libc::O_RDONLY)
}

const READ_EXEC: i32 = libc::PROT_READ | libc::PROT_EXEC;

/// Maps a file of its own as code.
fn map_exec(place: &Place) -> Outcome {
    jump(map(&code(place)?, READ_EXEC)?)
}

/// Maps memory that has a descriptor as code.
fn map_exec_memfd(_: &Place) -> Outcome {
    jump(map(&memfd(crate::place::CODE)?, READ_EXEC)?)
}

/// Maps a file for reading, then makes it code.
fn protect_exec(place: &Place) -> Outcome {
    let at = map(&code(place)?, libc::PROT_READ)?;
    call!("mprotect", libc::SYS_mprotect, at, 4096, READ_EXEC)?;
    jump(at)
}

/// The same with `pkey_mprotect`.
fn pkey_protect_exec(place: &Place) -> Outcome {
    let at = map(&code(place)?, libc::PROT_READ)?;
    call!(
        "pkey_mprotect",
        libc::SYS_pkey_mprotect,
        at,
        4096,
        READ_EXEC,
        -1
    )?;
    jump(at)
}

/// Has the kernel add the right to execute by itself, as it does for old programs.
fn read_implies_exec(place: &Place) -> Outcome {
    const READ_IMPLIES_EXEC: u32 = 0x0040_0000;
    call!("personality", libc::SYS_personality, READ_IMPLIES_EXEC)?;
    jump(map(&code(place)?, libc::PROT_READ)?)
}

fn prepare_setuid(place: &Place) {
    let program = fs::read("/usr/local/bin/bypass");
    let program = program.unwrap_or_else(|e| panic!("read this program: {e}"));
    place.write("bin/setuid", &program, 0o4755);
}

/// Becomes root by a setuid program that may be executed.
fn setuid_program(place: &Place) -> Outcome {
    execute(&place.at("bin/setuid"), &[Path::new("is-root")])
}
