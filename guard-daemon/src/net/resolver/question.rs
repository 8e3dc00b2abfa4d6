//! What a sandbox asks: bytes to one question, or to the answer that they get
//! instead.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, Name as WireName, RecordType};

use crate::policy::names::Name;
use crate::wire::escape;

/// Bytes of an answer over UDP for whoever says nothing of it (RFC 1035, 4.2.1).
const PLAIN_SIZE: u16 = 512;
/// Bytes of the largest answer over UDP: more would be fragmented on ordinary
/// links (DNS flag day 2020).
const LARGEST_SIZE: u16 = 1232;

/// A question that can be answered.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) id: u16,
    /// As it was asked: the answer repeats its case.
    pub(crate) wire: WireName,
    /// What is judged.
    pub(crate) name: Name,
    pub(crate) record: RecordType,
    pub(crate) recursion_desired: bool,
    /// Bytes of the largest answer over UDP.
    pub(crate) size: u16,
    /// It came with EDNS (RFC 6891), so the answer may too.
    pub(crate) edns: bool,
}

/// What arrived.
#[derive(Debug)]
pub(crate) enum Asked {
    /// A question.
    Question(Box<Question>),
    /// None, with the answer to that and what the trail calls it.
    Bad(Box<Message>, String),
    /// Nothing that could be answered: too short for an id, or an answer.
    Noise,
}

/// Reads what arrived.
pub(crate) fn read(packet: &[u8]) -> Asked {
    let Some(id) = packet.get(..2).map(|b| u16::from_be_bytes([b[0], b[1]])) else {
        return Asked::Noise;
    };
    let Ok(message) = Message::from_vec(packet) else {
        // The bit QR: answers are never answered, or two servers talk for ever.
        if packet.get(2).is_none_or(|flags| flags & 0x80 != 0) {
            return Asked::Noise;
        }
        let answer = Message::error_msg(id, OpCode::Query, ResponseCode::FormErr);
        return Asked::Bad(Box::new(answer), escape(&packet[..packet.len().min(64)]));
    };
    let metadata = message.metadata;
    if metadata.message_type != MessageType::Query {
        return Asked::Noise;
    }
    let bad = |code, what: String| {
        let mut answer = Message::error_msg(id, metadata.op_code, code);
        answer.metadata.recursion_desired = metadata.recursion_desired;
        answer.add_queries(message.queries.iter().take(1).cloned());
        Asked::Bad(Box::new(answer), what)
    };
    if metadata.op_code != OpCode::Query {
        return bad(ResponseCode::NotImp, format!("{:?}", metadata.op_code));
    }
    let [query] = &message.queries[..] else {
        return bad(
            ResponseCode::FormErr,
            format!("{} questions", message.queries.len()),
        );
    };
    let shown = escape(query.name.to_ascii().as_bytes());
    if query.query_class != DNSClass::IN {
        return bad(ResponseCode::Refused, shown);
    }
    // Answers and authorities have no place in a question; a transfer's do.
    if !message.answers.is_empty() || !message.authorities.is_empty() {
        return bad(ResponseCode::FormErr, shown);
    }
    let Ok(name) = Name::of_labels(query.name.iter()) else {
        return bad(ResponseCode::Refused, shown);
    };
    if let Some(edns) = &message.edns
        && edns.version() != 0
    {
        let Asked::Bad(mut answer, shown) = bad(ResponseCode::BADVERS, shown) else {
            return Asked::Noise;
        };
        // The code's upper bits have their place there only (RFC 6891, 6.1.3).
        answer.set_edns(Edns::new());
        return Asked::Bad(answer, shown);
    }
    let size = message.edns.as_ref().map_or(PLAIN_SIZE, |edns| {
        edns.max_payload().clamp(PLAIN_SIZE, LARGEST_SIZE)
    });
    Asked::Question(Box::new(Question {
        id,
        wire: query.name.clone(),
        name,
        record: query.query_type,
        recursion_desired: metadata.recursion_desired,
        size,
        edns: message.edns.is_some(),
    }))
}

