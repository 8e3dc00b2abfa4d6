//! Looks into a compiled object: what it must not contain, and how two differ.

use anyhow::{Result, bail};

/// Refuses an object that names the machine it was built on.
///
/// Every string of four or more printable bytes is looked at, as `strings` does.
pub(crate) fn refuse_traces(object: &[u8]) -> Result<()> {
    let mut forbidden: Vec<String> = [
        "HOME",
        "CARGO_HOME",
        "RUSTUP_HOME",
        "CARGO_MANIFEST_DIR",
        "PWD",
    ]
    .iter()
    .filter_map(|name| std::env::var(name).ok())
    // A checkout may well be at one of the names that all paths are mapped to.
    .filter(|value| value.len() > 1 && !super::MAPPED.contains(&value.as_str()))
    .collect();
    forbidden.extend([
        "/home/".into(),
        "/.cargo".into(),
        "/.rustup".into(),
        "registry/src".into(),
    ]);
    forbidden.extend(["crates.io".into(), "://".into()]);
    let found = traces(object, &forbidden);
    if !found.is_empty() {
        bail!(
            "the object names the machine that built it: {}",
            found.join(", ")
        );
    }
    Ok(())
}

fn traces(object: &[u8], forbidden: &[String]) -> Vec<String> {
    object
        .split(|byte| !(0x20..0x7f).contains(byte))
        .filter(|text| text.len() >= 4)
        .map(|text| String::from_utf8_lossy(text).into_owned())
        .filter(|text| forbidden.iter().any(|part| text.contains(part.as_str())))
        .collect()
}

/// One line on how two objects differ.
pub(crate) fn difference(committed: &[u8], built: &[u8]) -> String {
    let first = committed.iter().zip(built).position(|(a, b)| a != b);
    let count = committed.iter().zip(built).filter(|(a, b)| a != b).count();
    format!(
        "committed {} bytes, built {} bytes, {count} bytes differ, first at offset {}",
        committed.len(),
        built.len(),
        first.unwrap_or(committed.len().min(built.len()))
    )
}

#[cfg(test)]
mod tests {
    use super::{difference, traces};

    #[test]
    fn a_path_of_the_machine_is_found() {
        let forbidden = vec!["/home/".to_owned()];
        assert_eq!(traces(b"\0abc\0/home/ann/x\0", &forbidden), ["/home/ann/x"]);
        assert!(traces(b"\0/guard/src/main.rs\0", &forbidden).is_empty());
    }

    #[test]
    fn a_difference_names_its_place() {
        assert!(difference(b"abc", b"abd").ends_with("first at offset 2"));
        assert!(difference(b"abc", b"abcd").ends_with("first at offset 3"));
    }
}
