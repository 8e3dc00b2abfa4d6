//! guard: runs MCP servers in cgroups, ties what the kernel sees to the tool
//! call in flight, and enforces path and address policy in the kernel.
//!
//! Data flows one way, three times (ARCHITECTURE.md):
//! ```text
//! policy text ─▶ Document ─▶ Resolved ─▶ CompiledPolicy ─▶ kernel maps
//! JSON-RPC bytes ─▶ Frame ─▶ Message ─▶ Decision + call ledger ─▶ slot
//! kernel hook ─▶ ring buffer ─▶ Event ─▶ AuditEvent ─▶ chain ─▶ sinks
//! ```
//! `policy`, `mcp` and `audit` know nothing of BPF and run on any machine.
//! Only `kernel` uses aya. All `unsafe` of this crate is in `sys`.

pub mod audit;
pub mod cli;
pub mod doctor;
pub mod kernel;
pub mod mcp;
pub mod net;
pub mod policy;
pub mod relay;
pub mod supervisor;
pub mod sys;
pub mod wire;
