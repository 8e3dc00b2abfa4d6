//! The lab: a network namespace `world` behind a pair of devices, with a name
//! server, web servers, echoes and a packet log. Its addresses are those that are
//! set aside for documents (RFC 5737, RFC 3849) and some that everybody knows;
//! guard takes all of them for public.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use bypass::probe::lab::DEVICES;

use crate::sessions::guard::eventually;

/// Everything of the lab.
pub const HOME: &str = "/srv/network";
/// What sandboxes may write.
pub const WORK: &str = "/srv/network/work";
/// Where a process of the host meets one of a sandbox.
pub const MEET: &str = "/srv/network/work/meet";
/// The certificates that clients trust, the lab's own among them.
pub const TRUSTED: &str = "/etc/ssl/certs/ca-certificates.crt";
const PACKETS: &str = "/root/network/packets";
const MODULES: &str = "/lib/modules/network";

/// Addresses of the world that echo. All but the name server's have web servers.
const ECHOES: &[&str] = &[
    "192.0.2.10",
    "192.0.2.11",
    "192.0.2.12",
    "192.0.2.13",
    "192.0.2.14",
    "192.0.2.17",
    "192.0.2.20",
    "192.0.2.30",
    "192.0.2.31",
    "192.0.2.40",
    "192.0.2.80",
    "198.51.100.7",
    "198.51.100.99",
    "203.0.113.9",
    "2001:db8:7::9",
    "10.0.0.1",
    "10.0.0.2",
    "10.99.0.1",
    "169.254.169.254",
    "8.8.8.8",
    "2001:db8::10",
    "2001:db8::11",
    "2001:db8::12",
    "2001:db8::13",
    "2001:db8::16",
    "2001:db8::20",
    "2001:db8::30",
    "2001:db8::40",
    "2001:db8::80",
    "2001:db8:7::7",
    "2001:db8:7::99",
    "fd00::1",
];
const NAME_SERVERS: &[&str] = &["192.0.2.53", "2001:db8::53", "2001:4860:4860::8888"];

/// A running lab. The machine ends with it: nothing is taken down but processes.
pub struct Lab {
    processes: Vec<Child>,
}

impl Lab {
    /// Sets it up, and waits until all of it answers.
    pub fn start() -> Self {
        for directory in [HOME, WORK, "/root/network", "/srv/network/www", "/run/nsd"] {
            fs::create_dir_all(directory).expect("make a directory");
        }
        std::os::unix::fs::chown(WORK, Some(1000), Some(1000)).expect("give it to the user");
        load_modules();
        network();
        certificates();
        repository();
        for (name, text) in [
            ("zone", include_str!("../../../network/zone")),
            ("nsd.conf", include_str!("../../../network/nsd.conf")),
            ("nginx.conf", include_str!("../../../network/nginx.conf")),
        ] {
            fs::write(format!("{HOME}/{name}"), text).expect("write a file of the lab");
        }
        fs::write("/etc/resolv.conf", "nameserver 192.0.2.53\n").expect("write resolv.conf");
        let mut lab = Self {
            processes: Vec::new(),
        };
        let mut echoes = vec!["bypass", "probe", "world", PACKETS];
        echoes.extend(ECHOES);
        lab.world(&echoes);
        lab.world(&["nsd", "-d", "-c", "/srv/network/nsd.conf"]);
        let web = [
            "nginx",
            "-e",
            "/srv/network/nginx.log",
            "-c",
            "/srv/network/nginx.conf",
        ];
        lab.world(&[&web[..], &["-g", "daemon off;"]].concat());
        let outside = Command::new("bypass")
            .args(["probe", "outside", MEET])
            .spawn();
        lab.processes
            .push(outside.expect("start the processes outside"));
        answers(
            "dns",
            &[
                "bypass",
                "probe",
                "dns",
                "udp",
                "192.0.2.53:53",
                "allowed.test",
                "A",
            ],
        );
        answers("echo", &["bypass", "probe", "tcp", "192.0.2.10:7"]);
        answers(
            "web",
            &["curl", "-sS", "--max-time", "5", "https://allowed.test/"],
        );
        lab
    }

