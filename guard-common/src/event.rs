//! Events as the kernel writes them into the two ring buffers, and their
//! checked decoding.

use crate::limits::{MAX_CALLS, MAX_PATH};
use crate::table::AccessMasks;

/// The ring for denials: noise can never push evidence out.
pub const RING_DENIALS: usize = 0;
/// The ring for allowed accesses.
pub const RING_ALLOWS: usize = 1;

/// Call numbers that a record has room for when there are few.
pub const FEW_CALLS: usize = 8;

/// What an event is about.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file was opened.
    File = 1,
    /// A program was executed or mapped as code.
    Exec = 2,
    /// A socket was made or used.
    Network = 3,
    /// Something that a sandbox reaches out of itself with.
    Escape = 4,
}

/// The operation, by the hook that saw it.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// `security_file_open` (fs/open.c).
    Open = 1,
    /// `security_bprm_check` (fs/exec.c).
    Exec = 2,
    /// `security_mmap_file` with `PROT_EXEC` (mm/util.c).
    MapExec = 3,
    /// `security_socket_create` (net/socket.c).
    Socket = 4,
    /// `security_socket_connect` (net/socket.c), and cgroup connect4/6.
    Connect = 5,
    /// cgroup sendmsg4/6 (net/ipv4/udp.c, net/ipv6/udp.c).
    Send = 6,
    /// A regular file, by `security_path_mknod` (also from `open` with `O_CREAT`).
    Create = 7,
    /// `security_path_mkdir`.
    Mkdir = 8,
    /// `security_path_rmdir`.
    Rmdir = 9,
    /// A device, FIFO or socket, by `security_path_mknod`.
    Mknod = 10,
    /// `security_path_unlink`.
    Unlink = 11,
    /// `security_path_symlink`.
    Symlink = 12,
    /// `security_path_link`.
    Link = 13,
    /// `security_path_rename`, for each name.
    Rename = 14,
    /// `security_path_truncate`, `security_file_truncate`.
    Truncate = 15,
    /// `security_path_chmod`.
    Chmod = 16,
    /// `security_path_chown`.
    Chown = 17,
    /// `security_inode_setxattr` and its like, access control lists included.
    Xattr = 18,
    /// `security_inode_setattr` with times.
    Times = 19,
    /// `security_path_notify`: inotify, fanotify.
    Watch = 20,
    /// `security_file_receive`: a descriptor came over a unix socket.
    Receive = 21,
    /// `security_file_mprotect` with `PROT_EXEC`.
    ProtectExec = 22,
    /// `security_socket_bind`.
    Bind = 23,
    /// `security_socket_listen`.
    Listen = 24,
    /// `security_unix_stream_connect`.
    UnixConnect = 25,
    /// `security_unix_may_send`.
    UnixSend = 26,
    /// `security_ptrace_access_check`, `security_ptrace_traceme`; memory and
    /// descriptors of other processes are asked for through it too.
    Ptrace = 40,
    /// `security_task_kill`.
    Signal = 41,
    /// `security_sb_mount` and all that changes mounts.
    Mount = 42,
    /// `security_path_chroot`.
    Chroot = 43,
    /// `security_create_user_ns`.
    UserNamespace = 44,
    /// `security_bpf`.
    Bpf = 45,
    /// `security_perf_event_open`.
    Perf = 46,
    /// `security_kernel_module_request`, `security_kernel_load_data`,
    /// `security_kernel_read_file`.
    Module = 47,
    /// `security_key_permission`, `security_key_alloc`.
    Key = 48,
    /// `security_ipc_permission`: System V objects of another sandbox or user.
    Ipc = 49,
    /// `security_task_setscheduler` and its like, on a process outside.
    Scheduler = 50,
    /// `security_syslog`.
    KernelLog = 51,
    /// `security_uring_*`.
    IoUring = 52,
}

