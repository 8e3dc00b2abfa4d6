//! The policies and includes that come with guard.

use std::ffi::OsString;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use guard_common::matcher::Verdict;
use guard_common::table::FileAccess;

use super::super::launch::{CommandChain, resolve_command};
use super::super::*;

fn built_in(
    name: &str,
    home: &Path,
    launch: Option<&CommandChain>,
    args: &[OsString],
) -> CompiledPolicy {
    let lookup = Lookup::built_in();
    let found = lookup.policy(name, Path::new("/")).unwrap();
    let document = Document::parse(&found.text, &found.name).unwrap();
    let context = ResolveContext {
        home: Some(home.to_owned()),
        cwd: "/srv/project".into(),
        tmp: "/tmp/guard-1".into(),
        args: args.to_vec(),
        set: Vec::new(),
        includes: &lookup,
        launch,
        own: Vec::new(),
    };
    resolve(&document, &context)
        .and_then(|resolved| compile(&resolved))
        .unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn verdict(policy: &CompiledPolicy, access: FileAccess, path: &Path) -> Verdict {
    use std::os::unix::ffi::OsStrExt;
    policy
        .explain_path(path.as_os_str().as_bytes(), access, 1)
        .verdict
}

#[test]
fn every_policy_holds_without_a_command() {
    for (name, text) in lookup::POLICIES {
        let policy = built_in(name, Path::new("/home/u"), None, &[]);
        assert!(text.contains("[[example]]"), "{name} has no example");
        for path in [
            "/etc/shadow",
            "/etc/gshadow",
            "/etc/sudoers",
            "/root/.bashrc",
            "/home/u/.ssh/id_ed25519",
            "/home/u/notes.txt",
            "/home/u",
            "/proc/1/environ",
            "/var/run/docker.sock",
            "/etc/ssl/private/server.key",
            "/",
        ] {
            for access in FileAccess::ALL {
                assert_eq!(
                    verdict(&policy, access, Path::new(path)),
                    Verdict::Deny,
                    "{name}: {path}"
                );
            }
        }
        for program in [
            "/usr/bin/sh",
            "/usr/bin/bash",
            "/usr/bin/curl",
            "/usr/bin/node",
        ] {
            assert_eq!(
                verdict(&policy, FileAccess::Exec, Path::new(program)),
                Verdict::Deny
            );
        }
        assert!(!policy.flags().datagram, "{name}");
    }
}

fn write(path: &Path, text: &str, mode: u32) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

/// A home directory with an nvm node, a package beside it, and secrets.
fn nvm_home() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().canonicalize().unwrap();
    let prefix = home.join(".nvm/versions/node/v20.1.0");
    write(&prefix.join("bin/node"), "\x7fELF", 0o755);
    let script = prefix.join("lib/node_modules/pkg/dist/index.js");
    write(&script, "#!/usr/bin/env node\n", 0o755);
    symlink(
        "../lib/node_modules/pkg/dist/index.js",
        prefix.join("bin/pkg"),
    )
    .unwrap();
    write(&home.join(".ssh/id_ed25519"), "secret", 0o600);
    write(&home.join("data/notes.txt"), "x", 0o644);
    (dir, home, prefix)
}

