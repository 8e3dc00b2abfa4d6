//! A resolver with a supervisor and an upstream of the test's own, over sockets
//! on loopback.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME, SOA, TXT};
use hickory_proto::rr::{Name as WireName, RData, Record, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::{JoinSet, LocalSet, spawn_local};

use super::sandbox::{Policy, Sandbox, Supervisor};
use super::serve;
use super::upstream::Files;
use crate::net::wire::{Asked, Outcome};
use crate::policy::names::{Name, NameRules};

/// The name rules of a `[network]` section.
pub(crate) fn rules(network: &str) -> NameRules {
    let text = format!("version = 1\n[network]\n{network}\n");
    let document = crate::policy::Document::parse(text.as_bytes(), "test").unwrap();
    let includes = crate::policy::Lookup::built_in();
    let context = crate::policy::ResolveContext {
        home: None,
        cwd: "/srv".into(),
        tmp: "/tmp/x".into(),
        args: vec![],
        set: vec![],
        includes: &includes,
        launch: None,
        own: Vec::new(),
    };
    let resolved = crate::policy::resolve(&document, &context).unwrap();
    crate::policy::compile(&resolved).unwrap().names().clone()
}

/// A name, and the addresses that were opened for it with their TTLs.
type Opened = (Name, Vec<(IpAddr, u32)>);

/// Opens everything but the name `closed.ok.test`.
#[derive(Default)]
struct Recorder {
    opened: RefCell<Vec<Opened>>,
    asked: RefCell<Vec<Asked>>,
}

impl Supervisor for Recorder {
    async fn open(&self, sandbox: u64, name: Name, addresses: Vec<(IpAddr, u32)>) -> bool {
        assert_eq!(sandbox, 7);
        let open = name.as_str() != "closed.ok.test";
        self.opened.borrow_mut().push((name, addresses));
        open
    }

    fn asked(&self, asked: Asked) {
        self.asked.borrow_mut().push(asked);
    }
}

/// What the upstream of the test says.
fn upstream_says(query: &Query) -> Option<(ResponseCode, Vec<Record>)> {
    let name = query.name.to_lowercase();
    let of = |data| Record::from_rdata(query.name.clone(), 60, data);
    let a = |text: &str| RData::A(A(text.parse().unwrap()));
    let text = name.to_ascii();
    let answers = match (text.as_str(), query.query_type) {
        ("www.ok.test." | "closed.ok.test.", RecordType::A) => vec![of(a("192.0.2.1"))],
        ("private.ok.test.", RecordType::A) => vec![of(a("10.0.0.1"))],
        ("alias.ok.test.", RecordType::A) => {
            let to = WireName::from_ascii("x.bad.test.").unwrap();
            let mut end = of(a("192.0.2.2"));
            end.name = to.clone();
            vec![of(RData::CNAME(CNAME(to))), end]
        }
        ("long.ok.test.", RecordType::TXT) => (0..10)
            .map(|_| of(RData::TXT(TXT::new(vec!["t".repeat(200)]))))
            .collect(),
        ("silent.ok.test.", _) => return None,
        ("none.ok.test.", _) => return Some((ResponseCode::NXDomain, vec![])),
        _ => vec![],
    };
    Some((ResponseCode::NoError, answers))
}

fn upstream_answers(packet: &[u8]) -> Option<Vec<u8>> {
    let question = Message::from_vec(packet).unwrap();
    let query = question.queries[0].clone();
    let (code, answers) = upstream_says(&query)?;
    let mut answer = Message::response(question.metadata.id, OpCode::Query);
    answer.metadata.response_code = code;
    answer.metadata.recursion_available = true;
    answer.metadata.recursion_desired = true;
    answer.add_query(query.clone());
    if answers.is_empty() {
        let zone = WireName::from_ascii("ok.test.").unwrap();
        let soa = SOA::new(zone.clone(), zone.clone(), 1, 2, 3, 4, 60);
        answer.add_authority(Record::from_rdata(zone, 60, RData::SOA(soa)));
    }
    answer.add_answers(answers);
    Some(answer.to_vec().unwrap())
}

struct Lab {
    udp: SocketAddr,
    tcp: SocketAddr,
    supervisor: Rc<Recorder>,
    questions: Rc<RefCell<u32>>,
    tasks: JoinSet<()>,
    _hosts: tempfile::NamedTempFile,
}

const RULES: &str =
    "allow = ['*.ok.test', 'localhost', 'box.ok.test']\ndeny = ['*.bad.test', 'no.ok.test']";

async fn lab(audit_only: bool) -> Lab {
    let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let upstream_at = upstream.local_addr().unwrap();
    let upstream_tcp = TcpListener::bind(upstream_at).await.unwrap();
    let questions = Rc::new(RefCell::new(0));
    let counted = Rc::clone(&questions);
    spawn_local(async move {
        let mut buffer = [0; 4096];
        loop {
            let (len, from) = upstream.recv_from(&mut buffer).await.unwrap();
            *counted.borrow_mut() += 1;
            let Some(mut answer) = upstream_answers(&buffer[..len]) else {
                continue;
            };
            if answer.len() > 1232 {
                let mut short = Message::from_vec(&answer).unwrap();
                short.answers.clear();
                short.metadata.truncation = true;
                answer = short.to_vec().unwrap();
            }
            upstream.send_to(&answer, from).await.unwrap();
        }
    });
    spawn_local(async move {
        loop {
            let (mut stream, _) = upstream_tcp.accept().await.unwrap();
            spawn_local(async move {
                while let Ok(len) = stream.read_u16().await {
                    let mut packet = vec![0; usize::from(len)];
                    stream.read_exact(&mut packet).await.unwrap();
                    let answer = upstream_answers(&packet).unwrap();
                    stream.write_u16(answer.len() as u16).await.unwrap();
                    stream.write_all(&answer).await.unwrap();
                }
            });
        }
    });
    let hosts = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(
        hosts.path(),
        "127.0.0.1 localhost\n192.0.2.77 box.ok.test\n",
    )
    .unwrap();
    let files = Files {
        resolv_conf: "/nonexistent".into(),
        hosts: Path::new(hosts.path()).to_owned(),
    };
    let policy = Policy {
        sandbox: 7,
        rules: rules(RULES),
        sets: 1,
        networks: Vec::new(),
        audit_only,
    };
    let sandbox = Sandbox::new(policy, vec![upstream_at], files, Instant::now());
    let shared = Rc::new(RefCell::new(sandbox));
    let supervisor = Rc::new(Recorder::default());
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (udp, tcp) = (socket.local_addr().unwrap(), listener.local_addr().unwrap());
    let mut tasks = JoinSet::new();
    tasks.spawn_local(serve::udp(
        Rc::new(socket),
        Rc::clone(&shared),
        Rc::clone(&supervisor),
    ));
    tasks.spawn_local(serve::tcp(listener, shared, Rc::clone(&supervisor)));
    Lab {
        udp,
        tcp,
        supervisor,
        questions,
        tasks,
        _hosts: hosts,
    }
}

fn question(name: &str, record: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(WireName::from_ascii(name).unwrap(), record));
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    message.set_edns(edns);
    message
}

