//! What the programs must know of the running kernel, found in its type
//! information and written into their instructions.
//!
//! A mark in an instruction ([`guard_common::offsets`]) stands for an offset
//! or another fact. Every mark must be known, and every load must be marked or
//! small: an offset that this build of the programs does not know is an error,
//! never a guess.

use guard_common::offsets::{FACTS, Fact, MARK_CAST, MARK_LOAD, MARK_VALUE, Offsets};
use object::elf;
use object::read::elf::{FileHeader as _, SectionHeader as _};

use super::btf::Btf;
use super::error::KernelError;

/// Offsets and facts, by number.
pub(super) type Facts = [u32; FACTS];

/// A function that gives an address a type.
const CAST: &str = "bpf_rdonly_cast";

/// The facts, and the BTF id of [`CAST`] where there is one.
#[derive(Clone, Debug)]
pub(super) struct Running {
    facts: Facts,
    cast: Option<u32>,
}

/// Finds the facts.
///
/// # Errors
/// When a field is missing.
pub(super) fn read(btf: &Btf) -> Result<Running, KernelError> {
    let mut facts = [0; FACTS];
    let mut chained = false;
    for (fact, (structure, names)) in facts.iter_mut().zip(Offsets::FIELDS) {
        let mut found = Err(None);
        for name in names.split('|') {
            match btf.offset(structure, name) {
                Ok(offset) => {
                    chained |= name == "mnt_next_for_sb";
                    found = Ok(offset);
                    break;
                }
                Err(error) => found = Err(Some(error)),
            }
        }
        *fact = match found {
            Ok(offset) => offset,
            Err(Some(error)) => return Err(error.into()),
            Err(None) => 0, // no field has no name
        };
    }
    let cast = btf.function(CAST);
    let mount = btf.structure("mount").filter(|_| cast.is_some());
    let inline = ["d_iname", "d_shortname"]
        .iter()
        .find_map(|name| btf.size("dentry", name));
    let words = inline.unwrap_or(0) / 8;
    if !(4..=5).contains(&words) {
        return Err(KernelError::Layout {
            structure: "dentry",
            field: "d_iname",
            offset: inline.unwrap_or(0),
        });
    }
    let mut set = |fact: Fact, value: u32| {
        if let Some(place) = facts.get_mut(fact as usize) {
            *place = value;
        }
    };
    set(Fact::DentryType, btf.structure("dentry").unwrap_or(0));
    set(Fact::MountType, mount.unwrap_or(0));
    set(Fact::MountsChained, chained.into());
    let locks = std::fs::read_to_string("/proc/kallsyms")
        .ok()
        .and_then(|symbols| locks(&symbols));
    let seqcount = btf.structure("seqcount");
    if let (Some((rename, mounts)), Some(seqcount), Some(_)) = (locks, seqcount, mount) {
        set(Fact::SeqcountType, seqcount);
        set(Fact::RenameLock, rename);
        set(Fact::MountLock, mounts);
    } else {
        tracing::info!("rename_lock is not to be found: each path is read twice");
    }
    Ok(Running { facts, cast })
}

/// The low halves of the addresses of `rename_lock` and `mount_lock`, both
/// sequence locks that start with their counts.
fn locks(symbols: &str) -> Option<(u32, u32)> {
    let address = |name: &str| {
        let mut found = symbols.lines().filter_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let address = u64::from_str_radix(fields.next()?, 16).ok()?;
            (fields.nth(1)? == name && fields.next().is_none()).then_some(address)
        });
        let address = found.next()?;
        let is_kernels = address >> 31 == u64::MAX >> 31;
        // A module's, or several of that name, are not what is meant.
        (is_kernels && found.next().is_none()).then_some(address as u32)
    };
    Some((address("rename_lock")?, address("mount_lock")?))
}

/// Of an instruction (include/uapi/linux/bpf.h).
const LDX: u8 = 0x01;
const MOV64_IMM: u8 = 0xb7;
const MOV64_REG: u8 = 0xbf;
const MOV32_IMM: u8 = 0xb4;
const CALL: u8 = 0x85;
/// `BPF_PSEUDO_KFUNC_CALL`, in the source register of a call.
const KERNEL_FUNCTION: u8 = 2 << 4;

/// Writes the facts into the programs of an object.
///
/// # Errors
/// When the object is malformed or has a mark that nobody knows.
pub(super) fn apply(object: &[u8], running: &Running) -> Result<Vec<u8>, KernelError> {
    let malformed = |reason: &dyn std::fmt::Display| KernelError::Map {
        map: "the object",
        reason: reason.to_string(),
    };
    let header =
        elf::FileHeader64::<object::LittleEndian>::parse(object).map_err(|e| malformed(&e))?;
    let endian = object::LittleEndian;
    let sections = header.sections(endian, object).map_err(|e| malformed(&e))?;
    let mut out = object.to_vec();
    for section in sections.iter() {
        if section.sh_flags(endian) & u64::from(elf::SHF_EXECINSTR) == 0 {
            continue;
        }
        let Some((start, size)) = section.file_range(endian) else {
            continue;
        };
        let code = out
            .get_mut(start as usize..(start + size) as usize)
            .ok_or_else(|| malformed(&"a section lies outside"))?;
        for instruction in code.chunks_exact_mut(8) {
            if let Ok(instruction) = instruction.try_into() {
                fix(instruction, running).map_err(|e| malformed(&e))?;
            }
        }
    }
    Ok(out)
}

