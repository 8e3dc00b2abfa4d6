//! What `${name}` stands for. Values are literals, never globs.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::resolve::ResolveContext;

/// Message and help.
type Bad = (String, Option<String>);

/// A path as a literal: no `/` at the end, and never the root, which would
/// make a rule cover the whole host.
fn path_value(name: &str, path: &Path) -> Result<Vec<u8>, Bad> {
    let bytes = path.as_os_str().as_bytes();
    let end = bytes
        .iter()
        .rposition(|b| *b != b'/')
        .map_or(0, |at| at + 1);
    if end == 0 {
        return Err((
            format!("${{{name}}} is {:?}, which would cover everything", path),
            Some(match name {
                "cwd" => "start the server in the directory it is to work in".into(),
                _ => "name the directories that are meant".into(),
            }),
        ));
    }
    Ok(bytes[..end].to_vec())
}

/// Names that only includes may use: the command's parts, none or several.
pub(crate) const LAUNCH_VARIABLES: [&str; 8] = [
    "launch.modules",
    "launch.package",
    "node.bin",
    "node.prefix",
    "python.bin",
    "python.prefix",
    "python.venv",
    "args.directories",
];

/// The values of a variable.
pub(crate) fn values(
    context: &ResolveContext<'_>,
    in_include: bool,
    name: &str,
) -> Result<Vec<Vec<u8>>, Bad> {
    let one = |path: &Path| path_value(name, path).map(|value| vec![value]);
    match name {
        "home" => match &context.home {
            Some(home) => one(home),
            // What an include grants there, nobody is without.
            None if in_include => Ok(Vec::new()),
            None => Err(("${home} is not known: the user has no home".into(), None)),
        },
        "cwd" => one(&context.cwd),
        "tmp" => one(&context.tmp),
        "args.directories" => {
            let directories = context.launch.map_or(&[][..], |l| &l.argument_directories);
            directories.iter().map(|d| path_value(name, d)).collect()
        }
        _ if LAUNCH_VARIABLES.contains(&name) => {
            if !in_include {
                return Err((format!("${{{name}}} is for includes only"), None));
            }
            Ok(launch_values(context, name))
        }
        _ => {
            if let Some(number) = name.strip_prefix("args.") {
                return argument(context, name, number);
            }
            match context.set.iter().find(|(key, _)| key == name) {
                Some((_, value)) => {
                    let trimmed = value.trim_end_matches('/');
                    if trimmed.is_empty() {
                        return Err((
                            format!("${{{name}}} is {value:?}, which would cover everything"),
                            Some(format!("give another value: --set {name}=…")),
                        ));
                    }
                    Ok(vec![trimmed.as_bytes().to_vec()])
                }
                None => Err((
                    format!("unknown variable ${{{name}}}"),
                    Some(format!(
                        "known: home, cwd, tmp, args.N, args.directories; others: --set {name}=VALUE"
                    )),
                )),
            }
        }
    }
}

fn argument(context: &ResolveContext<'_>, name: &str, number: &str) -> Result<Vec<Vec<u8>>, Bad> {
    let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    let Some(index) = number.parse::<usize>().ok().filter(|_| digits) else {
        return Err((
            format!("unknown variable ${{{name}}}"),
            Some("arguments are ${args.1}, ${args.2}, …".into()),
        ));
    };
    let Some(text) = context.args.get(index) else {
        return Err((
            format!("${{{name}}} is not known: the command has no argument {index}"),
            Some("`guard check` and `guard explain` take the command behind --server".into()),
        ));
    };
    // The kernel judges paths after symlinks, so an argument that names
    // something that exists stands for its real path.
    let real = context
        .launch
        .and_then(|launch| launch.argument_paths.get(index)?.as_deref());
    path_value(name, real.unwrap_or(Path::new(text))).map(|value| vec![value])
}

fn launch_values(context: &ResolveContext<'_>, name: &str) -> Vec<Vec<u8>> {
    let Some(launch) = context.launch else {
        return Vec::new();
    };
    let paths = match name {
        "launch.modules" => &launch.modules,
        "launch.package" => &launch.packages,
        "node.bin" => &launch.node.bins,
        "node.prefix" => &launch.node.prefixes,
        "python.bin" => &launch.python.bins,
        "python.prefix" => &launch.python.prefixes,
        _ => &launch.python.venvs,
    };
    paths
        .iter()
        // A package right in the home directory, or above it, must not open all of it.
        .filter(|path| {
            name != "launch.package"
                || !context
                    .home
                    .as_ref()
                    .is_some_and(|home| home.starts_with(path))
        })
        .filter_map(|path| path_value(name, path).ok())
        .collect()
}

/// Why `--set KEY=VALUE` cannot be, if it cannot.
pub(crate) fn check_set(key: &str, value: &str) -> Option<String> {
    let name = key
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if key.is_empty() || !name {
        Some(format!(
            "--set {key}=…: a key has letters, digits, _ and - only"
        ))
    } else if ["home", "cwd", "tmp"].contains(&key) {
        Some(format!("--set {key}=…: ${{{key}}} is guard's own"))
    } else if value.is_empty() || value.contains('\0') {
        Some(format!(
            "--set {key}=…: the value is empty or has a NUL byte"
        ))
    } else {
        None
    }
}
