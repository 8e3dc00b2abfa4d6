//! The process outside: of the same user, not in the sandbox, and full of
//! secrets. It offers what services offer, and logs whatever reaches it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::time::Duration;

use crate::attack::{At, Failure};
use crate::place::Place;
use crate::sys::{self, Memory, call};

/// Techniques whose process outside must look after things that do not wake it.
const WATCHING: &[&str] = &[
    "deleted-reopen",
    "descriptor-received",
    "descriptor-o-path-received",
    "process-vm-writev",
    "proc-mem-write",
];

type Result<T> = std::result::Result<T, Failure>;

/// What somebody may reach.
struct Services {
    /// Who connects gets the secret.
    listeners: Vec<(&'static str, OwnedFd)>,
    /// Who sends is logged.
    datagrams: Vec<(&'static str, OwnedFd)>,
    terminal: File,
    _master: File,
}

/// Runs one process for each place, until the input ends or this one is killed.
///
/// # Errors
/// When a process cannot be made.
pub fn run_all(places: impl Iterator<Item = Place>) -> Result<()> {
    for place in places {
        // SAFETY: this program has one thread.
        let pid = unsafe { libc::fork() };
        if pid < 0 {
            return Err(std::io::Error::last_os_error()).at("fork");
        }
        if pid == 0 {
            let code = match run(&place) {
                Ok(()) => 0,
                Err(failure) => {
                    eprintln!("bypass outside, {}: {failure:?}", place.name());
                    3
                }
            };
            // SAFETY: ends this process without the parent's destructors.
            unsafe { libc::_exit(code) }
        }
    }
    let mut nothing = Vec::new();
    std::io::stdin()
        .read_to_end(&mut nothing)
        .at("read the input")
        .map(drop)
}

fn run(place: &Place) -> Result<()> {
    // SAFETY: takes integers. Whoever started it may have been killed.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    std::env::set_current_dir(place.at("closed")).at("chdir")?;
    let secret = fs::read(place.secret()).at("read the secret")?;
    // The memory that others want, at an address that does not change.
    let memory: &'static mut [u8] = Box::leak(secret.clone().into_boxed_slice());
    let kept = File::open(place.secret()).at("open the secret")?;
    let mut told = format!(
        "pid={}\naddress={}\nlength={}\nfd={}\n",
        std::process::id(),
        memory.as_ptr() as usize,
        memory.len(),
        kept.as_raw_fd()
    );
    let services = services(place, &mut told)?;
    objects(place, &secret, &mut told)?;
    let file = place.at("outside.new");
    fs::write(&file, told).at("write outside.new")?;
    fs::rename(file, place.at("outside.txt")).at("rename outside.txt")?;
    serve(place, &services, &secret, memory, &kept)
}

fn services(place: &Place, told: &mut String) -> Result<Services> {
    let tcp4 = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).at("listen")?;
    let tcp6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).at("listen on IPv6")?;
    let udp4 = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).at("bind")?;
    let udp6 = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).at("bind on IPv6")?;
    let stream = UnixListener::bind(place.at("sock/stream")).at("listen on a path")?;
    let datagram = UnixDatagram::bind(place.at("sock/datagram")).at("bind a path")?;
    let named = |what: &str| {
        let name = format!("bypass-{}-{what}", place.dir.display());
        SocketAddr::from_abstract_name(&name)
            .at("a name")
            .map(|address| (name, address))
    };
    let (name, address) = named("stream")?;
    let stream_abstract = UnixListener::bind_addr(&address).at("listen on a name")?;
    let (name_of_datagrams, address) = named("datagram")?;
    let datagram_abstract = UnixDatagram::bind_addr(&address).at("bind a name")?;
    let (name_of_packets, _) = named("packets")?;
    let port =
        |address: std::io::Result<std::net::SocketAddr>| address.at("an address").map(|a| a.port());
    told.push_str(&format!(
        "tcp4={}\ntcp6={}\nudp4={}\nudp6={}\nabstract={name}\nabstract-datagram={name_of_datagrams}\nseqpacket={name_of_packets}\n",
        port(tcp4.local_addr())?, port(tcp6.local_addr())?, port(udp4.local_addr())?, port(udp6.local_addr())?,
    ));
    let packets = packets(&name_of_packets)?;
    let (master, terminal) = terminal(told)?;
    Ok(Services {
        listeners: vec![
            ("tcp4", tcp4.into()),
            ("tcp6", tcp6.into()),
            ("stream", stream.into()),
            ("abstract", stream_abstract.into()),
            ("seqpacket", packets),
        ],
        datagrams: vec![
            ("udp4", udp4.into()),
            ("udp6", udp6.into()),
            ("datagram", datagram.into()),
            ("abstract datagram", datagram_abstract.into()),
        ],
        terminal,
        _master: master,
    })
}

