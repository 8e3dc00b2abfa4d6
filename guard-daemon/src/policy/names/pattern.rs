//! What a rule of `[network]` says of names: text to labels, wildcards among
//! them.

use std::ops::Range;

use super::super::glob::ListKind;
use super::name::{MAX_LABEL, MAX_NAME, Name, NameError, is_name_byte, is_number};

/// What is wrong with a pattern, and where in its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PatternError {
    pub(crate) at: Range<usize>,
    pub(crate) message: String,
    pub(crate) help: String,
}

/// The dots of names (UTS 46, 2.3): one at the end is the root's.
const DOTS: [char; 4] = ['.', '\u{3002}', '\u{ff0e}', '\u{ff61}'];

/// Reads a pattern. Labels in canonical form, first label first: `*` stands for
/// one or more labels, a `*` beside other characters for any within its label.
pub(crate) fn parse(text: &str, list: ListKind) -> Result<Vec<String>, PatternError> {
    characters(text)?;
    let whole = || 0..text.len();
    let bad = |at: Range<usize>, message: String, help: &str| {
        let help = help.to_owned();
        Err(PatternError { at, message, help })
    };
    let body = text.strip_suffix(DOTS).unwrap_or(text);
    let mut labels = Vec::new();
    let mut at = 0;
    for label in body.split('.') {
        let place = at..at + label.len();
        at = place.end + 1;
        if label.contains("**") {
            let help = "one * is enough: *.example.com is every name below example.com";
            return bad(place, "two * side by side".to_owned(), help);
        }
        if !label.contains('*') {
            literal(label, &mut labels).map_err(|error| not_a_name(place, &error))?;
            continue;
        }
        let wildcard = label.to_ascii_lowercase();
        if !wildcard.is_ascii() {
            let help = "write the label in its A-form (xn--…), or take the * for the whole label";
            let message = "a * beside letters outside of ASCII".to_owned();
            return bad(place, message, help);
        }
        labels.push(wildcard);
    }
    if list == ListKind::Allow {
        only_in_front(text, &labels)?;
    }
    let digits = |label: &String| label.bytes().all(|b| b.is_ascii_digit() || b == b'*');
    if labels.iter().all(digits) && text.contains(|c: char| c.is_ascii_digit()) {
        let help = "write a network: 10.0.0.0/8 for 10.*, 192.168.0.0/16 for 192.168.*";
        return bad(whole(), format!("{text:?} is meant for addresses"), help);
    }
    match check(&labels) {
        Ok(()) => Ok(labels),
        Err(error) => Err(not_a_name(whole(), &error)),
    }
}

/// Characters that mean something elsewhere.
fn characters(text: &str) -> Result<(), PatternError> {
    for (at, c) in text.char_indices() {
        let help = match c {
            '?' => "names have no ?: a * stands for any characters within its label",
            '[' | ']' => "names have no [ ]: write a rule for each, or a * in its place",
            '{' | '}' => "names have no { }: write a rule for each",
            '!' => "network lists have no ! rules: deny what is not wanted, deny wins over allow",
            '/' => "write NAME, or NAME:PORT: a rule has no path and no scheme",
            '$' => "variables are for paths; write the name",
            _ => continue,
        };
        return Err(PatternError {
            at: at..at + c.len_utf8(),
            message: format!("{c:?} cannot be in a name"),
            help: help.to_owned(),
        });
    }
    Ok(())
}

/// A label as written, which may become several: other scripts have dots of
/// their own.
fn literal(label: &str, labels: &mut Vec<String>) -> Result<(), NameError> {
    let ascii = if label.is_ascii() && !label.to_ascii_lowercase().contains("xn--") {
        label.to_ascii_lowercase()
    } else {
        if label.chars().count() > MAX_NAME {
            return Err(NameError::LongName(label.len()));
        }
        idna::domain_to_ascii(label).map_err(|_| NameError::Idna)?
    };
    for label in ascii.split('.') {
        one_label(label)?;
        // The wide form of *: no wildcard was written.
        if label.contains('*') {
            return Err(NameError::Character('*'));
        }
        labels.push(label.to_owned());
    }
    Ok(())
}