/// Why an access was judged as it was, when no rule of the policy says so.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The rules of the policy decided; user space names the rule.
    Rule = 0,
    /// A rule wants approval and nobody can be asked.
    ApprovalUnavailable = 1,
    /// A kernel read failed.
    ReadFailed = 2,
    /// More than [`MAX_COMPONENTS`](crate::limits::MAX_COMPONENTS) components.
    TooDeep = 3,
    /// More than [`MAX_PATH`] bytes.
    TooLong = 4,
    /// The walk did not end at the root of the process's mount namespace.
    Detached = 5,
    /// The file has no name any more.
    Deleted = 6,
    /// A case-folding directory is on the path.
    CaseFold = 7,
    /// The sandbox's cgroup is not registered (being set up or taken down).
    UnknownSandbox = 8,
    /// Socket family, type or protocol that no rule can grant.
    SocketFamily = 9,
    /// An address of a form that is not understood.
    AddressForm = 10,
    /// The event ring was full and the policy says `ring_full = "deny"`.
    RingFull = 11,
    /// The table or slot could not be found: an error in guard.
    Internal = 12,
    /// Names on the path changed while they were read.
    Raced = 13,
    /// Code from memory that no file stands behind (memfd).
    NoFile = 14,
    /// No policy can grant this inside a sandbox.
    Escape = 15,
    /// The process (or object) that is acted on is not of this sandbox.
    OutsideSandbox = 16,
    /// A file of a cgroup filesystem.
    CgroupFilesystem = 17,
    /// The file would be reachable under more rights by its new name.
    MoreRights = 18,
    /// Another name of a file that a deny rule names.
    HardLink = 19,
    /// Device files are not made in a sandbox.
    DeviceFile = 20,
    /// A unix socket that no rule names.
    UnixSocket = 21,
    /// No rule of the policy names it.
    NoRule = 22,
    /// Judging what lies below a directory would take too long.
    TooLarge = 23,
    /// It goes to guard's own resolver, which judges the name that is asked for.
    Resolver = 24,
    /// It belongs to the resolvers of sandboxes.
    ResolverRange = 25,
    /// The name asks for TLS with a server name (`sni = "require"`), and this is
    /// no stream that could be read, or nobody reads it.
    SniRequired = 26,
}

/// Start of every record. Behind it come `calls_room` call numbers, the first
/// `in_flight` of them valid, and `payload_len` bytes of payload. A record of
/// at most [`SHORT_RECORD`] bytes may have that length, and anything at its end.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventHeader {
    /// Number of the sandbox ([`crate::sandbox::SandboxEntry::sandbox`]).
    pub sandbox: u64,
    /// Sequence number in this sandbox and ring, from 0. A gap is a loss.
    pub kseq: u64,
    /// `CLOCK_BOOTTIME`, nanoseconds.
    pub time: u64,
    /// The sandbox's cgroup id.
    pub cgroup: u64,
    /// Rule sets in force at the access.
    pub active: u64,
    /// What the table said.
    pub masks: AccessMasks,
    /// The slot's epoch.
    pub epoch: u64,
    /// Calls in flight; 0 when the lease had run out.
    pub in_flight: u32,
    /// Policy generation.
    pub generation: u32,
    /// Process id (thread group), in the initial pid namespace.
    pub pid: u32,
    /// Thread id.
    pub tid: u32,
    /// Parent's process id.
    pub ppid: u32,
    /// Effective user id.
    pub uid: u32,
    /// `EVENT_*` flags.
    pub flags: u32,
    /// Bytes of payload that are valid.
    pub payload_len: u32,
    /// [`Kind`].
    pub kind: u8,
    /// [`Op`].
    pub op: u8,
    /// What was asked: [`crate::table::FileAccess::bit`]s, 0 for sockets.
    pub access: u8,
    /// [`crate::matcher::Verdict`].
    pub verdict: u8,
    /// [`Reason`].
    pub reason: u8,
    /// `PAYLOAD_*`.
    pub payload_kind: u8,
    /// Call numbers that the record has room for: [`FEW_CALLS`] or
    /// [`MAX_CALLS`].
    pub calls_room: u8,
    /// 0.
    pub reserved: u8,
}

/// The call numbers may be torn: the slot changed while they were copied.
pub const EVENT_TORN: u32 = 1;
/// Calls were in flight but the lease had run out.
pub const EVENT_LEASE_EXPIRED: u32 = 2;
/// The verdict was not applied (`--audit-only`).
pub const EVENT_NOT_APPLIED: u32 = 4;
/// The path is not whole: the walk ended early, see the reason.
pub const EVENT_PATH_PARTIAL: u32 = 8;
/// `self` was fed for the process's own number below `/proc`.
pub const EVENT_PROC_SELF: u32 = 16;

/// Payload of network events.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetPayload {
    /// Address, network order; IPv4 as IPv4-mapped.
    pub addr: [u8; 16],
    /// Port, host order.
    pub port: u16,
    /// `AF_*`.
    pub family: u16,
    /// `SOCK_*` without flags, 0 when not known.
    pub socket_type: u16,
    /// `IPPROTO_*` or the family's own.
    pub protocol: u16,
    /// Number of the name that allowed it (see [`crate::names::Grant`]); 0: none.
    pub name: u32,
    /// 1: more than one name led to this address, so it may be another's.
    pub shared: u32,
}