#[test]
fn node_in_a_home_directory_opens_its_own_files_only() {
    let (_dir, home, prefix) = nvm_home();
    let data = home.join("data");
    let command: Vec<OsString> = vec!["pkg".into(), data.clone().into()];
    let path =
        std::env::join_paths([prefix.join("bin"), "/usr/bin".into(), "/bin".into()]).unwrap();
    let environment = |name: &str| (name == "PATH").then(|| path.clone());
    let chain = resolve_command(&command, &environment, Path::new("/")).unwrap();
    assert_eq!(chain.node.bins, [prefix.join("bin/node")]);
    assert_eq!(chain.modules, [prefix.join("lib/node_modules")]);
    let script = prefix.join("lib/node_modules/pkg/dist/index.js");
    assert_eq!(chain.files[0], script);
    assert!(chain.files.contains(&prefix.join("bin/node")));
    assert!(chain.files.iter().any(|f| f.ends_with("bin/env")));

    let policy = built_in("filesystem", &home, Some(&chain), &command);
    let allowed = |access, path: &Path| verdict(&policy, access, path) == Verdict::Allow;
    use FileAccess::{Exec, Read, Write};
    assert!(allowed(Exec, &prefix.join("bin/node")));
    assert!(allowed(Exec, &script));
    assert!(allowed(
        Read,
        &prefix.join("lib/node_modules/other/index.js")
    ));
    assert!(allowed(Write, &data.join("new.txt")));
    assert!(!allowed(Write, &script));
    assert!(!allowed(Read, &data.join(".env")));
    for path in [
        home.clone(),
        home.join(".ssh/id_ed25519"),
        home.join(".bashrc"),
        home.join(".nvm/nvm.sh"),
        home.join(".nvm"),
        prefix.clone(),
        prefix.join("bin"),
        prefix.join("etc/npmrc"),
        home.join(".npmrc"),
    ] {
        for access in FileAccess::ALL {
            assert!(!allowed(access, &path), "{}", path.display());
        }
    }
}

#[test]
fn the_launch_is_granted_but_deny_wins() {
    let (_dir, home, prefix) = nvm_home();
    let path: OsString = prefix.join("bin").into();
    let environment = |name: &str| (name == "PATH").then(|| path.clone());
    let command: Vec<OsString> = vec!["node".into()];
    let chain = resolve_command(&command, &environment, Path::new("/")).unwrap();
    let lookup = Lookup::built_in();
    let mut compiled = Vec::new();
    for deny in ["", "'node'"] {
        let text = format!("version = 1\n[files]\ndeny = [{deny}]\n");
        let document = Document::parse(text.as_bytes(), "t.toml").unwrap();
        let context = ResolveContext {
            home: Some(home.clone()),
            launch: Some(&chain),
            ..super::context(&lookup)
        };
        compiled.push(compile(&resolve(&document, &context).unwrap()).unwrap());
    }
    use std::os::unix::ffi::OsStrExt;
    let node = prefix.join("bin/node");
    let node = node.as_os_str().as_bytes();
    let with = compiled[0].explain_path(node, FileAccess::Exec, 1);
    assert_eq!(
        (with.verdict, with.rule.unwrap().id.as_str()),
        (Verdict::Allow, "launch[0]")
    );
    let without = compiled[1].explain_path(node, FileAccess::Exec, 1);
    assert_eq!(without.rule.unwrap().id, "files.deny[0]");
}

#[test]
fn a_pyenv_shim_stands_for_the_interpreter_it_would_choose() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap().join(".pyenv");
    write(
        &root.join("shims/python3"),
        "#!/bin/sh\nexec /x/pyenv exec python3\n",
        0o755,
    );
    for version in ["3.9.1", "3.11.2", "3.11.10"] {
        write(
            &root.join("versions").join(version).join("bin/python3"),
            "\x7fELF",
            0o755,
        );
    }
    write(&root.join("version"), "3.9.1\n", 0o644);
    let project = root.join("project");
    write(&project.join(".python-version"), "3.11\n", 0o644);
    let shims: OsString = root.join("shims").into();
    let chosen = |cwd: &Path, version: Option<&str>| {
        let environment = |name: &str| match name {
            "PATH" => Some(shims.clone()),
            "PYENV_VERSION" => version.map(OsString::from),
            _ => None,
        };
        let chain = resolve_command(&["python3".into()], &environment, cwd).unwrap();
        assert_eq!(chain.argv, std::slice::from_ref(&chain.program));
        assert_eq!(chain.python.bins, std::slice::from_ref(&chain.program));
        chain.program
    };
    let program = |version: &str| root.join("versions").join(version).join("bin/python3");
    assert_eq!(chosen(Path::new("/"), None), program("3.9.1"));
    assert_eq!(chosen(&project, None), program("3.11.10"));
    assert_eq!(chosen(&project, Some("3.11.2")), program("3.11.2"));
}

