//! What the launcher tells the relay.

use serde::{Deserialize, Serialize};

/// The argument of `guard __relay`, as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RelayConfig {
    /// Sandbox number, for [`crate::wire::RelayRecord::Hello`].
    pub sandbox: u64,
    /// Proof for it.
    pub token: String,
    /// The server's process, for messages only: signals go through its pidfd.
    pub server_pid: i32,
    /// Bytes of the longest line, without its end, in either direction.
    #[serde(default = "default_max_message")]
    pub max_message: usize,
    /// Rule sets to put in force while a call is in flight.
    pub call_sets: u64,
    /// No kernel side: descriptor 8 is no slot.
    pub gateway_only: bool,
    /// Path of the supervisor's socket, to come back to after its restart.
    pub reconnect: Option<String>,
    /// Milliseconds that a slot stays in force without a sign of life.
    #[serde(default = "default_lease_ms")]
    pub lease_ms: u64,
    /// Bytes of a call's arguments that go into its record; the digest covers all.
    #[serde(default = "default_args_max")]
    pub args_max: usize,
}

/// Bytes of the largest `max_message`: offsets in a line have 32 bits.
pub const MOST_MESSAGE: usize = 1 << 30;

const fn default_max_message() -> usize {
    16 << 20
}

const fn default_lease_ms() -> u64 {
    3000
}

const fn default_args_max() -> usize {
    16 << 10
}

/// Why the argument is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not the JSON that it should be.
    #[error("the relay's argument is not its configuration: {0}")]
    Json(#[from] serde_json::Error),
    /// A value out of its range.
    #[error("the relay's configuration has {key} = {value}; it must be {range}")]
    Range {
        /// Which.
        key: &'static str,
        /// What it is.
        value: u64,
        /// What it may be.
        range: &'static str,
    },
}

impl RelayConfig {
    /// Reads and checks the argument.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn read(json: &str) -> Result<Self, ConfigError> {
        let config: Self = serde_json::from_str(json)?;
        let check = |ok: bool, key, value, range| {
            let error = ConfigError::Range { key, value, range };
            if ok { Ok(()) } else { Err(error) }
        };
        check(
            (1..=MOST_MESSAGE).contains(&config.max_message),
            "max_message",
            config.max_message as u64,
            "1 to 2^30",
        )?;
        check(
            (1000..=60_000).contains(&config.lease_ms),
            "lease_ms",
            config.lease_ms,
            "1000 to 60000",
        )?;
        check(
            config.gateway_only || config.call_sets != 0,
            "call_sets",
            config.call_sets,
            "at least one rule set",
        )?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_and_ranges() {
        let base = r#"{"sandbox":1,"token":"t","server_pid":2,"call_sets":1,"gateway_only":false,"reconnect":null"#;
        let config = RelayConfig::read(&format!("{base}}}")).unwrap();
        assert_eq!(config.max_message, 16 << 20);
        assert_eq!(config.lease_ms, 3000);
        for bad in [
            r#","max_message":0}"#,
            r#","max_message":2147483648}"#,
            r#","lease_ms":0}"#,
            r#","extra":1}"#,
        ] {
            assert!(RelayConfig::read(&format!("{base}{bad}")).is_err(), "{bad}");
        }
        let no_sets = base.replace("\"call_sets\":1", "\"call_sets\":0");
        assert!(RelayConfig::read(&format!("{no_sets}}}")).is_err());
    }
}
