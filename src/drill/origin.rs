//! The upstream of the drill's own: answers every request with what it asked for, some slowly, and
//! notices if one comes twice.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, sync::oneshot, task::spawn_local, time::sleep};

/// Which requests have been served, by their numbers.
#[derive(Debug, Default)]
pub(super) struct Served {
    next: AtomicU64,
    times: Mutex<Vec<u8>>,
    twice: AtomicU64,
}

impl Served {
    /// A number for one more request. No two get the same one.
    pub(super) fn number(&self) -> u64 {
        self.next.fetch_add(1, Relaxed)
    }

    /// Request `number` is being served.
    fn count(&self, number: u64) {
        // A number that was never given out is the client's fault, and shows as a wrong answer.
        if number >= self.next.load(Relaxed) {
            return;
        }
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        let at = number as usize;
        if times.len() <= at {
            times.resize(at + 1, 0);
        }
        times[at] = times[at].saturating_add(1);
        if times[at] == 2 {
            self.twice.fetch_add(1, Relaxed);
        }
    }

    /// How many requests have been served more than once.
    pub(super) fn twice(&self) -> u64 {
        self.twice.load(Relaxed)
    }
}

/// What a request asks for: it travels in its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wish {
    /// Tells it from all others.
    pub(super) number: u64,
    /// How long the answer is to take.
    pub(super) delay: Duration,
    /// How many bytes the answer has besides the wish.
    pub(super) padding: usize,
}

impl Wish {
    /// As it stands in a request.
    pub(super) fn text(&self) -> String {
        let Self {
            number,
            delay,
            padding,
        } = self;
        format!("{number} {} {padding}\n", delay.as_micros())
    }

    fn read(text: &[u8]) -> Option<Self> {
        let mut words = std::str::from_utf8(text).ok()?.split_ascii_whitespace();
        let mut number = || words.next()?.parse::<u64>().ok();
        Some(Self {
            number: number()?,
            delay: Duration::from_micros(number()?),
            padding: number()? as usize,
        })
    }

    /// The one right answer.
    pub(super) fn answer(&self) -> Vec<u8> {
        let mut body = self.text().into_bytes();
        body.resize(body.len() + self.padding, b'x');
        body
    }
}

/// The upstream, on a thread of its own. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Origin {
    /// Where it listens.
    pub(super) address: SocketAddr,
    /// What it has served.
    pub(super) served: Arc<Served>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Origin {
    /// Starts it on a free port of 127.0.0.1.
    pub(super) fn start() -> io::Result<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        socket2::SockRef::from(&listener).listen(4096)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let served = Arc::new(Served::default());
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let thread = thread::Builder::new().name("origin".into()).spawn({
            let served = served.clone();
            move || {
                let all = tokio::task::LocalSet::new();
                all.spawn_local(accept(listener, served));
                // Ends when the sender is dropped, too.
                _ = all.block_on(&runtime, stopped);
            }
        })?;
        Ok(Self {
            address,
            served,
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: std::net::TcpListener, served: Arc<Served>) {
    let Ok(listener) = TcpListener::from_std(listener) else {
        // Its connections are refused, and every answer is wrong: nobody will overlook that.
        return;
    };
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(Duration::from_millis(10)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let served = served.clone();
        spawn_local(async move {
            let service = service_fn(move |request| answer(request, served.clone()));
            // An error is the proxy's: its worker was killed, most likely.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    served: Arc<Served>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = Response::new(Full::default());
    let body = request.into_body().collect().await;
    let wish = body.ok().and_then(|body| Wish::read(&body.to_bytes()));
    let Some(wish) = wish else {
        *response.status_mut() = StatusCode::BAD_REQUEST;
        return Ok(response);
    };
    served.count(wish.number);
    if !wish.delay.is_zero() {
        sleep(wish.delay).await;
    }
    *response.body_mut() = Full::from(wish.answer());
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_comes_twice_is_noticed_once() {
        let served = Served::default();
        let (a, b) = (served.number(), served.number());
        served.count(b);
        served.count(a);
        assert_eq!(served.twice(), 0);
        for _ in 0..3 {
            served.count(a);
        }
        assert_eq!(served.twice(), 1);
        served.count(b);
        assert_eq!(served.twice(), 2);
    }

    #[test]
    fn a_wish_is_read_back_and_its_answer_begins_with_it() {
        let wish = Wish {
            number: 17,
            delay: Duration::from_millis(3),
            padding: 5,
        };
        assert_eq!(Wish::read(wish.text().as_bytes()), Some(wish));
        assert_eq!(wish.answer(), b"17 3000 5\nxxxxx");
        assert_eq!(Wish::read(b"17 3000"), None);
    }
}
