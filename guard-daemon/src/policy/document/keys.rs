//! The keys of each table, and which one a wrong key was meant to be.

/// Keys of one table: those that are read, and those that later versions bring.
pub(super) struct Keys {
    pub(super) table: &'static str,
    pub(super) known: &'static [&'static str],
    pub(super) later: &'static [&'static str],
}

pub(super) const TOP: Keys = Keys {
    table: "",
    known: &[
        "version", "include", "files", "network", "process", "audit", "example",
    ],
    later: &["startup", "background", "tools", "result", "resources"],
};
pub(super) const TOP_INCLUDE: Keys = Keys {
    table: "",
    known: &["version", "include", "files", "network", "process"],
    later: &[],
};
pub(super) const FILES: Keys = Keys {
    table: "files",
    known: &["read", "write", "exec", "deny", "approve", "max_write_size"],
    later: &[],
};
pub(super) const FILES_INCLUDE: Keys = Keys {
    table: "files",
    known: &["read", "write", "exec", "deny", "approve", "required"],
    later: &[],
};
pub(super) const NETWORK: Keys = Keys {
    table: "network",
    known: &[
        "allow",
        "deny",
        "approve",
        "listen",
        "unix",
        "sni",
        "upstreams",
    ],
    later: &[],
};
pub(super) const NETWORK_INCLUDE: Keys = Keys {
    table: "network",
    known: &["allow", "deny", "approve", "listen", "unix"],
    later: &[],
};
/// A rule of `network.allow` that is a table.
pub(super) const ALLOWED_NAME: Keys = Keys {
    table: "network.allow",
    known: &["name", "sni"],
    later: &[],
};
pub(super) const PROCESS: Keys = Keys {
    table: "process",
    known: &["user", "env", "io_uring", "memory", "max_processes", "cpu"],
    later: &[],
};
pub(super) const PROCESS_INCLUDE: Keys = Keys {
    table: "process",
    known: &["env"],
    later: &[],
};
pub(super) const AUDIT: Keys = Keys {
    table: "audit",
    known: &["log", "retention", "disk_full", "ring_full"],
    later: &[],
};
pub(super) const EXAMPLE: Keys = Keys {
    table: "example",
    known: &["access", "verdict"],
    later: &[],
};

impl Keys {
    /// `files.read`.
    pub(super) fn full(&self, key: &str) -> String {
        if self.table.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.table)
        }
    }
}

/// Edit distance (insert, delete, replace), for "did you mean".
pub(super) fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(64).enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = corner + usize::from(x != *y);
            corner = row[j + 1];
            row[j + 1] = replaced.min(corner + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_key() {
        assert_eq!(distance("raed", "read"), 2);
        assert_eq!(distance("reads", "read"), 1);
        assert_eq!(distance("", "read"), 4);
    }
}
