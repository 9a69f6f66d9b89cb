//! Chat rooms: whoever is in a room hears what is said there, whichever worker they are connected to.
//!
//! ```sh
//! cargo run --example chat             # or: … chat 127.0.0.1:9000
//! ```
//!
//! and open <http://127.0.0.1:8080/> in two windows; the line on top says which worker each has got. A room is
//! a topic of the bus, `room.NAME`: what is said is published there, and every WebSocket has a subscription. A
//! worker in which nobody is in a room is not told what is said in it. There is no list of rooms and nothing
//! to clean up: a room is there while somebody listens.
//!
//! End a worker with `kill -9`: those that it served come back by themselves, to another one, and nobody else
//! notices. A listener that is too slow loses the oldest of what was said, and is told how much.

use axum::{
    Router,
    extract::{
        Path, State, WebSocketUpgrade,
        ws::{Message as Frame, WebSocket},
    },
    http::StatusCode,
    response::{Html, IntoResponse, Response},
    routing::get,
};
use pointsman::{
    Cluster, Worker,
    bus::{BusError, Payload, Subscription},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// The longest that can be said at once, bytes; half of what the bus carries.
const LONGEST: usize = 32 * 1024;

/// What was said in a room.
#[derive(Debug, Serialize, Deserialize)]
struct Said {
    who: String,
    text: String,
}

fn main() -> pointsman::Result<()> {
    let address = std::env::args().nth(1);
    Cluster::new()
        .listen(address.as_deref().unwrap_or("127.0.0.1:8080"))
        .workers(3)
        .on_ready(|ready| println!("listening on http://{}", ready.listen[0]))
        .serve(|worker| async move {
            Router::new()
                .route("/", get(Html(include_str!("chat/page.html"))))
                .route("/room/{name}", get(enter))
                .with_state(worker)
        })
}

/// A client wants to be in a room.
async fn enter(
    upgrade: WebSocketUpgrade,
    Path(name): Path<String>,
    State(worker): State<Worker>,
) -> Response {
    // A room's name is a word of a topic: dots and stars have a meaning there.
    let plain = |c: char| c.is_alphanumeric() || c == '-';
    if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
        let why = "a room's name is up to 64 letters, digits and dashes";
        return (StatusCode::BAD_REQUEST, why).into_response();
    }
    let room = format!("room.{name}");
    // Before the client hears that it is in: it misses nothing that is said from then on.
    match worker.bus().subscribe(&room).await {
        Ok(said) => upgrade
            .max_message_size(LONGEST)
            .on_upgrade(move |socket| stay(socket, worker, room, said)),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response(),
    }
}

/// As long as the client stays.
async fn stay(mut socket: WebSocket, worker: Worker, room: String, mut said: Subscription) {
    let place = json!({"worker": worker.id(), "process": std::process::id()});
    if tell(&mut socket, place.to_string()).await.is_none() {
        return;
    }
    loop {
        let went_on = tokio::select! {
            message = said.next() => match message {
                Some(Ok(message)) => pass_on(&mut socket, &message).await,
                // The master has ended: so will this worker.
                _ => None,
            },
            frame = socket.recv() => match frame {
                Some(Ok(Frame::Text(text))) => hear(&mut socket, &worker, &room, &text).await,
                Some(Ok(Frame::Close(_)) | Err(_)) | None => return,
                // Pings are answered by axum; other frames mean nothing here.
                Some(Ok(_)) => Some(()),
            },
            // Clients come back, and then to a worker that stays.
            () = worker.draining() => None,
        };
        if went_on.is_none() {
            let _ = socket.send(Frame::Close(None)).await;
            return;
        }
    }
}

/// Somebody has said something: the client is told. `None`: it is gone.
async fn pass_on(socket: &mut WebSocket, message: &pointsman::bus::Message) -> Option<()> {
    if message.missed() > 0 {
        let missed = json!({"missed": message.missed()});
        tell(socket, missed.to_string()).await?;
    }
    let text = String::from_utf8_lossy(&message.bytes()).into_owned();
    tell(socket, text).await
}

/// The client says something: all in the room are told, it too. `None`: it is gone.
async fn hear(socket: &mut WebSocket, worker: &Worker, room: &str, text: &str) -> Option<()> {
    let said: Result<Said, _> = serde_json::from_str(text);
    let published = match &said {
        Ok(said) => Payload::json(said).and_then(|said| worker.bus().publish(room, said)),
        Err(_) => Err(BusError::Invalid(
            r#"{"who": …, "text": …} is wanted"#.into(),
        )),
    };
    match published {
        Ok(()) => Some(()),
        Err(error) => tell(socket, json!({"error": error.to_string()}).to_string()).await,
    }
}

/// `None`: the client is gone.
async fn tell(socket: &mut WebSocket, text: String) -> Option<()> {
    socket.send(Frame::Text(text.into())).await.ok()
}
