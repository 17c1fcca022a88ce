//! Names of Redis keys.
//!
//! C++ gearmand's key is `<prefix>-<function>-<unique>`. It identifies a job only if the function has no
//! hyphen and there is a unique id. Any other job is stored under `<prefix>-<function>-job:<number>`, and so
//! is a job whose unique id looks like that. So no two jobs ever share a key. The fields of the hash contain
//! the function and the unique id.

use std::collections::HashSet;
use std::fmt::Write;

use crate::protocol::names::UNIQUE_MAX;

/// Precedes the job number in place of a unique id.
const NUMBERED: &str = "job:";
/// Length of a UUID in its usual form.
const UUID_LENGTH: usize = 36;

/// The key names of one queue.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: String,
}

/// The parts of a job's key.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Named<'a> {
    pub(super) function: &'a [u8],
    pub(super) unique: &'a [u8],
    /// Whether the key can also be parsed in another way.
    pub(super) ambiguous: bool,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// The key of a job. It depends only on the job's number and name.
    pub(super) fn job(&self, number: u64, function: &[u8], unique: &[u8]) -> Vec<u8> {
        let mut key = [self.prefix.as_bytes(), b"-", function, b"-"].concat();
        if unique.is_empty() || unique == b"-" || function.contains(&b'-') || ends_numbered(unique) {
            key.extend_from_slice(format!("{NUMBERED}{number}").as_bytes());
        } else {
            key.extend_from_slice(unique);
        }
        key
    }

    /// A key that no job has, for an entry that made way for the job with this number. `attempt` counts the
    /// keys already taken.
    pub(super) fn made_way(&self, number: u64, function: &[u8], attempt: usize) -> Vec<u8> {
        // Job numbers have no leading zeros, and a unique id that looks like this is never part of a key.
        let zeros = "0".repeat(attempt + 1);
        let end = format!("-{NUMBERED}{zeros}{number}");
        [self.prefix.as_bytes(), b"-", function, end.as_bytes()].concat()
    }

    /// A pattern for all keys of jobs, and maybe others.
    pub(super) fn pattern(&self) -> String {
        escaped(&self.prefix) + "-*"
    }

    /// The key of the side hash of the job with this key.
    pub(super) fn side(&self, key: &[u8]) -> Vec<u8> {
        [self.sides().as_bytes(), key].concat()
    }

    /// The key of the job with this side hash.
    pub(super) fn main<'a>(&self, side: &'a [u8]) -> Option<&'a [u8]> {
        side.strip_prefix(self.sides().as_bytes())
    }

    /// A pattern for the keys of all side hashes.
    pub(super) fn side_pattern(&self) -> String {
        escaped(&self.sides()) + "*"
    }

    fn sides(&self) -> String {
        format!("{}{}:job:", self.apart("gearmand:", "queue:"), self.prefix)
    }

    /// The key of the queue's metadata.
    pub(super) fn meta(&self) -> String {
        format!("{}{}:meta", self.apart("gearmand:", "queue:"), self.prefix)
    }

    /// The key of the operator settings, by name.
    pub(super) fn settings(&self) -> String {
        format!("{}{}:settings", self.apart("gearmand:", "queue:"), self.prefix)
    }

    /// A key that never exists.
    pub(super) fn never(&self) -> String {
        format!("{}{}:never", self.apart("gearmand:", "queue:"), self.prefix)
    }

    /// A temporary key of a job within a transaction in which jobs swap places.
    pub(super) fn away(&self, number: u64) -> Vec<u8> {
        format!("{}{}:away:{number}", self.apart("gearmand:", "queue:"), self.prefix).into_bytes()
    }

    /// The quarantine key for an invalid entry. `attempt` counts the keys already taken.
    pub(super) fn quarantine(&self, key: &[u8], attempt: u32) -> Vec<u8> {
        let mut name = self.quarantine_prefix().as_bytes().to_vec();
        if attempt > 0 {
            name.extend_from_slice(format!("{attempt}:").as_bytes());
        }
        name.extend_from_slice(key);
        name
    }

    fn quarantine_prefix(&self) -> &'static str {
        self.apart("quarantine:", "invalid:")
    }

    fn former_quarantine_prefix(&self) -> &'static str {
        self.apart("set-aside:", "aside:")
    }

    /// A pattern for the quarantine keys of earlier versions, and maybe others.
    pub(super) fn former_quarantine_pattern(&self) -> String {
        format!("{}*{}", self.former_quarantine_prefix(), self.pattern())
    }

    /// The present name of a quarantine key of earlier versions; `None` if the key is something else.
    pub(super) fn quarantine_of_former(&self, former: &[u8]) -> Option<Vec<u8>> {
        let rest = former.strip_prefix(self.former_quarantine_prefix().as_bytes())?;
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let after_attempt = rest[digits..].strip_prefix(b":").unwrap_or(rest);
        let is_of_queue =
            |key: &[u8]| key.strip_prefix(self.prefix.as_bytes()).is_some_and(|key| key.starts_with(b"-"));
        (is_of_queue(rest) || is_of_queue(after_attempt)).then(|| [self.quarantine_prefix().as_bytes(), rest].concat())
    }

    /// The connection name of the queue's owner: printable and without spaces.
    pub(super) fn owner(&self) -> String {
        let mut name = "gearmand:".to_owned();
        for byte in self.prefix.bytes() {
            if byte.is_ascii_graphic() && byte != b'%' {
                name.push(char::from(byte));
            } else {
                // Writing to a String cannot fail.
                let _ = write!(name, "%{byte:02x}");
            }
        }
        name
    }

    /// The first word, unless a scan for this queue's keys would match it.
    fn apart(&self, first: &'static str, second: &'static str) -> &'static str {
        if first.starts_with(&self.prefix) { second } else { first }
    }

    /// Parses a key of C++ gearmand; `None` if it is not the key of a job. `functions` are those known to
    /// exist.
    pub(super) fn read<'a>(&self, key: &'a [u8], functions: &HashSet<Vec<u8>>) -> Option<Named<'a>> {
        let rest = key.strip_prefix(self.prefix.as_bytes())?.strip_prefix(b"-")?;
        let hyphens: Vec<usize> = (0..rest.len()).filter(|place| rest[*place] == b'-').collect();
        // libgearman generates a UUID if its user gives no unique id.
        let uuid = rest.len().checked_sub(UUID_LENGTH + 1).filter(|place| *place > 0 && is_uuid(&rest[place + 1..]));
        let uuid = uuid.filter(|place| rest[*place] == b'-');
        let known = hyphens.iter().rev().find(|place| functions.contains(&rest[..**place]));
        let known = uuid.or(known.copied());
        let place = known.or(hyphens.first().copied())?;
        let (function, unique) = (&rest[..place], &rest[place + 1..]);
        // C++ gearmand dropped the last byte of a 64-byte unique id, and padded the key with a leading space.
        let unique = match unique {
            [b' ', shortened @ ..] if unique.len() == UNIQUE_MAX => shortened,
            _ => unique,
        };
        Some(Named { function, unique, ambiguous: known.is_none() && hyphens.len() > 1 && unique != b"-" })
    }
}

