//! One sandbox that asks: its rules, what it was told, and how much it may ask.

use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name as WireName, RData, Record, RecordType};

use super::answer::{self, Records, Sifted, sift};
use super::limits::{Information, MAX_WAITING, Rate};
use super::question::{self, Question};
use super::upstream::{Files, Servers, Upstream};
use crate::net::addresses::MIN_TTL;
use crate::net::wire::{Asked, Outcome};
use crate::policy::RuleRef;
use crate::policy::names::{Name, NameRules, NameVerdict};
use crate::wire::escape;

/// Answers that are kept ready.
const READY: usize = 4096;
/// Bytes that they may take. An answer can have 64 KiB.
const READY_BYTES: usize = 8 << 20;
/// Bytes that a record takes beside its own.
const RECORD: usize = 256;
/// Addresses of which it is remembered what name led there, for questions the
/// other way round.
const REVERSE: usize = 8192;

/// Who opens addresses and takes evidence: the supervisor.
pub(crate) trait Supervisor {
    /// Opens the addresses of a name for so many seconds. False: they are not open.
    fn open(
        &self,
        sandbox: u64,
        name: Name,
        addresses: Vec<(IpAddr, u32)>,
    ) -> impl Future<Output = bool>;
    /// Takes evidence.
    fn asked(&self, asked: Asked);
}

/// An answer that was given, and holds for a while.
#[derive(Clone, Debug)]
struct Ready {
    answer: Given,
    since: Instant,
    until: Instant,
}

#[derive(Clone, Debug)]
enum Given {
    Records(Rc<Records>, Option<RuleRef>),
    /// No such name (true), or no such record.
    Nothing(bool, Option<RuleRef>),
}

impl Given {
    /// Bytes that it takes, about.
    fn size(&self) -> usize {
        match self {
            Self::Records(records, _) => RECORD + records.size,
            Self::Nothing(..) => RECORD,
        }
    }
}

/// What a policy says of a sandbox's questions.
pub(crate) struct Policy {
    pub(crate) sandbox: u64,
    pub(crate) rules: NameRules,
    pub(crate) sets: u64,
    pub(crate) networks: Vec<(u128, u8)>,
    pub(crate) audit_only: bool,
}

/// The state of one sandbox.
pub(crate) struct Sandbox {
    pub(crate) policy: Policy,
    servers: Servers,
    ready: HashMap<(Name, RecordType), Ready>,
    told: HashMap<IpAddr, Name>,
    rate: Rate,
    information: Information,
    begun: Instant,
    waiting: usize,
    /// Bytes of the answers that are kept ready.
    ready_bytes: usize,
    /// Connections that it has to its resolver.
    pub(crate) connections: usize,
}

/// What is to be done about a question.
pub(crate) enum Step {
    /// This answer.
    Answer(Message, Box<Asked>),
    /// Upstream is to be asked; the rule that lets it.
    Ask(Option<RuleRef>),
}

/// Evidence of a question.
fn evidence(sandbox: u64, question: &Question, tcp: bool, outcome: Outcome) -> Asked {
    let time = SystemTime::now().duration_since(UNIX_EPOCH);
    Asked {
        sandbox,
        time: time.map_or(0, |t| u64::try_from(t.as_nanos()).unwrap_or(u64::MAX)),
        name: escape(question.wire.to_ascii().trim_end_matches('.').as_bytes()),
        record: question::record_name(question.record),
        tcp,
        outcome,
        rule: None,
        chain: Vec::new(),
        addresses: Vec::new(),
        ttl: None,
        cached: false,
    }
}

fn pair(rule: &RuleRef) -> (String, String) {
    (rule.id.clone(), rule.text.clone())
}

/// Types that are answers to everything, or whole zones: never asked for.
fn is_refused_type(record: RecordType) -> bool {
    matches!(
        record,
        RecordType::ANY | RecordType::AXFR | RecordType::IXFR | RecordType::OPT | RecordType::TSIG
    )
}

impl Sandbox {
    pub(crate) fn new(
        policy: Policy,
        upstreams: Vec<std::net::SocketAddr>,
        files: Files,
        now: Instant,
    ) -> Self {
        Self {
            policy,
            servers: Servers::new(upstreams, files),
            ready: HashMap::new(),
            told: HashMap::new(),
            rate: Rate::new(0.0),
            information: Information::default(),
            begun: now,
            waiting: 0,
            ready_bytes: 0,
            connections: 0,
        }
    }

