//! Who is asked: the policy's servers or the host's, after `/etc/hosts`. Each
//! sandbox has a cache of its own, so that none can push out what another has,
//! or learn from times what another asks.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::{Name as WireName, Record, RecordType};
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::system_conf::parse_resolv_conf;
use hickory_resolver::{Hosts, TokioResolver};

/// How long one server may take.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How often one is asked.
const ATTEMPTS: usize = 2;
/// How long everything together may take: programs give up after 5 seconds.
const PATIENCE: Duration = Duration::from_millis(4500);
/// Answers that are kept for a sandbox.
const CACHED: u64 = 1024;
/// Seconds for which it is kept that there is nothing, at most.
const NEGATIVE: u32 = 300;
/// How often it is looked whether the host's files have changed.
const LOOK: Duration = Duration::from_secs(2);

/// What upstream says.
#[derive(Clone, Debug)]
pub(crate) enum Upstream {
    /// The answer section.
    Answers(Vec<Record>),
    /// No such name (true), or no record of this type; and for how many seconds.
    Nothing(bool, u32),
    /// Nobody answers.
    Failed(String),
}

/// Where the host says whom to ask.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    pub(crate) resolv_conf: PathBuf,
    pub(crate) hosts: PathBuf,
}

impl Default for Files {
    fn default() -> Self {
        Self {
            resolv_conf: "/etc/resolv.conf".into(),
            hosts: "/etc/hosts".into(),
        }
    }
}

/// The servers of one sandbox.
pub(crate) struct Servers {
    upstreams: Vec<SocketAddr>,
    files: Files,
    stamp: [Option<SystemTime>; 2],
    looked: Instant,
    resolver: Option<TokioResolver>,
    hosts: Arc<Hosts>,
}

fn stamp(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|m| m.modified()).ok()
}

impl Servers {
    pub(crate) fn new(upstreams: Vec<SocketAddr>, files: Files) -> Self {
        let mut servers = Self {
            upstreams,
            files,
            stamp: [None; 2],
            looked: Instant::now(),
            resolver: None,
            hosts: Arc::default(),
        };
        servers.load();
        servers
    }

    fn load(&mut self) {
        self.stamp = [stamp(&self.files.resolv_conf), stamp(&self.files.hosts)];
        let mut hosts = Hosts::default();
        if let Ok(file) = std::fs::File::open(&self.files.hosts)
            && let Err(error) = hosts.read_hosts_conf(file)
        {
            tracing::warn!("{}: {error}", self.files.hosts.display());
        }
        self.hosts = Arc::new(hosts);
        self.resolver = match self.servers() {
            servers if servers.is_empty() => None,
            servers => build(servers)
                .inspect_err(|error| tracing::error!("cannot ask for names: {error}"))
                .ok(),
        };
    }

    fn servers(&self) -> Vec<NameServerConfig> {
        if !self.upstreams.is_empty() {
            return self.upstreams.iter().map(|at| server(*at)).collect();
        }
        let text = std::fs::read(&self.files.resolv_conf).unwrap_or_default();
        match parse_resolv_conf(text) {
            Ok((config, _)) => config.name_servers().to_vec(),
            Err(error) => {
                tracing::error!("{}: {error}", self.files.resolv_conf.display());
                Vec::new()
            }
        }
    }

    /// Looks at the host's files again when it is time.
    pub(crate) fn refresh(&mut self, now: Instant) {
        if now.duration_since(self.looked) < LOOK {
            return;
        }
        self.looked = now;
        if self.stamp != [stamp(&self.files.resolv_conf), stamp(&self.files.hosts)] {
            self.load();
        }
    }

    /// Asks. The future borrows nothing, so that others can be asked meanwhile.
    pub(crate) fn ask(
        &self,
        name: WireName,
        record: RecordType,
    ) -> impl Future<Output = Upstream> + use<> {
        let (hosts, resolver) = (Arc::clone(&self.hosts), self.resolver.clone());
        async move {
            let query = Query::query(name.clone(), record);
            if let Some(lookup) = hosts.lookup_static_host(&query) {
                return match lookup.answers() {
                    [] => Upstream::Nothing(false, NEGATIVE),
                    answers => Upstream::Answers(answers.to_vec()),
                };
            }
            let Some(resolver) = resolver else {
                return Upstream::Failed("no server to ask is named".into());
            };
            match tokio::time::timeout(PATIENCE, resolver.lookup(name, record)).await {
                Err(_) => Upstream::Failed("no answer in time".into()),
                Ok(Ok(lookup)) => Upstream::Answers(lookup.answers().to_vec()),
                Ok(Err(error)) => failure(error),
            }
        }
    }
}

fn failure(error: NetError) -> Upstream {
    if let NetError::Dns(DnsError::NoRecordsFound(none)) = &error {
        let seconds = none.negative_ttl.unwrap_or(0).min(NEGATIVE);
        match none.response_code {
            ResponseCode::NXDomain => return Upstream::Nothing(true, seconds),
            ResponseCode::NoError => return Upstream::Nothing(false, seconds),
            _ => {}
        }
    }
    Upstream::Failed(error.to_string())
}

fn server(at: SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(at.ip());
    for connection in &mut server.connections {
        let connection: &mut ConnectionConfig = connection;
        connection.port = at.port();
    }
    server
}

fn build(servers: Vec<NameServerConfig>) -> Result<TokioResolver, NetError> {
    let config = ResolverConfig::from_parts(None, Vec::new(), servers);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let options: &mut ResolverOpts = builder.options_mut();
    options.timeout = TIMEOUT;
    options.attempts = ATTEMPTS;
    options.cache_size = CACHED;
    // `/etc/hosts` is asked before, by us.
    options.use_hosts_file = ResolveHosts::Never;
    // The names that an answer led over are judged and told.
    options.preserve_intermediates = true;
    options.negative_max_ttl = Some(Duration::from_secs(NEGATIVE.into()));
    builder.build()
}
