//! Topics: words with dots between them, `room.7.said`. A pattern may have `*` for one word and end in
//! `>` for one or more: `room.*.said`, `room.>`. That is the grammar of NATS subjects.

/// The longest topic or pattern, in bytes.
pub const MAX_TOPIC: usize = 255;

/// May `text` be published to?
pub fn is_topic(text: &str) -> bool {
    is_sound(text) && words(text).all(|word| word != "*" && word != ">")
}

/// May `text` be subscribed to?
pub fn is_pattern(text: &str) -> bool {
    let mut open_end = false;
    is_sound(text)
        && words(text).all(|word| {
            // Nothing may follow the word that stands for all that follows.
            !std::mem::replace(&mut open_end, word == ">")
        })
}

/// Does `topic` match `pattern`? Both are taken to be sound.
pub fn matches(pattern: &str, topic: &str) -> bool {
    let mut topic = words(topic);
    for wanted in words(pattern) {
        match (wanted, topic.next()) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (wanted, Some(word)) if wanted == word => {}
            _ => return false,
        }
    }
    topic.next().is_none()
}

/// Does this one, or a pattern, or a name, belong to the library itself? Its sockets go by such names.
pub fn is_reserved(text: &str) -> bool {
    text.starts_with('$')
}

/// The words of a topic or pattern.
pub fn words(text: &str) -> impl Iterator<Item = &str> + Clone {
    text.split('.')
}

/// Words that are not empty, with nothing in them that a line of text or a NATS subject could not hold;
/// `*` and `>` stand alone.
fn is_sound(text: &str) -> bool {
    let plain = |word: &str| {
        let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '*' | '>');
        word == "*" || word == ">" || (!word.is_empty() && !word.contains(odd))
    };
    text.len() <= MAX_TOPIC && words(text).all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_word_by_word() {
        for (pattern, topic, expected) in [
            ("a.b", "a.b", true),
            ("a.b", "a.b.c", false),
            ("a.b", "a", false),
            ("a.*", "a.b", true),
            ("a.*", "a", false),
            ("a.*", "a.b.c", false),
            ("*.b", "a.b", true),
            ("a.>", "a.b.c", true),
            ("a.>", "a", false),
            (">", "a", true),
            ("*", "a", true),
            ("*", "a.b", false),
        ] {
            assert_eq!(matches(pattern, topic), expected, "{pattern} {topic}");
        }
    }

    #[test]
    fn odd_topics_are_none() {
        for text in ["a", "a.b", "room.7.said", "é.b", "$x"] {
            assert!(is_topic(text), "{text}");
            assert!(is_pattern(text), "{text}");
        }
        for text in [
            "", ".", "a.", ".a", "a..b", "a b", "a\n", "a.b*", "a>", "\0",
        ] {
            assert!(!is_topic(text) && !is_pattern(text), "{text:?}");
        }
        for text in ["*", ">", "a.*", "a.>", "*.a.>"] {
            assert!(!is_topic(text), "{text}");
            assert!(is_pattern(text), "{text}");
        }
        assert!(!is_pattern(">.a") && !is_pattern("a.>.b"));
        assert!(!is_topic(&"a".repeat(MAX_TOPIC + 1)));
    }
}
