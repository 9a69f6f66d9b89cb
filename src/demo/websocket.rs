//! `/ws`: what comes in goes out again.
//!
//! The protocol is tungstenite's; the waiting is done here. Its [`WebSocketContext`] works on
//! anything that reads and writes without blocking, so it is given two buffers, and this file
//! carries bytes between them and the socket. That makes the order plain: nothing more is read
//! before the last echo is written, so a client that does not read is held back.

use std::io::{self, Read, Write};

use bytes::{Buf as _, BytesMut};
use hyper::body::Incoming;
use hyper::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketContext};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::body::Body;
use super::{App, Phase, answer::plain, reached};

/// How much is read at once.
const READ: usize = 16 * 1024;

/// Answers the handshake of RFC 6455, section 4.2, and leaves the connection to a task of its own.
pub(super) fn upgrade(app: &App, mut request: Request<Incoming>) -> Response<Body> {
    let headers = request.headers();
    if !has_token(headers, CONNECTION, "upgrade") || !has_token(headers, UPGRADE, "websocket") {
        return required();
    }
    if headers
        .get(SEC_WEBSOCKET_VERSION)
        .is_none_or(|version| version != "13")
    {
        return required();
    }
    let Some(key) = headers.get(SEC_WEBSOCKET_KEY) else {
        return plain(StatusCode::BAD_REQUEST, "sec-websocket-key is missing\n");
    };
    let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) else {
        return plain(StatusCode::BAD_REQUEST, "sec-websocket-key is unusable\n");
    };

    let upgraded = hyper::upgrade::on(&mut request);
    let phase = app.phase.clone();
    tokio::spawn(async move {
        let mut aborted = phase.clone();
        let echoed = async {
            // An error means that the connection ended before the upgrade: there is no socket.
            if let Ok(upgraded) = upgraded.await {
                let _ = echo(TokioIo::new(upgraded), phase).await;
            }
        };
        tokio::select! {
            biased;
            () = echoed => {}
            () = reached(&mut aborted, Phase::Abort) => {}
        }
    });

    let mut response = Response::new(Body::from(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    response
}

/// The answer to a request that does not upgrade, or to a version of the protocol not spoken here.
pub(super) fn required() -> Response<Body> {
    let mut response = plain(
        StatusCode::UPGRADE_REQUIRED,
        "this route speaks WebSocket, version 13, only\n",
    );
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    response
}

/// Whether `token` is in the comma-separated list that `name` holds.
fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    headers.get_all(name).iter().any(|value| {
        value.to_str().is_ok_and(|value| {
            value
                .split(',')
                .any(|one| one.trim().eq_ignore_ascii_case(token))
        })
    })
}

/// Echoes until either side closes.
async fn echo(
    mut io: impl AsyncRead + AsyncWrite + Unpin,
    mut phase: watch::Receiver<Phase>,
) -> io::Result<()> {
    let mut context = WebSocketContext::new(Role::Server, None);
    let mut pipe = Pipe::default();
    let mut draining = false;
    loop {
        let open = take_messages(&mut context, &mut pipe);
        io.write_all(&pipe.output).await?;
        io.flush().await?;
        pipe.output.clear();
        if !open {
            return io.shutdown().await;
        }

        pipe.input.reserve(READ);
        tokio::select! {
            read = io.read_buf(&mut pipe.input) => if read? == 0 {
                return io.shutdown().await;
            },
            () = reached(&mut phase, Phase::Drain), if !draining => {
                draining = true;
                close(&mut context, &mut pipe, CloseCode::Away, "the demo upstream stops");
            }
        }
    }
}

/// Answers all messages that are complete in the pipe's input; `false` once the WebSocket is closed.
fn take_messages(context: &mut WebSocketContext, pipe: &mut Pipe) -> bool {
    loop {
        // Pings and the peer's close are answered by `read` itself.
        let failed = match context.read(pipe) {
            // After a close frame of our own, messages still come in but none may go out.
            Ok(message @ (Message::Text(_) | Message::Binary(_))) if context.can_write() => {
                context.write(pipe, message).err()
            }
            Ok(_) => None,
            Err(error) => Some(error),
        };
        match failed {
            None => {}
            Some(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                return context.flush(pipe).is_ok();
            }
            Some(error) => {
                let code = match error {
                    Error::Protocol(_) => CloseCode::Protocol,
                    Error::Utf8(_) => CloseCode::Invalid,
                    Error::Capacity(_) => CloseCode::Size,
                    _ => return false,
                };
                close(context, pipe, code, "");
                return false;
            }
        }
    }
}

/// Puts a close frame into the pipe's output, unless one has been.
fn close(context: &mut WebSocketContext, pipe: &mut Pipe, code: CloseCode, reason: &'static str) {
    let reason = reason.into();
    // The pipe takes all that is written: this fails only where the WebSocket is closed already.
    let _ = context.close(pipe, Some(CloseFrame { code, reason }));
}

/// What tungstenite takes for a non-blocking socket: bytes read from, and to be written to, the
/// real one.
#[derive(Default)]
struct Pipe {
    input: BytesMut,
    output: Vec<u8>,
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.input.is_empty() {
            // No bytes would mean the end; there may be more later.
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let length = buffer.len().min(self.input.len());
        self.input.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
