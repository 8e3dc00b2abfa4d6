//! The fixed words of the trail.

use std::fmt;

use guard_common::event::Reason as KernelReason;
use serde::{Deserialize, Serialize};

/// Why something was judged, lost or reported, when no rule of the policy
/// says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// A rule wants approval and nobody can be asked.
    ApprovalUnavailable,
    /// A kernel read failed.
    ReadFailed,
    /// The path has too many components.
    TooDeep,
    /// The path has too many bytes.
    TooLong,
    /// The path does not lead to the root of the mount namespace.
    Detached,
    /// The file has no name any more.
    Deleted,
    /// A case-folding directory is on the path.
    CaseFold,
    /// The sandbox is being set up or taken down.
    UnknownSandbox,
    /// A socket family, type or protocol that no rule can grant.
    SocketFamily,
    /// An address of a form that is not understood.
    AddressForm,
    /// The event ring was full.
    RingFull,
    /// An error in guard.
    Internal,
    /// Names on the path changed while they were read.
    Raced,
    /// Code from memory that no file stands behind.
    NoFile,
    /// No policy can grant this inside a sandbox.
    Escape,
    /// The process or object that was acted on is not of this sandbox.
    OutsideSandbox,
    /// A file of a cgroup filesystem.
    CgroupFilesystem,
    /// The file would be reachable under more rights by its new name.
    MoreRights,
    /// Another name of a file that a deny rule names.
    HardLink,
    /// Device files are not made in a sandbox.
    DeviceFile,
    /// A unix socket that no rule names.
    UnixSocket,
    /// Judging what lies below a directory would take too long.
    TooLarge,
    /// It goes to guard's own resolver, which judges the name that is asked for.
    Resolver,
    /// It belongs to the resolvers of sandboxes.
    ResolverRange,
    /// The name asks for TLS with a server name, and this cannot be read.
    SniRequired,
    /// No rule of the policy allows it.
    NoRule,
    /// The system call filter refused it, before the kernel programs saw it.
    SecondWall,
    /// A limit of resources was met.
    Limit,
    /// Sequence numbers are missing.
    SequenceGap,
    /// The last line of the trail was not whole when it was opened.
    TornLine,
    /// Lines could not be written.
    WriteFailed,
    /// The relay could not deliver its records.
    RelayBuffer,
    /// The trail became shorter while it was being written.
    TrailShrunk,
    /// A kernel record that no program of this version writes.
    KernelRecord,
    /// A relay record that no relay of this version writes.
    RelayRecord,
    /// Kernel events name calls of which the relay has sent no record.
    UnknownCalls,
    /// The name leads to private addresses, and the policy names none of them.
    PrivateAddress,
    /// Too many questions for names, or too much information in them.
    QueryLimit,
    /// No server that resolves names has answered.
    NoUpstream,
    /// The addresses of a name could not be opened.
    NotOpened,
    /// A question that is none, or of a form that is not answered.
    Question,
    /// The server name of a TLS connection is not one that the policy allows there.
    ServerName,
    /// A connection had to begin with TLS and a server name that can be read.
    NoServerName,
    /// The process that resolves names has ended; it was started again.
    ResolverGone,
    /// A new supervisor found the sandbox running and took it over.
    Adopted,
    /// A sandbox of an earlier supervisor was ended: nothing could vouch for it.
    Swept,
    /// What the relay says is wrong in the stream: `not-json`, `too-long`, …
    #[serde(untagged)]
    Protocol(Word),
}

