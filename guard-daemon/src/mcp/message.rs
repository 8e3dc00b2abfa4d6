//! What a scanned message says: request, notification or response, its id,
//! and the few values that guard acts on.

use std::borrow::Cow;

use super::fault::Fault;
use super::scan::{Field, Fields, Side, unescape_into};

/// Bytes of the longest id that is taken, as written.
pub const MAX_ID: usize = 1024;
/// Bytes of the longest method or tool name that is taken, as written.
pub const MAX_NAME: usize = 1024;
/// The largest integer that every parser keeps exactly (2^53).
const MAX_INTEGER: u64 = 1 << 53;

/// A JSON-RPC id. `1` and `"1"` are different ones; `"a"` and `"\u0061"` the same.
#[derive(Clone, Debug)]
pub struct Id<'a> {
    /// As it was written.
    pub raw: &'a str,
    /// What it denotes: a number's digits, or `"` and a string's characters.
    pub key: Cow<'a, str>,
}

impl<'a> Id<'a> {
    /// Reads an id that was scanned.
    ///
    /// # Errors
    /// [`Fault::BadId`] when parsers could take it for different ids.
    pub fn read(text: &'a [u8]) -> Result<Self, Fault> {
        if text.len() > MAX_ID {
            return Err(Fault::BadId);
        }
        let raw = std::str::from_utf8(text).map_err(|_| Fault::NotUtf8)?;
        if let Some(inside) = string_inside(text) {
            let key = match plain_str(inside)? {
                // The key is the raw text without its closing quote.
                Some(_) => Cow::Borrowed(&raw[..raw.len() - 1]),
                None => Cow::Owned(format!("\"{}", decode(inside)?)),
            };
            return Ok(Self { raw, key });
        }
        let digits = raw.strip_prefix('-').unwrap_or(raw);
        let whole = digits.bytes().all(|b| b.is_ascii_digit());
        let value: u64 = digits.parse().map_err(|_| Fault::BadId)?;
        if !whole || value > MAX_INTEGER || raw == "-0" {
            return Err(Fault::BadId);
        }
        Ok(Self {
            raw,
            key: Cow::Borrowed(raw),
        })
    }
}

/// What kind of message it is.
#[derive(Clone, Debug)]
pub enum Message<'a> {
    /// Wants a response.
    Request(Request<'a>),
    /// Wants none.
    Notification(Notification<'a>),
    /// Answers a request of the other side.
    Response(Response<'a>),
}

/// A request.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// Its id.
    pub id: Id<'a>,
    /// Its method.
    pub method: Cow<'a, str>,
    /// `params.name` of `tools/call`.
    pub tool: Option<Cow<'a, str>>,
    /// `params.arguments` of `tools/call`, as written.
    pub arguments: Option<&'a [u8]>,
    /// `params.taskId` of the `tasks/` methods.
    pub task: Option<Cow<'a, str>>,
    /// `params.requestState`: what an `input_required` result asked to be given back.
    pub state: Option<&'a [u8]>,
}

/// A notification.
#[derive(Clone, Debug)]
pub struct Notification<'a> {
    /// Its method.
    pub method: Cow<'a, str>,
    /// `params.requestId` of `notifications/cancelled`.
    pub cancels: Option<Id<'a>>,
    /// `params.taskId` and whether `params.status` says that the task ended.
    pub task: Option<(Cow<'a, str>, TaskState)>,
}

/// A response.
#[derive(Clone, Debug)]
pub struct Response<'a> {
    /// The id of the request; absent or null where it could not be read.
    pub id: Option<Id<'a>>,
    /// What it brings.
    pub body: Body<'a>,
}

/// What a response brings.
#[derive(Clone, Debug)]
pub enum Body<'a> {
    /// A JSON-RPC error.
    Error,
    /// A result.
    Result {
        /// `isError: true`.
        tool_error: bool,
        /// `protocolVersion`, in the answer to `initialize`.
        protocol: Option<&'a [u8]>,
        /// The task that the work goes on in: `task.taskId` (2025-11-25), or
        /// `taskId` with `resultType: "task"` (extension to 2026-07-28).
        handed: Option<Cow<'a, str>>,
        /// Top-level `taskId` and `status`: the answer to `tasks/get` and `tasks/cancel`.
        task: Option<(Cow<'a, str>, TaskState)>,
        /// `requestState` of a result with `resultType: "input_required"`.
        state: Option<&'a [u8]>,
    },
}

/// How far a task is (2025-11-25 `TaskStatus`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskState {
    /// Not ended, or not known.
    Working,
    /// `completed`
    Completed,
    /// `failed`
    Failed,
    /// `cancelled`
    Cancelled,
}

impl TaskState {
    fn read(text: Option<&[u8]>) -> Self {
        match text {
            Some(b"\"completed\"") => Self::Completed,
            Some(b"\"failed\"") => Self::Failed,
            Some(b"\"cancelled\"") => Self::Cancelled,
            _ => Self::Working,
        }
    }
}