    /// Evidence of what is no question.
    pub(crate) fn malformed(&self, what: String, tcp: bool) -> Asked {
        let time = SystemTime::now().duration_since(UNIX_EPOCH);
        Asked {
            sandbox: self.policy.sandbox,
            time: time.map_or(0, |t| u64::try_from(t.as_nanos()).unwrap_or(u64::MAX)),
            name: what,
            record: "NONE".into(),
            tcp,
            outcome: Outcome::Malformed,
            rule: None,
            chain: Vec::new(),
            addresses: Vec::new(),
            ttl: None,
            cached: false,
        }
    }

    /// Judges a question, and answers it when that needs nobody else.
    pub(crate) fn step(&mut self, question: &Question, tcp: bool, now: Instant) -> Step {
        let seconds = now.duration_since(self.begun).as_secs_f64();
        let key = (question.name.clone(), question.record);
        let ready = self.ready.get(&key).filter(|ready| now < ready.until);
        if !self.rate.take(seconds, ready.is_some()) {
            return self.limited(question, tcp, "too many questions");
        }
        if let Some(ready) = ready {
            return self.repeat(question, tcp, ready, now);
        }
        if is_refused_type(question.record) {
            let why = "guard: this type of question is not answered";
            let asked = evidence(self.policy.sandbox, question, tcp, Outcome::Malformed);
            return Step::Answer(answer::limited(question, why), asked.into());
        }
        if let Some(step) = self.reverse(question, tcp) {
            return step;
        }
        let rule = match self.policy.rules.judge(&question.name, self.policy.sets) {
            NameVerdict::Allow(rule) => Some(rule),
            _ if self.policy.audit_only => None,
            NameVerdict::Approve(rule) => {
                let why = format!(
                    "{}, and nobody can approve it",
                    answer::rule_words(Some(&rule))
                );
                return self.refused(question, tcp, Some(&rule), &why);
            }
            NameVerdict::Deny(rule) => {
                let why = answer::rule_words(rule.as_ref());
                return self.refused(question, tcp, rule.as_ref(), &why);
            }
        };
        if matches!(question.record, RecordType::Unknown(_)) {
            // What cannot be read cannot be sifted: there is no such record.
            let mut asked = evidence(self.policy.sandbox, question, tcp, Outcome::Nothing);
            asked.rule = rule.as_ref().map(pair);
            return Step::Answer(question.answer(ResponseCode::NoError), asked.into());
        }
        if self.waiting >= MAX_WAITING {
            return self.limited(question, tcp, "too many questions wait for an answer");
        }
        let spelled_out = self
            .policy
            .rules
            .spelled_out(&question.name, self.policy.sets);
        if !self.information.take(&question.name, spelled_out, seconds) {
            let why = "too many new names below one zone";
            return self.limited(question, tcp, why);
        }
        Step::Ask(rule)
    }

    fn refused(&self, question: &Question, tcp: bool, rule: Option<&RuleRef>, why: &str) -> Step {
        let mut asked = evidence(self.policy.sandbox, question, tcp, Outcome::Refused);
        asked.rule = rule.map(pair);
        Step::Answer(answer::refused(question, why), asked.into())
    }

    fn limited(&self, question: &Question, tcp: bool, why: &str) -> Step {
        let asked = evidence(self.policy.sandbox, question, tcp, Outcome::Limited);
        Step::Answer(
            answer::limited(question, &format!("guard: {why}")),
            asked.into(),
        )
    }

    fn repeat(&self, question: &Question, tcp: bool, ready: &Ready, now: Instant) -> Step {
        let age = now.duration_since(ready.since).as_secs() as u32;
        let sandbox = self.policy.sandbox;
        match &ready.answer {
            Given::Records(records, rule) => {
                let mut asked = evidence(sandbox, question, tcp, Outcome::Answered);
                asked.rule = rule.as_ref().map(pair);
                asked.chain.clone_from(&records.chain);
                asked.addresses.clone_from(&records.addresses);
                asked.ttl = Some(records.ttl.saturating_sub(age));
                asked.cached = true;
                let message = answer::positive(question, &records.records, age);
                Step::Answer(message, asked.into())
            }
            Given::Nothing(no_name, rule) => {
                let mut asked = evidence(sandbox, question, tcp, Outcome::Nothing);
                asked.rule = rule.as_ref().map(pair);
                asked.cached = true;
                Step::Answer(question.answer(nothing(*no_name)), asked.into())
            }
        }
    }