impl Reason {
    /// The word for a kernel reason; `None` when a rule of the policy decided.
    #[must_use]
    pub const fn of_kernel(reason: KernelReason) -> Option<Self> {
        Some(match reason {
            KernelReason::Rule => return None,
            KernelReason::ApprovalUnavailable => Self::ApprovalUnavailable,
            KernelReason::ReadFailed => Self::ReadFailed,
            KernelReason::TooDeep => Self::TooDeep,
            KernelReason::TooLong => Self::TooLong,
            KernelReason::Detached => Self::Detached,
            KernelReason::Deleted => Self::Deleted,
            KernelReason::CaseFold => Self::CaseFold,
            KernelReason::UnknownSandbox => Self::UnknownSandbox,
            KernelReason::SocketFamily => Self::SocketFamily,
            KernelReason::AddressForm => Self::AddressForm,
            KernelReason::RingFull => Self::RingFull,
            KernelReason::Internal => Self::Internal,
            KernelReason::Raced => Self::Raced,
            KernelReason::NoFile => Self::NoFile,
            KernelReason::Escape => Self::Escape,
            KernelReason::OutsideSandbox => Self::OutsideSandbox,
            KernelReason::CgroupFilesystem => Self::CgroupFilesystem,
            KernelReason::MoreRights => Self::MoreRights,
            KernelReason::HardLink => Self::HardLink,
            KernelReason::DeviceFile => Self::DeviceFile,
            KernelReason::UnixSocket => Self::UnixSocket,
            KernelReason::NoRule => Self::NoRule,
            KernelReason::TooLarge => Self::TooLarge,
            KernelReason::Resolver => Self::Resolver,
            KernelReason::ResolverRange => Self::ResolverRange,
            KernelReason::SniRequired => Self::SniRequired,
        })
    }
}

/// A short word: `[a-z0-9-]`, 1 to 64 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Word(String);

impl Word {
    /// The text as a word.
    ///
    /// # Errors
    /// When it has other characters or is empty or too long.
    pub fn new(text: &str) -> Result<Self, NotAWord> {
        let fits = (1..=64).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(NotAWord)
        }
    }

    /// The word `unknown`.
    #[must_use]
    pub fn unknown() -> Self {
        Self("unknown".to_owned())
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Not of the form of a [`Word`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a word of 1 to 64 of the characters a-z, 0-9 and -")]
pub struct NotAWord;

impl TryFrom<String> for Word {
    type Error = NotAWord;
    fn try_from(text: String) -> Result<Self, NotAWord> {
        Self::new(&text)
    }
}

impl From<Word> for String {
    fn from(word: Word) -> Self {
        word.0
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    /// The digest of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self::from_sha256(&sha2::Sha256::digest(bytes).into())
    }

    /// A digest that was computed elsewhere.
    #[must_use]
    pub fn from_sha256(digest: &[u8; 32]) -> Self {
        Self(format!("sha256:{}", hex(digest)))
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Not of the form of a [`Digest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a digest: sha256: and 64 lower-case hexadecimal digits")]
pub struct NotADigest;

impl TryFrom<String> for Digest {
    type Error = NotADigest;
    fn try_from(text: String) -> Result<Self, NotADigest> {
        match text.strip_prefix("sha256:") {
            Some(digits) if is_hex_64(digits.as_bytes()) => Ok(Self(text)),
            _ => Err(NotADigest),
        }
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

/// Whether these are 64 lower-case hexadecimal digits.
pub(crate) fn is_hex_64(text: &[u8]) -> bool {
    text.len() == 64
        && text
            .iter()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(b))
}

/// Bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_written_as_fixed_words() {
        for (reason, text) in [
            (Reason::ApprovalUnavailable, "\"approval-unavailable\""),
            (Reason::NoFile, "\"no-file\""),
            (
                Reason::Protocol(Word::new("duplicate-key").unwrap()),
                "\"duplicate-key\"",
            ),
        ] {
            assert_eq!(serde_json::to_string(&reason).unwrap(), text);
            assert_eq!(serde_json::from_str::<Reason>(text).unwrap(), reason);
        }
    }

    #[test]
    fn a_rule_is_no_reason() {
        assert_eq!(Reason::of_kernel(KernelReason::Rule), None);
        assert_eq!(Reason::of_kernel(KernelReason::Raced), Some(Reason::Raced));
    }

    #[test]
    fn words_and_digests_have_one_form() {
        for bad in ["", "Not", "a b", "x\u{1b}[2J", &"a".repeat(65)] {
            assert!(Word::new(bad).is_err(), "{bad:?}");
        }
        assert!(Digest::try_from("sha256:00".to_owned()).is_err());
        assert!(Digest::try_from(format!("sha256:{}", "A".repeat(64))).is_err());
        assert_eq!(
            Digest::of(b"").as_str(),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }
}
