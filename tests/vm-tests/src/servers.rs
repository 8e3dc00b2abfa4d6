//! Real MCP servers under the policies that are shipped for them. The guest
//! must have them: `xtask vm run --with node,python --add policies:/opt/guard/policies`.

use std::os::unix::process::CommandExt;
use std::process::Command;

use serde_json::{Value, json};

use crate::Whole;
use crate::sessions::guard::{PROJECT, Run, SECRET, Session, Trail, nothing_left};

/// The tests.
pub const TESTS: &[Whole] = &[
    ("servers::filesystem", filesystem),
    ("servers::everything", everything),
    ("servers::git", git),
    ("servers::npm_works", npm_works),
    (
        "servers::a_virtual_environment_works",
        a_virtual_environment_works,
    ),
    ("servers::git_clones", git_clones),
];

/// Opens the session and requires these tools of the server.
fn open(run: &Run<'_>, tools: &[&str]) -> Session {
    let mut session = run.start();
    let about = session.initialize();
    assert!(about["serverInfo"]["name"].is_string(), "{about}");
    let id = session.request("tools/list", &json!({}));
    let listed = session.result(id);
    for tool in tools {
        let listed = listed["tools"].as_array().expect("tools");
        assert!(listed.iter().any(|t| t["name"] == *tool), "{listed:?}");
    }
    session
}

/// The one denial that was planted, during this call.
fn planted(trail: &Trail, path: &str, access: Value, tool: Option<&str>) {
    let events = trail.events();
    let denials: Vec<_> = events
        .iter()
        .filter(|e| e["verdict"] == "deny" && e["path"] == path)
        .collect();
    assert!(!denials.is_empty(), "no denial of {path} in {events:#?}");
    for denial in denials {
        assert_eq!(denial["access"], access, "{denial}");
        assert_eq!(denial["call"]["attribution"], "sole", "{denial}");
        assert_eq!(denial["call"]["tool"].as_str(), tool, "{denial}");
    }
    assert!(trail.verified());
    nothing_left();
}

fn filesystem() {
    let run = Run {
        server: &["mcp-server-filesystem", PROJECT],
        ..Run::fake("filesystem", "/opt/guard/policies/filesystem.toml")
    };
    let mut session = open(&run, &["read_text_file", "list_directory"]);
    let notes = json!({"path": "/srv/project/notes.txt"});
    let notes = session.call("read_text_file", notes);
    assert_eq!(notes.as_deref(), Ok("just notes"));
    let listed = session.call("list_directory", json!({"path": PROJECT}));
    let listed = listed.expect("a listing");
    assert!(listed.contains("[FILE] notes.txt"), "{listed}");
    // Inside the directory that the server was given: it would serve it.
    let secret = session.call("read_text_file", json!({"path": SECRET}));
    let secret = secret.expect_err("the secret must not be read");
    assert!(secret.contains("EACCES"), "{secret}");
    let trail = session.end();
    planted(&trail, SECRET, json!(["read"]), Some("read_text_file"));
}

fn everything() {
    // A document that the server would serve as it does those beside it.
    let documents = "/opt/mcp/node_modules/@modelcontextprotocol/server-everything/dist/docs";
    let link = format!("{documents}/planted.md");
    let _ = std::fs::remove_file(&link);
    std::fs::write("/srv/planted.md", "what lies elsewhere").expect("write a file");
    std::os::unix::fs::symlink("/srv/planted.md", &link).expect("make a link");

    let run = Run {
        server: &["mcp-server-everything"],
        ..Run::fake("everything", "/opt/guard/policies/everything.toml")
    };
    let mut session = open(&run, &["echo", "get-sum"]);
    let echo = session.call("echo", json!({"message": "hello"}));
    assert_eq!(echo.as_deref(), Ok("Echo: hello"));
    let sum = session.call("get-sum", json!({"a": 2, "b": 3}));
    assert_eq!(sum.as_deref(), Ok("The sum of 2 and 3 is 5."));
    let mut document = |name: &str| {
        let uri = format!("demo://resource/static/document/{name}");
        let id = session.request("resources/read", &json!({"uri": uri}));
        session.result(id)["contents"][0]["text"].to_string()
    };
    let own = document("startup.md");
    assert!(!own.contains("EACCES") && own.len() > 100, "{own}");
    let other = document("planted.md");
    assert!(other.contains("EACCES"), "{other}");
    let trail = session.end();
    planted(&trail, "/srv/planted.md", json!(["read"]), None);
}