    /// A question for the name of an address: answered from what the sandbox was
    /// told, and else judged as any name.
    fn reverse(&self, question: &Question, tcp: bool) -> Option<Step> {
        if question.record != RecordType::PTR {
            return None;
        }
        let net = question.wire.parse_arpa_name().ok()?;
        let name = self.told.get(&net.addr())?;
        let wire = WireName::from_ascii(format!("{name}.")).ok()?;
        let pointer = RData::PTR(hickory_proto::rr::rdata::PTR(wire));
        let record = Record::from_rdata(question.wire.clone(), MIN_TTL, pointer);
        let mut asked = evidence(self.policy.sandbox, question, tcp, Outcome::Answered);
        asked.chain.push(name.clone());
        asked.cached = true;
        Some(Step::Answer(
            answer::positive(question, &[record], 0),
            asked.into(),
        ))
    }

    /// Asks upstream.
    fn ask(&mut self, question: &Question, now: Instant) -> impl Future<Output = Upstream> + use<> {
        self.servers.refresh(now);
        // Absolute, and in the one form in which names are compared.
        let mut wire = question.wire.to_lowercase();
        wire.set_fqdn(true);
        self.servers.ask(wire, question.record)
    }

    fn keep(&mut self, question: &Question, given: Given, seconds: u32, now: Instant) {
        let size = given.size();
        let is_full =
            |state: &Self| state.ready.len() >= READY || state.ready_bytes + size > READY_BYTES;
        if is_full(self) {
            self.ready.retain(|_, ready| now < ready.until);
            self.ready_bytes = self.ready.values().map(|ready| ready.answer.size()).sum();
        }
        if is_full(self) {
            self.ready.clear();
            self.ready_bytes = 0;
        }
        // That there is nothing holds as long as an address at least: or asking
        // again and again would be a way out.
        let seconds = seconds.max(MIN_TTL);
        let ready = Ready {
            answer: given,
            since: now,
            until: now + Duration::from_secs(u64::from(seconds)),
        };
        let key = (question.name.clone(), question.record);
        self.ready_bytes += size;
        if let Some(old) = self.ready.insert(key, ready) {
            self.ready_bytes -= old.answer.size();
        }
    }

    fn tell(&mut self, name: &Name, addresses: &[IpAddr]) {
        if self.told.len() >= REVERSE {
            self.told.clear();
        }
        for address in addresses {
            self.told.insert(*address, name.clone());
        }
    }
}

const fn nothing(no_name: bool) -> ResponseCode {
    match no_name {
        true => ResponseCode::NXDomain,
        false => ResponseCode::NoError,
    }
}

/// A sandbox that several questions share.
pub(crate) type Shared = Rc<std::cell::RefCell<Sandbox>>;

/// Answers a question that upstream must be asked for.
pub(crate) async fn resolve<S: Supervisor>(
    shared: &Shared,
    supervisor: &S,
    question: &Question,
    rule: Option<RuleRef>,
    tcp: bool,
) -> (Message, Asked) {
    shared.borrow_mut().waiting += 1;
    let answered = ask_and_judge(shared, supervisor, question, rule, tcp).await;
    // Who is aborted before that is aborted with the whole sandbox.
    shared.borrow_mut().waiting -= 1;
    answered
}

