//! Guests: programs that are on the bus by way of the control socket. Each has a line from the hub like a
//! worker, and a place: those are few, and none of them is one of the places for commands, so that however
//! many listen, the master can always be told what to do.
//!
//! `session` is a guest's whole stay, `errand` what is over when it is done.

mod errand;
mod session;

use std::{io, os::fd::OwnedFd, rc::Rc, sync::Arc};

use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{CONNECTION, HeaderValue, UPGRADE},
};
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::spawn_local,
};

use self::session::Session;
use crate::{
    bus::{Bus, BusError, Failure},
    control::bus::{self as words, Errand, Event, Op, Order},
};

/// Guests at once.
const MAX_GUESTS: usize = 64;

/// Lets a process with this id onto the bus and returns its end of the line.
pub(super) type Admit = Box<dyn Fn(i32) -> io::Result<OwnedFd>>;

/// All guests of a master.
#[derive(Clone)]
pub(super) struct Guests(Rc<House>);

struct House {
    admit: Admit,
    places: Arc<Semaphore>,
    /// Why everybody has to leave, once they do.
    farewell: watch::Sender<Option<Farewell>>,
}

/// Why guests have to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Farewell {
    /// The master becomes another binary.
    Upgrade,
    /// The master ends.
    End,
}

/// Why a guest is not let in, with the status code that says so.
pub(super) type Refused = (StatusCode, String);

/// A guest's line to the hub, and its place.
struct Admitted {
    bus: Bus,
    farewell: watch::Receiver<Option<Farewell>>,
    _place: OwnedSemaphorePermit,
}

impl Guests {
    /// None yet; `admit` will let them in.
    pub(super) fn new(admit: Admit) -> Self {
        Self(Rc::new(House {
            admit,
            places: Arc::new(Semaphore::new(MAX_GUESTS)),
            farewell: watch::Sender::new(None),
        }))
    }

    /// Tells everybody to leave, and lets nobody in until [`readmit`](Self::readmit).
    pub(super) fn dismiss(&self, farewell: Farewell) {
        self.0.farewell.send_replace(Some(farewell));
    }

    /// Lets guests in again.
    pub(super) fn readmit(&self) {
        self.0.farewell.send_replace(None);
    }

    /// Waits until all have left.
    pub(super) async fn gone(&self) {
        let _ = self.0.places.acquire_many(MAX_GUESTS as u32).await;
    }

    /// `GET /bus`: from the answer on the connection is a guest's, the process with this id.
    ///
    /// # Errors
    /// It asks for something else, or there is no place.
    pub(super) fn receive(
        &self,
        request: Request<Incoming>,
        pid: i32,
    ) -> Result<Response<()>, Refused> {
        if request.method() != Method::GET || !wants_lines(&request) {
            let error = format!(
                "the bus is entered by GET with 'Connection: upgrade' and 'Upgrade: {}'",
                words::UPGRADE
            );
            return Err((StatusCode::UPGRADE_REQUIRED, error));
        }
        let admitted = self.admit(pid)?;
        spawn_local(async move {
            // An error: it has gone already.
            if let Ok(upgraded) = hyper::upgrade::on(request).await {
                let stream = TokioIo::new(upgraded);
                let Admitted {
                    bus,
                    farewell,
                    _place,
                } = admitted;
                Session::new(stream, bus).run(farewell).await;
            }
        });
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static(words::UPGRADE));
        Ok(response)
    }

    /// `POST /bus/publish` and the like: one errand, for the process with this id.
    ///
    /// # Errors
    /// It is none, or there is no place.
    pub(super) async fn errand(
        &self,
        op: &str,
        body: &[u8],
        pid: i32,
    ) -> Result<(StatusCode, Event), Refused> {
        let (id, errand) = understand(op, body)?;
        let Admitted {
            bus,
            mut farewell,
            _place,
        } = self.admit(pid)?;
        let done = async {
            // The hub knows it from here on, and hears all that it says, however soon it leaves.
            bus.id().await?;
            let done = errand::run(&bus, errand).await;
            // A line that is closed with something in it is closed for both.
            if done.is_ok() {
                bus.flush().await?;
            }
            done
        };
        let done = tokio::select! {
            done = done => done,
            why = told_to_leave(&mut farewell) => return Err(refusal(why)),
        };
        Ok(match done {
            Ok(outcome) => (StatusCode::OK, outcome.into_event(id)),
            Err(error) => (status(&error), Event::error(id, &error)),
        })
    }

    fn admit(&self, pid: i32) -> Result<Admitted, Refused> {
        let farewell = self.0.farewell.subscribe();
        if let Some(why) = *farewell.borrow() {
            return Err(refusal(why));
        }
        let unavailable = |why: String| (StatusCode::SERVICE_UNAVAILABLE, why);
        let place = self.0.places.clone().try_acquire_owned();
        let place = place.map_err(|_| {
            unavailable(format!(
                "{MAX_GUESTS} guests are on the bus already, which is all that there is room for: come again when one has left"
            ))
        })?;
        let bus = (self.0.admit)(pid).and_then(Bus::connect);
        let bus = bus.map_err(|error| {
            let error = crate::error::describe(&error);
            unavailable(format!("no line to the bus: {error}"))
        })?;
        Ok(Admitted {
            bus,
            farewell,
            _place: place,
        })
    }
}

