//! What guard does with each line of a session. The relay reads a line, asks
//! here, and does as told; the clock, the slot and the wire are behind
//! [`Record`], so that every decision can be tested without a process.

use std::collections::VecDeque;

use super::digest::Digest;
use super::fault::Fault;
use super::ledger::{Entry, Kind, Ledger, State};
use super::message::{self, Body, Id, Message, Notification, Request, Response, TaskState};
use super::reply;
use super::scan::{Field, Fields, Scanner, Shape, Side};
use crate::wire::{self, Outcome};

/// Ids of the server's own requests that are remembered.
const MAX_FROM_SERVER: usize = 256;
/// `input_required` results that are remembered, to link the repeated request.
const MAX_LINKS: usize = 64;
/// Bytes of a line that a note quotes, before escaping.
const QUOTED: usize = 120;

/// A request that will be forwarded.
#[derive(Debug)]
pub struct Start<'a> {
    /// Its number.
    pub call: u64,
    /// The call that this one goes on with, after `input_required`.
    pub continues: Option<u64>,
    /// What it says.
    pub request: &'a Request<'a>,
}

/// A call that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Its number.
    pub call: u64,
    /// How.
    pub outcome: Outcome,
    /// Bytes of the response line without its end; 0 without a response.
    pub result_bytes: u64,
    /// The line being judged is its response, to be digested for the record.
    pub whole: bool,
    /// Nanoseconds since the request.
    pub duration: u64,
}

/// Something that is not as the protocol says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Who wrote it.
    pub from: Side,
    /// A fixed word.
    pub reason: &'static str,
    /// More, bounded.
    pub detail: String,
    /// Whether the line was withheld.
    pub refused: bool,
}

/// What the session tells the outside, in the order in which it must happen.
pub trait Record {
    /// A call is about to be forwarded; comes before [`Self::calls`] has it.
    fn start(&mut self, start: &Start<'_>);
    /// The calls in flight are now these.
    fn calls(&mut self, calls: &Ledger);
    /// A call ended; comes after [`Self::calls`] no longer has it. The record
    /// can wait until the response was handed on.
    fn end(&mut self, end: &End);
    /// A breach of the protocol.
    fn note(&mut self, note: Note);
}

/// What to do with a line.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Action {
    /// Hand it on, unchanged.
    Forward,
    /// Withhold it and write these lines (perhaps none) to the client.
    Withhold(Vec<u8>),
}

/// One client and one server.
#[derive(Debug, Default)]
pub struct Session {
    scanner: Scanner,
    ledger: Ledger,
    /// Revision 2025-03-26 was agreed on: arrays of messages are legal.
    batches: bool,
    /// Keys of the server's requests that wait for the client.
    from_server: VecDeque<String>,
    /// Digests of `requestState`, and the calls whose result brought them.
    links: VecDeque<(Digest, u64)>,
}

impl Session {
    /// Judges a line of the client, read whole at `now` (nanoseconds).
    pub fn client_line(&mut self, line: &[u8], now: u64, out: &mut impl Record) -> Action {
        match self.judge_client(line, now, out) {
            Ok(()) => Action::Forward,
            Err(fault) => {
                let told = self.told(line);
                self.refuse(fault, told, line, out)
            }
        }
    }

    /// Answers a line of the client that was over the limit; `prefix` is its start.
    pub fn client_too_long(
        &mut self,
        prefix: &[u8],
        limit: usize,
        out: &mut impl Record,
    ) -> Action {
        // It fails, since the line is cut; what it found before is what is wanted.
        let _ = self.scanner.scan(prefix, Side::Client);
        let told = self.told(prefix);
        out.note(Note {
            from: Side::Client,
            reason: Fault::TooLong.reason(),
            detail: format!("over {limit} bytes"),
            refused: true,
        });
        let detail = format!("{limit} bytes");
        Action::Withhold(reply::refusal(told.as_deref(), Fault::TooLong, &detail))
    }

    fn refuse(
        &mut self,
        fault: Fault,
        told: Option<String>,
        line: &[u8],
        out: &mut impl Record,
    ) -> Action {
        let quoted = quote(line);
        out.note(Note {
            from: Side::Client,
            reason: fault.reason(),
            detail: quoted,
            refused: true,
        });
        // An error with the id of a request in flight would pass for its response.
        let id = told.filter(|_| fault != Fault::DuplicateId);
        let detail = if fault == Fault::DuplicateId {
            "each request needs an id of its own"
        } else {
            ""
        };
        Action::Withhold(reply::refusal(id.as_deref(), fault, detail))
    }

