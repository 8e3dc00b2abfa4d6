//! Where a supervisor that runs as root keeps things.

/// Everything that ends with the boot.
pub const RUN_DIR: &str = "/run/guard";
/// Relays come back here after a restart of the supervisor. Anybody can
/// connect; only a relay's own user with its sandbox's token is heard.
pub const RELAY_SOCKET: &str = "/run/guard/relay.sock";
/// Held while a supervisor is started, and while one that ends tears down.
pub const LOCK: &str = "/run/guard/lock";
/// Held by the supervisor as long as it lives.
pub const SUPERVISOR_LOCK: &str = "/run/guard/supervisor.lock";
/// One file for each sandbox: what the next supervisor needs to take it over.
pub const SANDBOXES: &str = "/run/guard/sandboxes";
/// Private temporary directories of the sandboxes.
pub const TMP: &str = "/run/guard/tmp";
/// Trail and diagnostics.
pub const LOG_DIR: &str = "/var/log/guard";
/// The trail, unless `--audit-file` says otherwise.
pub const AUDIT_FILE: &str = "/var/log/guard/audit.jsonl";
