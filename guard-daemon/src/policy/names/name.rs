//! Domain names in the one form in which they are compared.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Bytes of the longest name, without a trailing dot (RFC 1035, 2.3.4).
pub const MAX_NAME: usize = 253;
/// Bytes of the longest label (RFC 1035, 2.3.4).
pub const MAX_LABEL: usize = 63;

/// A domain name in the one form in which names are compared: A-labels in lower
/// case, without a trailing dot. Labels hold letters, digits, `-` and `_`; the
/// last one is no number, so that no name is an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// Why a text is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing, or a dot alone.
    #[error("an empty name")]
    Empty,
    /// Two dots in a row, or one in front.
    #[error("a name with an empty label")]
    EmptyLabel,
    /// A label over [`MAX_LABEL`].
    #[error("a label of {0} bytes; at most {MAX_LABEL} are possible")]
    LongLabel(usize),
    /// A name over [`MAX_NAME`].
    #[error("a name of {0} bytes; at most {MAX_NAME} are possible")]
    LongName(usize),
    /// A byte that no host name has.
    #[error("{0:?} cannot be in a name")]
    Character(char),
    /// The last label is a number, as in an IPv4 address.
    #[error("an address, not a name: the last label is a number")]
    Number,
    /// Not a valid internationalized name (UTS 46).
    #[error("not a valid internationalized name")]
    Idna,
    /// Not in the form in which names are compared: upper case.
    #[error("a name that is not in lower case")]
    Case,
}