    /// The id of the request in the last line, as far as it was read, if no
    /// request in flight has it: an error with it is then for this one alone.
    fn told(&self, line: &[u8]) -> Option<String> {
        // An element's id would not answer its batch.
        let [fields] = self.scanner.messages() else {
            return None;
        };
        if line.trim_ascii_start().first() == Some(&b'[') {
            return None;
        }
        fields.get(line, Field::Method)?;
        let id = Id::read(fields.get(line, Field::Id)?).ok()?;
        let fresh = self.ledger.waiting(&id.key).is_none();
        fresh.then(|| id.raw.to_owned())
    }

    fn judge_client(&mut self, line: &[u8], now: u64, out: &mut impl Record) -> Result<(), Fault> {
        match self.scanner.scan(line, Side::Client)? {
            Shape::Blank => return Ok(()),
            Shape::Single => {}
            Shape::Batch if self.batches => {}
            Shape::Batch => return Err(Fault::Batch),
        }
        let scanner = std::mem::take(&mut self.scanner);
        let mark = self.ledger.mark();
        let judged = self.admit(line, scanner.messages(), now);
        if judged.is_err() {
            self.ledger.rollback(mark);
        } else {
            self.commit(line, scanner.messages(), mark, now, out);
        }
        self.scanner = scanner;
        judged
    }

    /// Takes every request of the line into the ledger, or fails.
    fn admit(&mut self, line: &[u8], messages: &[Fields], now: u64) -> Result<(), Fault> {
        for fields in messages {
            if let Message::Request(request) = message::read(line, fields, Side::Client)? {
                let kind = Kind::of(&request.method);
                if kind == Kind::Initialize && messages.len() > 1 {
                    return Err(Fault::Batch); // 2025-03-26, lifecycle: never in a batch
                }
                self.ledger.open(Entry {
                    key: request.id.key.into_owned(),
                    raw: request.id.raw.to_owned(),
                    kind,
                    number: 0,
                    since: now,
                    state: State::Waiting,
                    about: request
                        .task
                        .map(|task| format!("{} {task}", request.method)),
                })?;
            }
        }
        Ok(())
    }

    /// Tells of a line that was admitted, and acts on its notifications and responses.
    fn commit(
        &mut self,
        line: &[u8],
        messages: &[Fields],
        mark: super::ledger::Mark,
        now: u64,
        out: &mut impl Record,
    ) {
        let mut calls = self.ledger.since(mark);
        let mut changed = false;
        for fields in messages {
            match message::read(line, fields, Side::Client) {
                Ok(Message::Request(request)) if Kind::of(&request.method) == Kind::Call => {
                    calls += 1;
                    changed = true;
                    out.start(&Start {
                        call: calls,
                        continues: self.link(&request),
                        request: &request,
                    });
                }
                Ok(Message::Notification(Notification {
                    cancels: Some(id), ..
                })) => {
                    self.ledger.cancel(&id.key, now);
                }
                Ok(Message::Response(response)) => self.client_response(&response, line, out),
                _ => {}
            }
        }
        if changed {
            out.calls(&self.ledger);
        }
    }

    fn link(&self, request: &Request<'_>) -> Option<u64> {
        let state = Digest::of(request.state?);
        let found = self.links.iter().rev().find(|(known, _)| *known == state);
        found.map(|(_, call)| *call)
    }

    fn client_response(&mut self, response: &Response<'_>, line: &[u8], out: &mut impl Record) {
        let key = response.id.as_ref().map(|id| id.key.as_ref());
        let known = self
            .from_server
            .iter()
            .position(|k| Some(k.as_str()) == key);
        match known {
            Some(at) => {
                self.from_server.remove(at);
            }
            None => out.note(Note {
                from: Side::Client,
                reason: "unknown-response",
                detail: quote(line),
                refused: false,
            }),
        }
    }

