//! What a message says, as bytes or as a type that serde knows.

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use super::{error::BusError, frame::Encoding};

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    pub(crate) encoding: Encoding,
    pub(crate) bytes: Bytes,
}

impl Payload {
    /// Bytes as they are.
    pub fn raw(bytes: impl Into<Bytes>) -> Self {
        Self {
            encoding: Encoding::Raw,
            bytes: bytes.into(),
        }
    }

    /// `value` as JSON: for receivers that are not Rust, and for people.
    ///
    /// # Errors
    /// [`BusError::Payload`]: JSON has no way to say this, a map with keys that are no texts say.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self, BusError> {
        Ok(Self {
            encoding: Encoding::Json,
            bytes: serde_json::to_vec(value).map_err(unreadable)?.into(),
        })
    }

    /// `value` as MessagePack, its structures as maps: smaller and faster, and still to be read by who does
    /// not know the type.
    ///
    /// # Errors
    /// [`BusError::Payload`]: `value` says that it cannot be written.
    pub fn compact<T: Serialize + ?Sized>(value: &T) -> Result<Self, BusError> {
        Ok(Self {
            encoding: Encoding::Compact,
            bytes: rmp_serde::to_vec_named(value).map_err(unreadable)?.into(),
        })
    }

    /// How it is to be read.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// Its bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// What it says, as a `T`. Raw bytes are taken for JSON.
    ///
    /// # Errors
    /// [`BusError::Payload`]: it is no `T`.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, BusError> {
        decode(self.encoding, &self.bytes)
    }
}

/// What `bytes` say, as a `T`.
///
/// # Errors
/// [`BusError::Payload`]: it is no `T`.
pub(crate) fn decode<T: DeserializeOwned>(encoding: Encoding, bytes: &[u8]) -> Result<T, BusError> {
    match encoding {
        Encoding::Raw | Encoding::Json => serde_json::from_slice(bytes).map_err(unreadable),
        Encoding::Compact => rmp_serde::from_slice(bytes).map_err(unreadable),
    }
}

fn unreadable(error: impl std::fmt::Display) -> BusError {
    BusError::Payload(error.to_string())
}

impl From<&str> for Payload {
    fn from(text: &str) -> Self {
        Self::raw(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl From<String> for Payload {
    fn from(text: String) -> Self {
        Self::raw(text)
    }
}

impl From<&[u8]> for Payload {
    fn from(bytes: &[u8]) -> Self {
        Self::raw(Bytes::copy_from_slice(bytes))
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        Self::raw(bytes)
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self::raw(bytes)
    }
}
