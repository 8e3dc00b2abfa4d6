use super::super::matches;
use super::*;

fn deny(text: &str) -> Result<Vec<Pattern>, GlobError> {
    parse(text, ListKind::DenyOrApprove, &|name| match name {
        "dir" => Ok(vec![b"/srv/*".to_vec()]),
        "two" => Ok(vec![b"/a".to_vec(), b"/b".to_vec()]),
        _ => Err(("unknown".into(), None)),
    })
}

fn hit(glob: &str, path: &[u8]) -> bool {
    deny(glob).unwrap().iter().any(|p| matches(p, path))
}

#[test]
fn globs_match() {
    for (glob, path) in [
        ("/a/**", "/a"),
        ("/a/**", "/a/b/c"),
        ("/**", "/"),
        ("/", "/"),
        ("**/x/**", "/x"),
        ("/a/**/b", "/a/b"),
        ("/a/**/b", "/a/c/d/b"),
        ("*.env", "/srv/.env"),
        ("*.env", "/srv/x.env/deep/file"),
        ("/a/*", "/a/.hidden"),
        ("/a/?", "/a/é"),
        ("/a/[é-ü]", "/a/ö"),
        ("/a/[!b]", "/a/é"),
        ("/{a,b{c,d}}/x", "/bd/x"),
        ("/{a,b/c}/x", "/b/c/x"),
        ("/a{,b}", "/a"),
        (r"/\*\{", "/*{"),
        ("${dir}/x", "/srv/*/x"),
        ("${two}/x", "/b/x"),
        ("/[a-]", "/-"),
        (r"/[\]]", "/]"),
        ("/$x", "/$x"),
        ("/a*b*c", "/aXbbYc"),
    ] {
        assert!(hit(glob, path.as_bytes()), "{glob} must match {path}");
    }
    assert!(hit("/??", b"/\xe2\x82"));
    assert!(hit("/[!a]", b"/\xff"));
}

#[test]
fn globs_do_not_match() {
    for (glob, path) in [
        ("/a/**", "/ab"),
        ("/a/**", "/"),
        ("/a/*", "/a/b/c"),
        ("/a/*", "/a"),
        ("*.env", "/srv/.environment"),
        ("/a/?", "/a/bc"),
        ("/a/??", "/a/é"),
        ("/*[!é]", "/é"),
        ("/a/[!b]", "/a/b"),
        ("${dir}/x", "/srv/y/x"),
        ("/[+-9]", "/"),
    ] {
        assert!(!hit(glob, path.as_bytes()), "{glob} must not match {path}");
    }
    assert!(!hit("/?", b"/\xe2\x82"));
    assert!(!hit("/[b]", b"/\xff"));
}

#[test]
fn bad_globs() {
    for (glob, part) in [
        ("", "empty rule"),
        ("a/b", "relative"),
        ("/a/../b", ". or .."),
        ("/./b", ". or .."),
        ("/a//b", "empty component"),
        ("/a/", "empty component"),
        ("/a**", "whole component"),
        ("/***", "whole component"),
        ("/a\0", "NUL"),
        ("/[", "never closed"),
        ("/[]", "empty class"),
        ("/[!]", "empty class"),
        ("/[^a]", "^"),
        ("/[z-a]", "is empty"),
        ("/[a/b]", "class cannot hold /"),
        ("/{a", "never closed"),
        ("/a}", "closes nothing"),
        ("/{}", "nothing in them"),
        ("/{,}", "nothing in them"),
        ("/a\\", "nothing behind"),
        ("/${x", "never closed"),
        ("/${nope}", "unknown"),
        ("/{.,a}{.,b}", ". or .."),
        (&"{a,b}".repeat(11), "more than 1024"),
        (&format!("/{}", "{".repeat(40)), "deeper than 16"),
    ] {
        let error = deny(glob).expect_err(glob);
        assert!(error.message.contains(part), "{glob}: {}", error.message);
    }
    let error = parse("*.env", ListKind::Allow, &|_| Ok(vec![])).unwrap_err();
    assert!(error.message.contains("absolute"), "{}", error.message);
}
