//! The running kernel's type information (`/sys/kernel/btf/vmlinux`), read
//! for one purpose: where the fields of its structs lie. The format is
//! Documentation/bpf/btf.rst.

use std::collections::HashMap;
use std::path::Path;

/// Where the kernel shows its types.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Why an offset could not be found.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}: the kernel must be built with CONFIG_DEBUG_INFO_BTF")]
    Read {
        /// Which file.
        path: String,
        /// The error.
        source: std::io::Error,
    },
    /// The file is not what the format says.
    #[error("the kernel's type information is malformed at byte {0}")]
    Malformed(usize),
    /// A struct or field does not exist in this kernel.
    #[error(
        "this kernel has no field {field} in struct {structure}: guard does not know this kernel and does not guess"
    )]
    Missing {
        /// The struct.
        structure: String,
        /// The field, with dots.
        field: String,
    },
}

const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_FUNC: u32 = 12;

/// Type information, indexed.
pub struct Btf {
    types: Vec<u8>,
    strings: Vec<u8>,
    /// Start of each type's record, by type id; id 0 is void.
    starts: Vec<u32>,
    structs: HashMap<Vec<u8>, u32>,
}

struct Member {
    name: u32,
    type_id: u32,
    bits: u32,
}

fn word(bytes: &[u8], at: usize) -> Result<u32, BtfError> {
    let part = bytes.get(at..at + 4).ok_or(BtfError::Malformed(at))?;
    let mut array = [0; 4];
    array.copy_from_slice(part);
    Ok(u32::from_ne_bytes(array))
}

impl Btf {
    /// Reads the running kernel's.
    ///
    /// # Errors
    /// When there is none, or it is malformed.
    pub fn vmlinux() -> Result<Self, BtfError> {
        Self::from_file(Path::new(VMLINUX))
    }

    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, or is malformed.
    pub fn from_file(path: &Path) -> Result<Self, BtfError> {
        let bytes = std::fs::read(path).map_err(|source| BtfError::Read {
            path: path.display().to_string(),
            source,
        })?;
        Self::parse(&bytes)
    }

    /// Parses raw BTF.
    ///
    /// # Errors
    /// When it is malformed.
    pub fn parse(bytes: &[u8]) -> Result<Self, BtfError> {
        if word(bytes, 0)? & 0xffff != 0xeb9f {
            return Err(BtfError::Malformed(0));
        }
        let header = word(bytes, 4)? as usize;
        let section = |offset: usize| -> Result<Vec<u8>, BtfError> {
            let start = header + word(bytes, offset)? as usize;
            let len = word(bytes, offset + 4)? as usize;
            Ok(bytes
                .get(start..start + len)
                .ok_or(BtfError::Malformed(start))?
                .to_vec())
        };
        let mut btf = Self {
            types: section(8)?,
            strings: section(16)?,
            starts: vec![0],
            structs: HashMap::new(),
        };
        let mut at = 0;
        while at < btf.types.len() {
            let id = btf.starts.len() as u32;
            btf.starts.push(at as u32);
            let info = word(&btf.types, at + 4)?;
            let (kind, vlen) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
            if kind == KIND_STRUCT {
                let name = btf.name(word(&btf.types, at)?)?.to_vec();
                btf.structs.entry(name).or_insert(id);
            }
            at += 12
                + match kind {
                    1 | 14 | 17 => 4,                                // INT, VAR, DECL_TAG
                    3 => 12,                                         // ARRAY
                    KIND_STRUCT | KIND_UNION | 15 | 19 => 12 * vlen, // also DATASEC, ENUM64
                    6 | 13 => 8 * vlen,                              // ENUM, FUNC_PROTO
                    2 | 7..=12 | 16 | 18 => 0,                       // PTR … FUNC, FLOAT, TYPE_TAG
                    _ => return Err(BtfError::Malformed(at)),
                };
        }
        Ok(btf)
    }

    fn name(&self, offset: u32) -> Result<&[u8], BtfError> {
        let rest = self
            .strings
            .get(offset as usize..)
            .ok_or(BtfError::Malformed(offset as usize))?;
        Ok(rest.split(|b| *b == 0).next().unwrap_or_default())
    }

    fn record(&self, id: u32) -> Result<(u32, usize, usize), BtfError> {
        let start = *self
            .starts
            .get(id as usize)
            .ok_or(BtfError::Malformed(id as usize))? as usize;
        let info = word(&self.types, start + 4)?;
        Ok((info >> 24 & 0x1f, (info & 0xffff) as usize, start))
    }

    fn members(&self, id: u32) -> Result<Vec<Member>, BtfError> {
        let (kind, vlen, start) = self.record(id)?;
        if kind != KIND_STRUCT && kind != KIND_UNION {
            return Ok(Vec::new());
        }
        let bitfields = word(&self.types, start + 4)? >> 31 == 1;
        (0..vlen)
            .map(|n| {
                let at = start + 12 + 12 * n;
                let bits = word(&self.types, at + 8)?;
                Ok(Member {
                    name: word(&self.types, at)?,
                    type_id: word(&self.types, at + 4)?,
                    bits: if bitfields { bits & 0x00ff_ffff } else { bits },
                })
            })
            .collect()
    }

