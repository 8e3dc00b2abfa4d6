//! Guest instructions per operation, for `cargo xtask bench kernel`: under
//! `-icount shift=0` a nanosecond of the guest's clock is an instruction.
//!
//! Path components are 8 bytes long. Each figure is the least of 40 batches or
//! more, when five have agreed on it: instructions repeat to the digit, and what
//! a batch has above the least is other work of the kernel's.
//!
//! *Inside* is a process under the kernel programs and both second walls, the
//! system call filter and the Landlock ruleset, as `guard run` starts one.

mod connect;
mod landlock;
mod operations;
pub mod walls;

use std::os::fd::{AsFd, OwnedFd};

use guard_common::sandbox::{SANDBOX_DATAGRAM, SANDBOX_LINKS, SANDBOX_LOG_ALLOWS};
use guard_daemon::kernel::Kernel;
use guard_daemon::kernel::btf::Btf;
use guard_daemon::supervisor::{landlock as wall, seccomp};
use guard_daemon::sys;
use guard_daemon::sys::bpf_probe::attach_empty;
use serde_json::{Map, Value, json};

use crate::child::spawn;
use crate::compile;
use crate::sandbox::Sandbox;
use connect::Connects;
use landlock::{CHANGE, READ, restrict};
use operations::Operation;

const DEPTHS: [usize; 3] = [2, 8, 16];
/// Rules of a policy where nothing else is said.
const RULES: usize = 50;

/// All of them, in the order of [`figures`].
const ALL: [Operation; 5] = [
    Operation::Open,
    Operation::Rename,
    Operation::Unlink,
    Operation::Execve,
    Operation::Stat,
];

/// Measures operations at all depths, one after the other.
fn figures(operations: &[Operation]) -> Vec<i32> {
    operations
        .iter()
        .flat_map(|operation| DEPTHS.map(|depth| operation.measure(depth)))
        .collect()
}

/// In a child of its own, outside every sandbox.
fn outside(operations: &[Operation], prepare: impl Fn()) -> Vec<i32> {
    outside_with(prepare, || figures(operations))
}

fn outside_with(prepare: impl Fn(), measure: impl Fn() -> Vec<i32>) -> Vec<i32> {
    let root = std::fs::File::open("/sys/fs/cgroup").expect("the root cgroup");
    spawn(root.as_fd(), None, || {
        prepare();
        measure()
    })
    .results()
}

/// A policy of `rules` rules that allows what is measured.
fn policy(rules: usize) -> String {
    let mut list: Vec<String> = (1..rules)
        .map(|n| format!("'/opt/tool{n:04}/**'"))
        .collect();
    list.push("'/dir00001/**'".into());
    format!(
        "version = 1\n[files]\nread = [{}]\nwrite = ['/dir00001/**']\nexec = ['/dir00001/**']\n",
        list.join(", ")
    )
}

fn sandbox(kernel: &mut Kernel, rules: usize, flags: u32) -> Sandbox {
    sandbox_under(kernel, &policy(rules), flags)
}

fn sandbox_under(kernel: &mut Kernel, text: &str, flags: u32) -> Sandbox {
    let policy = compile::sets(&[text]);
    Sandbox::new(
        kernel,
        policy.table(),
        policy.background(),
        policy.valid_sets(),
        // As `guard run` has it: its own files are named by rules.
        flags | SANDBOX_DATAGRAM | SANDBOX_LINKS,
    )
}

/// The second walls, as the launcher puts them up.
fn walls() {
    // SAFETY: integers only.
    let set = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(set, 0, "no_new_privs");
    let ruleset = wall::ruleset(&[c"/dir00001".into()], false).expect("a ruleset");
    sys::landlock::restrict_self(ruleset.as_fd()).expect("restrict");
    let filter = seccomp::filter(false).expect("a filter");
    // The listener stays open: without it refused calls would seem absent.
    std::mem::forget(sys::seccomp::install(&filter).expect("install"));
}

/// In a sandbox. The rings are read between batches, so that they are never full.
fn measure_in(kernel: &mut Kernel, sandbox: Sandbox, measure: impl Fn() -> Vec<i32>) -> Vec<i32> {
    let child = sandbox.start(|| {
        operations::pause_between_batches();
        walls();
        measure()
    });
    child.follow(|| drop(sandbox.events(kernel)));
    let costs = child.results();
    let counters = kernel.counters(sandbox.entry.slot).expect("counters");
    assert_eq!(counters.ring_full, [0, 0], "a full ring is cheaper");
    sandbox.end(kernel);
    costs
}

fn inside(kernel: &mut Kernel, rules: usize, flags: u32, operations: &[Operation]) -> Vec<i32> {
    let sandbox = sandbox(kernel, rules, flags);
    measure_in(kernel, sandbox, || figures(operations))
}

/// In one of 200 sandboxes.
fn among_many(kernel: &mut Kernel) -> Vec<i32> {
    let others: Vec<Sandbox> = (1..200).map(|_| sandbox(kernel, RULES, 0)).collect();
    let costs = inside(kernel, RULES, 0, &[Operation::Open]);
    others.into_iter().for_each(|other| other.end(kernel));
    costs
}