fn packets(name: &str) -> Result<OwnedFd> {
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    let socket = sys::fd(call!("socket", libc::SYS_socket, libc::AF_UNIX, kind, 0)?);
    let mut address = (libc::AF_UNIX as u16).to_ne_bytes().to_vec();
    address.push(0);
    address.extend(name.as_bytes());
    call!(
        "bind",
        libc::SYS_bind,
        socket,
        Memory::of(&address[..]),
        address.len()
    )?;
    call!("listen", libc::SYS_listen, socket, 4)?;
    Ok(socket)
}

/// A terminal with nobody in its session.
fn terminal(told: &mut String) -> Result<(File, File)> {
    let flags = libc::O_RDWR | libc::O_NOCTTY;
    let master = sys::open("/dev/ptmx", flags)?;
    let (unlock, mut number) = (0_i32, 0_u32);
    call!(
        "TIOCSPTLCK",
        libc::SYS_ioctl,
        master,
        libc::TIOCSPTLCK,
        Memory::of(&unlock)
    )?;
    call!(
        "TIOCGPTN",
        libc::SYS_ioctl,
        master,
        libc::TIOCGPTN,
        Memory::to(&mut number)
    )?;
    let path = format!("/dev/pts/{number}");
    let terminal = sys::open(&path, flags | libc::O_NONBLOCK)?;
    told.push_str(&format!("terminal={path}\n"));
    Ok((master.into(), terminal.into()))
}

/// What has no descriptor: keys, System V objects, a message queue.
fn objects(place: &Place, secret: &[u8], told: &mut String) -> Result<()> {
    let name = sys::path(place.name());
    let value = Memory::of(secret);
    // KEY_SPEC_USER_KEYRING; everything to possessor and user (KEYCTL_SETPERM).
    let key = call!(
        "add_key",
        libc::SYS_add_key,
        c"user",
        name,
        value,
        secret.len(),
        -4
    )?;
    call!("KEYCTL_SETPERM", libc::SYS_keyctl, 5, key, 0x3f3f_0000)?;
    let private = libc::IPC_PRIVATE;
    let shm = call!(
        "shmget",
        libc::SYS_shmget,
        private,
        4096,
        libc::IPC_CREAT | 0o600
    )?;
    let at = call!("shmat", libc::SYS_shmat, shm, 0, 0)?;
    // SAFETY: a page was just attached there, and secrets are shorter.
    unsafe { std::ptr::copy_nonoverlapping(secret.as_ptr(), at as *mut u8, secret.len()) };
    let msg = call!("msgget", libc::SYS_msgget, private, libc::IPC_CREAT | 0o600)?;
    let mut message = 1_u64.to_ne_bytes().to_vec();
    message.extend(secret);
    call!(
        "msgsnd",
        libc::SYS_msgsnd,
        msg,
        Memory::of(&message[..]),
        secret.len(),
        0
    )?;
    let sem = call!(
        "semget",
        libc::SYS_semget,
        private,
        1,
        libc::IPC_CREAT | 0o600
    )?;
    let name = place.dir.display().to_string().replace('/', "-");
    let queue = format!("/bypass{name}");
    fs::write(format!("/dev/shm{queue}"), secret).at("write to /dev/shm")?;
    let flags = libc::O_CREAT | libc::O_RDWR | libc::O_CLOEXEC;
    // The system call takes the name without the slash.
    let name = sys::path(&queue[1..]);
    // struct mq_attr: flags, messages, bytes of a message. There are many of these processes.
    let attributes = Memory::of(&[0_i64, 1, 256, 0, 0, 0, 0, 0]);
    let opened = call!("mq_open", libc::SYS_mq_open, name, flags, 0o600, attributes)?;
    call!(
        "mq_timedsend",
        libc::SYS_mq_timedsend,
        opened,
        Memory::of(secret),
        secret.len(),
        0,
        0
    )?;
    told.push_str(&format!(
        "key={key}\nshm={shm}\nmsg={msg}\nsem={sem}\nqueue={queue}\n"
    ));
    Ok(())
}

