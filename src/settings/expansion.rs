//! `${NAME}` and `${file:PATH}` inside strings of a settings file; `$${` is a plain `${`.

use std::io::Read;
use std::path::Path;

use crate::settings::environment::Environment;

/// The text with everything replaced, or the sentence that says what was expected.
/// Relative paths count from `folder`. What comes in is not expanded again.
pub(crate) fn expand(text: &str, environment: &Environment, folder: &Path) -> Result<String, String> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        if let Some(before) = before.strip_suffix('$') {
            expanded.push_str(before);
            expanded.push_str("${");
            rest = &from[2..];
            continue;
        }
        expanded.push_str(before);
        let (name, after) =
            from[2..].split_once('}').ok_or("a closing `}` after `${`; a plain `${` is written `$${`")?;
        expanded.push_str(&replacement(name, environment, folder)?);
        rest = after;
    }
    expanded.push_str(rest);
    Ok(expanded)
}

fn replacement(name: &str, environment: &Environment, folder: &Path) -> Result<String, String> {
    if let Some(path) = name.strip_prefix("file:") {
        return content(&folder.join(path));
    }
    let named = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if name.is_empty() || !name.bytes().all(named) {
        return Err("`${NAME}` with the name of an environment variable, or `${file:PATH}`".to_owned());
    }
    environment
        .get(name)
        .map(str::to_owned)
        .ok_or_else(|| format!("the environment variable {name} to be set, as `${{{name}}}` names it"))
}

fn content(path: &Path) -> Result<String, String> {
    // A secret or a name, not a document: the bound is only against a wrong path (a device, a log).
    const LONGEST: u64 = 1 << 20;
    let mut text = String::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(LONGEST).read_to_string(&mut text));
    match read {
        Ok(_) => {
            let text = text.strip_suffix('\n').unwrap_or(&text);
            Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
        }
        Err(error) => Err(format!("a readable text file at {} ({error})", path.display())),
    }
}