/// `allow` takes a `*` as the first label, with a label behind it.
fn only_in_front(text: &str, labels: &[String]) -> Result<(), PatternError> {
    let [first, rest @ ..] = labels else {
        return Ok(());
    };
    if first == "*" && rest.is_empty() {
        return Err(PatternError {
            at: 0..text.len(),
            message: "a * alone would allow every name".to_owned(),
            help: "a wildcard never turns default-deny off: name domains, such as *.example.com"
                .to_owned(),
        });
    }
    let skip = if first == "*" { 2 } else { 0 };
    let Some(at) = text.get(skip..).and_then(|rest| rest.find('*')) else {
        return Ok(());
    };
    let at = skip + at;
    Err(PatternError {
        at: at..at + 1,
        message: "allow takes a * in front alone, as a whole label".to_owned(),
        help: "write *.example.com for every name below example.com; deny and approve take \
               a * anywhere"
            .to_owned(),
    })
}

fn not_a_name(at: Range<usize>, error: &NameError) -> PatternError {
    let help = match error {
        NameError::Empty | NameError::EmptyLabel => "write labels with one dot between them",
        NameError::LongLabel(_) | NameError::LongName(_) => {
            "no such name can exist (RFC 1035); an internationalized one counts as xn--…"
        }
        NameError::Number => "write an address as 10.1.2.3, a network as 10.1.0.0/16",
        _ => "for example api.example.com:443, *.example.com or bücher.example",
    };
    PatternError {
        at,
        message: error.to_string(),
        help: help.to_owned(),
    }
}

fn one_label(label: &str) -> Result<(), NameError> {
    let literal = label.bytes().filter(|b| *b != b'*').count();
    if label.is_empty() {
        return Err(NameError::EmptyLabel);
    }
    if literal > MAX_LABEL {
        return Err(NameError::LongLabel(literal));
    }
    let odd = |c: &char| !(c.is_ascii() && is_name_byte(*c as u8) || *c == '*');
    match label.chars().find(odd) {
        Some(c) => Err(NameError::Character(c)),
        None => Ok(()),
    }
}

/// Whether labels are a pattern that some name could match.
fn check(labels: &[String]) -> Result<(), NameError> {
    labels.iter().try_for_each(|label| one_label(label))?;
    let Some(last) = labels.last() else {
        return Err(NameError::Empty);
    };
    if is_number(last) {
        return Err(NameError::Number);
    }
    // A * that is a label stands for one character at least.
    let len = |label: &String| label.bytes().filter(|b| *b != b'*').count().max(1);
    match labels.iter().map(len).sum::<usize>() + labels.len() - 1 {
        len if len > MAX_NAME => Err(NameError::LongName(len)),
        _ => Ok(()),
    }
}

/// Whether labels are what [`parse`] gives for some rule of a list: what comes
/// in a message may be anything.
pub(super) fn is_canonical(labels: &[String], list: ListKind) -> bool {
    let plain = |label: &String| {
        !label.contains("**") && !label.bytes().any(|byte| byte.is_ascii_uppercase())
    };
    check(labels).is_ok()
        && labels.iter().all(plain)
        && (list != ListKind::Allow || only_in_front(&labels.join("."), labels).is_ok())
}

/// The name that a pattern without wildcards is.
pub(super) fn exact(labels: &[String]) -> Option<Name> {
    Name::of_labels(labels.iter().map(|label| label.as_bytes())).ok()
}

#[cfg(test)]
mod tests {
    use super::super::super::arbitrary::Random;
    use super::*;

    #[test]
    fn patterns_have_one_form() {
        for (text, labels) in [
            ("API.example.com.", "api.example.com"),
            ("*.Example.com", "*.example.com"),
            ("*.bücher.example", "*.xn--bcher-kva.example"),
            ("*.例え。テスト。", "*.xn--r8jz45g.xn--zckzah"),
            ("*", "*"),
            ("api.*", "api.*"),
            ("*.internal.*", "*.internal.*"),
            ("API-*.example.com", "api-*.example.com"),
            ("a*b*c.x", "a*b*c.x"),
            ("xn--*.*", "xn--*.*"),
            ("_dmarc.*", "_dmarc.*"),
            ("1*.example.com", "1*.example.com"),
        ] {
            let read = parse(text, ListKind::DenyOrApprove).unwrap();
            assert_eq!(read.join("."), labels, "{text}");
            assert!(is_canonical(&read, ListKind::DenyOrApprove), "{text}");
        }
    }