impl Name {
    /// A name as a person writes it: any case, perhaps internationalized,
    /// perhaps with a trailing dot. ASCII is taken as it is, so that what this
    /// gives for a name and what [`Name::of_labels`] gives for its labels is
    /// the same.
    ///
    /// # Errors
    /// [`NameError`].
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_ascii() {
            return Self::of_ascii(text);
        }
        // Long texts are not worth the work: letters become more bytes, not fewer.
        if text.chars().count() > MAX_NAME + 1 {
            return Err(NameError::LongName(text.len()));
        }
        // Dots of other scripts become dots here, the trailing one too.
        let ascii = idna::domain_to_ascii(text).map_err(|_| NameError::Idna)?;
        Self::of_ascii(&ascii)
    }

    fn of_ascii(text: &str) -> Result<Self, NameError> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        Self::of_labels(text.split('.').map(str::as_bytes))
    }

    /// A name by the labels of a DNS message, the root's not among them. Case is
    /// folded; nothing else is.
    ///
    /// # Errors
    /// [`NameError`].
    pub fn of_labels<'a>(labels: impl Iterator<Item = &'a [u8]>) -> Result<Self, NameError> {
        let mut name = String::new();
        for label in labels {
            match label.len() {
                0 => return Err(NameError::EmptyLabel),
                len if len > MAX_LABEL => return Err(NameError::LongLabel(len)),
                _ => {}
            }
            if !name.is_empty() {
                name.push('.');
            }
            for byte in label {
                if !is_name_byte(*byte) {
                    return Err(NameError::Character(char::from(*byte)));
                }
                name.push(char::from(byte.to_ascii_lowercase()));
            }
            if name.len() > MAX_NAME {
                return Err(NameError::LongName(name.len()));
            }
        }
        match name.rsplit('.').next() {
            None | Some("") => Err(NameError::Empty),
            Some(last) if is_number(last) => Err(NameError::Number),
            Some(_) => Ok(Self(name)),
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its labels, first label first.
    pub fn labels(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('.')
    }
}

/// What labels are made of, in any case.
pub(super) fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

/// Whether a last label makes an address of what ends in it, as for inet_aton(3)
/// and in URLs: decimal, or hexadecimal with `0x`.
pub(super) fn is_number(label: &str) -> bool {
    let hex = label
        .strip_prefix("0x")
        .is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_hexdigit()));
    hex || !label.is_empty() && label.bytes().all(|b| b.is_ascii_digit())
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    /// Only what is in canonical form already.
    fn try_from(text: String) -> Result<Self, NameError> {
        let name = Self::of_labels(text.split('.').map(str::as_bytes))?;
        if name.0 == text {
            Ok(name)
        } else {
            Err(NameError::Case)
        }
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_form() {
        for (text, name) in [
            ("API.GitHub.com", "api.github.com"),
            ("api.github.com.", "api.github.com"),
            ("localhost", "localhost"),
            ("_dmarc.example.com", "_dmarc.example.com"),
            ("-a-.b--c.x", "-a-.b--c.x"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("BÜCHER.example.", "xn--bcher-kva.example"),
            ("bu\u{308}cher.example", "xn--bcher-kva.example"),
            // Not the old mapping to ss.
            ("faß.example", "xn--fa-hia.example"),
            ("例え。テスト。", "xn--r8jz45g.xn--zckzah"),
            ("ｅｘａｍｐｌｅ．com", "example.com"),
            ("xn--BCHER-KVA.example", "xn--bcher-kva.example"),
            // Kelvin's sign is a k.
            ("\u{212a}ernel.org", "kernel.org"),
            ("1.2.3.4.in-addr.arpa", "1.2.3.4.in-addr.arpa"),
        ] {
            assert_eq!(Name::parse(text).unwrap().as_str(), name, "{text}");
        }
    }

    #[test]
    fn what_is_no_name() {
        use NameError::*;
        let label = "a".repeat(64);
        for (text, error) in [
            ("", Empty),
            (".", Empty),
            ("..", EmptyLabel),
            (".a", EmptyLabel),
            ("a..b", EmptyLabel),
            ("a..", EmptyLabel),
            (&label, LongLabel(64)),
            ("a b", Character(' ')),
            ("*.a", Character('*')),
            // The wide forms of * and / become these.
            ("\u{ff0a}.a", Character('*')),
            ("é\u{ff0f}.a", Character('/')),
            ("1.2.3.4", Number),
            ("１.２.３.４", Number),
            ("a.0x7F", Number),
            ("a.0x", Number),
            ("\u{200d}a.b", Idna),
            ("a\u{e000}", Idna),
        ] {
            assert_eq!(Name::parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn full_lengths() {
        let label = "a".repeat(63);
        let full = [&label[..], &label, &label, &label[..61]].join(".");
        assert_eq!(full.len(), MAX_NAME);
        assert_eq!(Name::parse(&format!("{full}.")).unwrap().as_str(), full);
        let over = format!("{full}a");
        assert_eq!(Name::parse(&over), Err(NameError::LongName(254)));
        let wide = "é".repeat(300);
        assert_eq!(Name::parse(&wide), Err(NameError::LongName(600)));
    }

    #[test]
    fn labels_off_the_wire() {
        let of = |labels: &[&[u8]]| Name::of_labels(labels.iter().copied());
        assert_eq!(of(&[b"A", b"b_"]).unwrap().as_str(), "a.b_");
        assert_eq!(of(&[]), Err(NameError::Empty));
        assert_eq!(of(&[b"a", b""]), Err(NameError::EmptyLabel));
        for odd in [b".", b"*", b"\0", b"\xe9", b"/", b" ", b"@"] {
            let error = NameError::Character(char::from(odd[0]));
            assert_eq!(of(&[b"a", odd, b"c"]), Err(error));
        }
    }

    #[test]
    fn only_the_one_form_comes_out_of_a_message() {
        let read = |text: &str| serde_json::from_str::<Name>(text);
        let name = Name::parse("a.example").unwrap();
        assert_eq!(serde_json::to_string(&name).unwrap(), "\"a.example\"");
        assert_eq!(read("\"a.example\"").unwrap(), name);
        for bad in ["\"A.example\"", "\"a.example.\"", "\"\"", "\"é\"", "\"1\""] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
