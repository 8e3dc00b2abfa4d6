use guard_common::matcher::{SliceTable, Verdict, decide};
use guard_common::table::{AccessMasks, FileAccess};

use super::super::arbitrary::{self, FileRules, Random};
use super::super::*;
use super::{context, naive};

fn compiled(random: &mut Random, sets: usize) -> (Vec<FileRules>, CompiledPolicy) {
    let lookup = Lookup::built_in();
    let rules: Vec<FileRules> = (0..sets).map(|_| arbitrary::files(random)).collect();
    let resolved: Vec<Resolved> = rules
        .iter()
        .map(|files| {
            let text = arbitrary::text(files);
            let document = Document::parse(text.as_bytes(), "random.toml");
            let resolved = document.and_then(|d| resolve(&d, &context(&lookup)));
            resolved.unwrap_or_else(|e| panic!("{text}\n{e}"))
        })
        .collect();
    let refs: Vec<&Resolved> = resolved.iter().collect();
    let policy = compile_sets(&refs).unwrap_or_else(|e| panic!("{rules:?}\n{e}"));
    (rules, policy)
}

fn naive_masks(sets: &[FileRules], access: FileAccess, path: &[u8]) -> AccessMasks {
    let mut masks = AccessMasks::default();
    let own = ["read", "write", "exec"][access as usize];
    for (set, files) in sets.iter().enumerate() {
        for (key, rules) in files {
            let bit = u64::from(naive::holds(rules, path)) << set;
            match *key {
                "deny" => masks.deny |= bit,
                "approve" => masks.approve |= bit,
                key if key == own => masks.allow |= bit,
                _ => {}
            }
        }
    }
    masks
}

/// Compiles `policies` random policies and asks each about `paths` paths.
fn agree(seed: u64, policies: usize, paths: usize, sets: usize) -> [usize; 3] {
    let mut random = Random::new(seed);
    let mut seen = [0; 3];
    for _ in 0..policies {
        let (rules, policy) = compiled(&mut random, sets);
        let table = SliceTable(policy.table());
        for _ in 0..paths {
            let near = random.below(rules.len());
            let path = arbitrary::path_near(&mut random, &rules[near], false);
            let access = FileAccess::ALL[random.below(3)];
            let expected = naive_masks(&rules, access, &path);
            let masks = table.path_masks(&path, access);
            for active in 1..1u64 << sets {
                let verdict = decide(expected, active);
                let shown = String::from_utf8_lossy(&path);
                assert_eq!(
                    decide(masks, active),
                    verdict,
                    "seed {seed}: table, {access:?} {shown:?} {path:x?} under {active:b} of {rules:#?}"
                );
                let decision = policy.explain_path(&path, access, active);
                assert_eq!(decision.verdict, verdict, "seed {seed}: explain, {shown:?}");
                // The rule that is named decides: it holds the path, and is
                // of the kind that gives the verdict.
                let kind = match (verdict, &decision.rule) {
                    (Verdict::Deny, None) => {
                        assert_eq!(
                            expected.deny & active,
                            0,
                            "seed {seed}: no rule for {shown:?}"
                        );
                        continue;
                    }
                    (_, None) => panic!("seed {seed}: no rule for {shown:?}"),
                    (Verdict::Deny, Some(rule)) => (rule, "files.deny["),
                    (Verdict::Approve, Some(rule)) => (rule, "files.approve["),
                    (Verdict::Allow, Some(rule)) => (rule, "files."),
                };
                assert!(kind.0.id.starts_with(kind.1), "seed {seed}: {:?}", kind.0);
                assert!(
                    naive::matches(&kind.0.text, &path),
                    "seed {seed}: {:?}",
                    kind.0
                );
                seen[verdict as usize] += 1;
            }
        }
    }
    seen
}

/// GUARD_TEST_SEED repeats a failure, or tries others.
fn seed() -> u64 {
    std::env::var("GUARD_TEST_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1)
}

#[test]
fn table_rules_and_naive_matcher_agree() {
    let seen = agree(seed(), 130, 800, 1);
    // Each verdict of a rule must have been met often, or nothing was tested.
    assert!(seen.iter().all(|n| *n > 1_000), "{seen:?}");
}

#[test]
fn several_rule_sets_agree() {
    let seen = agree(seed() + 1, 12, 300, 3);
    assert!(seen.iter().all(|n| *n > 500), "{seen:?}");
}

/// What the kernel relies on when it feeds whole words (`guard_common::table`).
#[test]
fn byte_0_changes_no_state() {
    use guard_common::matcher::{header, step};
    let mut random = Random::new(5);
    for _ in 0..20 {
        let (_, policy) = compiled(&mut random, 1);
        let table = SliceTable(policy.table());
        let head = header(&table);
        for state in 0..head.states {
            assert_eq!(step(&table, head.classes, state, 0), state);
        }
    }
}
