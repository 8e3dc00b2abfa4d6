//! Random policies and paths, chosen so that they meet often: for the tests
//! here and for those that ask a real kernel.

/// A small generator of numbers (splitmix64); the seed says all.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Starts at a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.number() % bound.max(1) as u64) as usize
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }

    /// True once in `n`.
    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// What names are made of: few letters, so that patterns and paths meet, some
/// of two and three bytes, and a dot.
const LETTERS: [&str; 7] = ["a", "b", "c", ".", "-", "é", "€"];
/// Names that come whole.
const NAMES: [&str; 8] = ["a", "b", "ab", ".env", "x.env", "key", "a.key", "secrets"];

fn name(random: &mut Random) -> String {
    if random.one_in(2) {
        return random.pick(&NAMES).to_owned();
    }
    let mut name: String = (0..=random.below(3))
        .map(|_| random.pick(&LETTERS))
        .collect();
    if name == "." || name == ".." {
        name.push('a');
    }
    name
}

/// One component of a glob. More than half have no wildcard: patterns that
/// begin, seen from the leaf, with wildcards multiply each other's states.
fn component(random: &mut Random, depth: usize) -> String {
    match random.below(16) {
        0 => "*".into(),
        1 => format!("*{}", random.pick(&NAMES)),
        2 => format!("{}*", random.pick(&["b", "ab", "é"])),
        3 => format!("*{}*", random.pick(&LETTERS)),
        4 | 5 if depth < 2 => {
            let mut choices: Vec<String> = (0..2 + random.below(2))
                .map(|_| component(random, depth + 1))
                .collect();
            if random.one_in(4) {
                choices.push(String::new());
            }
            format!("{}{{{}}}", random.pick(&["a", "b", "x"]), choices.join(","))
        }
        6 => {
            let classes = ["[a-c]", "[!a]", "[.-a]", "[é]", "[!é]", "[a€]", "[!a-c.]"];
            let class = random.pick(&classes);
            format!("{}{class}", random.pick(&["a", "*", ".e", "b"]))
        }
        7 => {
            let end = random.pick(&["", "a", "*", "env"]);
            format!("{}?{end}", random.pick(&["a", "*"]))
        }
        _ => name(random),
    }
}

/// A glob; for lists that allow always absolute.
fn glob(random: &mut Random, allow: bool) -> String {
    if !allow && random.one_in(3) {
        return component(random, 0);
    }
    let mut out = if random.one_in(10) {
        "**".to_owned()
    } else {
        String::new()
    };
    for index in 0..=random.below(3) {
        // Two ** in one glob multiply states: one is enough.
        if index > 0 && random.one_in(8) && !out.contains("**") {
            out.push_str("/**");
        } else {
            out.push('/');
            out.push_str(&component(random, 0));
        }
    }
    if random.one_in(2) && !out.ends_with("**") {
        out.push_str("/**");
    }
    out
}

/// Lists of globs, by their keys in `[files]` and `unix` in `[network]`, no
/// rule twice.
pub type FileRules = Vec<(&'static str, Vec<String>)>;

/// Random rules over paths.
pub fn files(random: &mut Random) -> FileRules {
    let mut out = Vec::new();
    for (key, allow) in [
        ("read", true),
        ("write", true),
        ("exec", true),
        ("deny", false),
        ("approve", false),
        ("unix", true),
    ] {
        let mut rules = Vec::new();
        for index in 0..random.below(3) {
            let mut rule = glob(random, allow);
            if index > 0 && key != "unix" && random.one_in(3) {
                rule.insert(0, '!');
            }
            if !rules.contains(&rule) {
                rules.push(rule);
            }
        }
        out.push((key, rules));
    }
    out
}

/// The text of a policy with these rules.
#[must_use]
pub fn text(files: &FileRules) -> String {
    let mut out = String::from("version = 1\n[files]\n");
    for (key, rules) in files {
        if *key == "unix" {
            // The last of them.
            out.push_str("[network]\n");
        }
        let rules: Vec<String> = rules.iter().map(|rule| format!("'{rule}'")).collect();
        out.push_str(&format!("{key} = [{}]\n", rules.join(", ")));
    }
    out
}

/// A random path of up to six components. Unless `utf8` is asked for, some
/// have bytes that are no UTF-8.
pub fn path(random: &mut Random, utf8: bool) -> Vec<u8> {
    let mut out = Vec::new();
    let count = random.below(7);
    for _ in 0..count {
        out.push(b'/');
        out.extend_from_slice(name(random).as_bytes());
        if !utf8 && random.one_in(12) {
            const ODD: [&[u8]; 6] = [
                b"\xff",
                b"\xc3",
                b"\xa9",
                b"\xe2\x82",
                b"\xed\xa0\x80",
                b"\xf0\x9f",
            ];
            out.extend_from_slice(ODD[random.below(ODD.len())]);
            out.extend_from_slice(random.pick(&["", "a", "é", ".env"]).as_bytes());
        }
    }
    if out.is_empty() {
        out.push(b'/');
    }
    out
}

/// A path that is likely to meet one of the rules: a rule with its wildcards
/// filled in.
pub fn path_near(random: &mut Random, files: &FileRules, utf8: bool) -> Vec<u8> {
    let rules: Vec<&String> = files.iter().flat_map(|(_, rules)| rules).collect();
    if rules.is_empty() || random.one_in(3) {
        return path(random, utf8);
    }
    let rule = rules[random.below(rules.len())].trim_start_matches('!');
    let mut out = String::new();
    let mut rest = rule.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '*' if rest.peek() == Some(&'*') => {
                rest.next();
                out.push_str(random.pick(&["a", "a/b", "secrets", "x.env/a/b"]));
            }
            '*' => out.push_str(random.pick(&["", "a", "b.", "é"])),
            '?' => out.push_str(random.pick(&LETTERS)),
            '[' => {
                while rest.next().is_some_and(|c| c != ']') {}
                out.push_str(random.pick(&LETTERS));
            }
            '{' => {
                let mut inside = String::new();
                for c in rest.by_ref() {
                    if c == '}' {
                        break;
                    }
                    inside.push(c);
                }
                let choices: Vec<&str> = inside.split(',').collect();
                out.push_str(&random.pick(&choices).replace(['*', '?', '{'], "a"));
            }
            '}' | ',' | ']' => {}
            c => out.push(c),
        }
    }
    let mut names: Vec<String> = out
        .split('/')
        .filter(|name| !name.is_empty() && *name != "." && *name != "..")
        .map(str::to_owned)
        .collect();
    if !rule.contains('/') && random.one_in(2) {
        names.insert(0, name(random));
    }
    if random.one_in(3) {
        names.push(name(random));
    }
    format!("/{}", names.join("/")).into_bytes()
}