/// An empty LSM program on file_open.
fn empty() -> OwnedFd {
    let function = Btf::vmlinux()
        .expect("BTF")
        .function("bpf_lsm_file_open")
        .expect("the hook");
    attach_empty(function).expect("an empty program")
}

/// One row: a name, and figures by depth.
type Row<'a> = (&'a str, &'a [i32]);

fn print(title: &str, rows: &[Row<'_>]) {
    println!(
        "{title:18} {:>8} {:>8} {:>8}   (added to the baseline)",
        "depth 2", "depth 8", "depth 16"
    );
    let baseline = rows[0].1;
    for (name, costs) in rows {
        let added: Vec<String> = costs
            .iter()
            .zip(baseline)
            .map(|(c, b)| format!("{:+}", c - b))
            .collect();
        println!(
            "  {name:16} {:>8} {:>8} {:>8}   {}",
            costs[0],
            costs[1],
            costs[2],
            added.join(" ")
        );
    }
}

fn by_depth(rows: &[Row<'_>]) -> Value {
    let mut out = Map::new();
    for (n, depth) in DEPTHS.iter().enumerate() {
        let row: Map<_, _> = rows
            .iter()
            .filter(|(name, _)| !name.contains(' '))
            .map(|(name, costs)| ((*name).to_owned(), costs[n].into()))
            .collect();
        out.insert(depth.to_string(), row.into());
    }
    out.into()
}

/// Unloads the programs, and sees to it that none is left.
fn unload(kernel: Kernel) {
    let costs = kernel.costs().iter();
    let programs: Vec<String> = costs.map(|cost| cost.name.clone()).collect();
    kernel.teardown().expect("unload");
    assert!(crate::nothing_loaded(&programs), "all programs go");
}

/// Prints tables and, as the last line, the figures as JSON: of everything, or
/// of connects only.
pub fn run(what: &str) {
    let mut out = match what {
        "connect" => Map::new(),
        _ => accesses(),
    };
    let mut connects = Connects::before();
    let mut kernel = Kernel::load_or_adopt().expect("load");
    crate::sandbox::parent(&mut kernel);
    connects.under(&mut kernel);
    unload(kernel);
    connects.tell(|name, rows| {
        print(name, rows);
        out.insert(name.to_owned(), by_depth(rows));
    });
    println!("{}", json!(out));
}

/// All but connects.
fn accesses() -> Map<String, Value> {
    operations::prepare(&DEPTHS);
    for n in 1..RULES {
        std::fs::create_dir_all(format!("/opt/tool{n:04}")).expect("directories");
    }
    let open = &[Operation::Open];
    let changes = &[Operation::Rename, Operation::Unlink];
    // The first run meets what preparing has left to do: it does not count.
    outside(&ALL, || ());
    let baseline = outside(&ALL, || ());
    let with_empty = {
        let _attached = empty();
        outside(open, || ())
    };
    let landlock = [5, 50].map(|rules| {
        let mut costs = outside(open, || restrict(rules, READ));
        costs.extend(outside(changes, || restrict(rules, CHANGE)));
        costs
    });
    let walls_alone = outside(&ALL, walls);
    let mut kernel = Kernel::load_or_adopt().expect("load");
    crate::sandbox::parent(&mut kernel);
    let attached = outside(&ALL, || ());
    let quiet = inside(&mut kernel, RULES, 0, &ALL);
    let all = inside(&mut kernel, RULES, SANDBOX_LOG_ALLOWS, &ALL);
    let ten = inside(&mut kernel, 10, 0, open);
    let thousand = inside(&mut kernel, 1000, 0, open);
    let many = among_many(&mut kernel);
    unload(kernel);
    let again = outside(open, || ());

    let mut out = Map::new();
    let part = |costs: &[i32], n: usize| costs[DEPTHS.len() * n..DEPTHS.len() * (n + 1)].to_vec();
    for (n, name) in ["open", "rename", "unlink", "execve", "stat"]
        .into_iter()
        .enumerate()
    {
        let common = [&baseline, &attached, &quiet, &all, &walls_alone].map(|costs| part(costs, n));
        let yardsticks = (n < 3).then(|| landlock.each_ref().map(|costs| part(costs, n)));
        let mut rows: Vec<Row<'_>> = vec![("baseline", &common[0])];
        if n == 0 {
            rows.push(("empty", &with_empty));
        }
        rows.extend([
            ("outside", common[1].as_slice()),
            ("inside", &common[2]),
            ("inside_all", &common[3]),
            ("walls alone", &common[4]),
        ]);
        if let Some([five, fifty]) = &yardsticks {
            rows.extend([("landlock5", five.as_slice()), ("landlock50", fifty)]);
        }
        if n == 0 {
            rows.extend([
                ("inside, 10", ten.as_slice()),
                ("inside, 1000", &thousand),
                ("one of 200", &many),
                ("baseline again", &again),
            ]);
        }
        print(name, &rows);
        out.insert(name.to_owned(), by_depth(&rows));
    }
    let open_base = part(&baseline, 0);
    for (name, costs) in [
        ("open_1000_rules", &thousand),
        ("open_200_sandboxes", &many),
    ] {
        let rows: [Row<'_>; 2] = [("baseline", &open_base), ("inside", costs)];
        out.insert(name.to_owned(), by_depth(&rows));
    }
    out
}