    /// Judges a line of the server, read whole at `now` (nanoseconds).
    pub fn server_line(&mut self, line: &[u8], now: u64, out: &mut impl Record) -> Action {
        let shape = match self.scanner.scan(line, Side::Server) {
            Ok(Shape::Blank) => return Action::Forward,
            Ok(Shape::Batch) if !self.batches => Err(Fault::Batch),
            other => other.map(|_| ()),
        };
        let scanner = std::mem::take(&mut self.scanner);
        let judged = shape.and_then(|()| {
            for fields in scanner.messages() {
                message::read(line, fields, Side::Server)?;
            }
            Ok(())
        });
        let action = match judged {
            Ok(()) => {
                self.server_messages(line, scanner.messages(), now, out);
                Action::Forward
            }
            Err(fault) => self.server_fault(fault, line, scanner.messages(), now, out),
        };
        self.scanner = scanner;
        action
    }

    /// Answers for a line of the server that was over the limit.
    pub fn server_too_long(
        &mut self,
        prefix: &[u8],
        limit: usize,
        now: u64,
        out: &mut impl Record,
    ) -> Action {
        let _ = self.scanner.scan(prefix, Side::Server);
        let scanner = std::mem::take(&mut self.scanner);
        let mut keys = self.answered(prefix, scanner.messages());
        if keys.is_empty() && !mentions_method(prefix, scanner.messages()) {
            keys.extend(self.ledger.sole_waiting().map(|e| e.key.clone()));
        }
        self.scanner = scanner;
        out.note(Note {
            from: Side::Server,
            reason: Fault::TooLong.reason(),
            detail: format!("over {limit} bytes: {}", quote(prefix)),
            refused: true,
        });
        Action::Withhold(self.withhold(Fault::TooLong, keys, prefix.len(), now, out))
    }

    /// A line that is no message: free text is handed on, since no client takes
    /// it for one; what parsers could read differently is withheld, and the
    /// calls that it seems to answer get an error.
    fn server_fault(
        &mut self,
        fault: Fault,
        line: &[u8],
        messages: &[Fields],
        now: u64,
        out: &mut impl Record,
    ) -> Action {
        let mut keys = self.answered(line, messages);
        let refused = !keys.is_empty() || !fault.is_noise();
        if fault == Fault::BadId && keys.is_empty() && !mentions_method(line, messages) {
            keys.extend(self.ledger.sole_waiting().map(|e| e.key.clone()));
        }
        out.note(Note {
            from: Side::Server,
            reason: fault.reason(),
            detail: quote(line),
            refused,
        });
        if !refused {
            return Action::Forward;
        }
        Action::Withhold(self.withhold(fault, keys, body(line).len(), now, out))
    }

    /// Keys of the requests in flight that these messages seem to answer.
    fn answered(&self, line: &[u8], messages: &[Fields]) -> Vec<String> {
        let key = |fields: &Fields| {
            if fields.get(line, Field::Method).is_some() {
                return None;
            }
            let id = Id::read(fields.get(line, Field::Id)?).ok()?;
            self.ledger.waiting(&id.key).map(|e| e.key.clone())
        };
        messages.iter().filter_map(key).collect()
    }

    fn withhold(
        &mut self,
        fault: Fault,
        keys: Vec<String>,
        bytes: usize,
        now: u64,
        out: &mut impl Record,
    ) -> Vec<u8> {
        let mut replies = Vec::new();
        for key in keys {
            if let Some(entry) = self.ledger.close(&key) {
                replies.extend(reply::withheld(&entry.raw, fault));
                self.ended(&entry, Outcome::ProtocolError, (bytes, false), now, out);
            }
        }
        replies
    }

    fn server_messages(
        &mut self,
        line: &[u8],
        messages: &[Fields],
        now: u64,
        out: &mut impl Record,
    ) {
        for fields in messages {
            match message::read(line, fields, Side::Server) {
                Ok(Message::Response(response)) => self.server_response(&response, line, now, out),
                Ok(Message::Request(request)) => self.server_request(&request, line, out),
                Ok(Message::Notification(notification)) => {
                    if let Some(id) = notification.cancels {
                        self.from_server.retain(|key| *key != *id.key);
                    }
                    if let Some((task, state)) = notification.task {
                        self.task_state(&task, state, now, out);
                    }
                }
                Err(_) => {}
            }
        }
    }

    fn server_request(&mut self, request: &Request<'_>, line: &[u8], out: &mut impl Record) {
        let key = request.id.key.as_ref();
        let reason = if self.from_server.iter().any(|known| known == key) {
            Fault::DuplicateId.reason()
        } else if self.from_server.len() >= MAX_FROM_SERVER {
            Fault::TooManyCalls.reason()
        } else {
            self.from_server.push_back(key.to_owned());
            return;
        };
        out.note(Note {
            from: Side::Server,
            reason,
            detail: quote(line),
            refused: false,
        });
    }