#[test]
fn a_package_right_in_the_home_directory_does_not_open_it() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().canonicalize().unwrap().join("u");
    write(&home.join("package.json"), "{}", 0o644);
    write(&home.join("server.js"), "", 0o644);
    write(&home.join("bin/node"), "\x7fELF", 0o755);
    let command: Vec<OsString> = vec![home.join("bin/node").into(), home.join("server.js").into()];
    let chain = resolve_command(&command, &|_| None, Path::new("/")).unwrap();
    let policy = built_in("everything", &home, Some(&chain), &command);
    let read = |path: &Path| verdict(&policy, FileAccess::Read, path);
    assert_eq!(read(&home.join("server.js")), Verdict::Allow);
    assert_eq!(read(&home.join("notes.txt")), Verdict::Deny);
    assert_eq!(read(&home), Verdict::Deny);
}

#[test]
fn a_package_under_development_is_code_and_not_its_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().canonicalize().unwrap();
    let project = home.join("project");
    write(&project.join("package.json"), "{}", 0o644);
    write(&project.join("src/server.js"), "", 0o644);
    write(&home.join("bin/node"), "\x7fELF", 0o755);
    let command: Vec<OsString> = vec![
        home.join("bin/node").into(),
        "--enable-source-maps".into(),
        "src/server".into(),
    ];
    let chain = resolve_command(&command, &|_| None, &project).unwrap();
    assert_eq!(chain.packages, std::slice::from_ref(&project));
    let policy = built_in("default", &home, Some(&chain), &command);
    let read = |path: &str| verdict(&policy, FileAccess::Read, &project.join(path));
    assert_eq!(read("src/server.js"), Verdict::Allow);
    assert_eq!(read("node_modules/x/index.js"), Verdict::Allow);
    for path in [".env", "config/.env.local", ".git/config", ".npmrc"] {
        assert_eq!(read(path), Verdict::Deny, "{path}");
    }
}

#[test]
fn commands_that_cannot_be_followed() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    write(&root.join("text"), "hello", 0o755);
    write(&root.join("plain"), "\x7fELF", 0o644);
    write(&root.join("gone"), "#!/nonexistent/python\n", 0o755);
    write(
        &root.join("loop"),
        &format!("#!{}\n", root.join("loop").display()),
        0o755,
    );
    for (command, status, part) in [
        ("no-such-command", 127, "not found"),
        ("./no-such-file", 127, "not found"),
        ("./text", 126, "neither an ELF"),
        ("./plain", 126, "not an executable"),
        ("./gone", 126, "/nonexistent/python"),
        ("./loop", 126, "too many scripts"),
        ("", 127, "not found"),
        ("./", 126, "not an executable"),
    ] {
        let error = resolve_command(&[command.into()], &|_| None, root).unwrap_err();
        assert_eq!(error.exit_status(), status, "{command}: {error}");
        assert!(error.to_string().contains(part), "{command}: {error}");
    }
}

#[test]
fn env_is_looked_through() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    write(&root.join("bin/node"), "\x7fELF", 0o755);
    let path = std::env::join_paths([root.join("bin"), "/usr/bin".into(), "/bin".into()]).unwrap();
    for line in [
        "#!/usr/bin/env node",
        "#!/usr/bin/env -S node --x",
        "#! /usr/bin/env -S A=b node",
    ] {
        write(&root.join("script"), &format!("{line}\n"), 0o755);
        let environment = |name: &str| (name == "PATH").then(|| path.clone());
        let chain = resolve_command(&["./script".into()], &environment, &root).unwrap();
        assert_eq!(chain.node.bins, [root.join("bin/node")], "{line}");
    }
    let environment = |name: &str| (name == "PATH").then(|| path.clone());
    let command = ["env", "-u", "X", "A=b", "node", "./script"].map(OsString::from);
    let chain = resolve_command(&command, &environment, &root).unwrap();
    assert_eq!(chain.node.bins, [root.join("bin/node")]);
    assert!(chain.files.contains(&root.join("script")));
}

