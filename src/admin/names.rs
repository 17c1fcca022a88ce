//! Which function, worker or host a word of a text command means.
//!
//! A word is read as the listings write names, by [`text::read_name`]. Where C++ gearmand's listings show a name that holds a
//! backslash, the same word may be that name itself: whichever exists is meant. Where both do, the word means nothing, unless it
//! is exactly what the other listings show of one. Where neither does, nothing is made for a name that comes of escapes which it
//! does not need, since it may not be what was meant.

use super::Admin;
use super::control::host;
use crate::job_server::{ConnectionId, ControlError, Who};
use crate::protocol::text::{self, JobWords, Workers};

/// Why a word means nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unclear {
    /// Nothing exists of this name, read in either way.
    Missing(ControlError),
    /// The word is two names that exist, and shown as neither.
    Ambiguous {
        /// The word that means the name as it was typed.
        typed: String,
        /// The word that means the name that comes of reading.
        read: String,
    },
    /// No connection can come from there.
    Host(&'static str),
}

impl Admin {
    fn is_function(&self, name: &[u8]) -> bool {
        self.hub.stats().functions.contains_key(name)
    }

    fn is_client(&self, id: &[u8]) -> bool {
        self.hub.has_client(id) || self.has_rule(&Who::Client(id.to_vec()))
    }

    fn has_rule(&self, who: &Who) -> bool {
        !self.hub.list_rules_for(who, None).is_empty()
    }

    /// The function of a command of C++ gearmand, which takes words as they are: so they are read where none is called so.
    pub(super) fn plain_function(&self, word: &[u8]) -> Vec<u8> {
        let read = text::read_name(word);
        if !self.is_function(word) && self.is_function(&read) { read } else { word.to_vec() }
    }

    /// The function of another command.
    pub(super) fn function(&self, word: &[u8]) -> Result<Vec<u8>, Unclear> {
        meant(word, |name| self.is_function(name), ControlError::NoSuchFunction)
    }

    /// The workers that are to get other jobs than before.
    pub(super) fn workers(&self, workers: &Workers<'_>) -> Result<Who, Unclear> {
        match *workers {
            Workers::Connection { slot, generation } => Ok(Who::Connection(ConnectionId { slot, generation })),
            Workers::Client(word) => meant(word, |id| self.is_client(id), ControlError::NoSuchWorker).map(Who::Client),
            Workers::Host(address) => host(address).map_err(Unclear::Host),
        }
    }

    /// The workers of a rule that is to end: one that another version made for a host's name can still be named.
    pub(super) fn workers_of_rule(&self, workers: &Workers<'_>) -> Result<Who, Unclear> {
        let Workers::Host(word) = *workers else { return self.workers(workers) };
        let typed = Who::Host(word.to_owned());
        if self.has_rule(&typed) { Ok(typed) } else { host(word).map_err(Unclear::Host) }
    }

    /// The function of a rule that is to end, which nobody may do any more.
    pub(super) fn function_of_rule(&self, who: &Who, word: &[u8]) -> Result<Vec<u8>, Unclear> {
        let of_rule = |name: &[u8]| {
            let mut last = None;
            loop {
                let rules = self.hub.list_rules_for(who, last.as_ref());
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

    /// The names of a filter; those that mean nothing are read, and fit nothing.
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

/// The names of a filter as they are meant.
pub(super) struct FilterNames {
    pub(super) function: Option<Vec<u8>>,
    pub(super) client: Option<Vec<u8>>,
    pub(super) waiting: Option<Vec<u8>>,
}

/// The name that a word means: what it is read as, else the word itself, whichever exists. Where neither does, a word may be the
/// name of something new, if there is one way to read it: it has no escapes, or none but those that such a name must have.
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
        // What is shown of a name that exists means it, whatever else exists.
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