/// Payload of escape events.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EscapePayload {
    /// Process id (thread group, initial pid namespace) that was acted on, 0 for none.
    pub pid: u32,
    /// What exactly, by operation: the signal, the command of `bpf(2)`, the
    /// kind of System V object, ….
    pub detail: u32,
}

/// Kind of payload: a path, leaf component first.
pub const PAYLOAD_PATH: u8 = 0;
/// A [`NetPayload`].
pub const PAYLOAD_NET: u8 = 1;
/// An abstract unix socket name.
pub const PAYLOAD_ABSTRACT: u8 = 2;
/// An [`EscapePayload`].
pub const PAYLOAD_TARGET: u8 = 3;

/// Bytes of the longest record.
pub const MAX_RECORD: usize = size_of::<EventHeader>() + 8 * MAX_CALLS + MAX_PATH;

/// Records up to this length may be padded to it.
pub const SHORT_RECORD: usize = 320;

const _: () = assert!(size_of::<EventHeader>() == 112);
const _: () = assert!(size_of::<NetPayload>() == 32);

#[cfg(feature = "user")]
pub use decode::{DecodeError, Event, decode};

#[cfg(feature = "user")]
mod decode {
    use super::{
        EscapePayload, EventHeader, FEW_CALLS, Kind, MAX_CALLS, NetPayload, Op, PAYLOAD_ABSTRACT,
        PAYLOAD_NET, PAYLOAD_PATH, PAYLOAD_TARGET, Reason, SHORT_RECORD,
    };
    use crate::matcher::Verdict;
    use crate::table::AccessMasks;