impl Lab {
    async fn ask(&self, name: &str, record: RecordType) -> Message {
        let message = question(name, record);
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(self.udp).await.unwrap();
        socket.send(&message.to_vec().unwrap()).await.unwrap();
        let mut buffer = [0; 4096];
        let answer = tokio::time::timeout(Duration::from_secs(20), socket.recv(&mut buffer));
        let len = answer.await.unwrap().unwrap();
        let answer = Message::from_vec(&buffer[..len]).unwrap();
        assert_eq!(answer.metadata.id, message.metadata.id);
        answer
    }

    async fn ask_tcp(&self, questions: &[Message]) -> Vec<Message> {
        let mut stream = TcpStream::connect(self.tcp).await.unwrap();
        for question in questions {
            let bytes = question.to_vec().unwrap();
            stream.write_u16(bytes.len() as u16).await.unwrap();
            stream.write_all(&bytes).await.unwrap();
        }
        let mut answers = Vec::new();
        for _ in questions {
            let len = stream.read_u16().await.unwrap();
            let mut packet = vec![0; usize::from(len)];
            stream.read_exact(&mut packet).await.unwrap();
            answers.push(Message::from_vec(&packet).unwrap());
        }
        answers
    }

    fn last(&self) -> Asked {
        self.supervisor.asked.borrow().last().cloned().unwrap()
    }
}

fn addresses(answer: &Message) -> Vec<String> {
    let of = |record: &Record| match &record.data {
        RData::A(a) => Some(a.0.to_string()),
        _ => None,
    };
    answer.answers.iter().filter_map(of).collect()
}

fn run(test: impl AsyncFnOnce()) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, test());
}

