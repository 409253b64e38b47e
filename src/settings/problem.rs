//! What is wrong with the settings, told so that a newcomer can mend it.
//!
//! No text in here may hold a secret: `found` is built by the readers, which mask.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

/// Why there are no settings.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum SettingsError {
    /// Neither a settings file nor a `BACKEND_n_URL`: somebody's first minute.
    Nothing,
    /// Everything that is wrong, at once.
    Wrong {
        /// In the order of the file's lines, then the environment. Never empty.
        problems: Vec<Problem>,
    },
}

/// One thing that is wrong.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    /// Key path (`backends[1].url`) or name of the environment variable.
    pub key: String,
    /// Where it stands.
    pub place: Place,
    /// What stands there, secrets masked.
    pub found: String,
    /// What should stand there.
    pub expected: String,
}

/// Where a setting stands.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Place {
    /// In a settings file.
    File {
        /// As it was named on the command line.
        file: Arc<str>,
        /// Counted from 1.
        line: usize,
    },
    /// In an environment variable.
    Environment,
    /// Nowhere: the default, or an argument of the command line.
    Nowhere,
}

/// Gathers problems while settings are read; shared by all readers of one `load`.
#[derive(Debug, Default)]
pub(crate) struct Problems(RefCell<Vec<Problem>>);

/// A value and where it was found, so that a later stage can still name the place.
#[derive(Clone, Debug)]
pub(crate) struct Located<T> {
    pub(crate) value: T,
    pub(crate) key: String,
    pub(crate) place: Place,
    /// As it may be shown.
    pub(crate) found: String,
}

impl SettingsError {
    /// All problems; empty for `Nothing`.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Nothing => &[],
            Self::Wrong { problems } => problems,
        }
    }
}

impl std::error::Error for SettingsError {}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str(NOTHING),
            Self::Wrong { problems } => {
                match problems.len() {
                    1 => writeln!(f, "1 problem in the settings:")?,
                    count => writeln!(f, "{count} problems in the settings:")?,
                }
                problems.iter().try_for_each(|problem| write!(f, "\n{problem}"))
            }
        }
    }
}

const NOTHING: &str = "\
No backend is set. Set at least these two lines in the environment:

    BACKEND_1_URL=https://YOUR-RESOURCE.openai.azure.com
    BACKEND_1_APIKEY=the key of that resource

BACKEND_2_URL and so on add more. Or write them into the file sidestep.toml:

    [[backends]]
    url = \"https://YOUR-RESOURCE.openai.azure.com\"
    api_key = \"${AZURE_OPENAI_API_KEY}\"

`sidestep check` shows what was understood.
To see it work first, without an account or any setting: sidestep demo
";

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::File { file, line } => writeln!(f, "{file}, line {line}: {}", self.key)?,
            Place::Environment => writeln!(f, "environment variable {}", self.key)?,
            Place::Nowhere => writeln!(f, "{}", self.key)?,
        }
        write_wrapped(f, "  found:    ", &self.found)?;
        write_wrapped(f, "  expected: ", &self.expected)
    }
}

/// Long sentences go on under their beginning, where a terminal would go on under the label.
fn write_wrapped(f: &mut fmt::Formatter<'_>, label: &str, text: &str) -> fmt::Result {
    const WIDTH: usize = 100;
    f.write_str(label)?;
    let mut column = label.len();
    for (index, word) in text.split(' ').enumerate() {
        let width = word.chars().count();
        if index > 0 && column + 1 + width > WIDTH {
            write!(f, "\n{:1$}", "", label.len())?;
            column = label.len();
        } else if index > 0 {
            f.write_str(" ")?;
            column += 1;
        }
        f.write_str(word)?;
        column += width;
    }
    f.write_str("\n")
}

impl Problems {
    /// How many there are so far.
    pub(crate) fn count(&self) -> usize {
        self.0.borrow().len()
    }

    pub(crate) fn add(
        &self,
        key: impl Into<String>,
        place: &Place,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) {
        let problem =
            Problem { key: key.into(), place: place.clone(), found: found.into(), expected: expected.into() };
        self.0.borrow_mut().push(problem);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// The value's own key, place and text, with what was expected instead.
    pub(crate) fn refuse<T>(&self, located: &Located<T>, expected: impl Into<String>) {
        self.add(located.key.clone(), &located.place, located.found.clone(), expected);
    }

    /// `value` when nothing was wrong.
    pub(crate) fn or<T>(self, value: Option<T>) -> Result<T, SettingsError> {
        let mut problems = self.0.into_inner();
        problems.sort_by(|a, b| a.place.cmp(&b.place));
        match value {
            Some(value) if problems.is_empty() => Ok(value),
            _ => Err(SettingsError::Wrong { problems }),
        }
    }
}

/// Stands for a secret wherever one would be shown.
pub(crate) const MASK: &str = "****";

/// A value from outside, quoted, escaped and cut, with what may be a credential masked: in an address all
/// before an `@` and after `?` or `#`; anywhere what looks like the key of an Azure resource, because key
/// and address are easily put in each other's place.
pub(crate) fn shown(text: &str) -> String {
    const LONGEST: usize = 100;
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), text),
    };
    let mut masked = match rest.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}{MASK}@{host}"),
        None => format!("{scheme}{rest}"),
    };
    if let Some(at) = masked.find(['?', '#']) {
        masked.truncate(at + 1);
        masked.push_str(MASK);
    }
    let mut masked = without_keys(&masked);
    if masked.chars().count() > LONGEST {
        masked = masked.chars().take(LONGEST).chain(['…']).collect();
    }
    format!("{masked:?}")
}

/// Azure's keys are 32 or 84 letters and digits in a row; nothing that is meant to be shown comes near.
fn without_keys(text: &str) -> String {
    const SHORTEST: usize = 24;
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let run = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
        let after = run + rest[run..].chars().next().map_or(0, char::len_utf8);
        masked.push_str(if run >= SHORTEST { MASK } else { &rest[..run] });
        masked.push_str(&rest[run..after]);
        rest = &rest[after..];
    }
    masked
}

/// The known word nearest to what was written, when it is near enough to be meant.
pub(crate) fn nearest<'k>(written: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    known
        .into_iter()
        .map(|word| (strsim::osa_distance(&written.to_lowercase(), &word.to_lowercase()), word))
        .filter(|(distance, word)| *distance <= (word.len() / 3).clamp(1, 3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}
