//! `ctl bus subscribe` and `ctl bus watch`: lines as they come, for as long as somebody wants them.

use std::path::PathBuf;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{Until, explained, show};
use crate::{
    control::bus::{Event, Guest, Refusal},
    error::{Error, Result},
    notice,
};

/// Prints what is said on these topics.
///
/// # Errors
/// The master has gone, or there is not as much as was asked for.
pub(super) async fn subscribe(path: PathBuf, patterns: &[String], until: &Until) -> Result<()> {
    let orders = patterns
        .iter()
        .map(|pattern| json!({"op": "subscribe", "pattern": pattern, "id": pattern}));
    let listener = Listener {
        orders: orders.collect(),
        what: format!("subscribed to {}", patterns.join(" ")),
        wanted: until.count,
        printed: 0,
        show: |event, line| match event {
            Event::Message { .. } => Some([&line[..], b"\n"].concat()),
            _ => None,
        },
    };
    listener.run_until(path, until).await
}

/// Prints comings and goings.
///
/// # Errors
/// As [`subscribe`].
pub(super) async fn watch(path: PathBuf, until: &Until, as_json: bool) -> Result<()> {
    let shown: fn(&Event, &Bytes) -> Option<Vec<u8>> = match as_json {
        true => |event, line| match event {
            Event::Presence { .. } => Some([&line[..], b"\n"].concat()),
            _ => None,
        },
        false => |event, _| match event {
            Event::Presence {
                what, peer, reason, ..
            } => Some(show::presence(what, peer, *reason).into()),
            _ => None,
        },
    };
    let listener = Listener {
        orders: vec![json!({"op": "watch", "id": "watch"})],
        what: "watching".into(),
        wanted: until.count,
        printed: 0,
        show: shown,
    };
    listener.run_until(path, until).await
}

/// Somebody who prints what comes.
struct Listener {
    /// What is asked for, again of each binary that the master becomes.
    orders: Vec<Value>,
    /// What is said when it is in force.
    what: String,
    /// Lines to be printed; `None`: all.
    wanted: Option<u64>,
    printed: u64,
    /// What is printed of an event.
    show: fn(&Event, &Bytes) -> Option<Vec<u8>>,
}

/// Why a listener is done.
enum Over {
    /// All that was wanted is printed, or nobody reads it any more.
    Done,
    /// The master has gone, but may come back.
    Away,
}

impl Listener {
    async fn run_until(mut self, path: PathBuf, until: &Until) -> Result<()> {
        let Some(limit) = until.timeout else {
            return self.run(path).await;
        };
        match (timeout(limit, self.run(path)).await, self.wanted) {
            (Ok(outcome), _) => outcome,
            (Err(_), None) => Ok(()),
            (Err(_), Some(wanted)) => Err(Error::failed(format!(
                "{} of {wanted} lines have come within {} s",
                self.printed,
                limit.as_secs_f64()
            ))),
        }
    }

    async fn run(&mut self, path: PathBuf) -> Result<()> {
        let mut guest = Guest::join(path).await?;
        let mut again = "";
        loop {
            match self.listen(&mut guest, again).await? {
                Over::Done => return Ok(()),
                Over::Away => {
                    notice(format_args!(
                        "the master has gone; waiting for it to come back"
                    ));
                    guest = guest.rejoin().await?;
                    again = " again; what was said in between is lost";
                }
            }
        }
    }

    async fn listen(&mut self, guest: &mut Guest, again: &str) -> Result<Over> {
        for order in &self.orders {
            if guest.both().1.say(order).await.is_err() {
                return Ok(Over::Away);
            }
        }
        let mut acknowledged = 0;
        loop {
            let Ok((event, line)) = guest.both().0.next().await else {
                return Ok(Over::Away);
            };
            if let Some(text) = (self.show)(&event, &line) {
                match show::put(&text) {
                    Ok(()) => {}
                    Err(show::Unread::Gone) => return Ok(Over::Done),
                    Err(show::Unread::Failed(error)) => return Err(error),
                }
                self.printed += 1;
                if self.wanted == Some(self.printed) {
                    return Ok(Over::Done);
                }
            }
            match event {
                Event::Ok { .. } => {
                    acknowledged += 1;
                    if acknowledged == self.orders.len() {
                        notice(format_args!("{}{again}", self.what));
                    }
                }
                Event::Error { id, reason, error } => {
                    let what = id.as_ref().and_then(|id| id.as_str()).unwrap_or("the bus");
                    return Err(explained(what, Refusal { reason, error }));
                }
                Event::Bye { again: true, .. } => return Ok(Over::Away),
                Event::Bye { error, .. } => return Err(Error::failed(error)),
                _ => {}
            }
        }
    }
}