#[test]
fn an_allowed_name_is_opened_and_then_told() {
    run(async || {
        let lab = lab(false).await;
        let answer = lab.ask("WWW.ok.test.", RecordType::A).await;
        assert_eq!(addresses(&answer), ["192.0.2.1"]);
        let opened = lab.supervisor.opened.borrow().clone();
        let expected = ("192.0.2.1".parse().unwrap(), 60);
        assert_eq!(
            opened,
            [(Name::parse("www.ok.test").unwrap(), vec![expected])]
        );
        let asked = lab.last();
        assert_eq!((asked.outcome, asked.cached), (Outcome::Answered, false));
        assert_eq!(
            asked.rule,
            Some(("network.allow[0]".into(), "*.ok.test".into()))
        );
        assert_eq!(asked.name, "WWW.ok.test");
        // Again: known, and nobody is asked.
        let before = *lab.questions.borrow();
        let again = lab.ask("www.OK.test.", RecordType::A).await;
        assert_eq!(addresses(&again), ["192.0.2.1"]);
        assert_eq!(*lab.questions.borrow(), before);
        assert!(lab.last().cached && lab.supervisor.opened.borrow().len() == 1);
        // And back.
        let back = lab.ask("1.2.0.192.in-addr.arpa.", RecordType::PTR).await;
        assert!(back.answers[0].data.to_string().starts_with("www.ok.test"));
        let unknown = lab.ask("9.2.0.192.in-addr.arpa.", RecordType::PTR).await;
        assert_eq!(unknown.metadata.response_code, ResponseCode::NXDomain);
    });
}

#[test]
fn what_the_policy_refuses_never_leaves() {
    run(async || {
        let lab = lab(false).await;
        for (name, rule) in [
            ("x.bad.test.", Some("network.deny[0]")),
            ("no.ok.test.", Some("network.deny[1]")),
            ("other.test.", None),
            ("ok.test.", None),
        ] {
            let answer = lab.ask(name, RecordType::A).await;
            assert_eq!(
                answer.metadata.response_code,
                ResponseCode::NXDomain,
                "{name}"
            );
            let (code, why) = super::answer::words(&answer).unwrap();
            assert!(
                code == 15 && why.contains(rule.unwrap_or("no rule")),
                "{why}"
            );
            let asked = lab.last();
            assert_eq!(asked.outcome, Outcome::Refused);
            assert_eq!(asked.rule.map(|(id, _)| id).as_deref(), rule);
        }
        assert_eq!(*lab.questions.borrow(), 0);
        assert!(lab.supervisor.opened.borrow().is_empty());
    });
}

#[test]
fn what_is_not_opened_is_not_told() {
    run(async || {
        let lab = lab(false).await;
        let answer = lab.ask("closed.ok.test.", RecordType::A).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
        assert!(answer.answers.is_empty());
        assert_eq!(lab.last().outcome, Outcome::NotOpened);
        // Nor is it remembered.
        let again = lab.ask("closed.ok.test.", RecordType::A).await;
        assert!(again.answers.is_empty() && !lab.last().cached);
    });
}

#[test]
fn answers_that_lead_to_what_is_private_or_denied_are_refused() {
    run(async || {
        let lab = lab(false).await;
        let answer = lab.ask("private.ok.test.", RecordType::A).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(lab.last().outcome, Outcome::Private);
        let answer = lab.ask("localhost.", RecordType::A).await;
        assert!(answer.answers.is_empty());
        assert_eq!(lab.last().outcome, Outcome::Private);
        let answer = lab.ask("alias.ok.test.", RecordType::A).await;
        assert!(answer.answers.is_empty());
        let asked = lab.last();
        assert_eq!(asked.outcome, Outcome::Refused);
        assert_eq!(asked.rule.unwrap().1, "*.bad.test");
        assert!(lab.supervisor.opened.borrow().is_empty());
    });
}

#[test]
fn names_of_the_hosts_file_are_answered() {
    run(async || {
        let lab = lab(false).await;
        let answer = lab.ask("box.ok.test.", RecordType::A).await;
        assert_eq!(addresses(&answer), ["192.0.2.77"]);
        assert_eq!(*lab.questions.borrow(), 0);
        assert_eq!(lab.supervisor.opened.borrow().len(), 1);
    });
}

