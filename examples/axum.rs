//! An axum application on all cores, whose workers talk to each other on the bus.
//!
//! ```sh
//! cargo run --example axum             # or: … axum 127.0.0.1:9000
//! curl http://127.0.0.1:8080/
//! curl http://127.0.0.1:8080/greeting -d 'good evening'
//! curl http://127.0.0.1:8080/
//! ```
//!
//! A greeting that is set in one worker is said by all of them: each subscribes to what the others
//! publish. A worker that is born later has the usual one, for it has heard nothing; `sessions` shows what
//! to do about that.

use std::sync::{Arc, Mutex, PoisonError};

use axum::{
    Router,
    extract::State,
    http::StatusCode,
    routing::{get, post},
};
use pointsman::{
    Cluster, Policy, Worker,
    bus::{Bus, BusError},
};

#[derive(Clone)]
struct App {
    worker: u16,
    bus: Bus,
    greeting: Arc<Mutex<String>>,
}

async fn greet(State(app): State<App>) -> String {
    let greeting = app.greeting.lock().unwrap_or_else(PoisonError::into_inner);
    let pid = std::process::id();
    format!("{greeting} from worker {}, process {pid}\n", app.worker)
}

async fn set_greeting(State(app): State<App>, greeting: String) -> (StatusCode, String) {
    // Whoever publishes gets it too, if it has subscribed.
    match app.bus.publish("greeting", greeting) {
        Ok(()) => (StatusCode::ACCEPTED, String::new()),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
    }
}

/// Makes the application, and keeps its greeting as the bus says.
async fn router(worker: Worker) -> Result<Router, BusError> {
    let app = App {
        worker: worker.id(),
        bus: worker.bus(),
        greeting: Arc::new(Mutex::new("hello".into())),
    };
    let mut heard = app.bus.subscribe("greeting").await?;
    let greeting = app.greeting.clone();
    tokio::spawn(async move {
        while let Some(Ok(message)) = heard.next().await {
            let text = String::from_utf8_lossy(&message.bytes()).into_owned();
            *greeting.lock().unwrap_or_else(PoisonError::into_inner) = text;
        }
    });
    Ok(Router::new()
        .route("/", get(greet))
        .route("/greeting", post(set_greeting))
        .with_state(app))
}

fn main() -> pointsman::Result<()> {
    let address = std::env::args().nth(1);
    Cluster::new()
        .listen(address.as_deref().unwrap_or("127.0.0.1:8080"))
        .workers(4)
        .policy(Policy::LeastLoaded)
        .on_ready(|ready| println!("listening on http://{}", ready.listen[0]))
        .serve(|worker| async move { router(worker).await.expect("a worker has a bus") })
}