async fn ask_and_judge<S: Supervisor>(
    shared: &Shared,
    supervisor: &S,
    question: &Question,
    rule: Option<RuleRef>,
    tcp: bool,
) -> (Message, Asked) {
    let asking = shared.borrow_mut().ask(question, Instant::now());
    let upstream = asking.await;
    let (sandbox, audit_only) = {
        let state = shared.borrow();
        (state.policy.sandbox, state.policy.audit_only)
    };
    let mut asked = evidence(sandbox, question, tcp, Outcome::Nothing);
    asked.rule = rule.as_ref().map(pair);
    if audit_only && rule.is_none() {
        // What enforcing would have done; the answer goes out all the same.
        asked.outcome = Outcome::Refused;
    }
    let answers = match upstream {
        Upstream::Answers(answers) => answers,
        Upstream::Nothing(no_name, seconds) => {
            let given = Given::Nothing(no_name, rule);
            shared
                .borrow_mut()
                .keep(question, given, seconds, Instant::now());
            return (question.answer(nothing(no_name)), asked);
        }
        Upstream::Failed(why) => {
            asked.outcome = Outcome::NoUpstream;
            return (answer::failed(question, &format!("guard: {why}")), asked);
        }
    };
    let sifted = {
        let state = shared.borrow();
        let policy = &state.policy;
        let everything = [(0, 0)];
        let (rules, networks) = match audit_only {
            true => (&NameRules::default(), &everything[..]),
            false => (&policy.rules, &policy.networks[..]),
        };
        sift(
            &question.wire,
            question.record,
            &answers,
            rules,
            policy.sets,
            networks,
        )
    };
    match sifted {
        Sifted::Records(records) => give(shared, supervisor, question, records, rule, asked).await,
        Sifted::Nothing => {
            let answer = question.answer(ResponseCode::NoError);
            (answer, asked)
        }
        Sifted::Denied(name, rule) => {
            asked.outcome = Outcome::Refused;
            asked.rule = Some(pair(&rule));
            asked.chain.push(name);
            let why = answer::rule_words(Some(&rule));
            (answer::refused(question, &why), asked)
        }
        Sifted::Private(addresses) => {
            asked.outcome = Outcome::Private;
            asked.addresses = addresses;
            let why =
                "guard: the name leads to private addresses, and the policy names none of them";
            (answer::refused(question, why), asked)
        }
    }
}

/// Opens the addresses of an answer, then gives it.
async fn give<S: Supervisor>(
    shared: &Shared,
    supervisor: &S,
    question: &Question,
    records: Records,
    rule: Option<RuleRef>,
    mut asked: Asked,
) -> (Message, Asked) {
    let begun = Instant::now();
    let allowed = rule.is_some();
    if allowed && !records.addresses.is_empty() {
        let to_open = records.addresses.iter().map(|addr| (*addr, records.ttl));
        let open = supervisor.open(asked.sandbox, question.name.clone(), to_open.collect());
        if !open.await {
            asked.outcome = Outcome::NotOpened;
            let why = "guard: the addresses of this name could not be opened";
            return (answer::failed(question, why), asked);
        }
    }
    if allowed {
        asked.outcome = Outcome::Answered;
    }
    asked.chain.clone_from(&records.chain);
    asked.addresses.clone_from(&records.addresses);
    asked.ttl = Some(records.ttl);
    let answer = answer::positive(question, &records.records, 0);
    let mut state = shared.borrow_mut();
    state.tell(&question.name, &records.addresses);
    // It holds from when the addresses were opened, not from now on.
    let seconds = records.ttl;
    if allowed {
        let given = Given::Records(Rc::new(records), rule);
        state.keep(question, given, seconds, begun);
    }
    (answer, asked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::resolver::question::tests::packet;

    #[test]
    fn answers_that_are_kept_are_bounded_in_bytes() {
        let policy = Policy {
            sandbox: 1,
            rules: NameRules::default(),
            sets: 1,
            networks: Vec::new(),
            audit_only: false,
        };
        let now = Instant::now();
        let files = Files {
            resolv_conf: "/nonexistent".into(),
            hosts: "/nonexistent".into(),
        };
        let mut sandbox = Sandbox::new(policy, Vec::new(), files, now);
        for n in 0..300 {
            let packet = packet(&format!("n{}.ok.test.", n % 200), RecordType::TXT, None);
            let question::Asked::Question(question) = question::read(&packet) else {
                panic!("no question");
            };
            let records = Records {
                size: 60_000,
                ..Records::default()
            };
            let given = Given::Records(Rc::new(records), None);
            sandbox.keep(&question, given, 60, now);
            let held = sandbox.ready.values().map(|ready| ready.answer.size());
            assert_eq!(sandbox.ready_bytes, held.sum::<usize>());
            assert!(sandbox.ready_bytes <= READY_BYTES && !sandbox.ready.is_empty());
        }
    }
}
