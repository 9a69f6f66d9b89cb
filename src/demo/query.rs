//! Just enough of a query string for the demo's routes.

use std::ops::RangeInclusive;

/// The decoded value of the first `key` in `query`; empty where it has no `=`.
pub(super) fn find(query: Option<&str>, key: &str) -> Option<String> {
    query?.split('&').find_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (name == key).then(|| decode(value))
    })
}

/// The number under `key`, or one line saying what was wanted.
pub(super) fn number(
    query: Option<&str>,
    key: &str,
    range: RangeInclusive<u64>,
) -> Result<u64, String> {
    let wanted = || {
        let (low, high) = (range.start(), range.end());
        format!("{key}: want a whole number from {low} to {high}")
    };
    let Some(text) = find(query, key) else {
        return Err(format!("{}, got none\n", wanted()));
    };
    // `parse` alone would let a sign through.
    Some(&text)
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .filter(|number| range.contains(number))
        .ok_or_else(|| format!("{}, got {text:?}\n", wanted()))
}

/// The switch under `key`: off where absent or `0`, on at `1`.
pub(super) fn switch(query: Option<&str>, key: &str) -> Result<bool, String> {
    match find(query, key).as_deref() {
        None | Some("0") => Ok(false),
        Some("1") => Ok(true),
        Some(other) => Err(format!("{key}: want 0 or 1, got {other:?}\n")),
    }
}

/// Undoes percent-encoding and `+`, as a form encodes. A `%` that encodes nothing stands for itself.
fn decode(text: &str) -> String {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        let plain = match byte {
            b'+' => b' ',
            b'%' => match (digit(bytes.get(at)), digit(bytes.get(at + 1))) {
                (Some(high), Some(low)) => {
                    at += 2;
                    (high * 16 + low) as u8
                }
                _ => b'%',
            },
            other => other,
        };
        decoded.push(plain);
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_first_of_a_key_and_decodes_it() {
        let query = Some("a=1&body=x%20y+z%C3%A9%2&a=2&flag");
        assert_eq!(find(query, "a").as_deref(), Some("1"));
        assert_eq!(find(query, "body").as_deref(), Some("x y zé%2"));
        assert_eq!(find(query, "flag").as_deref(), Some(""));
        assert_eq!(find(query, "b"), None);
        assert_eq!(find(None, "a"), None);
    }

    #[test]
    fn numbers_are_whole_and_in_range() {
        assert_eq!(number(Some("n=10"), "n", 0..=10), Ok(10));
        for bad in ["n=11", "n=", "n=-1", "n=%2B1", "n=1.5", "n=x", "n", "m=1"] {
            let line = number(Some(bad), "n", 0..=10).expect_err(bad);
            assert!(line.starts_with("n: want a whole number from 0 to 10, got "));
            assert_eq!(line.matches('\n').count(), 1, "{line:?}");
        }
        let line = number(Some("n=%0a"), "n", 0..=10).expect_err("a line feed");
        assert_eq!(line.matches('\n').count(), 1, "{line:?}");
    }

    #[test]
    fn switches_are_nought_or_one() {
        assert_eq!(switch(None, "s"), Ok(false));
        assert_eq!(switch(Some("s=0"), "s"), Ok(false));
        assert_eq!(switch(Some("s=1"), "s"), Ok(true));
        assert!(switch(Some("s=yes"), "s").is_err());
    }
}
