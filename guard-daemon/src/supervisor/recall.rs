//! What the trail says of a sandbox that is taken over: how far its relay's
//! records were written, and the calls that events may still name. The trail
//! itself is the only place where this is known for certain. Anything kept
//! beside it could say more or less than what was written when its writer died.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;

use serde::Deserialize;

use super::state::SandboxState;
use crate::audit::chain::MAX_LINE;
use crate::audit::event::CallInfo;
use crate::audit::words::Digest;

/// Bytes of a line in which its sandbox is named.
const HEAD: usize = 256;

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Recalled {
    /// The relay's records up to this number are in the trail.
    pub through: u64,
    /// Calls, in the order of their starts, and whether they have ended.
    pub calls: Vec<(CallInfo, bool)>,
}

/// The members that are of use.
#[derive(Deserialize)]
struct Line {
    sandbox: Sandbox,
    kind: String,
    op: String,
    rseq: Option<u64>,
    number: Option<u64>,
    id: Option<String>,
    method: Option<String>,
    tool: Option<String>,
    args_hash: Option<Digest>,
}

#[derive(Deserialize)]
struct Sandbox {
    id: String,
}

/// Reads a sandbox's trail from its mark on.
///
/// # Errors
/// When the file cannot be read.
pub fn recall(state: &SandboxState) -> io::Result<Recalled> {
    let mut file = match File::open(&state.audit_file) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Recalled::default()),
        Err(e) => return Err(e),
    };
    let metadata = file.metadata()?;
    let mark = state.mark;
    let same = metadata.ino() == mark.inode && metadata.len() >= mark.offset;
    if same {
        file.seek(SeekFrom::Start(mark.offset))?;
    }
    let mut recalled = read(BufReader::with_capacity(1 << 20, file), &state.id)?;
    if same {
        recalled.through = recalled.through.max(mark.through);
    }
    Ok(recalled)
}

fn read(mut trail: impl BufRead, id: &str) -> io::Result<Recalled> {
    let finder = memchr::memmem::Finder::new(id.as_bytes());
    let mut recalled = Recalled::default();
    let mut calls: BTreeMap<u64, (CallInfo, bool)> = BTreeMap::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        // A longer line is not guard's; its pieces are no lines either.
        let most = MAX_LINE as u64 + 1;
        if trail.by_ref().take(most).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        if finder.find(&line[..line.len().min(HEAD)]).is_none() {
            continue;
        }
        // A line that a crash left unfinished was not written.
        let Ok(said) = serde_json::from_slice::<Line>(&line) else {
            continue;
        };
        let (true, Some(rseq)) = (said.sandbox.id == id, said.rseq) else {
            continue;
        };
        recalled.through = recalled.through.max(rseq);
        match (said.kind.as_str(), said.op.as_str(), said.number) {
            ("call", "start", Some(number)) => {
                let call = CallInfo {
                    number,
                    id: said.id,
                    tool: said.tool,
                    method: said.method,
                    args_hash: said.args_hash,
                };
                calls.insert(number, (call, false));
            }
            ("call", "end", Some(number)) => {
                if let Some((call, ended)) = calls.get_mut(&number) {
                    *ended = true;
                    call.args_hash = said.args_hash;
                }
            }
            _ => {}
        }
    }
    recalled.calls = calls.into_values().collect();
    Ok(recalled)
}

#[cfg(test)]
#[path = "recall_tests.rs"]
mod tests;