/// Waits until guests have to leave.
async fn told_to_leave(farewell: &mut watch::Receiver<Option<Farewell>>) -> Farewell {
    match farewell.wait_for(Option::is_some).await {
        Ok(why) => why.unwrap_or(Farewell::End),
        Err(_) => Farewell::End,
    }
}

fn refusal(why: Farewell) -> Refused {
    (StatusCode::SERVICE_UNAVAILABLE, why.to_string())
}

impl std::fmt::Display for Farewell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Upgrade => "the master becomes another binary: connect again",
            Self::End => "the master has ended",
        })
    }
}

fn wants_lines(request: &Request<Incoming>) -> bool {
    let wanted = request.headers().get(UPGRADE);
    wanted.is_some_and(|wanted| {
        wanted
            .as_bytes()
            .eq_ignore_ascii_case(words::UPGRADE.as_bytes())
    })
}

/// The errand of this name with the fields in `body`, and its id.
fn understand(op: &str, body: &[u8]) -> Result<(Option<Value>, Errand), Refused> {
    let bad = |why: String| (StatusCode::BAD_REQUEST, why);
    let mut fields = if body.iter().all(u8::is_ascii_whitespace) {
        Map::new()
    } else {
        serde_json::from_slice(body).map_err(|error| bad(format!("{op}: {error}")))?
    };
    fields.insert("op".into(), op.into());
    match Order::of(fields) {
        Ok(Order {
            id,
            op: Op::Errand(errand),
        }) => Ok((id, errand)),
        Ok(_) => Err(bad(format!(
            "{op}: not with a request of its own; GET /bus with 'Upgrade: {}' makes you a guest, who can",
            words::UPGRADE
        ))),
        Err(none) => Err(bad(none.why)),
    }
}

/// The status code for an error.
fn status(error: &BusError) -> StatusCode {
    match error {
        BusError::Failed(failure, _) => match failure {
            Failure::Unroutable | Failure::NoListener | Failure::NoHost => StatusCode::NOT_FOUND,
            Failure::Overflow => StatusCode::SERVICE_UNAVAILABLE,
            Failure::Gone => StatusCode::BAD_GATEWAY,
            Failure::Expired => StatusCode::GATEWAY_TIMEOUT,
            Failure::Refused => StatusCode::UNPROCESSABLE_ENTITY,
        },
        BusError::Invalid(_) | BusError::Payload(_) => StatusCode::BAD_REQUEST,
        BusError::Full | BusError::Closed | BusError::Io(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}
