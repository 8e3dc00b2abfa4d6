//! Globs over strings, as the policy's documentation says them and as slowly
//! as may be: braces by rewriting, everything else by trying. Shares nothing
//! with the compiler.

/// Replaces the first braces by each of their choices, again and again.
fn braces(glob: &str) -> Vec<String> {
    let Some(open) = glob.find('{') else {
        return vec![glob.to_owned()];
    };
    let mut depth = 0;
    let mut starts = vec![open + 1];
    for (at, c) in glob[open..].char_indices() {
        let at = open + at;
        match c {
            '{' => depth += 1,
            ',' if depth == 1 => starts.push(at + 1),
            '}' => {
                depth -= 1;
                if depth == 0 {
                    starts.push(at + 1);
                    return starts
                        .windows(2)
                        .flat_map(|w| {
                            let choice = &glob[w[0]..w[1] - 1];
                            braces(&format!("{}{choice}{}", &glob[..open], &glob[at + 1..]))
                        })
                        .collect();
                }
            }
            _ => {}
        }
    }
    panic!("unbalanced {glob}");
}

/// A name as characters; a byte that starts none stands as itself, above all
/// code points.
fn characters(name: &[u8]) -> Vec<u32> {
    name.utf8_chunks()
        .flat_map(|chunk| {
            let valid: Vec<u32> = chunk.valid().chars().map(u32::from).collect();
            let odd = chunk.invalid().iter().map(|b| 0x20_0000 + u32::from(*b));
            valid.into_iter().chain(odd).collect::<Vec<_>>()
        })
        .collect()
}

fn name_matches(glob: &[char], name: &[u32]) -> bool {
    match glob {
        [] => name.is_empty(),
        ['*', rest @ ..] => (0..=name.len()).any(|skip| name_matches(rest, &name[skip..])),
        ['?', rest @ ..] => !name.is_empty() && name_matches(rest, &name[1..]),
        ['[', rest @ ..] => {
            let end = rest.iter().position(|c| *c == ']').unwrap();
            let (class, rest) = (&rest[..end], &rest[end + 1..]);
            let (negated, class) = match class {
                ['!', class @ ..] => (true, class),
                class => (false, class),
            };
            let Some((first, tail)) = name.split_first() else {
                return false;
            };
            let mut inside = false;
            let mut at = 0;
            while at < class.len() {
                let lo = class[at] as u32;
                let range = at + 2 < class.len() && class[at + 1] == '-';
                let hi = if range { class[at + 2] as u32 } else { lo };
                inside |= (lo..=hi).contains(first);
                at += if range { 3 } else { 1 };
            }
            inside != negated && name_matches(rest, tail)
        }
        [c, rest @ ..] => name.first() == Some(&(*c as u32)) && name_matches(rest, &name[1..]),
    }
}

fn path_matches(glob: &[&str], path: &[&[u8]]) -> bool {
    match glob {
        [] => path.is_empty(),
        ["**", rest @ ..] => (0..=path.len()).any(|skip| path_matches(rest, &path[skip..])),
        [name, rest @ ..] => {
            let name: Vec<char> = name.chars().collect();
            !path.is_empty()
                && name_matches(&name, &characters(path[0]))
                && path_matches(rest, &path[1..])
        }
    }
}

fn split(text: &str) -> Vec<&str> {
    text.split('/').filter(|part| !part.is_empty()).collect()
}

/// Whether one rule (without `!`) matches a path.
pub(super) fn matches(glob: &str, path: &[u8]) -> bool {
    let names: Vec<&[u8]> = path
        .split(|b| *b == b'/')
        .filter(|name| !name.is_empty())
        .collect();
    braces(glob).iter().any(|glob| {
        if glob.contains('/') {
            path_matches(&split(glob), &names)
        } else if glob == "**" {
            true
        } else {
            names.iter().any(|name| path_matches(&[glob], &[name]))
        }
    })
}

/// Whether a list holds a path.
pub(super) fn holds(rules: &[String], path: &[u8]) -> bool {
    let any = |negated: bool| {
        rules.iter().any(|rule| match rule.strip_prefix('!') {
            Some(glob) => negated && matches(glob, path),
            None => !negated && matches(rule, path),
        })
    };
    any(false) && !any(true)
}
