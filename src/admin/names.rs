//! Resolves the names in text commands to functions, workers and hosts.
//!
//! A word is unescaped like the names in listings, by [`text::read_name`]. C++ gearmand's listings show names
//! with a backslash as they are, so the word may also be the literal name. Of the two, the name that exists
//! is used. If both exist, the word is ambiguous, unless it is exactly the escaped form that other listings
//! show of one of them. If neither exists, a name is not created from a word with unnecessary escapes, since
//! it may not be the intended name.

use super::Admin;
use super::control::host;
use crate::job_server::{ConnectionId, ControlError, WorkerSelector};
use crate::protocol::text::{self, JobWords, Workers};

/// Why a name cannot be resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unclear {
    /// Neither the literal nor the unescaped name exists.
    Missing(ControlError),
    /// Both names exist, and the word is not the escaped form of either.
    Ambiguous {
        /// The escaped form of the literal name.
        typed: String,
        /// The escaped form of the unescaped name.
        read: String,
    },
    /// No connection can come from this address.
    Host(&'static str),
}

impl Admin {
    fn is_function(&self, name: &[u8]) -> bool {
        self.hub.stats().functions.contains_key(name)
    }

    fn is_client(&self, id: &[u8]) -> bool {
        self.hub.has_client(id) || self.has_rule(&WorkerSelector::Client(id.to_vec()))
    }

    fn has_rule(&self, selector: &WorkerSelector) -> bool {
        !self.hub.list_rules_for(selector, None).is_empty()
    }

    /// The function of a command of C++ gearmand, which takes words literally: a word is unescaped only if no
    /// function has the literal name.
    pub(super) fn plain_function(&self, word: &[u8]) -> Vec<u8> {
        let read = text::read_name(word);
        if !self.is_function(word) && self.is_function(&read) { read } else { word.to_vec() }
    }

    /// The function of any other command.
    pub(super) fn function(&self, word: &[u8]) -> Result<Vec<u8>, Unclear> {
        meant(word, |name| self.is_function(name), ControlError::NoSuchFunction)
    }

    /// The workers that a new rule or a kick applies to.
    pub(super) fn workers(&self, workers: &Workers<'_>) -> Result<WorkerSelector, Unclear> {
        match *workers {
            Workers::Connection { slot, generation } => {
                Ok(WorkerSelector::Connection(ConnectionId { slot, generation }))
            }
            Workers::Client(word) => {
                meant(word, |id| self.is_client(id), ControlError::NoSuchWorker).map(WorkerSelector::Client)
            }
            Workers::Host(address) => host(address).map_err(Unclear::Host),
        }
    }

    /// The workers of a rule that is to be removed. A rule that another version made for a host name can
    /// still be named.
    pub(super) fn workers_of_rule(&self, workers: &Workers<'_>) -> Result<WorkerSelector, Unclear> {
        let Workers::Host(word) = *workers else { return self.workers(workers) };
        let typed = WorkerSelector::Host(word.to_owned());
        if self.has_rule(&typed) { Ok(typed) } else { host(word).map_err(Unclear::Host) }
    }

    /// The function of a rule that is to be removed. It need not exist any longer.
    pub(super) fn function_of_rule(&self, selector: &WorkerSelector, word: &[u8]) -> Result<Vec<u8>, Unclear> {
        let of_rule = |name: &[u8]| {
            let mut last = None;
            loop {
                let rules = self.hub.list_rules_for(selector, last.as_ref());
                if rules.iter().flat_map(|rule| &rule.function).any(|function| function.as_bytes() == name) {
                    return true;
                }
                last = rules.into_iter().next_back();
                if last.is_none() {
                    return false;
                }
            }
        };
        meant(word, of_rule, ControlError::NoSuchRule)
    }

    /// The names of a filter. Unknown names are unescaped and match nothing.
    pub(super) fn filter_names(&self, words: &JobWords<'_>) -> Result<FilterNames, Unclear> {
        let read = |word: Option<&[u8]>, exists: &dyn Fn(&[u8]) -> bool| {
            let Some(word) = word else { return Ok(None) };
            match meant(word, exists, ControlError::NoSuchFunction) {
                Err(Unclear::Missing(_)) => Ok(Some(text::read_name(word))),
                name => name.map(Some),
            }
        };
        Ok(FilterNames {
            function: read(words.function, &|name| self.is_function(name))?,
            client: read(words.client, &|id| self.is_client(id))?,
            waiting: read(words.waiting, &|id| self.is_client(id))?,
        })
    }
}

/// The resolved names of a filter.
pub(super) struct FilterNames {
    pub(super) function: Option<Vec<u8>>,
    pub(super) client: Option<Vec<u8>>,
    pub(super) waiting: Option<Vec<u8>>,
}

/// Resolves a word: to the unescaped name or else to the literal name, whichever exists. If neither exists,
/// the word may be a new name if it is unambiguous: it has no escapes, or only those that the name requires.
fn meant(word: &[u8], exists: impl Fn(&[u8]) -> bool, missing: ControlError) -> Result<Vec<u8>, Unclear> {
    let read = text::read_name(word);
    if read == word {
        return Ok(read);
    }
    let shown = text::escaped(&read);
    let is_shown = shown.as_bytes() == word;
    match (exists(&read), exists(word)) {
        (true, true) if !is_shown => Err(Unclear::Ambiguous { typed: text::escaped(word), read: shown }),
        (true, _) => Ok(read),
        (false, true) => Ok(word.to_vec()),
        (false, false) if is_shown && std::str::from_utf8(&read).is_ok() => Ok(read),
        (false, false) => Err(Unclear::Missing(missing)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_only_reading_makes_is_no_name() {
        fn existing<'a>(known: &'a [&[u8]]) -> impl Fn(&[u8]) -> bool + 'a {
            move |name| known.contains(&name)
        }
        let meant =
            |word: &[u8], exists: &dyn Fn(&[u8]) -> bool| meant(word, exists, ControlError::NoSuchFunction).ok();
        let (typed, read) = (&br"Shop\Export\xAdapter"[..], &b"Shop\\Export\xadapter"[..]);
        assert_eq!(meant(typed, &existing(&[typed])), Some(typed.to_vec()));
        assert_eq!(meant(typed, &existing(&[read])), Some(read.to_vec()));
        assert_eq!(meant(typed, &existing(&[typed, read])), None);
        assert_eq!(meant(typed, &existing(&[])), None);
        // The escaped form of an existing name means that name, whatever else exists.
        let shown = text::escaped(typed);
        assert_eq!(meant(shown.as_bytes(), &existing(&[typed, read])), Some(typed.to_vec()));
        assert_eq!(meant(b"new", &existing(&[])), Some(b"new".to_vec()));
        assert_eq!(meant(br"\e", &existing(&[])), Some(Vec::new()));
        assert_eq!(meant(br"a\x20b", &existing(&[])), Some(b"a b".to_vec()));
        for doubtful in [&br"a\x41"[..], br"a\xff", br"a\x2Cb", br"CORP\xadams"] {
            assert_eq!(meant(doubtful, &existing(&[])), None, "{doubtful:?}");
        }
    }
}