#[test]
fn a_name_is_looked_up_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("first"), dir.path().join("second"));
    write(&second.join("git.toml"), "version = 1 # second", 0o644);
    let lookup = Lookup::in_directories(vec![first.clone(), second.clone()]);
    let text =
        |name: &str| String::from_utf8(lookup.policy(name, Path::new("/")).unwrap().text).unwrap();
    assert!(text("git").contains("second"));
    write(&first.join("git.toml"), "version = 1 # first", 0o644);
    assert!(text("git").contains("first"));
    assert!(text("default").contains("default") || text("default").contains("no policy is named"));
    for bad in ["nope", "../git", ""] {
        assert!(
            lookup.policy(bad, Path::new("/nonexistent")).is_err(),
            "{bad}"
        );
    }
    let by_path = lookup.policy("second/git.toml", dir.path()).unwrap();
    assert_eq!(
        by_path.file,
        Some(second.join("git.toml").canonicalize().unwrap())
    );
    assert!(lookup.policy("./first", dir.path()).is_err(), "a directory");
}

#[test]
fn npx_stands_for_the_program_of_an_installed_package() {
    let (_dir, home, prefix) = nvm_home();
    let npx = prefix.join("lib/node_modules/npm/bin/npx-cli.js");
    write(&npx, "#!/usr/bin/env node\n", 0o755);
    symlink(&npx, prefix.join("bin/npx")).unwrap();
    let install = |modules: PathBuf, version: &str| {
        let package = modules.join("@scope/server");
        let manifest = format!(r#"{{"version":"{version}","bin":{{"server-x":"dist/i.js"}}}}"#);
        write(&package.join("package.json"), &manifest, 0o644);
        write(&package.join("dist/i.js"), "#!/usr/bin/env node\n", 0o755);
        package.join("dist/i.js")
    };
    let path =
        std::env::join_paths([prefix.join("bin"), "/usr/bin".into(), "/bin".into()]).unwrap();
    let environment = |name: &str| match name {
        "PATH" => Some(path.clone()),
        "HOME" => Some(home.clone().into_os_string()),
        _ => None,
    };
    let run = |words: &[&str]| {
        let command: Vec<OsString> = words.iter().map(OsString::from).collect();
        resolve_command(&command, &environment, &home)
    };
    let missing = |words: &[&str]| run(words).unwrap().check_installed().unwrap_err();
    let error = missing(&["npx", "-y", "@scope/server", "/data"]);
    assert!(error.to_string().contains("not installed"), "{error}");

    // The cache's key is the start of the SHA-512 of what was asked for.
    use sha2::Digest as _;
    let key: String = sha2::Sha512::digest(b"@scope/server")[..8]
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let cached = install(
        home.join(".npm/_npx").join(key).join("node_modules"),
        "1.0.0",
    );
    let chain = run(&["npx", "-y", "@scope/server", "/data"]).unwrap();
    assert_eq!(chain.program, cached);
    assert_eq!(chain.argv, [cached.into_os_string(), "/data".into()]);

    let global = install(prefix.join("lib/node_modules"), "1.2.3");
    assert_eq!(run(&["npx", "@scope/server"]).unwrap().program, global);
    assert_eq!(
        run(&["npx", "@scope/server@1.2.3"]).unwrap().program,
        global
    );
    missing(&["npx", "@scope/server@2.0.0"]);
    let chain = run(&["npx", "--package", "@scope/server", "--", "server-x", "a"]).unwrap();
    assert_eq!(chain.program, global);
    assert_eq!(chain.argv.len(), 2);
    let near = install(home.join("node_modules"), "9.0.0");
    assert_eq!(run(&["npx", "@scope/server"]).unwrap().program, near);
    // What is not followed runs as npx itself.
    assert_eq!(
        run(&["npx", "--call", "x"]).unwrap().program,
        prefix.join("bin/npx")
    );
}
