//! A case of the table: what a client does, and what comes of it without guard and
//! under it.

/// Under which policy a row runs. All rows of a policy share one sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Policy {
    /// Names with ports, denied names, one address.
    Names,
    /// A wildcard alone, and a private network.
    Wild,
    /// As `Names`; rows that leave nothing for others.
    Alone,
    /// As `Names`; for the one row that takes long.
    Slow,
    /// `sni = "require"`.
    Sni,
}

impl Policy {
    /// All.
    pub const ALL: [Self; 5] = [Self::Names, Self::Wild, Self::Alone, Self::Slow, Self::Sni];

    /// For file names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Names => "names",
            Self::Wild => "wild",
            Self::Alone => "alone",
            Self::Slow => "slow",
            Self::Sni => "sni",
        }
    }

    fn network(self) -> &'static str {
        match self {
            Self::Names | Self::Alone | Self::Slow => {
                r#"allow = ["allowed.test:7", "allowed.test:80", "allowed.test:443",
    "*.allowed.test:7", "*.allowed.test:80", "*.allowed.test:443",
    "bücher.test:7", "203.0.113.9:7", "[2001:db8:7::9]:7"]
deny = ["denied.test", "*.denied.test", "*.internal.*"]
"#
            }
            Self::Wild => "allow = [\"*.allowed.test:7\", \"10.99.0.0/16:7\"]\n",
            Self::Sni => {
                "allow = [\"*.allowed.test:443\", \"allowed.test:443\"]\nsni = \"require\"\n"
            }
        }
    }

    /// The policy's text.
    pub fn text(self) -> String {
        format!(
            "version = 1\ninclude = [\"base\"]\n[files]\n\
             read = [\"/usr/**\", \"/etc/**\", \"/srv/network/**\", \"/proc/**\"]\n\
             write = [\"/srv/network/work/**\"]\n\
             exec = [\"/usr/bin/**\", \"/usr/local/bin/**\", \"/usr/lib/**\"]\n\
             [network]\n{}[process]\nenv = [\"PATH\", \"HOME\", \"SSL_CERT_FILE\", \
             \"REQUESTS_CA_BUNDLE\"]\n[audit]\nlog = \"all\"\n",
            self.network()
        )
    }
}

/// How a command ends.
#[derive(Clone, Copy, Debug)]
pub enum Ends {
    /// Well, and says this.
    Works(&'static str),
    /// Badly, and says this.
    Fails(&'static str),
    /// Either way, and says this.
    Says(&'static str),
    /// Well, and does not say this.
    Lacks(&'static str),
}

impl Ends {
    /// Whether a command ended so.
    pub fn holds(self, status: Option<i32>, output: &str) -> bool {
        match self {
            Self::Works(says) => status == Some(0) && output.contains(says),
            Self::Fails(says) => status.is_some_and(|s| s != 0) && output.contains(says),
            Self::Says(says) => status.is_some() && output.contains(says),
            Self::Lacks(says) => status == Some(0) && !output.contains(says),
        }
    }
}

/// One case.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its name: what is tried, how.
    pub name: &'static str,
    /// Its sandbox.
    pub policy: Policy,
    /// The command.
    pub words: &'static [&'static str],
    /// The command without guard, where it is another.
    pub control_words: Option<&'static [&'static str]>,
    /// Its end without guard.
    pub control: Ends,
    /// Its end under guard.
    pub guarded: Ends,
    /// Events, all of which it leaves: `KIND/OP VERDICT MEMBER=VALUE…`.
    pub events: &'static [&'static str],
    /// What arrives in the world without guard and not under it: `name:NAME` in a
    /// question, `to:ADDRESS` as a destination.
    pub unseen: &'static [&'static str],
    /// Seconds that the command may take.
    pub limit: u64,
}

impl Row {
    /// A case of `Names` that guard leaves alone: it works and says the same.
    pub const fn works(
        name: &'static str,
        words: &'static [&'static str],
        says: &'static str,
        events: &'static [&'static str],
    ) -> Self {
        Self {
            name,
            policy: Policy::Names,
            words,
            control_words: None,
            control: Ends::Works(says),
            guarded: Ends::Works(says),
            events,
            unseen: &[],
            limit: 30,
        }
    }

    /// A case of `Names` that works without guard, and that guard refuses.
    pub const fn refused(
        name: &'static str,
        words: &'static [&'static str],
        control: &'static str,
        guarded: &'static str,
        events: &'static [&'static str],
    ) -> Self {
        let mut row = Self::works(name, words, control, events);
        row.guarded = Ends::Fails(guarded);
        row
    }

    /// In another sandbox.
    pub const fn under(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// What does not arrive under guard.
    pub const fn unseen(mut self, unseen: &'static [&'static str]) -> Self {
        self.unseen = unseen;
        self
    }

    /// For commands whose status says nothing.
    pub const fn says(mut self, control: &'static str, guarded: &'static str) -> Self {
        self.control = Ends::Says(control);
        self.guarded = Ends::Says(guarded);
        self
    }

    /// For what works under guard as well, and says something else.
    pub const fn but_says(mut self, guarded: &'static str) -> Self {
        self.guarded = Ends::Works(guarded);
        self
    }

    /// For what works under guard as well, and leaves something out.
    pub const fn but_lacks(mut self, guarded: &'static str) -> Self {
        self.guarded = Ends::Lacks(guarded);
        self
    }

    /// Seconds that it may take.
    pub const fn within(mut self, limit: u64) -> Self {
        self.limit = limit;
        self
    }
}
