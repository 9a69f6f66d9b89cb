//! A chunked body (RFC 9112, 7.1), in pieces of any size, counted and not kept.

use super::Malformed;

/// What may be around the data: extensions and line ends of one chunk.
const MAX_LINE: u32 = 4096;
/// What may follow the last chunk.
const MAX_TRAILER: u32 = 64 * 1024;

/// How far a body has come.
#[derive(Debug)]
pub(super) enum Chunks {
    /// In the hexadecimal digits of a length.
    Length { value: u64, digits: u32 },
    /// Between the length and the end of its line.
    Extension { length: u64, seen: u32 },
    /// Before the line feed that ends a length.
    Feed { length: u64 },
    /// This much of a chunk is to come.
    Data(u64),
    /// Before the carriage return behind a chunk, then before the line feed.
    DataEnd { feed: bool },
    /// In the lines behind the last chunk; how much of this one has come, and of all.
    Trailer { line: u32, seen: u32 },
    /// Before the line feed of such a line.
    TrailerFeed { line: u32, seen: u32 },
}

impl Default for Chunks {
    fn default() -> Self {
        Self::START
    }
}

impl Chunks {
    const START: Self = Self::Length {
        value: 0,
        digits: 0,
    };

    /// Takes what has come, and gives what follows the body; `None`: there is more to come.
    pub(super) fn feed<'a>(&mut self, mut bytes: &'a [u8]) -> Result<Option<&'a [u8]>, Malformed> {
        loop {
            if let Self::Data(left) = self {
                let taken = (*left).min(bytes.len() as u64);
                *left -= taken;
                bytes = &bytes[taken as usize..];
                if *left > 0 {
                    return Ok(None);
                }
                *self = Self::DataEnd { feed: false };
            }
            let Some((&byte, rest)) = bytes.split_first() else {
                return Ok(None);
            };
            bytes = rest;
            match self.step(byte)? {
                Some(next) => *self = next,
                None => return Ok(Some(bytes)),
            }
        }
    }

    /// What one byte leads to; `None`: it was the last.
    fn step(&self, byte: u8) -> Result<Option<Self>, Malformed> {
        Ok(Some(match (self, byte) {
            (&Self::Length { value, digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = (byte as char).to_digit(16).ok_or(Malformed)?;
                // Fifteen digits cannot overflow.
                if digits == 15 {
                    return Err(Malformed);
                }
                Self::Length {
                    value: value * 16 + u64::from(digit),
                    digits: digits + 1,
                }
            }
            (&Self::Length { value, digits: 1.. }, b'\r') => Self::Feed { length: value },
            (&Self::Length { value, digits: 1.. }, b';' | b' ' | b'\t') => Self::Extension {
                length: value,
                seen: 0,
            },
            (&Self::Extension { length, .. }, b'\r') => Self::Feed { length },
            (&Self::Extension { length, seen }, _) if byte != b'\n' && seen < MAX_LINE => {
                Self::Extension {
                    length,
                    seen: seen + 1,
                }
            }
            (&Self::Feed { length: 0 }, b'\n') => Self::Trailer { line: 0, seen: 0 },
            (&Self::Feed { length }, b'\n') => Self::Data(length),
            (Self::DataEnd { feed: false }, b'\r') => Self::DataEnd { feed: true },
            (Self::DataEnd { feed: true }, b'\n') => Self::START,
            (&Self::Trailer { line, seen }, b'\r') => Self::TrailerFeed { line, seen },
            (&Self::Trailer { line, seen }, _) if byte != b'\n' && seen < MAX_TRAILER => {
                Self::Trailer {
                    line: line + 1,
                    seen: seen + 1,
                }
            }
            // An empty line ends it.
            (Self::TrailerFeed { line: 0, .. }, b'\n') => return Ok(None),
            (&Self::TrailerFeed { seen, .. }, b'\n') => Self::Trailer { line: 0, seen },
            _ => return Err(Malformed),
        }))
    }
}