    /// Starts a program in the world. It must run for as long as the lab does.
    fn world(&mut self, words: &[&str]) {
        let log = File::create(format!("/root/network/{}.log", words[0])).expect("make a file");
        let child = Command::new("ip")
            .args(["netns", "exec", "world"])
            .args(words)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("dup"))
            .stderr(log)
            .spawn();
        self.processes
            .push(child.expect("start a program of the world"));
    }

    /// Bytes of packets that have arrived so far.
    pub fn arrived(&self) -> Vec<u8> {
        fs::read(PACKETS).expect("read the packets")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for child in &mut self.processes {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Waits until a command succeeds.
fn answers(what: &str, words: &[&str]) {
    eventually(&format!("the lab answers: {what}"), || {
        let done = Command::new(words[0]).args(&words[1..]).output();
        done.is_ok_and(|done| done.status.success())
    });
}

fn load_modules() {
    let mut files: Vec<_> = fs::read_dir(MODULES)
        .expect("the lab's modules: they come with `cargo xtask test --suite network`")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    for file in files {
        let opened = File::open(&file).expect("open a module");
        // SAFETY: a descriptor and an empty string.
        let done =
            unsafe { libc::syscall(libc::SYS_finit_module, opened.as_raw_fd(), c"".as_ptr(), 0) };
        let error = std::io::Error::last_os_error();
        let there = error.raw_os_error() == Some(libc::EEXIST);
        assert!(done == 0 || there, "load {}: {error}", file.display());
    }
}

/// The devices, their addresses, and settings as loose as hosts have them.
fn network() {
    let (near, far) = DEVICES;
    run(Command::new("ip").args(["netns", "add", "world"]));
    let mut host = format!(
        "link add {near} type veth peer name {far} netns world\n\
         address add 203.0.113.1/30 dev {near}\n\
         address add 2001:db8:1::1/64 dev {near} nodad\n\
         link set lo up\nlink set {near} up\n\
         route add default via 203.0.113.2\n\
         route add default via 2001:db8:1::2\n\
         route add multicast 224.0.0.0/4 dev {near}\n"
    );
    // Link-local by rule: metadata services are reached like that.
    host.push_str("route add 169.254.169.254 via 203.0.113.2\n");
    let mut world = format!(
        "address add 203.0.113.2/30 dev {far}\n\
         address add 2001:db8:1::2/64 dev {far} nodad\n\
         link set lo up\nlink set {far} up\n"
    );
    for address in ECHOES.iter().chain(NAME_SERVERS) {
        let length = if address.contains(':') {
            "128 dev lo nodad"
        } else {
            "32 dev lo"
        };
        world.push_str(&format!("address add {address}/{length}\n"));
    }
    batch(Command::new("ip").args(["-batch", "-"]), &host);
    batch(
        Command::new("ip").args(["-netns", "world", "-batch", "-"]),
        &world,
    );
    let set = "echo 1027 > /proc/sys/net/ipv4/tcp_fastopen";
    run(Command::new("ip").args(["netns", "exec", "world", "sh", "-c", set]));
    fs::write("/proc/sys/net/ipv4/tcp_fastopen", "1027").expect("write a setting");
    fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647").expect("write a setting");
}

/// An authority of the lab's own, which every client trusts, and two certificates.
fn certificates() {
    let script = "set -e; umask 022; cd /srv/network
        curve='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes'
        openssl req -x509 $curve -keyout ca.key -out ca.crt -days 30 -subj '/CN=lab' \
            -addext keyUsage=critical,keyCertSign -addext basicConstraints=critical,CA:true
        of() {
            openssl req $curve -x509 -CA ca.crt -CAkey ca.key -days 30 -keyout $1.key -out $1.crt \
                -subj \"/CN=$1\" -addext \"subjectAltName=$2\" -addext basicConstraints=CA:false
        }
        of world 'DNS:allowed.test,DNS:*.allowed.test,DNS:*.test,IP:192.0.2.80,IP:192.0.2.20,IP:8.8.8.8'
        of tenant DNS:tenant.test
        cat ca.crt >> /etc/ssl/certs/ca-certificates.crt";
    run(Command::new("sh").args(["-c", script]));
}

/// A repository that a web server without any program can serve.
fn repository() {
    let script = "set -e; umask 022; cd /srv/network/www
        export GIT_AUTHOR_NAME=T GIT_AUTHOR_EMAIL=t@localhost GIT_CONFIG_NOSYSTEM=1
        export GIT_COMMITTER_NAME=T GIT_COMMITTER_EMAIL=t@localhost HOME=/root
        git init -q -b main work; cd work
        echo one > file.txt; git add .; git commit -q -m first
        git clone -q --bare . ../repository.git; cd ../repository.git; git update-server-info";
    run(Command::new("sh").args(["-c", script]));
}

fn run(command: &mut Command) {
    let output = command.output().expect("start a command of the lab");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
}

fn batch(command: &mut Command, text: &str) {
    let mut child = command.stdin(Stdio::piped()).spawn().expect("start ip");
    let mut input = child.stdin.take().expect("its input");
    input.write_all(text.as_bytes()).expect("write to ip");
    drop(input);
    assert!(child.wait().expect("wait for ip").success(), "{text}");
}

/// The last lines of the world's logs, for whoever looks for a fault.
pub fn logs() -> String {
    let mut text = String::new();
    for name in ["bypass", "nsd", "nginx"] {
        let Ok(file) = File::open(Path::new("/root/network").join(format!("{name}.log"))) else {
            continue;
        };
        let lines: Vec<String> = BufReader::new(file).lines().map_while(Result::ok).collect();
        let last = lines.len().saturating_sub(5);
        text.push_str(&format!("{name}: {}\n", lines[last..].join(" | ")));
    }
    text
}
