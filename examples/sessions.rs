//! Sessions in memory, in every worker: a client may come to any of them and finds what it left.
//!
//! ```sh
//! cargo run --example sessions         # or: … sessions 127.0.0.1:9000
//! curl -c jar -b jar -X PUT --data blue http://127.0.0.1:8080/colour
//! curl -c jar -b jar http://127.0.0.1:8080/
//! ```
//!
//! Every worker holds all sessions. What a client changes at one of them is told to its siblings over the bus.
//!
//! **The last writer wins**, for each value of each session by itself. "Last" is by a stamp: the clock of the
//! machine, but always later than every stamp that this worker has seen, and where two are equal the process
//! with the higher number. So all workers end with the same value whatever comes first, and a change that
//! knew of another one is never undone by it. Of two changes at the same moment at two workers one is lost:
//! who counts, or sells the last seat, needs a database.
//!
//! A worker that is born later, after a crash or for a restart, asks a sibling for everything, page by page,
//! before it takes its first connection; what is changed meanwhile it hears like everybody else. Sessions
//! are gone when all workers are: a restart of the cluster replaces them one by one, and keeps them.

use std::{
    collections::BTreeMap,
    io::Read,
    ops::Bound::{Excluded, Unbounded},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::{
        HeaderMap, StatusCode,
        header::{COOKIE, SET_COOKIE},
    },
    response::{IntoResponse, Response},
    routing::{get, put},
};
use pointsman::{
    Cluster, Worker,
    bus::{Bus, BusError, Failure, Message, Payload, ProcessId, Subscription, To},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// How long a sibling may take to send a page.
const DEADLINE: Duration = Duration::from_secs(5);
/// Bytes of a page, about: half of what the bus carries at once.
const PAGE: usize = 32 * 1024;
/// The longest name and value, in bytes.
const LONGEST: (usize, usize) = (64, 1024);
/// As many values are kept; those that were changed longest ago go first.
const MOST: usize = 100_000;

/// Which value: the session, and its name there.
type Key = (String, String);

/// When something was changed, and by whom; ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Stamp {
    /// Microseconds since 1970, or later: see above.
    time: u64,
    by: ProcessId,
}

/// A value, as it is stored and as it is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Change {
    key: Key,
    value: String,
    stamp: Stamp,
}

/// Part of everything.
#[derive(Debug, Serialize, Deserialize)]
struct Page {
    changes: Vec<Change>,
    /// There is more after this one.
    more_after: Option<Key>,
}

fn main() -> pointsman::Result<()> {
    let address = std::env::args().nth(1);
    Cluster::new()
        .listen(address.as_deref().unwrap_or("127.0.0.1:8080"))
        .workers(3)
        .on_ready(|ready| println!("listening on http://{}", ready.listen[0]))
        .serve(|worker| async move {
            let sessions = Sessions::join(worker)
                .await
                .expect("a worker has a bus as long as it has a master");
            // The worker is ready, and gets connections, once this is returned.
            Router::new()
                .route("/", get(show))
                .route("/{name}", put(change))
                .with_state(sessions)
        })
}

/// `GET /`: all values of the client's session.
async fn show(State(sessions): State<Sessions>, headers: HeaderMap) -> Response {
    let session = session_of(&headers);
    let values = session.as_deref().map(|session| sessions.of(session));
    Json(json!({
        "worker": sessions.worker.id(),
        "process": std::process::id(),
        "values": values.unwrap_or_default(),
    }))
    .into_response()
}

