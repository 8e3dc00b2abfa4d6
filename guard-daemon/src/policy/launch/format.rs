//! The first bytes of an executable: which loader or interpreter it names.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Bytes of a file that the kernel looks at (`BINPRM_BUF_SIZE`,
/// include/uapi/linux/binfmts.h).
const HEAD: usize = 256;

/// What the kernel makes of a file.
pub(super) enum Format {
    Elf {
        /// `PT_INTERP`; none for a static program.
        loader: Option<PathBuf>,
    },
    Script {
        interpreter: PathBuf,
        /// All that follows on the line, as one argument.
        argument: Option<OsString>,
    },
    Unknown,
}

/// Reads as much of a regular file as is needed.
pub(super) fn read(path: &Path) -> io::Result<Format> {
    let file = File::open(path)?;
    let mut head = Vec::with_capacity(HEAD);
    (&file).take(HEAD as u64).read_to_end(&mut head)?;
    if let Some(line) = head.strip_prefix(b"#!") {
        return Ok(script(line));
    }
    if head.starts_with(b"\x7fELF") {
        let loader = loader(&file, &head)?;
        return Ok(Format::Elf { loader });
    }
    Ok(Format::Unknown)
}

/// As fs/binfmt_script.c: blanks around, the interpreter up to a blank, the
/// rest as one argument.
fn script(line: &[u8]) -> Format {
    let end = line.iter().position(|b| *b == b'\n').unwrap_or(line.len());
    let line = line[..end].trim_ascii();
    let blank = |b: &u8| *b == b' ' || *b == b'\t';
    let cut = line.iter().position(blank).unwrap_or(line.len());
    let (interpreter, argument) = line.split_at(cut);
    let argument = argument.trim_ascii();
    if interpreter.is_empty() {
        return Format::Unknown;
    }
    Format::Script {
        interpreter: OsStr::from_bytes(interpreter).into(),
        argument: (!argument.is_empty()).then(|| OsStr::from_bytes(argument).to_owned()),
    }
}

/// Reads the `PT_INTERP` of a 64-bit little-endian ELF file (elf(5)).
fn loader(file: &File, head: &[u8]) -> io::Result<Option<PathBuf>> {
    const PT_INTERP: u32 = 3;
    let is_64_le = head.get(4) == Some(&2) && head.get(5) == Some(&1);
    if head.len() < 64 || !is_64_le {
        return Ok(None);
    }
    let word = |bytes: &[u8], at: usize| {
        let mut array = [0; 8];
        array.copy_from_slice(&bytes[at..at + 8]);
        u64::from_le_bytes(array)
    };
    let table = word(head, 32);
    let entry_size = u64::from(u16::from_le_bytes([head[54], head[55]]));
    let entries = u64::from(u16::from_le_bytes([head[56], head[57]]));
    for index in 0..entries {
        let mut entry = [0; 56];
        let at = table.saturating_add(index * entry_size);
        if file.read_exact_at(&mut entry, at).is_err() {
            return Ok(None);
        }
        if u32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]) != PT_INTERP {
            continue;
        }
        // PATH_MAX bounds what the kernel takes (fs/binfmt_elf.c).
        let len = word(&entry, 32).min(4096) as usize;
        let mut name = vec![0; len];
        file.read_exact_at(&mut name, word(&entry, 8))?;
        let end = name.iter().position(|b| *b == 0).unwrap_or(len);
        return Ok(Some(OsStr::from_bytes(&name[..end]).into()));
    }
    Ok(None)
}
