//! Which function, worker or host a word of a text command means.
//!
//! A word is read as the listings write names, by [`text::read_name`]. Where C++ gearmand's listings show a name that holds a
//! backslash, the same word may be that name itself: whichever exists is meant. Where neither does, nothing is made for a name
//! that comes of escapes which it does not need, since it may not be what was meant.

use super::Admin;
use super::control::host;
use super::look::function_id;
use crate::job_server::{ConnectionId, ControlError, Who};
use crate::protocol::text::{self, JobWords, Workers};

/// Why a word means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unclear {
    /// Nothing exists of this name, read in either way.
    Missing(ControlError),
    /// No connection can come from there.
    Host(&'static str),
}

impl Admin {
    fn is_function(&self, name: &[u8]) -> bool {
        self.hub.stats().functions.contains_key(name)
    }

    fn is_client(&self, id: &[u8]) -> bool {
        let connections = &self.hub.stats().connections;
        connections.iter().any(|connection| connection.value().client_id().as_deref() == Some(id))
            || self.has_rule(&Who::Client(id.to_vec()))
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
        meant(word, |name| self.is_function(name)).ok_or(Unclear::Missing(ControlError::NoSuchFunction))
    }

    /// The workers that are to get other jobs than before.
    pub(super) fn workers(&self, workers: &Workers<'_>) -> Result<Who, Unclear> {
        match *workers {
            Workers::Connection { slot, generation } => Ok(Who::Connection(ConnectionId { slot, generation })),
            Workers::Client(word) => {
                let id = meant(word, |id| self.is_client(id));
                id.map(Who::Client).ok_or(Unclear::Missing(ControlError::NoSuchWorker))
            }
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
            let id = function_id(name);
            self.look.rules_for(who.clone()).any(|rule| rule.function_id.as_ref() == Some(&id))
        };
        meant(word, of_rule).ok_or(Unclear::Missing(ControlError::NoSuchRule))
    }

    /// The names of a filter; those that mean nothing are read, and fit nothing.
    pub(super) fn filter_names(&self, words: &JobWords<'_>) -> FilterNames {
        let read =
            |word: &[u8], exists: &dyn Fn(&[u8]) -> bool| meant(word, exists).unwrap_or_else(|| text::read_name(word));
        FilterNames {
            function: words.function.map(|word| read(word, &|name| self.is_function(name))),
            client: words.client.map(|word| read(word, &|id| self.is_client(id))),
            waiting: words.waiting.map(|word| read(word, &|id| self.is_client(id))),
        }
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
fn meant(word: &[u8], exists: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
    let read = text::read_name(word);
    if read == word || exists(&read) {
        return Some(read);
    }
    if exists(word) {
        return Some(word.to_vec());
    }
    let is_plain = std::str::from_utf8(&read).is_ok() && text::escaped(&read).as_bytes() == word;
    is_plain.then_some(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_only_reading_makes_is_no_name() {
        fn existing<'a>(known: &'a [&[u8]]) -> impl Fn(&[u8]) -> bool + 'a {
            move |name| known.contains(&name)
        }
        let (typed, read) = (&br"Shop\Export\xAdapter"[..], &b"Shop\\Export\xadapter"[..]);
        assert_eq!(meant(typed, existing(&[typed])), Some(typed.to_vec()));
        assert_eq!(meant(typed, existing(&[read])), Some(read.to_vec()));
        assert_eq!(meant(typed, existing(&[typed, read])), Some(read.to_vec()));
        assert_eq!(meant(typed, existing(&[])), None);
        // What is shown of a name that exists means it, whatever else exists.
        let shown = text::escaped(typed);
        assert_eq!(meant(shown.as_bytes(), existing(&[typed, read])), Some(typed.to_vec()));
        assert_eq!(meant(b"new", existing(&[])), Some(b"new".to_vec()));
        assert_eq!(meant(br"\e", existing(&[])), Some(Vec::new()));
        assert_eq!(meant(br"a\x20b", existing(&[])), Some(b"a b".to_vec()));
        for doubtful in [&br"a\x41"[..], br"a\xff", br"a\x2Cb", br"CORP\xadams"] {
            assert_eq!(meant(doubtful, existing(&[])), None, "{doubtful:?}");
        }
    }
}