fn serve(
    place: &Place,
    services: &Services,
    secret: &[u8],
    memory: &[u8],
    kept: &File,
) -> Result<()> {
    let log = |what: &str| {
        let file = fs::OpenOptions::new()
            .append(true)
            .open(place.at("log"))
            .at("open the log");
        file?.write_all(format!("{what}\n").as_bytes()).at("log")
    };
    let (mut tampered, mut met, mut met_path) = (false, false, false);
    let dir = sys::open(place.at("closed"), libc::O_PATH | libc::O_DIRECTORY)?;
    // What gives no sign is looked at in between, but only by those whose technique does it:
    // there are many of these processes.
    let watches = WATCHING.contains(&place.name().as_str());
    let patience = if watches { 20 } else { -1 };
    loop {
        let input = std::io::stdin().as_raw_fd();
        let all = services
            .listeners
            .iter()
            .chain(&services.datagrams)
            .map(|(_, fd)| fd.as_raw_fd());
        let all = [input, services.terminal.as_raw_fd()]
            .into_iter()
            .chain(all);
        let mut ready: Vec<libc::pollfd> = all
            .map(|fd| libc::pollfd {
                fd,
                events: libc::POLLIN,
                revents: 0,
            })
            .collect();
        let count = ready.len();
        call!(
            "poll",
            libc::SYS_poll,
            Memory::to(&mut ready[..]),
            count,
            patience
        )?;
        if ready[0].revents != 0 {
            return Ok(());
        }
        if ready[1].revents & libc::POLLIN != 0 {
            let mut buffer = [0; 64];
            if (&services.terminal).read(&mut buffer).is_ok_and(|n| n > 0) {
                log("terminal")?;
            }
        }
        let flags = ready[2..].iter().map(|r| r.revents != 0);
        let both = services.listeners.iter().map(|s| (true, s));
        let both = both.chain(services.datagrams.iter().map(|s| (false, s)));
        for ((listener, (name, fd)), _) in both.zip(flags).filter(|(_, ready)| *ready) {
            if listener {
                let accepted = sys::fd(call!(
                    "accept",
                    libc::SYS_accept4,
                    fd,
                    0,
                    0,
                    libc::SOCK_CLOEXEC
                )?);
                log(name)?;
                // They may be gone already.
                let _ = File::from(accepted.try_clone().at("dup")?).write_all(secret);
                // What came with the connection is taken, or the kernel would reset it.
                let (mut buffer, flags) = ([0_u8; 64], libc::MSG_DONTWAIT);
                let to = Memory::to(&mut buffer);
                let _ = call!("recv", libc::SYS_recvfrom, accepted, to, 64, flags, 0, 0);
            } else {
                let mut buffer = [0_u8; 64];
                call!(
                    "recv",
                    libc::SYS_recvfrom,
                    fd,
                    Memory::to(&mut buffer),
                    64,
                    0,
                    0,
                    0
                )?;
                log(name)?;
            }
        }
        if !watches {
            continue;
        }
        // SAFETY: read anew each time: others may have written it.
        let now = unsafe { sys::bytes_at(memory.as_ptr() as usize, memory.len()) };
        if now != secret && !tampered {
            tampered = true;
            log("memory")?;
        }
        if place.at("open/doom").exists() {
            // Done once, missing from then on.
            let _ = fs::remove_file(place.at("box/closed/doomed.txt"));
        }
        met = met || hand_over(place, "open/accomplice", kept.as_raw_fd());
        met_path = met_path || hand_over(place, "open/accomplice-path", dir.as_raw_fd());
    }
}

/// Connects to the attacker's socket and sends a descriptor.
fn hand_over(place: &Place, name: &str, fd: i32) -> bool {
    let Ok(stream) = UnixStream::connect(place.at(name)) else {
        return false;
    };
    let byte = [0_u8];
    let mut vector = libc::iovec {
        iov_base: byte.as_ptr().cast_mut().cast(),
        iov_len: 1,
    };
    // struct cmsghdr: length, level and type; then the descriptor.
    let rights = (libc::SOL_SOCKET as u64) | (libc::SCM_RIGHTS as u64) << 32;
    let mut control = [20_u64, rights, fd as u64];
    // SAFETY: all zero is a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    let stream = OwnedFd::from(stream);
    let sent = call!(
        "sendmsg",
        libc::SYS_sendmsg,
        stream,
        Memory::of(&message),
        libc::MSG_NOSIGNAL
    );
    // The receiver needs the socket until it has read.
    std::thread::sleep(Duration::from_millis(200));
    sent.is_ok()
}
