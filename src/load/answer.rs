//! An HTTP/1.1 answer as it comes in, in pieces of any size. Pure. Bodies are counted, not kept, and
//! nothing that a server sends makes it grow.

mod chunks;

use std::mem::MaybeUninit;

use self::chunks::Chunks;

/// The longest head. A server that sends more sends no end.
const MAX_HEAD: usize = 64 * 1024;
/// The most fields in a head.
const MAX_FIELDS: usize = 100;

/// One answer, of which nothing to all has come.
#[derive(Debug, Default)]
pub(super) struct Answer {
    stage: Stage,
    /// The part of a head that has come, where it did not come in one piece.
    held: Vec<u8>,
    begun: bool,
    status: u16,
    closes: bool,
}

#[derive(Debug, Default)]
enum Stage {
    #[default]
    Head,
    /// This much of the body is to come.
    Counted(u64),
    Chunked(Chunks),
    /// The body ends with the connection.
    Rest,
    Whole,
}

/// What a piece has brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// There is more to come.
    Partial,
    /// The answer is whole.
    Whole,
}

/// What came is no answer to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

impl Answer {
    /// Forgets everything: another answer is to come.
    #[inline]
    pub(super) fn reset(&mut self) {
        self.stage = Stage::Head;
        self.held.clear();
        self.begun = false;
    }

    /// Has any of it come?
    pub(super) fn begun(&self) -> bool {
        self.begun
    }

    /// Its status, once it is whole.
    pub(super) fn status(&self) -> u16 {
        self.status
    }

    /// Does the server close the connection after it?
    pub(super) fn closes(&self) -> bool {
        self.closes
    }

    /// Takes what has come.
    ///
    /// # Errors
    /// It is no answer, or more than one: nobody has asked for that.
    #[inline]
    pub(super) fn feed(&mut self, mut bytes: &[u8]) -> Result<Progress, Malformed> {
        self.begun |= !bytes.is_empty();
        loop {
            match &mut self.stage {
                Stage::Head => match self.head(bytes)? {
                    Some(rest) => bytes = rest,
                    None => return Ok(Progress::Partial),
                },
                Stage::Counted(left) => {
                    let taken = (*left).min(bytes.len() as u64);
                    *left -= taken;
                    bytes = &bytes[taken as usize..];
                    if *left > 0 {
                        return Ok(Progress::Partial);
                    }
                    self.stage = Stage::Whole;
                }
                Stage::Chunked(chunks) => match chunks.feed(bytes)? {
                    Some(rest) => {
                        bytes = rest;
                        self.stage = Stage::Whole;
                    }
                    None => return Ok(Progress::Partial),
                },
                Stage::Rest => return Ok(Progress::Partial),
                Stage::Whole if bytes.is_empty() => return Ok(Progress::Whole),
                Stage::Whole => return Err(Malformed),
            }
        }
    }

    /// The connection has ended: was that the end of the answer?
    pub(super) fn ends_here(&self) -> bool {
        matches!(self.stage, Stage::Rest | Stage::Whole)
    }

    /// Takes the head, and gives what follows it; `None`: it is not all there.
    fn head<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<&'a [u8]>, Malformed> {
        if self.held.is_empty() {
            return match parse(bytes)? {
                Some((head, length)) => {
                    self.enter(head);
                    Ok(Some(&bytes[length..]))
                }
                None => {
                    self.hold(bytes)?;
                    Ok(None)
                }
            };
        }
        let before = self.held.len();
        self.hold(bytes)?;
        let Some((head, length)) = parse(&self.held)? else {
            return Ok(None);
        };
        self.held.clear();
        self.enter(head);
        // Without these bytes it was not whole, so it ends in them.
        Ok(Some(&bytes[length - before..]))
    }

    fn hold(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        if self.held.len() + bytes.len() > MAX_HEAD {
            return Err(Malformed);
        }
        self.held.extend_from_slice(bytes);
        Ok(())
    }

    fn enter(&mut self, head: Head) {
        self.stage = match head.body {
            // "Continue", "early hints": the answer itself is to come.
            Body::Interim => Stage::Head,
            Body::Counted(0) => Stage::Whole,
            Body::Counted(length) => Stage::Counted(length),
            Body::Chunked => Stage::Chunked(Chunks::default()),
            Body::Rest => Stage::Rest,
        };
        self.status = head.status;
        self.closes = head.closes;
    }
}

struct Head {
    status: u16,
    closes: bool,
    body: Body,
}

#[derive(PartialEq)]
enum Body {
    Interim,
    Counted(u64),
    Chunked,
    Rest,
}

/// A head and its length; `None`: it is not all there.
fn parse(bytes: &[u8]) -> Result<Option<(Head, usize)>, Malformed> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut response,
        bytes,
        &mut fields,
    );
    let length = match parsed {
        Ok(httparse::Status::Complete(length)) if length <= MAX_HEAD => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Ok(_) | Err(_) => return Err(Malformed),
    };
    let status = response.code.ok_or(Malformed)?;
    let mut closes = response.version == Some(0);
    let (mut counted, mut chunked) = (None, false);
    for field in response.headers.iter() {
        let (name, value) = (field.name, field.value.trim_ascii());
        if name.eq_ignore_ascii_case("content-length") {
            let length = number(value)?;
            // Said twice is well if it is the same.
            if counted.replace(length).is_some_and(|other| other != length) {
                return Err(Malformed);
            }
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            // We have asked for no other coding.
            if chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Malformed);
            }
            chunked = true;
        } else if name.eq_ignore_ascii_case("connection") {
            for token in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                closes |= token.eq_ignore_ascii_case(b"close");
                closes &= !token.eq_ignore_ascii_case(b"keep-alive");
            }
        }
    }
    let body = match (status, counted, chunked) {
        // Nobody has asked for another protocol.
        (101, ..) | (..=99, ..) => return Err(Malformed),
        (..=199, ..) => Body::Interim,
        (204 | 304, ..) => Body::Counted(0),
        // Two lengths: whoever is in between may have believed the other one (RFC 9112, 6.3).
        (_, Some(_), true) => return Err(Malformed),
        (_, Some(length), false) => Body::Counted(length),
        (_, None, true) => Body::Chunked,
        (_, None, false) => Body::Rest,
    };
    let closes = closes || body == Body::Rest;
    let head = Head {
        status,
        closes,
        body,
    };
    Ok(Some((head, length)))
}

/// Digits and nothing else: `parse` would take a sign.
fn number(digits: &[u8]) -> Result<u64, Malformed> {
    if !digits.iter().all(u8::is_ascii_digit) {
        return Err(Malformed);
    }
    let digits = str::from_utf8(digits).map_err(|_| Malformed)?;
    digits.parse().map_err(|_| Malformed)
}

#[cfg(test)]
mod tests;