/// The type of a question in words (RFC 3597, 5 for those without a name).
pub(crate) fn record_name(record: RecordType) -> String {
    match record {
        RecordType::Unknown(number) => format!("TYPE{number}"),
        known => known.to_string(),
    }
}

impl Question {
    /// An answer to it, with nothing in it.
    pub(crate) fn answer(&self, code: ResponseCode) -> Message {
        let mut answer = Message::response(self.id, OpCode::Query);
        answer.metadata.response_code = code;
        answer.metadata.recursion_desired = self.recursion_desired;
        answer.metadata.recursion_available = true;
        answer.add_query(hickory_proto::op::Query::query(
            self.wire.clone(),
            self.record,
        ));
        if self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(LARGEST_SIZE);
            answer.set_edns(edns);
        }
        answer
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use hickory_proto::op::Query;

    pub(crate) fn packet(name: &str, record: RecordType, edns: Option<u16>) -> Vec<u8> {
        let mut message = Message::query();
        message.metadata.id = 7;
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(WireName::from_ascii(name).unwrap(), record));
        if let Some(size) = edns {
            let mut edns = Edns::new();
            edns.set_max_payload(size);
            message.set_edns(edns);
        }
        message.to_vec().unwrap()
    }

    fn question(packet: &[u8]) -> Question {
        match read(packet) {
            Asked::Question(question) => *question,
            other => panic!("{other:?}"),
        }
    }

    fn code(packet: &[u8]) -> Option<ResponseCode> {
        match read(packet) {
            Asked::Bad(answer, _) => Some(answer.metadata.response_code),
            _ => None,
        }
    }

    #[test]
    fn a_question_is_read_in_canonical_form() {
        let asked = question(&packet("API.GitHub.COM.", RecordType::A, None));
        assert_eq!(asked.name.as_str(), "api.github.com");
        assert_eq!((asked.size, asked.edns), (512, false));
        assert_eq!(asked.wire.to_ascii(), "API.GitHub.COM.");
        for (told, size) in [(100, 512), (1000, 1000), (4096, 1232)] {
            let asked = question(&packet("a.test.", RecordType::A, Some(told)));
            assert_eq!((asked.size, asked.edns), (size, true));
        }
    }

    #[test]
    fn what_is_no_question_is_answered_as_that_or_not_at_all() {
        let good = packet("a.test.", RecordType::A, None);
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            bytes
        };
        assert_eq!(code(&with(2, 0x29)), Some(ResponseCode::NotImp));
        assert_eq!(code(&with(5, 2)), Some(ResponseCode::FormErr));
        assert_eq!(code(&with(5, 0)), Some(ResponseCode::FormErr));
        // Class CH, in the last byte.
        assert_eq!(code(&with(good.len() - 1, 3)), Some(ResponseCode::Refused));
        // A dot within a label.
        assert_eq!(code(&with(13, b'.')), Some(ResponseCode::Refused));
        assert_eq!(code(&good[..good.len() - 1]), Some(ResponseCode::FormErr));
        let mut versioned = packet("a.test.", RecordType::A, Some(1232));
        let version = versioned.len() - 5;
        versioned[version] = 1;
        let Asked::Bad(answer, _) = read(&versioned) else {
            panic!("version 1 is read");
        };
        let answer = Message::from_vec(&answer.to_vec().unwrap()).unwrap();
        assert_eq!(answer.metadata.response_code.high(), 1);
        for noise in [&good[..1], &[], &with(2, 0x81)] {
            assert!(matches!(read(noise), Asked::Noise), "{noise:?}");
        }
        assert_eq!(record_name(RecordType::Unknown(65280)), "TYPE65280");
        assert_eq!(record_name(RecordType::AAAA), "AAAA");
    }

    #[test]
    fn an_answer_repeats_the_question() {
        let asked = question(&packet("A.test.", RecordType::TXT, Some(1232)));
        let answer = asked.answer(ResponseCode::NXDomain).to_vec().unwrap();
        let read = Message::from_vec(&answer).unwrap();
        assert_eq!(read.metadata.id, 7);
        assert_eq!(read.queries[0].name.to_ascii(), "A.test.");
        assert_eq!(read.metadata.response_code, ResponseCode::NXDomain);
        assert!(read.edns.is_some());
    }
}
