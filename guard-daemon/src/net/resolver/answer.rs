//! From what upstream says to what a sandbox is told. Pure.

use std::net::IpAddr;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::rdata::svcb::SvcParamKey;
use hickory_proto::rr::rdata::{HTTPS, SVCB};
use hickory_proto::rr::{DNSClass, Name as WireName, RData, Record, RecordType};
use hickory_proto::serialize::binary::BinEncodable as _;

use super::question::Question;
use crate::net::addresses::{MAX_TTL, MIN_TTL, is_private};
use crate::net::wire::{MAX_ADDRESSES, MAX_CHAIN};
use crate::policy::RuleRef;
use crate::policy::names::{Name, NameRules, NameVerdict};

/// Extended DNS error "Blocked" (RFC 8914, 4.16).
const BLOCKED: u16 = 15;
/// "Prohibited" (RFC 8914, 4.19): whoever asks may not, now.
const PROHIBITED: u16 = 18;
/// "No Reachable Authority" (RFC 8914, 4.23).
const UNREACHABLE: u16 = 22;
/// The option's number (RFC 8914, 2).
const EXTENDED_ERROR: u16 = 15;
/// Records of an answer that are passed on.
const MAX_RECORDS: usize = 256;

/// Bytes that a record takes in memory beside its own.
const RECORD: usize = 256;

/// What is left of an upstream's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sifted {
    /// Records for the sandbox; the addresses among them are to be opened.
    Records(Records),
    /// Upstream has nothing of this type that belongs to the question.
    Nothing,
    /// It leads over a name that a rule denies, or leaves to approval.
    Denied(Name, RuleRef),
    /// It leads to private addresses only.
    Private(Vec<IpAddr>),
}

/// Records that answer a question.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Records {
    pub(crate) records: Vec<Record>,
    /// The names that the question's led over, without the first.
    pub(crate) chain: Vec<Name>,
    pub(crate) addresses: Vec<IpAddr>,
    /// Seconds, between [`MIN_TTL`] and [`MAX_TTL`]; the same for all.
    pub(crate) ttl: u32,
    /// Bytes that they take, about.
    pub(crate) size: usize,
}

/// Sifts the answer section of an upstream's answer: only what the question's
/// name leads to, no private address that the policy does not name, no way
/// around the resolver. Every address belongs to the name that was asked for,
/// whatever names it was led over.
pub(crate) fn sift(
    name: &WireName,
    record: RecordType,
    answers: &[Record],
    rules: &NameRules,
    sets: u64,
    networks: &[(u128, u8)],
) -> Sifted {
    let mut out = Records::default();
    let mut at = name.clone();
    // Each turn follows one alias; a loop runs into the bound.
    for _ in 0..=MAX_CHAIN {
        let of = |r: &&Record| r.dns_class == DNSClass::IN && r.name.eq_ignore_root(&at);
        let alias = answers.iter().filter(of).find_map(|r| match &r.data {
            RData::CNAME(to) if record != RecordType::CNAME => Some((r, &to.0)),
            _ => None,
        });
        let Some((owner, to)) = alias else {
            return gather(out, &at, record, answers, networks);
        };
        let Ok(next) = Name::of_labels(to.iter()) else {
            return Sifted::Nothing;
        };
        // Nor is what wants approval opened by another name.
        if let NameVerdict::Deny(Some(rule)) | NameVerdict::Approve(rule) = rules.judge(&next, sets)
        {
            return Sifted::Denied(next, rule);
        }
        out.records.push(owner.clone());
        out.chain.push(next);
        at = to.clone();
    }
    Sifted::Nothing
}

/// The records at the end of the chain.
fn gather(
    mut out: Records,
    at: &WireName,
    record: RecordType,
    answers: &[Record],
    networks: &[(u128, u8)],
) -> Sifted {
    let chain = out.records.len();
    let mut private = Vec::new();
    let wanted = |r: &&Record| {
        r.dns_class == DNSClass::IN && r.record_type() == record && r.name.eq_ignore_root(at)
    };
    for found in answers.iter().filter(wanted).take(MAX_RECORDS) {
        let mut kept = found.clone();
        let address = match &mut kept.data {
            RData::A(a) => Some(IpAddr::V4(a.0)),
            RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
            RData::HTTPS(HTTPS(svcb)) | RData::SVCB(svcb) => {
                strip(svcb);
                None
            }
            _ => None,
        };
        match address {
            Some(address) if is_private(address, networks) => private.push(address),
            // What is not opened must not be told.
            Some(_) if out.addresses.len() == MAX_ADDRESSES => {}
            Some(address) => {
                out.addresses.push(address);
                out.records.push(kept);
            }
            None => out.records.push(kept),
        }
    }
    if out.records.len() == chain && !private.is_empty() {
        private.truncate(MAX_ADDRESSES);
        return Sifted::Private(private);
    }
    if out.records.len() == chain {
        return Sifted::Nothing;
    }
    let ttl = out.records.iter().map(|r| r.ttl).min().unwrap_or(MIN_TTL);
    out.ttl = ttl.clamp(MIN_TTL, MAX_TTL);
    for record in &mut out.records {
        record.ttl = out.ttl;
        out.size += RECORD
            + record
                .to_bytes()
                .map_or(usize::from(u16::MAX), |bytes| bytes.len());
    }
    Sifted::Records(out)
}

