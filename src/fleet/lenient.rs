//! Lenient parsing of JSON from many languages: harmless deviations are accepted as what was meant.
//!
//! An empty array of PHP or Lua is encoded as `[]`, whether it is a map or a list; an array with gaps is
//! encoded as a map. An integer may arrive as `1.0`, as text or as `null`. Skipped values are not stored, so
//! parsing takes no more memory than its result.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// A scalar value. Negative numbers, `null` and booleans are read as nothing.
enum Scalar {
    Nothing,
    Whole(u64),
    Fraction(f64),
    Text(String),
}

struct ScalarVisitor;

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

impl Visitor<'_> for ScalarVisitor {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number or a string")
    }

    fn visit_unit<E: Error>(self) -> Result<Scalar, E> {
        Ok(Scalar::Nothing)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Scalar, E> {
        Ok(Scalar::Nothing)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Scalar, E> {
        Ok(Scalar::Whole(number))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Scalar, E> {
        Ok(u64::try_from(number).map_or(Scalar::Nothing, Scalar::Whole))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Scalar, E> {
        Ok(if number.is_finite() && number >= 0.0 { Scalar::Fraction(number) } else { Scalar::Nothing })
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Scalar, E> {
        Ok(Scalar::Text(text.to_owned()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Scalar, E> {
        Ok(Scalar::Text(text))
    }
}

impl Scalar {
    /// An unsigned integer; 0 if it is not a number.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "fractions are cut off, and what is too large becomes the largest"
    )]
    fn into_whole(self) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Whole(number) => number,
            Self::Fraction(number) => number as u64,
            Self::Text(text) => {
                let text = text.trim();
                text.parse().unwrap_or_else(|_| to_fraction(text) as u64)
            }
        }
    }

    /// A finite, nonnegative number; 0 if it is not a number.
    #[allow(clippy::cast_precision_loss, reason = "times do not need the last bits of so large a number")]
    fn into_fraction(self) -> f64 {
        match self {
            Self::Nothing => 0.0,
            Self::Whole(number) => number as f64,
            Self::Fraction(number) => number,
            Self::Text(text) => to_fraction(text.trim()),
        }
    }

    fn into_text(self) -> String {
        match self {
            Self::Nothing => String::new(),
            Self::Whole(number) => number.to_string(),
            Self::Fraction(number) => number.to_string(),
            Self::Text(text) => text,
        }
    }
}

fn to_fraction(text: &str) -> f64 {
    text.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0).unwrap_or_default()
}

/// An unsigned integer in any notation; 0 if it is not a number.
pub(super) fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    Scalar::deserialize(deserializer).map(Scalar::into_whole)
}

/// Does the same for a smaller type.
pub(super) fn small<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    whole(deserializer).map(|number| u32::try_from(number).unwrap_or(u32::MAX))
}

/// A finite, nonnegative number in any notation; 0 if it is not a number.
pub(super) fn fraction<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Scalar::deserialize(deserializer).map(Scalar::into_fraction)
}

/// A text, or a number as text; otherwise empty.
pub(super) fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Scalar::deserialize(deserializer).map(Scalar::into_text)
}

/// The first `MAX` texts of a list.
pub(super) fn texts<'de, D: Deserializer<'de>, const MAX: usize>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let scalars = list::<Scalar, D, MAX>(deserializer)?;
    Ok(scalars.into_iter().map(Scalar::into_text).collect())
}

/// The first `MAX` elements of a list, or values of a map.
pub(super) fn list<'de, T: Deserialize<'de>, D: Deserializer<'de>, const MAX: usize>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    deserializer.deserialize_any(ListVisitor::<T, MAX>(PhantomData))
}

struct ListVisitor<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for ListVisitor<T, MAX> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_unit<E: Error>(self) -> Result<Vec<T>, E> {
        Ok(Vec::new())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Vec<T>, A::Error> {
        let mut list = Vec::new();
        while list.len() < MAX {
            match elements.next_element()? {
                Some(element) => list.push(element),
                None => return Ok(list),
            }
        }
        while elements.next_element::<IgnoredAny>()?.is_some() {}
        Ok(list)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Vec<T>, A::Error> {
        let mut list = Vec::new();
        while list.len() < MAX {
            match entries.next_entry::<IgnoredAny, T>()? {
                Some((_, element)) => list.push(element),
                None => return Ok(list),
            }
        }
        while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(list)
    }
}

/// The first `MAX` numbers of a map; a list is read as an empty map.
pub(super) fn counts<'de, D: Deserializer<'de>, const MAX: usize>(
    deserializer: D,
) -> Result<BTreeMap<String, u64>, D::Error> {
    deserializer.deserialize_any(CountsVisitor::<MAX>)
}

struct CountsVisitor<const MAX: usize>;

impl<'de, const MAX: usize> Visitor<'de> for CountsVisitor<MAX> {
    type Value = BTreeMap<String, u64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with numbers")
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(BTreeMap::new())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
        while elements.next_element::<IgnoredAny>()?.is_some() {}
        Ok(BTreeMap::new())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut counts = BTreeMap::new();
        while counts.len() < MAX {
            match entries.next_entry::<String, Scalar>()? {
                Some((name, number)) => _ = counts.insert(name, number.into_whole()),
                None => return Ok(counts),
            }
        }
        while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(counts)
    }
}

/// An object; an empty list or `null` is read as an object without members.
///
/// A list that is not empty is an error, so that arguments are never silently ignored.
pub(super) fn object<'de, T: Deserialize<'de> + Default, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    deserializer.deserialize_any(ObjectVisitor(PhantomData))
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de> + Default> Visitor<'de> for ObjectVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_unit<E: Error>(self) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<T, A::Error> {
        match elements.next_element::<IgnoredAny>()? {
            None => Ok(T::default()),
            Some(_) => Err(A::Error::custom("a list, expected an object")),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(entries))
    }
}
