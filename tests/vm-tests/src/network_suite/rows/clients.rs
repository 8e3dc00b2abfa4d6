//! Programs that people use, for an allowed name and for another: each has a
//! resolver of its own, or another way of using the system's.

use crate::network_suite::row::{Policy, Row};

const NODE_FETCH: &str = "fetch(process.argv[1]).then(r => r.text()).then(t => console.log(t))\
    .catch(e => { console.log(e.cause ?? e); process.exit(1) })";
const NODE_RESOLVE: &str = "require('dns').promises.resolve4(process.argv[1])\
    .then(a => console.log(a)).catch(e => { console.log(e); process.exit(1) })";
const PYTHON_REQUESTS: &str = "import requests, sys\nprint(requests.get(sys.argv[1]).text)";
const PYTHON_ASYNCIO: &str = "import asyncio, sys\n\
async def main():\n    \
    reader, writer = await asyncio.open_connection(sys.argv[1], 7)\n    \
    writer.write(b'hello\\n')\n    \
    print('echo', await reader.readline())\n\
asyncio.run(main())";

const ALLOWED: &[&str] = &["dns/query allow name=allowed.test outcome=answered"];
const CONNECTED: &[&str] = &[
    "dns/query allow name=allowed.test outcome=answered",
    "network/connect allow name=allowed.test",
];
const OTHER: &[&str] = &["dns/query deny name=other.test outcome=refused reason=no-rule"];
const DENIED: &[&str] = &["dns/query deny name=denied.test outcome=refused rule=network.deny"];
const NOT_SEEN: &[&str] = &["name:other.test"];

/// A command for the allowed name.
macro_rules! works {
    ($title:literal, $words:expr, $says:literal, $events:expr) => {
        Row::works($title, $words, $says, $events)
    };
}

/// A command for another name, which works without guard.
macro_rules! refused {
    ($title:literal, $words:expr, $control:literal, $guarded:literal, $events:expr) => {
        Row::refused($title, $words, $control, $guarded, $events).unseen(NOT_SEEN)
    };
}

pub const ROWS: &[&[Row]] = &[CURL, NODE, PYTHON, OTHERS];

const CURL: &[Row] = &[
    works!(
        "curl https",
        &["curl", "-sS", "https://allowed.test/"],
        "page of allowed.test by https",
        CONNECTED
    ),
    works!(
        "curl http",
        &["curl", "-sS", "http://sub.allowed.test/"],
        "page of sub.allowed.test by http",
        &["network/connect allow name=sub.allowed.test port=80"]
    ),
    works!(
        "curl -4",
        &["curl", "-4", "-sS", "https://allowed.test/"],
        "at 192.0.2.10",
        &["network/connect allow name=allowed.test address=192.0.2.10 port=443"]
    ),
    works!(
        "curl -6",
        &["curl", "-6", "-sS", "https://allowed.test/"],
        "at 2001:db8::10",
        &["network/connect allow name=allowed.test address=2001:db8::10 port=443"]
    ),
    works!(
        "curl, a host with IPv6 alone",
        &["curl", "-sS", "https://six.allowed.test/"],
        "at 2001:db8::16",
        &["network/connect allow name=six.allowed.test address=2001:db8::16"]
    ),
    works!(
        "curl, over other names",
        &["curl", "-sS", "https://chain.allowed.test/"],
        "page of chain.allowed.test",
        &["network/connect allow name=chain.allowed.test"]
    ),
    refused!(
        "curl, other name",
        &["curl", "-sS", "https://other.test/"],
        "page of other.test",
        "Could not resolve host: other.test",
        OTHER
    ),
    refused!(
        "curl, denied name",
        &["curl", "-sS", "https://denied.test/"],
        "page of denied.test",
        "Could not resolve host: denied.test",
        DENIED
    )
    .unseen(&["name:denied.test"]),
    // A name that the client claims to know already.
    Row::refused(
        "curl --resolve",
        &[
            "curl",
            "-sS",
            "--max-time",
            "20",
            "--resolve",
            "other.test:443:192.0.2.20",
            "https://other.test/",
        ],
        "page of other.test",
        "Failed to connect",
        &["network/connect deny reason=no-rule address=192.0.2.20 port=443"],
    )
    .unseen(&["to:192.0.2.20"]),
];

