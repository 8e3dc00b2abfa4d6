//! Commands that hand their work to another process: it would run outside of
//! the sandbox, so they are refused before anything is started.

/// Programs that ask a daemon, a service manager or another machine to run things.
const HANDOVER: &[&str] = &[
    "docker",
    "docker-compose",
    "podman",
    "podman-compose",
    "podman-remote",
    "nerdctl",
    "ctr",
    "crictl",
    "buildah",
    "lxc",
    "incus",
    "machinectl",
    "systemd-run",
    "systemctl",
    "run0",
    "busctl",
    "at",
    "batch",
    "crontab",
];

/// Programs that run the command behind their options in their own process.
const WRAPPERS: &[&str] = &[
    "env", "nice", "nohup", "setsid", "stdbuf", "timeout", "ionice", "chrt", "taskset", "time",
    "xargs", "command", "exec", "sudo", "doas", "setpriv", "unbuffer",
];

/// Shells: their `-c` is looked into.
const SHELLS: &[&str] = &["sh", "bash", "dash", "zsh", "ash", "ksh", "busybox"];

/// How deep wrappers are followed.
const DEPTH: usize = 8;

/// The program that would hand the work over, if one is found. `path` is the
/// resolved executable of `argv[0]`. Looking into wrappers is a courtesy that
/// explains mistakes; what stops a hostile command are the policy's rules on
/// sockets.
#[must_use]
pub fn find(path: &[u8], argv: &[Vec<u8>]) -> Option<String> {
    let real = base(path);
    let called = argv.first().map(|a| base(a)).unwrap_or_default();
    known(real, HANDOVER)
        .or_else(|| known(called, HANDOVER))
        .or_else(|| inside(called, argv, DEPTH))
}

fn base(path: &[u8]) -> &[u8] {
    path.rsplit(|b| *b == b'/').next().unwrap_or_default()
}

fn known(name: &[u8], list: &[&str]) -> Option<String> {
    list.iter()
        .find(|n| n.as_bytes() == name)
        .map(|n| (*n).to_owned())
}

fn inside(program: &[u8], argv: &[Vec<u8>], depth: usize) -> Option<String> {
    let depth = depth.checked_sub(1)?;
    let arguments = argv.get(1..)?;
    if known(program, SHELLS).is_some() {
        let at = arguments
            .iter()
            .position(|a| a.starts_with(b"-") && !a.starts_with(b"--") && a.ends_with(b"c"))?;
        return script(arguments.get(at + 1)?, depth);
    }
    known(program, WRAPPERS)?;
    // Options may take values, so every later word is tried as the command's
    // name; only a wrapper or shell among them is looked into further.
    for (at, word) in arguments.iter().enumerate() {
        let name = base(word);
        if let Some(found) = known(name, HANDOVER) {
            return Some(found);
        }
        if known(name, WRAPPERS).is_some() || known(name, SHELLS).is_some() {
            return inside(name, &arguments[at..], depth);
        }
        let is_option = word.starts_with(b"-") || word.contains(&b'=');
        let is_number = word.first().is_some_and(u8::is_ascii_digit);
        if !is_option && !is_number {
            return None;
        }
    }
    None
}

/// Looks at the first word of every simple command of a shell script.
fn script(text: &[u8], depth: usize) -> Option<String> {
    text.split(|b| b";&|()\n{}`".contains(b))
        .find_map(|simple| {
            let words: Vec<Vec<u8>> = simple
                .split(u8::is_ascii_whitespace)
                .filter(|w| !w.is_empty())
                .skip_while(|w| w.contains(&b'=') || *w == b"$")
                .map(|w| {
                    w.iter()
                        .copied()
                        .filter(|b| !b"\"'\\".contains(b))
                        .collect()
                })
                .collect();
            let name = base(words.first()?);
            known(name, HANDOVER).or_else(|| inside(name, &words, depth))
        })
}

/// Why such a command is refused.
#[must_use]
pub fn explanation(program: &str) -> String {
    format!(
        "`{program}` hands its work to another process, which would run outside of guard's \
         sandbox with none of the policy's rules. Start the MCP server itself under guard \
         (the program inside the container or unit), or run guard inside the container"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, argv: &[&str]) -> Option<String> {
        let argv: Vec<Vec<u8>> = argv.iter().map(|a| a.as_bytes().to_vec()).collect();
        find(path.as_bytes(), &argv)
    }

    #[test]
    fn handover_is_found_directly_and_through_wrappers() {
        for (path, argv) in [
            ("/usr/bin/docker", &["docker", "run", "x"][..]),
            ("/usr/bin/docker", &["innocent"]),
            ("/usr/bin/env", &["env", "A=b", "docker", "run"]),
            ("/usr/bin/env", &["env", "-i", "/usr/local/bin/podman"]),
            ("/usr/bin/timeout", &["timeout", "-k", "5", "10", "nerdctl"]),
            ("/usr/bin/sudo", &["sudo", "-n", "systemd-run", "x"]),
            ("/usr/bin/env", &["env", "bash", "-c", "docker run x"]),
            ("/bin/sh", &["sh", "-c", "cd /x && exec docker run -i img"]),
            ("/bin/sh", &["/bin/sh", "-ec", "A=1 nohup 'docker' run"]),
            ("/bin/bash", &["bash", "-lc", "x | (podman run)"]),
        ] {
            assert!(found(path, argv).is_some(), "{argv:?}");
        }
    }

    #[test]
    fn ordinary_servers_pass() {
        for (path, argv) in [
            ("/usr/bin/node", &["node", "server.js", "docker"][..]),
            ("/usr/bin/npx", &["npx", "-y", "@x/docker-docs", "docker"]),
            ("/usr/bin/env", &["env", "node", "docker"]),
            ("/bin/sh", &["sh", "-c", "echo docker; cat"]),
            ("/bin/sh", &["sh", "script", "docker"]),
            ("/bin/cat", &["cat"]),
        ] {
            assert_eq!(found(path, argv), None, "{argv:?}");
        }
    }
}