    /// Type id of a function, as a program's attach target; `None` when this
    /// kernel has no such function.
    #[must_use]
    pub fn function(&self, name: &str) -> Option<u32> {
        (1..self.starts.len() as u32).find(|id| {
            let Ok((KIND_FUNC, _, start)) = self.record(*id) else {
                return false;
            };
            let text = word(&self.types, start).and_then(|at| self.name(at));
            text.is_ok_and(|text| text == name.as_bytes())
        })
    }

    /// Type id of a struct.
    #[must_use]
    pub fn structure(&self, name: &str) -> Option<u32> {
        self.structs.get(name.as_bytes()).copied()
    }

    /// Number of arguments of a function.
    #[must_use]
    pub fn arguments(&self, function: &str) -> Option<usize> {
        let (_, _, start) = self.record(self.function(function)?).ok()?;
        let prototype = word(&self.types, start + 8).ok()?;
        let (_, arguments, _) = self.record(prototype).ok()?;
        Some(arguments)
    }

    /// Bytes of a field: an array of bytes, or a struct or union.
    #[must_use]
    pub fn size(&self, structure: &str, field: &str) -> Option<u32> {
        let id = self.structure(structure)?;
        let (_, type_id) = self.find(id, field.as_bytes(), 8).ok()??;
        let id = self.strip(type_id).ok()?;
        let (kind, _, start) = self.record(id).ok()?;
        match kind {
            KIND_ARRAY => word(&self.types, start + 20).ok(),
            KIND_STRUCT | KIND_UNION => word(&self.types, start + 8).ok(),
            _ => None,
        }
    }

    /// Goes through typedefs and qualifiers.
    fn strip(&self, mut id: u32) -> Result<u32, BtfError> {
        for _ in 0..64 {
            let (kind, _, start) = self.record(id)?;
            match kind {
                8..=11 | 18 => id = word(&self.types, start + 8)?,
                _ => return Ok(id),
            }
        }
        Err(BtfError::Malformed(id as usize))
    }

    fn find(&self, id: u32, field: &[u8], depth: usize) -> Result<Option<(u32, u32)>, BtfError> {
        if depth == 0 {
            return Ok(None);
        }
        for member in self.members(id)? {
            let name = self.name(member.name)?;
            if name == field {
                return Ok(Some((member.bits, member.type_id)));
            }
            if name.is_empty() {
                let inner = self.strip(member.type_id)?;
                if let Some((bits, type_id)) = self.find(inner, field, depth - 1)? {
                    return Ok(Some((member.bits + bits, type_id)));
                }
            }
        }
        Ok(None)
    }

    /// Byte offset of a field, `field` with dots for embedded structs, through
    /// anonymous structs and unions.
    ///
    /// # Errors
    /// When this kernel has no such field.
    pub fn offset(&self, structure: &str, field: &str) -> Result<u32, BtfError> {
        let missing = || BtfError::Missing {
            structure: structure.into(),
            field: field.into(),
        };
        let mut id = *self.structs.get(structure.as_bytes()).ok_or_else(missing)?;
        let mut bits = 0;
        for part in field.split('.') {
            let (at, type_id) = self.find(id, part.as_bytes(), 8)?.ok_or_else(missing)?;
            bits += at;
            id = self.strip(type_id)?;
        }
        if bits % 8 == 0 {
            Ok(bits / 8)
        } else {
            Err(missing())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// struct a { int x; struct { int y; union { int z; }; }; }, by hand.
    fn sample() -> Vec<u8> {
        let strings = b"\0int\0a\0x\0y\0z\0";
        let kind = |k: u32, n: u32| k << 24 | n;
        let words: Vec<u32> = vec![
            1,
            kind(1, 0),
            4,
            32, // 1: int
            9,
            kind(0, 0),
            0, // placeholder, replaced below
        ];
        let mut types: Vec<u32> = words[..4].to_vec();
        types.extend([0, kind(5, 1), 4, 11, 1, 0]); // 2: union { z }
        types.extend([0, kind(4, 2), 8, 9, 1, 0, 0, 2, 32]); // 3: struct { y; union }
        types.extend([5, kind(4, 2), 12, 7, 1, 0, 0, 3, 32]); // 4: struct a
        let types: Vec<u8> = types.iter().flat_map(|w| w.to_ne_bytes()).collect();
        let mut out = Vec::new();
        out.extend(0xeb9fu16.to_ne_bytes());
        out.extend([1, 0]);
        for w in [
            24,
            0,
            types.len() as u32,
            types.len() as u32,
            strings.len() as u32,
        ] {
            out.extend(w.to_ne_bytes());
        }
        out.extend(types);
        out.extend(strings);
        out
    }

    #[test]
    fn fields_are_found_through_anonymous_members() {
        let btf = Btf::parse(&sample()).unwrap();
        assert_eq!(btf.offset("a", "x").unwrap(), 0);
        assert_eq!(btf.offset("a", "y").unwrap(), 4);
        assert_eq!(btf.offset("a", "z").unwrap(), 8);
        assert!(matches!(
            btf.offset("a", "w"),
            Err(BtfError::Missing { .. })
        ));
        assert!(matches!(
            btf.offset("b", "x"),
            Err(BtfError::Missing { .. })
        ));
    }

    #[test]
    fn a_cut_file_is_an_error() {
        let whole = sample();
        for len in 0..whole.len() {
            assert!(Btf::parse(&whole[..len]).is_err(), "cut at {len}");
        }
    }
}
