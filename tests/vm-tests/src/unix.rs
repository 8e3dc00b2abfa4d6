//! Unix sockets of others: which are reached, by path and by abstract name.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};

use guard_common::event::{Object, Op, Reason};
use guard_common::matcher::Verdict;
use guard_common::sandbox::SANDBOX_LOG_ALLOWS;
use guard_daemon::kernel::Kernel;

use crate::Test;
use crate::compile;
use crate::hooks::sandbox;
use crate::network::{PROJECT, code};

pub const TESTS: &[Test] = &[
    ("unix_paths", unix_paths),
    ("abstract_names", abstract_names),
];

fn connect_path(path: &str) -> i32 {
    code(UnixStream::connect(path))
}

fn send_path(path: &str) -> i32 {
    code(UnixDatagram::unbound().and_then(|socket| socket.send_to(b"x", path)))
}

/// Sockets of others are reached by the path that they were bound to, whatever
/// path leads there.
fn unix_paths(kernel: &mut Kernel) {
    let _ = std::fs::remove_dir_all("/srv/sockets");
    std::fs::create_dir_all("/srv/sockets/private").expect("make directories");
    let listeners = ["a", "b", "private/c"]
        .map(|name| UnixListener::bind(format!("/srv/sockets/{name}")).expect("listen"));
    let log = UnixDatagram::bind("/srv/sockets/log").expect("bind");
    std::os::unix::fs::symlink("b", "/srv/sockets/to-b").expect("a link");
    std::os::unix::fs::symlink("a", "/srv/sockets/to-a").expect("a link");
    let text = "version = 1\n[files]\nread = ['/srv/**']\nwrite = ['/srv/**']\ndeny = ['private']\n\
                [network]\nunix = ['/srv/sockets/{a,log}', '/srv/sockets/private/*']\n";
    let sandbox = sandbox(kernel, text, SANDBOX_LOG_ALLOWS);
    let got = sandbox.run(|| {
        vec![
            connect_path("/srv/sockets/a"),
            connect_path("/srv/sockets/b"),
            connect_path("/srv/sockets/to-a"),
            connect_path("/srv/sockets/to-b"),
            connect_path("/srv/sockets/private/c"),
            send_path("/srv/sockets/log"),
        ]
    });
    let no = libc::EACCES;
    assert_eq!(got, [0, no, 0, no, no, 0]);
    let events = sandbox.events(kernel);
    let paths: Vec<(&[u8], Verdict, Reason)> = events
        .iter()
        .filter(|(_, e)| matches!(e.op, Op::UnixConnect | Op::UnixSend))
        .filter_map(|(_, e)| match &e.object {
            Object::Path(path) => Some((path.as_slice(), e.verdict, e.reason)),
            _ => None,
        })
        .collect();
    use Verdict::{Allow, Deny};
    let expected: Vec<(&[u8], Verdict, Reason)> = [
        (&b"/srv/sockets/b"[..], Deny),
        (b"/srv/sockets/b", Deny),
        (b"/srv/sockets/private/c", Deny),
        (b"/srv/sockets/a", Allow),
        (b"/srv/sockets/a", Allow),
        (b"/srv/sockets/log", Allow),
    ]
    .map(|(path, verdict)| (path, verdict, Reason::Rule))
    .to_vec();
    assert_eq!(paths, expected);
    sandbox.end(kernel);
    drop((listeners, log));
}

/// Abstract names are compared whole, to the last byte.
fn abstract_names(kernel: &mut Kernel) {
    let longest = "n".repeat(107);
    let names = ["guard-test", "guard-test2", "guard", &longest];
    let address = |name: &str| SocketAddr::from_abstract_name(name).expect("a name");
    let listeners = names.map(|name| UnixListener::bind_addr(&address(name)).expect("listen"));
    let policy = compile::sets(&[&format!(
        "version = 1\n[network]\nunix = ['@guard-test', '@{longest}']\n"
    )]);
    let sandbox = crate::sandbox::Sandbox::new(
        kernel,
        policy.table(),
        policy.background(),
        policy.valid_sets(),
        SANDBOX_LOG_ALLOWS,
    );
    for (name, masks) in policy.abstract_names() {
        let named = kernel.name_socket(sandbox.entry.sandbox, name, masks);
        named.expect("room for a name");
    }
    let reach = || {
        names
            .map(|name| code(UnixStream::connect_addr(&address(name))))
            .to_vec()
    };
    let no = libc::EACCES;
    assert_eq!(sandbox.run(reach), [0, no, no, 0]);
    let events = sandbox.events(kernel);
    let seen: Vec<(&[u8], Verdict, Reason)> = events
        .iter()
        .filter_map(|(_, e)| match &e.object {
            Object::Abstract(name) => Some((name.as_slice(), e.verdict, e.reason)),
            _ => None,
        })
        .collect();
    assert_eq!(
        seen,
        [
            (names[1].as_bytes(), Verdict::Deny, Reason::UnixSocket),
            (names[2].as_bytes(), Verdict::Deny, Reason::UnixSocket),
            (names[0].as_bytes(), Verdict::Allow, Reason::Rule),
            (names[3].as_bytes(), Verdict::Allow, Reason::Rule),
        ]
    );
    // Another sandbox in the same slot has none of them.
    sandbox.end(kernel);
    let other = super::hooks::sandbox(kernel, PROJECT, 0);
    assert_eq!(other.run(reach), [no; 4]);
    other.end(kernel);
    drop(listeners);
}