#[test]
fn nothing_there_and_nobody_there_are_told_apart() {
    run(async || {
        let lab = lab(false).await;
        let none = lab.ask("none.ok.test.", RecordType::A).await;
        assert_eq!(none.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(lab.last().outcome, Outcome::Nothing);
        let empty = lab.ask("www.ok.test.", RecordType::AAAA).await;
        assert_eq!(empty.metadata.response_code, ResponseCode::NoError);
        assert!(empty.answers.is_empty());
        let silent = lab.ask("silent.ok.test.", RecordType::A).await;
        assert_eq!(silent.metadata.response_code, ResponseCode::ServFail);
        assert_eq!(lab.last().outcome, Outcome::NoUpstream);
    });
}

#[test]
fn a_long_answer_comes_over_tcp() {
    run(async || {
        let lab = lab(false).await;
        let short = lab.ask("long.ok.test.", RecordType::TXT).await;
        assert!(short.metadata.truncation && short.answers.is_empty());
        let long = question("long.ok.test.", RecordType::TXT);
        let www = question("www.ok.test.", RecordType::A);
        let answers = lab.ask_tcp(&[long, www]).await;
        assert_eq!(answers[0].answers.len(), 10);
        assert_eq!(addresses(&answers[1]), ["192.0.2.1"]);
        assert!(lab.last().tcp);
    });
}

#[test]
fn whole_zones_and_everything_are_not_answered() {
    run(async || {
        let lab = lab(false).await;
        for record in [RecordType::ANY, RecordType::AXFR, RecordType::IXFR] {
            let answer = lab.ask("www.ok.test.", record).await;
            assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
            assert_eq!(lab.last().outcome, Outcome::Malformed);
        }
        assert_eq!(*lab.questions.borrow(), 0);
    });
}

#[test]
fn a_type_that_cannot_be_read_is_not_asked_for() {
    run(async || {
        let lab = lab(false).await;
        let answer = lab.ask("www.ok.test.", RecordType::Unknown(65280)).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        assert!(answer.answers.is_empty());
        assert_eq!(lab.last().record, "TYPE65280");
        // Of a name that is refused it is not even said that there is none.
        let refused = lab.ask("x.bad.test.", RecordType::Unknown(65280)).await;
        assert_eq!(refused.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(*lab.questions.borrow(), 0);
    });
}

#[test]
fn what_is_under_way_ends_with_the_sandbox() {
    run(async || {
        let mut lab = lab(false).await;
        let mut stream = TcpStream::connect(lab.tcp).await.unwrap();
        let bytes = question("www.ok.test.", RecordType::A).to_vec().unwrap();
        stream.write_u16(bytes.len() as u16).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let len = stream.read_u16().await.unwrap();
        stream
            .read_exact(&mut vec![0; usize::from(len)])
            .await
            .unwrap();
        // A question that upstream does not answer waits.
        let silent = question("silent.ok.test.", RecordType::A).to_vec().unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(&silent, lab.udp).await.unwrap();
        while *lab.questions.borrow() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(UdpSocket::bind(lab.udp).await.is_err());
        lab.tasks.shutdown().await;
        let ended = tokio::time::timeout(Duration::from_secs(1), stream.read_u16()).await;
        assert!(ended.unwrap().is_err(), "the connection goes on");
        UdpSocket::bind(lab.udp).await.unwrap();
    });
}

#[test]
fn audit_only_refuses_nothing_and_says_what_would_have_been() {
    run(async || {
        let lab = lab(true).await;
        let answer = lab.ask("private.ok.test.", RecordType::A).await;
        assert_eq!(addresses(&answer), ["10.0.0.1"]);
        let answer = lab.ask("x.else.test.", RecordType::A).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        assert_eq!(lab.last().outcome, Outcome::Refused);
    });
}

#[test]
fn a_flood_is_limited() {
    run(async || {
        let lab = lab(false).await;
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(lab.udp).await.unwrap();
        let packet = question("other.test.", RecordType::A).to_vec().unwrap();
        for _ in 0..2000 {
            let _ = socket.try_send(&packet);
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        let limited = |asked: &&Asked| asked.outcome == Outcome::Limited;
        assert!(lab.supervisor.asked.borrow().iter().filter(limited).count() > 100);
    });
}

/// Mutated questions never panic, and are never answered as the name that they
/// are not.
#[test]
fn mutated_questions() {
    let good = question("www.ok.test.", RecordType::A).to_vec().unwrap();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..200_000 {
        let mut packet = good.clone();
        for _ in 0..=random() % 4 {
            let at = (random() % packet.len() as u64) as usize;
            match random() % 3 {
                0 => packet[at] = random() as u8,
                1 => packet.truncate(at.max(1)),
                _ => packet.insert(at, random() as u8),
            }
        }
        if let super::question::Asked::Question(read) = super::question::read(&packet) {
            let answer = read.answer(ResponseCode::NoError).to_vec().unwrap();
            assert_eq!(Message::from_vec(&answer).unwrap().queries.len(), 1);
            assert_eq!(Name::of_labels(read.wire.iter()).unwrap(), read.name);
        }
    }
}