    /// A record whose every field was checked.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Event {
        /// The header, its integers as they came.
        pub header: EventHeader,
        /// What it is about.
        pub kind: Kind,
        /// The operation.
        pub op: Op,
        /// What the policy said.
        pub verdict: Verdict,
        /// Why, when not by a rule.
        pub reason: Reason,
        /// Numbers of the calls in flight.
        pub calls: Vec<u64>,
        /// What was accessed.
        pub object: Object,
    }

    /// What was accessed.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub enum Object {
        /// An absolute path; relative when the walk ended early
        /// ([`super::EVENT_PATH_PARTIAL`]).
        Path(Vec<u8>),
        /// A socket or destination.
        Net(NetPayload),
        /// A unix socket's abstract name, without the zero byte that it starts with.
        Abstract(Vec<u8>),
        /// What an attempt to get out was aimed at.
        Target(EscapePayload),
    }

    /// A record that no program of this version writes.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum DecodeError {
        /// Not the size that the header says.
        Size(usize),
        /// A field with a value that it cannot have.
        Field(&'static str, u64),
    }

    impl std::fmt::Display for DecodeError {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            match self {
                Self::Size(n) => write!(f, "kernel event of {n} bytes: not what its header says"),
                Self::Field(name, value) => {
                    write!(f, "kernel event with {name} = {value}: out of range")
                }
            }
        }
    }

    impl std::error::Error for DecodeError {}

    struct Reader<'a>(&'a [u8]);

    impl Reader<'_> {
        fn take<const N: usize>(&mut self) -> [u8; N] {
            let mut out = [0; N];
            let (head, tail) = self.0.split_at(N.min(self.0.len()));
            out[..head.len()].copy_from_slice(head);
            self.0 = tail;
            out
        }
        fn u64(&mut self) -> u64 {
            u64::from_ne_bytes(self.take())
        }
        fn u32(&mut self) -> u32 {
            u32::from_ne_bytes(self.take())
        }
        fn u16(&mut self) -> u16 {
            u16::from_ne_bytes(self.take())
        }
        fn u8(&mut self) -> u8 {
            self.take::<1>()[0]
        }
    }

    /// Decodes one ring buffer record.
    ///
    /// # Errors
    /// When the record's size or a field is none that this version writes.
    pub fn decode(record: &[u8]) -> Result<Event, DecodeError> {
        if record.len() < size_of::<EventHeader>() {
            return Err(DecodeError::Size(record.len()));
        }
        let mut r = Reader(record);
        let header = EventHeader {
            sandbox: r.u64(),
            kseq: r.u64(),
            time: r.u64(),
            cgroup: r.u64(),
            active: r.u64(),
            masks: AccessMasks {
                allow: r.u64(),
                deny: r.u64(),
                approve: r.u64(),
            },
            epoch: r.u64(),
            in_flight: r.u32(),
            generation: r.u32(),
            pid: r.u32(),
            tid: r.u32(),
            ppid: r.u32(),
            uid: r.u32(),
            flags: r.u32(),
            payload_len: r.u32(),
            kind: r.u8(),
            op: r.u8(),
            access: r.u8(),
            verdict: r.u8(),
            reason: r.u8(),
            payload_kind: r.u8(),
            calls_room: r.u8(),
            reserved: r.u8(),
        };
        let room = header.calls_room as usize;
        if room != FEW_CALLS && room != MAX_CALLS {
            return Err(DecodeError::Field("calls_room", header.calls_room.into()));
        }
        let in_flight = header.in_flight as usize;
        if in_flight > room {
            return Err(DecodeError::Field("in_flight", header.in_flight.into()));
        }
        let payload_at = size_of::<EventHeader>() + 8 * room;
        let payload = record
            .get(payload_at..)
            .and_then(|bytes| bytes.get(..header.payload_len as usize))
            .filter(|bytes| {
                payload_at + bytes.len() == record.len() || record.len() == SHORT_RECORD
            })
            .ok_or(DecodeError::Size(record.len()))?;
        let calls: Vec<u64> = (0..in_flight).map(|_| r.u64()).collect();
        let mut p = Reader(payload);
        let object = match (header.payload_kind, payload.len()) {
            (PAYLOAD_PATH, _) => Object::Path(path(payload)),
            (PAYLOAD_ABSTRACT, _) => Object::Abstract(payload.to_vec()),
            (PAYLOAD_NET, n) if n == size_of::<NetPayload>() => Object::Net(NetPayload {
                addr: p.take(),
                port: p.u16(),
                family: p.u16(),
                socket_type: p.u16(),
                protocol: p.u16(),
                name: p.u32(),
                shared: p.u32(),
            }),
            (PAYLOAD_TARGET, n) if n == size_of::<EscapePayload>() => {
                Object::Target(EscapePayload {
                    pid: p.u32(),
                    detail: p.u32(),
                })
            }
            (kind, _) => return Err(DecodeError::Field("payload_kind", kind.into())),
        };
        Ok(Event {
            kind: kind(header.kind)?,
            op: op(header.op)?,
            verdict: verdict(header.verdict)?,
            reason: reason(header.reason)?,
            calls,
            object,
            header,
        })
    }

    /// Turns leaf-first components into an absolute path.
    fn path(leaf_first: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(leaf_first.len() + 1);
        let trimmed = leaf_first.strip_suffix(b"/").unwrap_or(leaf_first);
        for component in trimmed.split(|b| *b == b'/').rev() {
            out.push(b'/');
            out.extend_from_slice(component);
        }
        out
    }

    macro_rules! checked {
        ($name:ident, $ty:ident, [$($variant:ident),*]) => {
            fn $name(value: u8) -> Result<$ty, DecodeError> {
                $(if value == $ty::$variant as u8 { return Ok($ty::$variant); })*
                Err(DecodeError::Field(stringify!($name), value.into()))
            }
        };
    }
    checked!(kind, Kind, [File, Exec, Network, Escape]);
    checked!(
        op,
        Op,
        [
            Open,
            Exec,
            MapExec,
            Socket,
            Connect,
            Send,
            Create,
            Mkdir,
            Rmdir,
            Mknod,
            Unlink,
            Symlink,
            Link,
            Rename,
            Truncate,
            Chmod,
            Chown,
            Xattr,
            Times,
            Watch,
            Receive,
            ProtectExec,
            Bind,
            Listen,
            UnixConnect,
            UnixSend,
            Ptrace,
            Signal,
            Mount,
            Chroot,
            UserNamespace,
            Bpf,
            Perf,
            Module,
            Key,
            Ipc,
            Scheduler,
            KernelLog,
            IoUring
        ]
    );
    checked!(verdict, Verdict, [Allow, Approve, Deny]);
    checked!(
        reason,
        Reason,
        [
            Rule,
            ApprovalUnavailable,
            ReadFailed,
            TooDeep,
            TooLong,
            Detached,
            Deleted,
            CaseFold,
            UnknownSandbox,
            SocketFamily,
            AddressForm,
            RingFull,
            Internal,
            Raced,
            NoFile,
            Escape,
            OutsideSandbox,
            CgroupFilesystem,
            MoreRights,
            HardLink,
            DeviceFile,
            UnixSocket,
            NoRule,
            TooLarge,
            Resolver,
            ResolverRange,
            SniRequired
        ]
    );
}

#[cfg(feature = "user")]
pub use decode::Object;

#[cfg(all(test, feature = "user"))]
#[path = "event_tests.rs"]
mod tests;
