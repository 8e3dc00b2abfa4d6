//! What the host wants done: `KEY=VALUE` fields, each ended by a NUL byte.

use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

/// The orders of one boot.
#[derive(Default, Debug, PartialEq)]
pub(crate) struct Orders {
    /// The command and its arguments.
    pub(crate) command: Vec<OsString>,
    /// An interactive shell on the console in place of the command.
    pub(crate) shell: bool,
    /// Files and directories to hand to the host afterwards.
    pub(crate) out: Vec<String>,
    /// Directory in which the command starts.
    pub(crate) directory: String,
}

impl Orders {
    /// Reads the orders from a file of the initial file system.
    pub(crate) fn read(path: &str) -> Result<Self> {
        Self::parse(&std::fs::read(path)?)
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        let mut orders = Self {
            directory: "/root".into(),
            ..Self::default()
        };
        for field in bytes
            .split(|byte| *byte == 0)
            .filter(|field| !field.is_empty())
        {
            let at = field
                .iter()
                .position(|byte| *byte == b'=')
                .context("a field without a value")?;
            let value = &field[at + 1..];
            match &field[..at] {
                b"arg" => orders.command.push(OsString::from_vec(value.to_vec())),
                b"shell" => orders.shell = true,
                b"out" => orders.out.push(String::from_utf8(value.to_vec())?),
                b"directory" => orders.directory = String::from_utf8(value.to_vec())?,
                key => bail!("unknown field {}", String::from_utf8_lossy(key)),
            }
        }
        if orders.command.is_empty() && !orders.shell {
            bail!("no command");
        }
        Ok(orders)
    }
}

#[cfg(test)]
mod tests {
    use super::Orders;

    #[test]
    fn arguments_keep_their_order_and_empty_ones_count() {
        let orders = Orders::parse(b"arg=echo\0arg=\0arg=a=b\0out=/x\0").unwrap();
        assert_eq!(orders.command, ["echo", "", "a=b"]);
        assert_eq!(orders.out, ["/x"]);
    }

    #[test]
    fn unknown_or_missing_orders_are_refused() {
        assert!(Orders::parse(b"arg=a\0colour=red\0").is_err());
        assert!(Orders::parse(b"out=/x\0").is_err());
    }
}