    #[test]
    fn allow_takes_little() {
        for text in ["example.com", "*.example.com", "*.com", "localhost"] {
            let read = parse(text, ListKind::Allow).unwrap();
            assert!(is_canonical(&read, ListKind::Allow), "{text}");
        }
        for (text, at) in [
            ("*", 0..1),
            ("api.*", 4..5),
            ("*.*", 2..3),
            ("*.*.com", 2..3),
            ("*.internal.*", 11..12),
            ("api-*.example.com", 4..5),
            ("*-x.example.com", 0..1),
            ("*x", 0..1),
        ] {
            let error = parse(text, ListKind::Allow).expect_err(text);
            assert_eq!(error.at, at, "{text}: {}", error.message);
            let labels = parse(text, ListKind::DenyOrApprove).unwrap();
            assert!(!is_canonical(&labels, ListKind::Allow), "{text}");
        }
    }

    #[test]
    fn what_is_no_pattern() {
        let label = format!("*.{}", "a".repeat(64));
        let long = format!("{}*", "a.".repeat(127));
        for (text, part) in [
            ("a?.example.com", "'?'"),
            ("[ab].example.com", "'['"),
            ("{a,b}.example.com", "'{'"),
            ("!a.example.com", "'!'"),
            ("${name}.example.com", "'$'"),
            ("example.com/path", "'/'"),
            ("a b.example", "' '"),
            ("a..b", "empty label"),
            ("", "empty label"),
            (".", "empty label"),
            ("*..b", "empty label"),
            ("**.example.com", "two *"),
            ("a**.example.com", "two *"),
            ("é*.example", "outside of ASCII"),
            ("*.1", "meant for addresses"),
            ("10.*", "meant for addresses"),
            ("192.168.*.*", "meant for addresses"),
            ("1*.2", "meant for addresses"),
            ("a.1", "is a number"),
            ("a.0x1f", "is a number"),
            ("xn--a.example", "internationalized"),
            ("\u{ff0a}.example", "'*'"),
            (&label, "label of 64"),
            (&long, "name of 255"),
        ] {
            let error = parse(text, ListKind::DenyOrApprove).expect_err(text);
            assert!(error.message.contains(part), "{text}: {}", error.message);
            assert!(error.at.end <= text.len() && !error.help.is_empty());
        }
    }

    #[test]
    fn a_message_may_hold_anything() {
        for labels in [
            &[][..],
            &[""],
            &["A"],
            &["a", "**"],
            &["a.b"],
            &["é"],
            &["1"],
        ] {
            let labels: Vec<String> = labels.iter().map(|l| (*l).to_owned()).collect();
            assert!(
                !is_canonical(&labels, ListKind::DenyOrApprove),
                "{labels:?}"
            );
        }
    }

    /// Whatever is read is canonical, and a name where it has no wildcard; a
    /// place lies within the text.
    #[test]
    fn random_texts() {
        const PIECES: [&str; 20] = [
            "a", "B", "ab", ".", ".", ".", "*", "*.", ".*", "-", "_", "1", "0x", "xn--", "É", "ß",
            "。", "\u{ff0a}", "\u{200d}", "٣",
        ];
        let mut random = Random::new(3);
        let mut read = [0; 2];
        for _ in 0..60_000 {
            let text: String = (0..=random.below(6))
                .map(|_| PIECES[random.below(PIECES.len())])
                .collect();
            let list = [ListKind::Allow, ListKind::DenyOrApprove][random.below(2)];
            match parse(&text, list) {
                Ok(labels) => {
                    assert!(is_canonical(&labels, list), "{text:?}");
                    let plain = !text.contains('*');
                    assert_eq!(exact(&labels).is_some(), plain, "{text:?}");
                    read[usize::from(plain)] += 1;
                }
                Err(error) => {
                    assert!(text.get(error.at).is_some(), "{text:?}");
                    let name = Name::parse(&text);
                    // An A-label may be taken as it is, but not written in a rule.
                    assert!(name.is_err() || text.contains("xn--"), "{text:?}");
                }
            }
        }
        assert!(read.iter().all(|n| *n > 2_000), "{read:?}");
    }
}
