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
    let own = ["read", "write", "exec", "unix"][access as usize];
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
    // Of so many paths one is explained.
    let share = (paths / 800).max(1);
    for _ in 0..policies {
        let (rules, policy) = compiled(&mut random, sets);
        let table = SliceTable(policy.table());
        for index in 0..paths {
            let near = random.below(rules.len());
            let path = arbitrary::path_near(&mut random, &rules[near], false);
            let access = FileAccess::ALL[random.below(FileAccess::COUNT)];
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
                // It is slow, and made of the same parts.
                if index % share != 0 {
                    continue;
                }
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
                    (Verdict::Allow, Some(rule)) if access == FileAccess::Connect => {
                        (rule, "network.unix[")
                    }
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

/// A path below a directory that leads to each boundary, leaf component last:
/// as the kernel feeds it, the path's own bytes come first.
fn ways_below(table: SliceTable<'_>) -> Vec<(u32, Vec<u8>)> {
    use guard_common::matcher::{header, step};
    use std::collections::{BTreeMap, VecDeque};
    let head = header(&table);
    // What is fed, by the state and whether it is between components.
    let mut ways: BTreeMap<(u32, bool), Vec<u8>> = BTreeMap::new();
    let mut waiting = VecDeque::from([((head.start, true), Vec::new())]);
    while let Some((at, fed)) = waiting.pop_front() {
        // An empty component, and a second way.
        if ways.contains_key(&at) {
            continue;
        }
        for byte in 1..=255u8 {
            let between = byte == b'/';
            if between && at.1 {
                continue;
            }
            let next = (step(&table, at.0, byte), between);
            if !ways.contains_key(&next) {
                waiting.push_back((next, [&fed[..], &[byte]].concat()));
            }
        }
        ways.insert(at, fed);
    }
    let boundaries = (0..head.boundaries_len).map(|i| table_u16(table, head.boundaries + 2 * i));
    boundaries
        .map(|state| {
            let fed = ways
                .get(&(state, true))
                .filter(|fed| !fed.is_empty())
                .cloned()
                .unwrap_or_else(|| way_back_to(table, &ways, state));
            let mut names: Vec<&[u8]> = fed.split(|b| *b == b'/').collect();
            names.pop();
            names.reverse();
            (state, names.join(&b'/'))
        })
        .collect()
}

fn table_u16(table: SliceTable<'_>, offset: u32) -> u32 {
    use guard_common::matcher::Table as _;
    table.u16(offset).into()
}

/// The way to a boundary that is the start too: it is met without any bytes first.
fn way_back_to(
    table: SliceTable<'_>,
    ways: &std::collections::BTreeMap<(u32, bool), Vec<u8>>,
    state: u32,
) -> Vec<u8> {
    use guard_common::matcher::step;
    ways.iter()
        .filter(|((_, between), _)| !between)
        .find(|((from, _), _)| step(&table, *from, b'/') == state)
        .map(|(_, fed)| [&fed[..], b"/"].concat())
        .expect("every boundary is reached")
}

/// A move gains something exactly when the naive matcher finds a path below
/// that does: it looks at one path for each boundary, and at random ones.
#[test]
fn moves_of_directories_agree_with_the_naive_matcher() {
    let mut random = Random::new(seed() + 2);
    let (mut gains, mut none) = (0, 0);
    for _ in 0..60 {
        let (rules, policy) = compiled(&mut random, 1);
        let table = SliceTable(policy.table());
        let below = ways_below(table);
        let verdict = |path: &[u8], access| decide(naive_masks(&rules, access, path), 1);
        for _ in 0..12 {
            let mut name = || arbitrary::path_near(&mut random, &rules[0], false);
            let (old, new) = (name(), name());
            if old == b"/" || new == b"/" {
                continue;
            }
            let differs = |suffix: &[u8]| {
                let [old, new] = [&old, &new].map(|dir| [&dir[..], b"/", suffix].concat());
                FileAccess::ALL
                    .into_iter()
                    .any(|access| verdict(&new, access) < verdict(&old, access))
            };
            let said = table.move_gains(&old, &new, 1);
            let found = below.iter().any(|(_, suffix)| differs(suffix));
            assert_eq!(
                said,
                found,
                "{} to {} under {rules:#?}",
                String::from_utf8_lossy(&old),
                String::from_utf8_lossy(&new)
            );
            if !said {
                for _ in 0..40 {
                    let suffix = arbitrary::path_near(&mut random, &rules[0], false);
                    // The directory itself is another question.
                    assert!(suffix == b"/" || !differs(&suffix[1..]), "{suffix:?}");
                }
            }
            gains += usize::from(said);
            none += usize::from(!said);
        }
    }
    assert!(gains > 50 && none > 50, "{gains} {none}");
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
    let seen = agree(seed(), 130, 8_000, 1);
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
            let row = state * head.stride;
            assert_eq!(step(&table, row, 0), row);
        }
    }
}