/// `PUT /NAME`: the body becomes the value.
async fn change(
    State(sessions): State<Sessions>,
    Path(name): Path<String>,
    headers: HeaderMap,
    value: String,
) -> Response {
    if name.len() > LONGEST.0 || value.len() > LONGEST.1 {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    }
    let given = session_of(&headers);
    let session = match given.clone().map_or_else(new_session, Ok) {
        Ok(session) => session,
        Err(error) => {
            return (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response();
        }
    };
    if let Err(error) = sessions.change((session.clone(), name), value) {
        return (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response();
    }
    match given {
        Some(_) => StatusCode::NO_CONTENT.into_response(),
        None => {
            let cookie = format!("session={session}; Path=/; HttpOnly; SameSite=Lax");
            (StatusCode::NO_CONTENT, [(SET_COOKIE, cookie)]).into_response()
        }
    }
}

/// The session that the client says it has.
fn session_of(headers: &HeaderMap) -> Option<String> {
    let cookies = headers.get_all(COOKIE).iter();
    let mut pairs = cookies.flat_map(|value| value.to_str().unwrap_or("").split(';'));
    let session = pairs.find_map(|pair| pair.trim().strip_prefix("session="))?;
    let is_one_of_ours = session.len() == 32 && session.bytes().all(|b| b.is_ascii_hexdigit());
    is_one_of_ours.then(|| session.to_owned())
}

/// A name that nobody can guess.
fn new_session() -> std::io::Result<String> {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(format!("{:032x}", u128::from_ne_bytes(bytes)))
}

/// All sessions, as this worker knows them.
#[derive(Clone)]
struct Sessions {
    worker: Worker,
    bus: Bus,
    me: ProcessId,
    memory: Arc<Mutex<Memory>>,
}

#[derive(Default)]
struct Memory {
    values: BTreeMap<Key, (Stamp, String)>,
    /// The same by age. No two changes have the same stamp.
    ages: BTreeMap<Stamp, Key>,
    /// The latest stamp that was seen.
    latest: u64,
    /// Is everything there that siblings had when this worker was born?
    complete: bool,
}

impl Sessions {
    /// Listens to what siblings say, and gets from one of them what was said before.
    ///
    /// # Errors
    /// The bus is closed.
    async fn join(worker: Worker) -> Result<Self, BusError> {
        let bus = worker.bus();
        let sessions = Self {
            me: bus.id().await?,
            memory: Arc::default(),
            worker,
            bus,
        };
        // One subscription for both, so that whoever asks for a page finds in it all that was said before it
        // asked.
        let said = sessions.bus.subscribe("session.*").await?;
        tokio::spawn(sessions.clone().attend(said));
        // A sibling may die in the middle of it; then the next one is asked, for everything.
        while !sessions.fetch_all().await? {}
        sessions.memory().complete = true;
        Ok(sessions)
    }

    /// Gets everything from one sibling. False: it ended meanwhile, or took too long.
    async fn fetch_all(&self) -> Result<bool, BusError> {
        let mut from = To::Siblings;
        let mut after: Option<Key> = None;
        loop {
            let asked = Payload::compact(&after)?;
            let page = self
                .bus
                .request(from, "session.page", asked, DEADLINE)
                .await;
            let message = match page {
                Ok(message) => message,
                Err(BusError::Failed(Failure::Expired | Failure::Gone | Failure::Overflow, _)) => {
                    return Ok(false);
                }
                // Nobody is there, or nobody who knows more: then there is nothing to know.
                Err(BusError::Failed(..)) if after.is_none() => return Ok(true),
                Err(BusError::Failed(..)) => return Ok(false),
                Err(error) => return Err(error),
            };
            let page: Page = message.decode()?;
            let mut memory = self.memory();
            page.changes
                .into_iter()
                .for_each(|change| memory.apply(change));
            let Some(key) = page.more_after else {
                return Ok(true);
            };
            after = Some(key);
            from = message.from().into();
        }
    }

    /// Hears what siblings change, and tells them everything if they ask.
    async fn attend(self, mut said: Subscription) {
        while let Some(message) = said.next().await {
            let Ok(message) = message else { return };
            if message.missed() > 0 {
                // This worker was too slow, and does not know what it does not know: it gets everything once
                // more. What it has already is not harmed.
                let behind = self.clone();
                tokio::spawn(async move { while let Ok(false) = behind.fetch_all().await {} });
            }
            match message.topic() {
                "session.set" => {
                    if let Ok(change) = message.decode() {
                        self.memory().apply(change);
                    }
                }
                _ => _ = self.answer(&message),
            }
        }
    }

    /// A page of what is known.
    fn answer(&self, message: &Message) -> Result<(), BusError> {
        let after: Option<Key> = message.decode()?;
        let memory = self.memory();
        match memory.complete {
            true => message.reply(Payload::compact(&memory.page(after))?),
            false => message.refuse("just born itself"),
        }
    }

    /// Changes a value, here and at all siblings.
    fn change(&self, key: Key, value: String) -> Result<(), BusError> {
        let mut memory = self.memory();
        let stamp = Stamp {
            time: now().max(memory.latest + 1),
            by: self.me,
        };
        let change = Change { key, value, stamp };
        // First told, then done: what nobody can be told is not done.
        self.bus
            .send(To::Siblings, "session.set", Payload::compact(&change)?)?;
        memory.apply(change);
        Ok(())
    }

    /// The values of a session.
    fn of(&self, session: &str) -> BTreeMap<String, String> {
        let memory = self.memory();
        let first = (session.to_owned(), String::new());
        let values = memory.values.range(first..);
        values
            .take_while(|((of, _), _)| of == session)
            .map(|((_, name), (_, value))| (name.clone(), value.clone()))
            .collect()
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // Every change is made in one step: whoever panicked has left it whole.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    /// Takes over a change, if it is the last that was made.
    fn apply(&mut self, change: Change) {
        let Change { key, value, stamp } = change;
        self.latest = self.latest.max(stamp.time);
        match self.values.get(&key) {
            Some((known, _)) if *known >= stamp => return,
            Some((known, _)) => _ = self.ages.remove(known),
            None => {}
        }
        self.ages.insert(stamp, key.clone());
        self.values.insert(key, (stamp, value));
        if self.values.len() > MOST
            && let Some((_, oldest)) = self.ages.pop_first()
        {
            self.values.remove(&oldest);
        }
    }

    /// What comes after a key, as much as one message holds.
    fn page(&self, after: Option<Key>) -> Page {
        let mut page = Page {
            changes: Vec::new(),
            more_after: None,
        };
        let mut room = PAGE;
        let first = after.map_or(Unbounded, Excluded);
        for (key, (stamp, value)) in self.values.range((first, Unbounded)) {
            let size = key.0.len() + key.1.len() + value.len() + 128;
            let Some(left) = room.checked_sub(size) else {
                page.more_after = page.changes.last().map(|last: &Change| last.key.clone());
                break;
            };
            room = left;
            page.changes.push(Change {
                key: key.clone(),
                value: value.clone(),
                stamp: *stamp,
            });
        }
        page
    }
}

/// Microseconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_micros() as u64)
}