    fn server_response(
        &mut self,
        response: &Response<'_>,
        line: &[u8],
        now: u64,
        out: &mut impl Record,
    ) {
        let id = response.id.as_ref();
        let Some(entry) = id.and_then(|id| self.ledger.close(&id.key)) else {
            out.note(Note {
                from: Side::Server,
                reason: "unknown-response",
                detail: quote(line),
                refused: false,
            });
            return;
        };
        let outcome = match &response.body {
            Body::Error => Outcome::ProtocolError,
            Body::Result {
                tool_error: true, ..
            } => Outcome::ToolError,
            Body::Result { .. } => Outcome::Result,
        };
        if let Body::Result {
            protocol,
            handed,
            task,
            state,
            ..
        } = &response.body
        {
            if entry.kind == Kind::Initialize {
                self.batches = *protocol == Some(b"\"2025-03-26\"");
            }
            self.task_answer(&entry, task.as_ref(), now, out);
            if let Some(state) = state.filter(|_| entry.number != 0) {
                if self.links.len() == MAX_LINKS {
                    self.links.pop_front();
                }
                self.links.push_back((Digest::of(state), entry.number));
            }
            if let Some(task) = handed.as_ref().filter(|_| entry.number != 0) {
                // Still a candidate; its end is told when the task's is.
                return self.ledger.keep(entry, task, now);
            }
        }
        let text = body(line);
        self.ended(&entry, outcome, (text.len(), true), now, out);
    }

    /// What the answer to a `tasks/` request says about the task's end.
    fn task_answer(
        &mut self,
        entry: &Entry,
        task: Option<&(std::borrow::Cow<'_, str>, TaskState)>,
        now: u64,
        out: &mut impl Record,
    ) {
        let Some((method, asked)) = entry.about.as_ref().and_then(|a| a.split_once(' ')) else {
            return;
        };
        match (method, task) {
            // 2025-11-25: answered only when the task has ended.
            ("tasks/result", _) => self.task_state(asked, TaskState::Completed, now, out),
            (_, Some((named, state))) if named == asked => {
                self.task_state(asked, *state, now, out);
            }
            _ => {}
        }
    }

    fn task_state(&mut self, task: &str, state: TaskState, now: u64, out: &mut impl Record) {
        let outcome = match state {
            TaskState::Working => return,
            TaskState::Completed => Outcome::Result,
            TaskState::Failed => Outcome::ToolError,
            TaskState::Cancelled => Outcome::Cancelled,
        };
        for entry in self.ledger.end_task(task) {
            self.ended(&entry, outcome, (0, false), now, out);
        }
    }

    fn ended(
        &self,
        entry: &Entry,
        outcome: Outcome,
        result: (usize, bool),
        now: u64,
        out: &mut impl Record,
    ) {
        if entry.number != 0 {
            out.calls(&self.ledger);
            out.end(&end_of(entry, outcome, result, now));
        }
    }

    /// Ends what is past its time. Call it about once a second.
    pub fn expire(&mut self, now: u64, out: &mut impl Record) {
        for entry in self.ledger.expire(now) {
            self.ended(&entry, Outcome::Cancelled, (0, false), now, out);
        }
    }

    /// Ends every call: the session is over.
    pub fn end(&mut self, now: u64, out: &mut impl Record) {
        for entry in self.ledger.end() {
            self.ended(&entry, Outcome::Abandoned, (0, false), now, out);
        }
    }
}

fn end_of(entry: &Entry, outcome: Outcome, result: (usize, bool), now: u64) -> End {
    End {
        call: entry.number,
        outcome,
        result_bytes: result.0 as u64,
        whole: result.1,
        duration: now.saturating_sub(entry.since),
    }
}

fn mentions_method(line: &[u8], messages: &[Fields]) -> bool {
    messages
        .iter()
        .any(|fields| fields.get(line, Field::Method).is_some())
}

/// A line without its end.
#[must_use]
pub fn body(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

fn quote(line: &[u8]) -> String {
    let text = body(line);
    let cut = &text[..text.len().min(QUOTED)];
    let dots = if cut.len() < text.len() { "…" } else { "" };
    format!("{}{dots}", wire::escape(cut))
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
