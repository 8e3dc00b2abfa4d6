//! What an attack is, and how it can end.

use std::io;

use crate::place::Place;

/// How an attack got what it wanted.
#[derive(Debug)]
pub enum Reached {
    /// It read these bytes. The harness knows whether they are the secret.
    Secret(Vec<u8>),
    /// It did what it wanted; where that can be seen from outside, the harness looks.
    Done,
}

/// Why an attack did not get what it wanted.
#[derive(Debug)]
pub enum Failure {
    /// A step of it was refused.
    Stopped {
        /// The step, mostly the system call.
        step: String,
        /// `errno`, 0 when it was not a call that failed.
        errno: i32,
    },
    /// The kernel has not got what the attack needs.
    Untried(String),
}

/// How an attack ended.
pub type Outcome = Result<Reached, Failure>;

/// One way of getting around guard.
pub struct Technique {
    /// Its name, in the manifest too.
    pub name: &'static str,
    /// The attack.
    pub run: fn(&Place) -> Outcome,
    /// What it needs besides the usual files.
    pub prepare: Option<fn(&Place)>,
    /// Whether it needs a process outside of the sandbox.
    pub outside: bool,
}

impl Technique {
    /// An attack on files that are there for every technique.
    pub const fn new(name: &'static str, run: fn(&Place) -> Outcome) -> Self {
        Self {
            name,
            run,
            prepare: None,
            outside: false,
        }
    }

    /// With more preparation.
    pub const fn prepared(mut self, prepare: fn(&Place)) -> Self {
        self.prepare = Some(prepare);
        self
    }

    /// With a process outside.
    pub const fn outside(mut self) -> Self {
        self.outside = true;
        self
    }
}

/// Names the step that an error comes from.
pub trait At<T> {
    /// `Failure::Stopped` at `step`.
    fn at(self, step: &str) -> Result<T, Failure>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, step: &str) -> Result<T, Failure> {
        self.map_err(|error| Failure::Stopped {
            step: step.to_owned(),
            errno: error.raw_os_error().unwrap_or(0),
        })
    }
}

/// The attack did all its steps and still has nothing.
pub fn nothing(step: &str) -> Failure {
    Failure::Stopped {
        step: step.to_owned(),
        errno: 0,
    }
}

/// Takes errors that say "not in this kernel" for what they are. Only where
/// guard never answers with them.
pub fn absent(failure: Failure, errnos: &[i32], what: &str) -> Failure {
    match failure {
        Failure::Stopped { errno, .. } if errnos.contains(&errno) => {
            Failure::Untried(format!("{what}: {}", io::Error::from_raw_os_error(errno)))
        }
        other => other,
    }
}
