//! From policy text to a table, as the supervisor does it.

use guard_daemon::policy::lookup::Lookup;
use guard_daemon::policy::{self, CompiledPolicy, Document, ResolveContext};

/// Compiles one rule set for each text.
pub fn sets(texts: &[&str]) -> CompiledPolicy {
    let lookup = Lookup::built_in();
    let context = ResolveContext {
        home: Some("/home/user".into()),
        cwd: "/root".into(),
        tmp: "/tmp/private".into(),
        args: Vec::new(),
        set: Vec::new(),
        includes: &lookup,
        launch: None,
        own: Vec::new(),
    };
    let resolved: Vec<_> = texts
        .iter()
        .map(|text| {
            let document =
                Document::parse(text.as_bytes(), "test.toml").unwrap_or_else(|e| panic!("{e}"));
            policy::resolve(&document, &context).unwrap_or_else(|e| panic!("{e}"))
        })
        .collect();
    let refs: Vec<_> = resolved.iter().collect();
    policy::compile_sets(&refs).unwrap_or_else(|e| panic!("{e}"))
}