/// Reads a message.
///
/// # Errors
/// The [`Fault`] that keeps it from being one.
pub fn read<'a>(line: &'a [u8], fields: &Fields, side: Side) -> Result<Message<'a>, Fault> {
    let get = |field| fields.get(line, field);
    if get(Field::Jsonrpc).map(string_is("2.0")) != Some(true) {
        return Err(Fault::NotAMessage);
    }
    let (method, result, error) = (get(Field::Method), get(Field::Result), get(Field::Error));
    match (method, result, error) {
        (Some(method), None, None) => {
            if !matches!(get(Field::Params).map(|p| p[0]), None | Some(b'{')) {
                return Err(Fault::NotAMessage);
            }
            let method = name(method)?.ok_or(Fault::NotAMessage)?;
            match get(Field::Id) {
                Some(id) => request(line, fields, Id::read(id)?, method, side),
                None => notification(line, fields, method),
            }
        }
        (None, Some(_), None) | (None, None, Some(_)) => response(line, fields),
        _ => Err(Fault::NotAMessage),
    }
    .map_err(|fault| {
        if matches!(fault, Fault::NotUtf8) {
            Fault::Surrogate
        } else {
            fault
        }
    })
}

fn request<'a>(
    line: &'a [u8],
    fields: &Fields,
    id: Id<'a>,
    method: Cow<'a, str>,
    side: Side,
) -> Result<Message<'a>, Fault> {
    let get = |field| fields.get(line, field);
    let mut tool = None;
    let mut arguments = None;
    if method == "tools/call" && side == Side::Client {
        tool = Some(
            get(Field::Name)
                .map(name)
                .transpose()?
                .flatten()
                .ok_or(Fault::NoToolName)?,
        );
        arguments = get(Field::Arguments);
    }
    let task = match get(Field::TaskId) {
        Some(text) if method.starts_with("tasks/") => string(text)?,
        _ => None,
    };
    Ok(Message::Request(Request {
        id,
        method,
        tool,
        arguments,
        task,
        state: get(Field::RequestState),
    }))
}

fn notification<'a>(
    line: &'a [u8],
    fields: &Fields,
    method: Cow<'a, str>,
) -> Result<Message<'a>, Fault> {
    let get = |field| fields.get(line, field);
    let cancels = match get(Field::RequestId) {
        Some(id) if method == "notifications/cancelled" => Some(Id::read(id)?),
        _ => None,
    };
    let task = match get(Field::TaskId) {
        // `notifications/tasks/status` (2025-11-25), `notifications/tasks` (extension)
        Some(text) if method.starts_with("notifications/tasks") => string(text)?,
        _ => None,
    };
    let task = task.map(|task| (task, TaskState::read(get(Field::Status))));
    Ok(Message::Notification(Notification {
        method,
        cancels,
        task,
    }))
}

fn response<'a>(line: &'a [u8], fields: &Fields) -> Result<Message<'a>, Fault> {
    let get = |field| fields.get(line, field);
    let id = match get(Field::Id) {
        None | Some(b"null") => None,
        Some(id) => Some(Id::read(id)?),
    };
    if get(Field::Error).is_some() {
        let body = Body::Error;
        return Ok(Message::Response(Response { id, body }));
    }
    if id.is_none() {
        return Err(Fault::NotAMessage);
    }
    let text = |field| get(field).map(string).transpose().map(Option::flatten);
    let kind = get(Field::ResultType);
    let task_id = text(Field::ResultTaskId)?;
    let handed = match text(Field::HandedTaskId)? {
        Some(task) => Some(task),
        None if kind.is_some_and(string_is("task")) => task_id.clone(),
        None => None,
    };
    let asks = kind.is_some_and(string_is("input_required"));
    let body = Body::Result {
        tool_error: get(Field::IsError) == Some(b"true"),
        protocol: get(Field::ProtocolVersion),
        handed,
        task: task_id.map(|task| (task, TaskState::read(get(Field::ResultStatus)))),
        state: get(Field::ResultState).filter(|_| asks),
    };
    Ok(Message::Response(Response { id, body }))
}

/// The inside of a JSON string, or `None` for any other value.
fn string_inside(text: &[u8]) -> Option<&[u8]> {
    text.strip_prefix(b"\"")?.strip_suffix(b"\"")
}

/// The string itself where it has no escapes.
fn plain_str(inside: &[u8]) -> Result<Option<&str>, Fault> {
    if memchr::memchr(b'\\', inside).is_some() {
        return Ok(None);
    }
    std::str::from_utf8(inside)
        .map(Some)
        .map_err(|_| Fault::NotUtf8)
}

fn decode(inside: &[u8]) -> Result<String, Fault> {
    let mut out = Vec::with_capacity(inside.len());
    unescape_into(inside, &mut out);
    if out.contains(&0) {
        return Err(Fault::Nul);
    }
    String::from_utf8(out).map_err(|_| Fault::Surrogate)
}

fn string(text: &[u8]) -> Result<Option<Cow<'_, str>>, Fault> {
    let Some(inside) = string_inside(text) else {
        return Ok(None);
    };
    Ok(Some(match plain_str(inside)? {
        Some(plain) => Cow::Borrowed(plain),
        None => Cow::Owned(decode(inside)?),
    }))
}

fn name(text: &[u8]) -> Result<Option<Cow<'_, str>>, Fault> {
    if text.len() > MAX_NAME {
        return Err(Fault::NameTooLong);
    }
    string(text)
}

/// Whether JSON text is this string, escapes and all.
fn string_is(wanted: &'static str) -> impl Fn(&[u8]) -> bool {
    move |text| string(text).is_ok_and(|found| found.as_deref() == Some(wanted))
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
