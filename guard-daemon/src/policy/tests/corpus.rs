use std::path::{Path, PathBuf};

use super::super::*;
use super::context;

fn files(directory: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/policies")
        .join(directory);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "toml"))
        .collect();
    files.sort();
    files
}

fn check(text: &[u8], name: &str) -> Result<CompiledPolicy, PolicyErrors> {
    let lookup = Lookup::built_in();
    let mut context = context(&lookup);
    context.set = vec![("dir".into(), "/set".into())];
    compile(&resolve(&Document::parse(text, name)?, &context)?)
}

#[test]
fn accepted_policies_compile_and_their_examples_hold() {
    let files = files("accept");
    assert!(files.len() >= 4);
    for file in files {
        let text = std::fs::read(&file).unwrap();
        assert!(
            text.windows(9).any(|w| w == b"[example]"),
            "{file:?} has no example"
        );
        check(&text, "policy.toml").unwrap_or_else(|e| panic!("{}:\n{e}", file.display()));
    }
}

/// GUARD_BLESS=1 writes the messages that are expected; read them before you
/// commit them.
#[test]
fn refused_policies_say_exactly_why() {
    let files = files("reject");
    assert!(files.len() >= 10);
    for file in files {
        let name = file.file_name().unwrap().to_str().unwrap();
        let errors = check(&std::fs::read(&file).unwrap(), name)
            .err()
            .unwrap_or_else(|| panic!("{name} was accepted"));
        let message = format!("{errors}\n");
        let expected = file.with_extension("err");
        if std::env::var_os("GUARD_BLESS").is_some() {
            std::fs::write(&expected, &message).unwrap();
        }
        let expected = std::fs::read_to_string(&expected).unwrap();
        assert_eq!(message, expected, "{name}");
    }
}

#[test]
fn a_file_may_be_one_mebibyte_and_no_more() {
    let mut text = b"version = 1\n#".to_vec();
    text.resize(1 << 20, b'x');
    assert!(check(&text, "large.toml").is_ok());
    text.push(b'x');
    let message = check(&text, "large.toml").unwrap_err().to_string();
    assert!(message.contains("1048577 bytes"), "{message}");
    let ten = vec![b'x'; 10 << 20];
    assert!(check(&ten, "huge.toml").is_err());
}

#[test]
fn messages_carry_no_control_characters() {
    let text = b"version = 1\nx = \"\\u001b]0;\xc2\x9b\"\ny = 1 # \x1b[31m\n";
    let message = check(text, "a\x1b.toml").unwrap_err().to_string();
    assert!(
        !message.chars().any(|c| c.is_control() && c != '\n'),
        "{message:?}"
    );
}

/// Damaged policies are refused or accepted, and never more than that.
#[test]
fn no_text_makes_the_reader_fail() {
    let corpus: Vec<Vec<u8>> = ["accept", "reject"]
        .iter()
        .flat_map(|directory| files(directory))
        .map(|file| std::fs::read(file).unwrap())
        .filter(|text| text.len() < 4_000)
        .collect();
    const PIECES: [&str; 20] = [
        "\"",
        "'",
        "[",
        "]",
        "{",
        "}",
        "\\",
        "${",
        "!",
        "**",
        "/",
        "\n",
        "=",
        "é",
        "\u{1f600}",
        "\0",
        "[[example]]\n",
        ",",
        "-",
        "\\u00e9",
    ];
    let mut random = arbitrary::Random::new(7);
    for _ in 0..3_000 {
        let mut text = corpus[random.below(corpus.len())].clone();
        for _ in 0..=random.below(3) {
            let at = random.below(text.len() + 1);
            let end = (at + random.below(4)).min(text.len());
            let piece = PIECES[random.below(PIECES.len())].as_bytes();
            text.splice(at..end, piece.iter().copied());
        }
        let lookup = Lookup::built_in();
        let read = Document::parse(&text, "t.toml")
            .and_then(|document| resolve(&document, &context(&lookup)).map(drop));
        if let Err(errors) = read {
            assert!(!errors.to_string().is_empty());
            assert!(errors.iter().next().is_some());
        }
    }
}