fn git() {
    let at = "/srv/repository";
    let _ = std::fs::remove_dir_all(at);
    std::fs::create_dir_all(at).expect("make a directory");
    std::os::unix::fs::chown(at, Some(1000), Some(1000)).expect("give it to the user");
    // The secret is older than the index: git need not read it again by itself.
    let script = "set -e; git init -q -b main
        git config user.name T; git config user.email t@localhost
        echo one > file.txt; echo A=1 > .env; touch -d '1 hour ago' .env
        git add .; git commit -q -m first; echo two >> file.txt";
    let made = Command::new("sh")
        .args(["-c", script])
        .current_dir(at)
        .env("HOME", "/home/user")
        .uid(1000)
        .gid(1000)
        .output();
    let made = made.expect("start sh");
    assert!(made.status.success(), "{made:?}");
    let repository = json!({"repo_path": "/srv/repository"});

    let run = Run {
        server: &["mcp-server-git", "--repository", "/srv/repository"],
        ..Run::fake("git", "/opt/guard/policies/git.toml")
    };
    let mut session = open(&run, &["git_log", "git_diff_unstaged", "git_add"]);
    let log = session.call("git_log", repository.clone()).expect("a log");
    assert!(log.contains("first"), "{log}");
    let diff = session.call("git_diff_unstaged", repository);
    let diff = diff.expect("a difference");
    assert!(diff.contains("+two"), "{diff}");
    // Tracked, and changed: the server would read it to add it.
    std::fs::write("/srv/repository/.env", "A=changed").expect("write a file");
    let arguments = json!({"repo_path": "/srv/repository", "files": [".env"]});
    let added = session.call("git_add", arguments);
    let added = added.expect_err("the secret must not be read");
    assert!(!added.is_empty());
    let trail = session.end();
    planted(
        &trail,
        "/srv/repository/.env",
        json!(["read"]),
        Some("git_add"),
    );
}

/// A directory of the user's, empty.
fn workplace(at: &str) {
    let _ = std::fs::remove_dir_all(at);
    std::fs::create_dir_all(at).expect("make a directory");
    std::os::unix::fs::chown(at, Some(1000), Some(1000)).expect("give it to the user");
}

/// Runs a program that is no MCP server to its end, which must be a good one.
fn works(name: &str, policy: &str, command: &[&str]) {
    let run = Run {
        server: command,
        ..Run::fake(name, policy)
    };
    let mut session = run.start();
    // Its input stays open until it ends by itself.
    assert_eq!(session.status(), Some(0), "stderr: {}", session.stderr());
    assert!(session.end().verified());
}

fn npm_works() {
    works(
        "npm",
        "version = 1\ninclude = [\"node\"]\n",
        &["npm", "--version"],
    );
    nothing_left();
}

fn a_virtual_environment_works() {
    let at = "/srv/venv";
    workplace(at);
    let policy = "version = 1\ninclude = [\"python\"]\n[files]\n\
        read = [\"/srv/venv/**\"]\nwrite = [\"/srv/venv/**\"]\nexec = [\"/usr/bin/python3*\"]\n";
    let make = ["python3", "-m", "venv", "--without-pip", "/srv/venv/env"];
    works("venv-make", policy, &make);
    let found = std::fs::read_dir("/srv/venv/env/lib")
        .expect("the environment's packages")
        .flatten()
        .next();
    let package = found.expect("a version").path().join("site-packages/own");
    std::fs::create_dir_all(&package).expect("make a package");
    std::fs::write(package.join("__init__.py"), "ANSWER = 42\n").expect("write a package");
    // Its own include must do here: no rule names the environment.
    let import = "import sys, json, own; \
        assert own.ANSWER == 42 and sys.prefix != sys.base_prefix, sys.prefix";
    let python = ["/srv/venv/env/bin/python", "-c", import];
    works("venv-use", "version = 1\ninclude = [\"python\"]\n", &python);
    nothing_left();
}

fn git_clones() {
    let (from, to) = ("/srv/clone-from", "/srv/clone-to");
    workplace(from);
    workplace(to);
    let script = "set -e; git init -q -b main
        git config user.name T; git config user.email t@localhost
        echo one > file.txt; git add .; git commit -q -m first";
    let made = Command::new("sh")
        .args(["-c", script])
        .current_dir(from)
        .env("HOME", "/home/user")
        .uid(1000)
        .gid(1000)
        .status();
    assert!(made.expect("start sh").success());
    let policy = "version = 1\ninclude = [\"git\"]\n[files]\n\
        read = [\"/srv/clone-{from,to}/**\"]\nwrite = [\"/srv/clone-to/**\"]\n\
        exec = [\"/usr/bin/{sh,dash}\"]\n";
    let clone = ["git", "clone", "--quiet", from, "/srv/clone-to/it"];
    works("clone", policy, &clone);
    let cloned = std::fs::read("/srv/clone-to/it/file.txt").expect("the clone's file");
    assert_eq!(cloned, b"one\n");
    nothing_left();
}
