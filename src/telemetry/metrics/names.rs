//! Names that became labels: small numbers for the request path, bounded.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::super::text::{LONGEST, Place, clean};

/// A name as a number.
pub(super) type NameId = u16;
/// The label of names that have none of their own.
pub(super) const OTHER: NameId = 0;
/// The label of requests that have no such name.
pub(super) const NONE: NameId = 1;
/// The most names of one kind that get their own label.
pub(super) const NAMES: usize = 1_000;

/// All names of one kind (deployments, callers, backends), shared by the workers.
#[derive(Debug)]
pub(super) struct Names(Mutex<Table>);

#[derive(Debug)]
struct Table {
    numbers: HashMap<Box<str>, NameId>,
    labels: Vec<String>,
}

/// One worker's copy of the numbers it has met: no shared lock on the usual path.
#[derive(Debug, Default)]
pub(super) struct Met(HashMap<Box<str>, NameId>);

impl Names {
    /// `none` is the label of requests without such a name.
    pub(super) fn new(none: &str) -> Self {
        let labels = vec!["other".to_owned(), none.to_owned()];
        Self(Mutex::new(Table { numbers: HashMap::new(), labels }))
    }

    fn number(&self, name: &str, earned: bool) -> Option<NameId> {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = table.numbers.get(name) {
            return Some(*number);
        }
        if !earned || table.numbers.len() >= NAMES {
            return None;
        }
        // Two names with one label share its number (a deployment called `other`, names that differ after the
        // cut): twice the same series would make the whole document invalid.
        let label = label(name);
        let at = table.labels.iter().position(|known| *known == label).unwrap_or_else(|| {
            table.labels.push(label);
            table.labels.len() - 1
        });
        let number = NameId::try_from(at).expect("bounded by NAMES");
        table.numbers.insert(name.into(), number);
        Some(number)
    }

    /// The label texts, by number.
    pub(super) fn labels(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).labels.clone()
    }
}

impl Met {
    /// The number of `name`. A new name gets one when it has `earned` it and there is room; else [`OTHER`].
    pub(super) fn number(&mut self, names: &Names, name: Option<&str>, earned: bool) -> NameId {
        let Some(name) = name else { return NONE };
        if let Some(number) = self.0.get(name) {
            return *number;
        }
        match names.number(name, earned) {
            Some(number) => {
                self.0.insert(name.into(), number);
                number
            }
            None => OTHER,
        }
    }
}

/// A label's text. (The exposition escapes quotes and backslashes itself.)
pub(super) fn label(name: &str) -> String {
    let mut out = Vec::new();
    clean(&mut out, name, LONGEST, Place::Bare);
    String::from_utf8(out).expect("clean writes UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_other_until_it_earns_a_label_which_all_workers_then_use() {
        let names = Names::new("");
        let (mut one, mut two) = (Met::default(), Met::default());
        assert_eq!(one.number(&names, Some("gpt-4o"), false), OTHER);
        let number = one.number(&names, Some("gpt-4o"), true);
        assert!(number > NONE);
        assert_eq!(two.number(&names, Some("gpt-4o"), false), number);
        assert_eq!(two.number(&names, None, true), NONE);
        assert_eq!(names.labels()[usize::from(number)], "gpt-4o");
    }

    #[test]
    fn names_with_one_label_share_one_series() {
        let names = Names::new("anonymous");
        let mut met = Met::default();
        assert_eq!(met.number(&names, Some("other"), true), OTHER);
        assert_eq!(met.number(&names, Some("anonymous"), true), NONE);
        let long = "n".repeat(250);
        let one = met.number(&names, Some(&long), true);
        assert_eq!(met.number(&names, Some(&(long + "x")), true), one);
    }

    #[test]
    fn names_are_bounded() {
        let names = Names::new("");
        let mut met = Met::default();
        for n in 0..NAMES + 50 {
            met.number(&names, Some(&n.to_string()), true);
        }
        assert_eq!(names.labels().len(), NAMES + 2);
        assert_eq!(met.number(&names, Some("late"), true), OTHER);
    }
}