/// Whether this is 32 hexadecimal digits in groups of 8, 4, 4, 4 and 12.
fn is_uuid(text: &[u8]) -> bool {
    let is_right = |(place, byte): (usize, &u8)| match place {
        8 | 13 | 18 | 23 => *byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    };
    text.len() == UUID_LENGTH && text.iter().enumerate().all(is_right)
}

/// Escapes a text so that the pattern matches only that text.
fn escaped(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len() + 2);
    for character in text.chars() {
        if "*?[]\\^".contains(character) {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern
}

/// Whether a key with this ending could be that of a job without a unique id.
fn ends_numbered(unique: &[u8]) -> bool {
    let digits = unique.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    digits > 0 && unique[..unique.len() - digits].ends_with(NUMBERED.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_jobs_share_a_key() {
        let keys = Keys::new("_gear_");
        let jobs: [(u64, &str, &str); 9] = [
            (1, "a", "b-c"),
            (2, "a-b", "c"),
            (3, "a", ""),
            (4, "a", "-"),
            (5, "a", "job:3"),
            (6, "a", "b-job:7"),
            (7, "a-b", ""),
            (8, "a", "job:"),
            (9, "a", "job:3x"),
        ];
        let names: HashSet<Vec<u8>> =
            jobs.iter().map(|(number, f, u)| keys.job(*number, f.as_bytes(), u.as_bytes())).collect();
        assert_eq!(names.len(), jobs.len());
        assert!(names.contains(&b"_gear_-a-b-c"[..]), "a plain key is that of C++ gearmand");
        assert!(names.contains(&b"_gear_-a-job:5"[..]));
    }

    #[test]
    fn keys_of_the_queue_itself_are_not_found_as_jobs() {
        for prefix in ["_gear_", "gearmand", "g", "qu", "quarantine", ""] {
            let keys = Keys::new(prefix);
            let side = keys.side(b"x");
            assert_eq!(keys.main(&side), Some(&b"x"[..]));
            let (meta, settings) = (keys.meta().into_bytes(), keys.settings().into_bytes());
            for name in [meta, settings, keys.away(7), keys.quarantine(b"x", 0), keys.quarantine(b"x", 2), side] {
                assert!(prefix.is_empty() || !name.starts_with(prefix.as_bytes()), "{prefix}: {}", name.escape_ascii());
            }
        }
        assert_eq!(Keys::new("a*[b]?\\").pattern(), "a\\*\\[b\\]\\?\\\\-*");
        assert_eq!(Keys::new("a b%").owner(), "gearmand:a%20b%25");
    }

    #[test]
    fn quarantine_keys_of_earlier_versions_are_renamed() {
        let keys = Keys::new("q*");
        assert_eq!(keys.former_quarantine_pattern(), "set-aside:*q\\*-*");
        for (former, name) in [
            ("set-aside:q*-f-u", Some("quarantine:q*-f-u")),
            ("set-aside:12:q*-f-u", Some("quarantine:12:q*-f-u")),
            ("set-aside:other-q*-f-u", None),
            ("set-aside:x:q*-f-u", None),
            ("quarantine:q*-f-u", None),
        ] {
            let name = name.map(|name| name.as_bytes().to_vec());
            assert_eq!(keys.quarantine_of_former(former.as_bytes()), name, "{former}");
        }
        for (prefix, former) in [("s", "aside:s-f-u"), ("q", "set-aside:q-f-u")] {
            let keys = Keys::new(prefix);
            let name = keys.quarantine_of_former(former.as_bytes());
            assert_eq!(name, Some(keys.quarantine(format!("{prefix}-f-u").as_bytes(), 0)));
        }
    }

    #[test]
    fn keys_of_gearmand_are_read_as_well_as_they_can_be() {
        let keys = Keys::new("_gear_");
        let none = HashSet::new();
        let known = HashSet::from([b"a-b".to_vec()]);
        let named = |function: &'static str, unique: &'static str, ambiguous| {
            Some(Named { function: function.as_bytes(), unique: unique.as_bytes(), ambiguous })
        };
        assert_eq!(keys.read(b"_gear_-f-u", &none), named("f", "u", false));
        assert_eq!(keys.read(b"_gear_-f-", &none), named("f", "", false));
        assert_eq!(keys.read(b"_gear_-f--", &none), named("f", "-", false));
        assert_eq!(keys.read(b"_gear_-a-b-c", &none), named("a", "b-c", true));
        assert_eq!(keys.read(b"_gear_-a-b-c", &known), named("a-b", "c", false));
        let uuid = "f1aa111c-87c8-11f0-8e2a-0242ac120002";
        let key = |function: &str, unique: &str| format!("_gear_-{function}-{unique}").into_bytes();
        assert_eq!(keys.read(&key("a-b", uuid), &none), named("a-b", uuid, false));
        assert_eq!(keys.read(&key("a-b-c", uuid), &known), named("a-b-c", uuid, false));
        let other = "f1aa111c-87c8-11f0-8e2a-0242ac12000g";
        assert_eq!(keys.read(&key("a", other), &none), named("a", other, true));
        assert_eq!(keys.read(&key("", uuid), &none).map(|named| named.ambiguous), Some(true));
        assert_eq!(keys.read(b"_gear_-f", &none), None);
        assert_eq!(keys.read(b"_gear_x-f-u", &none), None);
        let padded = format!("_gear_-f- {}", "u".repeat(63));
        assert_eq!(keys.read(padded.as_bytes(), &none).unwrap().unique, "u".repeat(63).as_bytes());
    }
}