/// One instruction: opcode, registers, 16-bit offset, 32-bit constant.
fn fix(instruction: &mut [u8; 8], running: &Running) -> Result<(), String> {
    let [opcode, registers, o0, o1, i0, i1, i2, i3] = *instruction;
    let offset = i32::from(i16::from_le_bytes([o0, o1]));
    let constant = i32::from_le_bytes([i0, i1, i2, i3]);
    let fact = |number: i32| {
        usize::try_from(number)
            .ok()
            .and_then(|n| running.facts.get(n))
            .copied()
            .ok_or_else(|| format!("mark {number} stands for nothing"))
    };
    if opcode & 0x07 == LDX && offset >= MARK_LOAD {
        let value = fact(offset - MARK_LOAD)?;
        let value = i16::try_from(value)
            .ok()
            .filter(|v| i32::from(*v) < MARK_LOAD)
            .ok_or_else(|| format!("a field at offset {value} is out of reach"))?;
        [instruction[2], instruction[3]] = value.to_le_bytes();
    } else if opcode == CALL && registers >> 4 == 0 && constant == MARK_CAST {
        if let Some(cast) = running.cast {
            instruction[1] = registers | KERNEL_FUNCTION;
            instruction[4..].copy_from_slice(&cast.to_le_bytes());
        } else {
            // Not reached there; an address stays what it is.
            *instruction = [MOV64_REG, 1 << 4, 0, 0, 0, 0, 0, 0];
        }
    } else if constant >> 16 == MARK_VALUE >> 16 && matches!(opcode, MOV64_IMM | MOV32_IMM) {
        let value = fact(constant - MARK_VALUE)?;
        instruction[4..].copy_from_slice(&value.to_le_bytes());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(cast: Option<u32>) -> Running {
        let mut facts = [0; FACTS];
        for (n, fact) in facts.iter_mut().enumerate() {
            *fact = 100 + n as u32;
        }
        Running { facts, cast }
    }

    fn fixed(mut instruction: [u8; 8], cast: Option<u32>) -> Result<[u8; 8], String> {
        fix(&mut instruction, &running(cast)).map(|()| instruction)
    }

    fn load(offset: i32) -> [u8; 8] {
        let [a, b] = (offset as i16).to_le_bytes();
        [0x79, 0x21, a, b, 0, 0, 0, 0]
    }

    fn constant(opcode: u8, value: i32) -> [u8; 8] {
        let [a, b, c, d] = value.to_le_bytes();
        [opcode, 1, 0, 0, a, b, c, d]
    }

    #[test]
    fn marks_become_what_they_stand_for() {
        assert_eq!(fixed(load(MARK_LOAD + 3), None), Ok(load(103)));
        assert_eq!(
            fixed(constant(MOV64_IMM, MARK_VALUE + 1), None),
            Ok(constant(MOV64_IMM, 101))
        );
        let call = constant(CALL, MARK_CAST);
        let call = [call[0], 0, 0, 0, call[4], call[5], call[6], call[7]];
        assert_eq!(
            fixed(call, Some(7)),
            Ok([CALL, KERNEL_FUNCTION, 0, 0, 7, 0, 0, 0])
        );
        assert_eq!(fixed(call, None), Ok([MOV64_REG, 0x10, 0, 0, 0, 0, 0, 0]));
    }

    #[test]
    fn locks_are_the_kernels_own() {
        let both = "ffffffffae609640 D rename_lock\nffffffffae6096c0 D mount_lock\n";
        assert_eq!(locks(both), Some((0xae60_9640, 0xae60_96c0)));
        let hidden = "0000000000000000 D rename_lock\n0000000000000000 D mount_lock\n";
        assert_eq!(locks(hidden), None);
        let twice = format!("{both}ffffffffae609700 d rename_lock\n");
        assert_eq!(locks(&twice), None);
        let module = "ffffffffae609640 D rename_lock\nffffffffc06096c0 D mount_lock\t[x]\n";
        assert_eq!(locks(module), None);
    }

    #[test]
    fn what_is_no_mark_stays() {
        for instruction in [
            load(0x6fff),
            load(-8),
            constant(MOV64_IMM, 5),
            constant(CALL, 1),
        ] {
            assert_eq!(fixed(instruction, Some(7)), Ok(instruction));
        }
    }

    #[test]
    fn an_unknown_mark_is_an_error() {
        assert!(fixed(load(MARK_LOAD + FACTS as i32), None).is_err());
        assert!(fixed(constant(MOV64_IMM, MARK_VALUE + FACTS as i32), None).is_err());
    }
}