/// Takes out what would lead around the resolver: addresses that nobody opened,
/// and keys that hide the server's name. A program asks for addresses then.
fn strip(svcb: &mut SVCB) {
    let hidden = |key: &SvcParamKey| {
        matches!(
            key,
            SvcParamKey::Ipv4Hint | SvcParamKey::Ipv6Hint | SvcParamKey::EchConfigList
        )
    };
    svcb.svc_params.retain(|(key, _)| !hidden(key));
    // A key that must be understood and is gone would make the record unusable.
    for (_, value) in &mut svcb.svc_params {
        if let hickory_proto::rr::rdata::svcb::SvcParamValue::Mandatory(mandatory) = value {
            mandatory.0.retain(|key| !hidden(key));
        }
    }
    svcb.svc_params.retain(|(_, value)| {
        !matches!(value, hickory_proto::rr::rdata::svcb::SvcParamValue::Mandatory(m) if m.0.is_empty())
    });
}

/// Adds an extended error to an answer that may have one.
fn explain(answer: &mut Message, code: u16, text: &str) {
    if let Some(edns) = answer.edns.as_mut() {
        let mut data = code.to_be_bytes().to_vec();
        // It is for people; what is long is of no use in a log.
        data.extend(text.bytes().take(200));
        edns.options_mut()
            .insert(EdnsOption::Unknown(EXTENDED_ERROR, data));
    }
}

/// Which rule, in words.
pub(crate) fn rule_words(rule: Option<&RuleRef>) -> String {
    match rule {
        Some(rule) => format!("guard: {} {:?}", rule.id, rule.text),
        None => "guard: no rule allows this name".to_owned(),
    }
}

/// The answer to a question that the policy refuses: the name is not there.
pub(crate) fn refused(question: &Question, why: &str) -> Message {
    let mut answer = question.answer(ResponseCode::NXDomain);
    explain(&mut answer, BLOCKED, why);
    answer
}

/// The answer to too many questions.
pub(crate) fn limited(question: &Question, why: &str) -> Message {
    let mut answer = question.answer(ResponseCode::Refused);
    explain(&mut answer, PROHIBITED, why);
    answer
}

/// The answer where there is none.
pub(crate) fn failed(question: &Question, why: &str) -> Message {
    let mut answer = question.answer(ResponseCode::ServFail);
    explain(&mut answer, UNREACHABLE, why);
    answer
}

/// The answer with records, `age` seconds after they came.
pub(crate) fn positive(question: &Question, records: &[Record], age: u32) -> Message {
    let mut answer = question.answer(ResponseCode::NoError);
    answer.add_answers(records.iter().cloned().map(|mut record| {
        record.ttl = record.ttl.saturating_sub(age).max(1);
        // A name is repeated in the case in which it was asked for.
        if record.name.eq_ignore_root(&question.wire) {
            record.name = question.wire.clone();
        }
        record
    }));
    answer
}

/// Bytes of an answer. Over UDP one that does not fit says so and is empty: the
/// program asks again over TCP (RFC 2181, 9).
pub(crate) fn bytes(answer: &Message, limit: Option<u16>) -> Option<Vec<u8>> {
    let bytes = answer.to_vec().ok()?;
    match limit {
        Some(limit) if bytes.len() > usize::from(limit) => {
            let mut short = answer.clone();
            short.answers.clear();
            short.authorities.clear();
            short.metadata.truncation = true;
            short.to_vec().ok()
        }
        _ if bytes.len() > usize::from(u16::MAX) => None,
        _ => Some(bytes),
    }
}

/// The words of an answer's extended error, for tests.
#[cfg(test)]
pub(crate) fn words(answer: &Message) -> Option<(u16, String)> {
    let option = answer
        .edns
        .as_ref()?
        .option(hickory_proto::rr::rdata::opt::EdnsCode::from(
            EXTENDED_ERROR,
        ))?;
    let EdnsOption::Unknown(_, data) = option else {
        return None;
    };
    let code = u16::from_be_bytes([data[0], data[1]]);
    Some((code, String::from_utf8_lossy(&data[2..]).into_owned()))
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