const NODE: &[Row] = &[
    works!(
        "node fetch",
        &[
            "node",
            "--use-openssl-ca",
            "-e",
            NODE_FETCH,
            "https://allowed.test/"
        ],
        "page of allowed.test by https",
        CONNECTED
    )
    .within(60),
    refused!(
        "node fetch, other name",
        &[
            "node",
            "--use-openssl-ca",
            "-e",
            NODE_FETCH,
            "https://other.test/"
        ],
        "page of other.test",
        "ENOTFOUND",
        OTHER
    )
    .within(60),
    works!(
        "node dns.resolve4",
        &["node", "-e", NODE_RESOLVE, "allowed.test"],
        "192.0.2.10",
        ALLOWED
    )
    .within(60),
    refused!(
        "node dns.resolve4, other name",
        &["node", "-e", NODE_RESOLVE, "other.test"],
        "192.0.2.20",
        "ENOTFOUND",
        OTHER
    )
    .within(60),
];

const PYTHON: &[Row] = &[
    works!(
        "python requests",
        &["python3", "-c", PYTHON_REQUESTS, "https://allowed.test/"],
        "page of allowed.test by https",
        CONNECTED
    )
    .within(60),
    refused!(
        "python requests, other name",
        &["python3", "-c", PYTHON_REQUESTS, "https://other.test/"],
        "page of other.test",
        "Failed to resolve 'other.test'",
        OTHER
    )
    .within(60),
    works!(
        "python asyncio",
        &["python3", "-c", PYTHON_ASYNCIO, "allowed.test"],
        "echo b'hello",
        CONNECTED
    )
    .within(60),
    refused!(
        "python asyncio, other name",
        &["python3", "-c", PYTHON_ASYNCIO, "other.test"],
        "echo b'hello",
        "socket.gaierror",
        OTHER
    )
    .within(60),
];

const OTHERS: &[Row] = &[
    works!(
        "git clone",
        &[
            "sh",
            "-c",
            "rm -rf /srv/network/work/one; git clone https://allowed.test/repository.git /srv/network/work/one && cat /srv/network/work/one/file.txt"
        ],
        "one",
        CONNECTED
    ),
    refused!(
        "git clone, other name",
        &[
            "git",
            "clone",
            "https://other.test/repository.git",
            "/srv/network/work/two"
        ],
        "Cloning into",
        "Could not resolve host: other.test",
        OTHER
    ),
    works!(
        "musl",
        &["musl-connect", "allowed.test", "7"],
        "says hello",
        CONNECTED
    ),
    refused!(
        "musl, other name",
        &["musl-connect", "other.test", "7"],
        "says hello",
        "no name",
        OTHER
    ),
    works!(
        "glibc getent",
        &["getent", "ahosts", "allowed.test"],
        "192.0.2.10",
        ALLOWED
    ),
    Row::refused(
        "glibc getent, other name",
        &["getent", "ahosts", "other.test"],
        "192.0.2.20",
        "",
        OTHER,
    )
    .unseen(NOT_SEEN),
    // What was found before is open for the time that it holds, and no longer.
    works!(
        "expiry v4",
        &["bypass", "probe", "expiry", "4/short.allowed.test:7", "3"],
        "open for",
        &["network/connect allow name=short.allowed.test"]
    )
    .under(Policy::Slow),
    expired(
        "expired v4",
        &["bypass", "probe", "expiry", "4/short.allowed.test:7", "60"],
        &["network/connect deny address=192.0.2.12 port=7"],
    ),
    expired(
        "expired v6",
        &["bypass", "probe", "expiry", "6/short.allowed.test:7", "60"],
        &["network/connect deny address=2001:db8::12 port=7"],
    ),
];

/// The grant of a name of one second ends between 5 s and 35 s after it was told,
/// and the connection that is open then goes on.
const fn expired(
    name: &'static str,
    words: &'static [&'static str],
    events: &'static [&'static str],
) -> Row {
    let mut row = Row::works(name, words, "open for", events)
        .under(Policy::Slow)
        .but_says("s; the first connection goes on")
        .within(80);
    row.control_words = Some(&["bypass", "probe", "expiry", "4/short.allowed.test:7", "3"]);
    row
}
