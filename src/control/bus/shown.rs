//! What a message says, as a field of a line: `payload` for what is JSON, `text` for other bytes that
//! are UTF-8, `base64` for the rest.

use data_encoding::BASE64;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};

use crate::bus::{Encoding, Payload, peer::is_flat};

/// How deep lists and maps may lie in each other to be shown as JSON: whoever reads the line has a limit,
/// too, often of 128.
const MAX_DEPTH: usize = 100;

/// What a message says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Shown {
    /// JSON.
    Payload(Value),
    /// Bytes that are text.
    Text(String),
    /// Any bytes, in base64 (RFC 4648, section 4, with padding).
    Base64(String),
}

impl Shown {
    /// Shows a payload. One that is not what it claims to be is shown as bytes.
    pub(crate) fn of(encoding: Encoding, bytes: &[u8]) -> Self {
        let value = match encoding {
            Encoding::Raw => None,
            Encoding::Json => serde_json::from_slice(bytes)
                .ok()
                .filter(|value| is_flat(value, MAX_DEPTH)),
            Encoding::Compact => transcribed(bytes),
        };
        match (value, std::str::from_utf8(bytes)) {
            (Some(value), _) => Self::Payload(value),
            // MessagePack that happens to be UTF-8 is no text.
            (None, Ok(text)) if encoding != Encoding::Compact => Self::Text(text.into()),
            (None, _) => Self::Base64(BASE64.encode(bytes)),
        }
    }

    /// Shows bytes that are no more than that.
    pub(crate) fn raw(bytes: &[u8]) -> Self {
        Self::of(Encoding::Raw, bytes)
    }

    /// The payload that it shows.
    ///
    /// # Errors
    /// It is no base64: the text says so.
    pub(crate) fn payload(self) -> Result<Payload, String> {
        match self {
            Self::Payload(value) => Payload::json(&value).map_err(|error| error.to_string()),
            Self::Text(text) => Ok(Payload::raw(text)),
            Self::Base64(text) => BASE64
                .decode(text.as_bytes())
                .map(Payload::raw)
                .map_err(|error| format!("`base64`: {error}")),
        }
    }
}

/// MessagePack as JSON. `None`: it is none, or says what JSON cannot.
fn transcribed(bytes: &[u8]) -> Option<Value> {
    let mut from = rmp_serde::Deserializer::new(bytes);
    from.set_max_depth(MAX_DEPTH);
    let value = Any::deserialize(&mut from).ok()?.0;
    // More after it: then it is something else.
    from.into_inner().is_empty().then_some(value)
}

/// A value of any kind. [`Value`] itself would not take bytes, nor keys that are no texts.
struct Any(Value);

impl<'de> Deserialize<'de> for Any {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Anything).map(Self)
    }
}

/// Makes a [`Value`] of whatever comes, as `serde_json` would have written it: bytes are a list of
/// numbers, and a number that is none is `null`.
struct Anything;

impl<'de> Visitor<'de> for Anything {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("something that JSON can say")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_bytes<E>(self, value: &[u8]) -> Result<Value, E> {
        Ok(value.to_vec().into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Any(value)) = from.next_element()? {
            list.push(value);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some((Any(key), Any(value))) = from.next_entry()? {
            let key = match key {
                Value::String(key) => key,
                key @ (Value::Number(_) | Value::Bool(_)) => key.to_string(),
                _ => return Err(de::Error::custom("a key that is no text")),
            };
            map.insert(key, value);
        }
        Ok(map.into())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    fn shown(payload: &Payload) -> Shown {
        Shown::of(payload.encoding(), payload.bytes())
    }

    #[test]
    fn json_bytes_and_text_are_told_apart_and_come_back() {
        for (payload, expected) in [
            (
                Payload::json(&json!({"a": [1, null]})).expect("JSON"),
                json!({"payload": {"a": [1, null]}}),
            ),
            (Payload::raw("1"), json!({"text": "1"})),
            (Payload::raw(""), json!({"text": ""})),
            (Payload::raw(&b"\xff\x00"[..]), json!({"base64": "/wA="})),
        ] {
            let shown = shown(&payload);
            assert_eq!(serde_json::to_value(&shown).expect("plain data"), expected);
            let read: Shown = serde_json::from_value(expected).expect("the same");
            assert_eq!(read.payload(), Ok(payload));
        }
        let error = Shown::Base64("?".into()).payload().expect_err("not base64");
        assert!(error.contains("base64"), "{error}");
    }

    #[test]
    fn messagepack_is_shown_as_json() {
        #[derive(Serialize)]
        struct All {
            name: &'static str,
            none: Option<u8>,
            numbers: (i8, u64, f64, f64),
            keys: BTreeMap<u8, bool>,
        }
        let all = All {
            name: "a\"\n",
            none: None,
            numbers: (-1, u64::MAX, 0.5, f64::NAN),
            keys: [(7, true)].into(),
        };
        let expected = json!({
            "name": "a\"\n", "none": null, "numbers": [-1, u64::MAX, 0.5, null], "keys": {"7": true},
        });
        let payload = Payload::compact(&all).expect("plain data");
        assert_eq!(shown(&payload), Shown::Payload(expected));
        // bin 8, of two bytes
        let bytes = Shown::of(Encoding::Compact, &[0xc4, 2, 7, 8]);
        assert_eq!(bytes, Shown::Payload(json!([7, 8])));
    }

    #[test]
    fn what_is_not_what_it_claims_is_shown_as_bytes() {
        let deep = [[0x91; 200].as_slice(), &[0xc0]].concat();
        for (encoding, bytes) in [
            // A list that breaks off, nothing at all, two values, a key that is a list, an extension.
            (Encoding::Compact, &b"\x92\x01"[..]),
            (Encoding::Compact, b""),
            (Encoding::Compact, b"\x01\x01"),
            (Encoding::Compact, b"\x81\x90\x01"),
            (Encoding::Compact, b"\xd4\x01\x01"),
            (Encoding::Compact, &deep),
            (Encoding::Json, b"\xff"),
        ] {
            let shown = Shown::of(encoding, bytes);
            assert_eq!(shown, Shown::Base64(BASE64.encode(bytes)), "{bytes:?}");
        }
        assert_eq!(Shown::of(Encoding::Json, b"{"), Shown::Text("{".into()));
        for deep in ["[".repeat(10_000), "[".repeat(110) + &"]".repeat(110)] {
            let shown = Shown::of(Encoding::Json, deep.as_bytes());
            assert_eq!(shown, Shown::Text(deep));
        }
    }
}
