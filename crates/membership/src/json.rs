//! JSON that can be read in one way only.
//!
//! Two readers may take different ones of two members with the same name: the one who checks and the
//! one who acts. Here such an object is refused, at any depth.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::reject::{Reject, quoted};

/// What marks the message of a duplicate: the reader has one kind of error of ours only.
const TWICE: &str = "\u{1}twice ";

/// Reads an object of a known shape. Members that it does not know are left out, as RFC 7519 asks.
pub(crate) fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Reject> {
    let strict: Strict = serde_json::from_slice(bytes).map_err(|error| {
        let text = error.to_string();
        match text.split_once(TWICE) {
            // Behind it stands where.
            Some((_, name)) => {
                let name = name.rsplit_once(" at line ").map_or(name, |(name, _)| name);
                Reject::Duplicate(quoted(name))
            }
            None => Reject::malformed(text),
        }
    })?;
    if !strict.0.is_object() {
        return Err(Reject::malformed("it is no JSON object"));
    }
    serde_json::from_value(strict.0).map_err(Reject::malformed)
}

struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Any).map(Self)
    }
}

struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, is: bool) -> Result<Value, E> {
        Ok(is.into())
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(Strict(item)) = items.next_element()? {
            all.push(item);
        }
        Ok(all.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut all = Map::new();
        while let Some((name, Strict(value))) = members.next_entry::<String, _>()? {
            if all.contains_key(&name) {
                return Err(A::Error::custom(format!("{TWICE}{name}")));
            }
            all.insert(name, value);
        }
        Ok(all.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_read_in_one_way_or_not_at_all() {
        let check = |text: &str| read::<Value>(text.as_bytes());
        let good = r#"{"a":{"b":[1,-2,3.5,"x",null,true]},"c":{"b":2}}"#;
        assert_eq!(check(good).unwrap().to_string(), good);
        for (text, name) in [
            (r#"{"a":1,"a":1}"#, "a"),
            (r#"{"a":1,"\u0061":2}"#, "a"),
            (r#"{"x":[{"y":{"z":1,"z":2}}]}"#, "z"),
            (r#"{" at line ":1," at line ":2}"#, " at line "),
        ] {
            assert_eq!(check(text).unwrap_err(), Reject::Duplicate(name.to_owned()));
        }
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        for text in [
            "",
            "[]",
            "1",
            "{",
            "{} {}",
            "{\"a\":\u{7f}}",
            &deep,
            "{\"a\":1e999}",
        ] {
            let refused = check(text).unwrap_err();
            assert_eq!(refused.word(), "malformed", "{text}");
        }
    }
}
