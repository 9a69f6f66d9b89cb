//! The program under test: a cluster whose one worker does with its bus what it is asked to by HTTP.

use std::{
    convert::Infallible,
    pin::Pin,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
};
use pointsman::{
    BusOptions, Cluster, Worker,
    bus::{Bus, BusError, Presence, ProcessId, To},
};
use serde::{Deserialize, Serialize};
use tower_service::Service;

/// What it is to be; in the environment, as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Orders {
    /// Its name, of which its answers begin.
    pub name: String,
    pub servers: String,
    pub prefix: String,
    pub secret: Option<String>,
    /// The application that it hosts.
    pub hosts: Option<String>,
}

/// Set for the master.
pub const ORDERS: &str = "POINTSMAN_TEST_ORDERS";
/// The beat of all masters; their expiry is 3.5 of these.
pub const BEAT: Duration = Duration::from_millis(200);
/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs the cluster, or a worker of it.
pub fn serve(orders: Orders) -> pointsman::Result<()> {
    let mut bus = BusOptions::nats(orders.servers.clone())
        .prefix(orders.prefix.clone())
        .beat(BEAT);
    if let Some(secret) = &orders.secret {
        bus = bus.secret_file(secret);
    }
    Cluster::new()
        .listen("127.0.0.1:0")
        .admin("127.0.0.1:0")
        .control(None)
        .workers(1)
        .bus(bus)
        .on_ready(|ready| {
            let admin = ready.admin.expect("asked for");
            println!("{} {admin}", ready.listen[0]);
        })
        .serve(|worker| App::new(worker, orders))
}

#[derive(Clone)]
struct App {
    bus: Bus,
    orders: Orders,
    /// What has come for it, and who has come and gone.
    heard: Arc<Mutex<Vec<String>>>,
}

impl App {
    async fn new(worker: Worker, orders: Orders) -> Self {
        let bus = worker.bus();
        let app = Self {
            bus: bus.clone(),
            orders: orders.clone(),
            heard: Arc::default(),
        };
        let mut news = bus.subscribe("news.>").await.expect("a bus");
        let mut asked = bus.subscribe("ask").await.expect("a bus");
        let mut presence = bus.presence().await.expect("a bus");
        let heard = app.heard.clone();
        let hear = move |text: String| heard.lock().expect("plain").push(text);
        let note = hear.clone();
        tokio::spawn(async move {
            while let Some(Ok(message)) = news.next().await {
                let text = String::from_utf8_lossy(&message.bytes()).into_owned();
                note(format!("{} {} {text}", message.topic(), message.from()));
            }
        });
        tokio::spawn(async move {
            while let Some(event) = presence.next().await {
                hear(match event {
                    Presence::Online(peer) => format!("online {}", peer.id),
                    Presence::Offline { peer, reason } => format!("offline {} {reason:?}", peer.id),
                    Presence::Ready(peer) => format!("ready {}", peer.id),
                    Presence::Changed(peer) => format!("changed {}", peer.id),
                    other => format!("{other:?}"),
                });
            }
        });
        let name = orders.name.clone();
        tokio::spawn(async move {
            while let Some(Ok(message)) = asked.next().await {
                let text = String::from_utf8_lossy(&message.bytes()).into_owned();
                let _ = message.reply(format!("{name} answers {text}"));
            }
        });
        if let Some(application) = orders.hosts {
            let mut hosted = bus.host(&application, "a shop").await.expect("a bus");
            let name = orders.name;
            tokio::spawn(async move {
                while let Some(Ok(message)) = hosted.next().await {
                    let _ = message.reply(format!("{name} does {}", message.action()));
                }
            });
        }
        app
    }

    /// Does what a path says.
    async fn obey(&self, path: &str) -> Result<String, BusError> {
        let bus = &self.bus;
        let words: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let process = |text: &str| -> ProcessId { text.parse().expect("a process") };
        Ok(match words[..] {
            ["id"] => bus.id().await?.to_string(),
            ["peers"] => {
                let mut peers = bus.peers().await?;
                peers.sort_by_key(|peer| peer.id);
                let ready = peers.iter().filter(|peer| peer.ready);
                ready.map(|peer| format!("{}\n", peer.id)).collect()
            }
            ["heard"] => {
                let heard = self.heard.lock().expect("plain");
                heard.iter().map(|line| format!("{line}\n")).collect()
            }
            ["publish", topic, text] => {
                bus.publish(topic, text)?;
                bus.flush().await?;
                "said".into()
            }
            ["broadcast", topic, text] => {
                bus.broadcast(topic, text)?;
                bus.flush().await?;
                "said".into()
            }
            ["send", whom, topic, text] => {
                bus.send(process(whom), topic, text)?;
                bus.flush().await?;
                "said".into()
            }
            ["many", topic, count] => {
                for i in 0..count.parse::<u32>().expect("a number") {
                    bus.publish(topic, format!("{i}"))?;
                    if i % 1000 == 0 {
                        bus.flush().await?;
                    }
                }
                bus.flush().await?;
                "said".into()
            }
            ["ask", whom, text] => {
                let answer = bus.request(process(whom), "ask", text, PATIENCE).await?;
                String::from_utf8_lossy(&answer.bytes()).into_owned()
            }
            ["call", application, action] => {
                let answer = bus.call(application, action, "", PATIENCE).await?;
                String::from_utf8_lossy(&answer.bytes()).into_owned()
            }
            ["stream", whom] => {
                let to = To::from(process(whom));
                bus.open_stream(to, "ask", "", PATIENCE).await?;
                "a stream".into()
            }
            // A cluster below this worker; its process id.
            ["branch", name] => {
                let orders = Orders {
                    name: name.into(),
                    ..self.orders.clone()
                };
                let mut command = Command::new(std::env::current_exe().expect("this program"));
                command
                    .env(ORDERS, serde_json::to_string(&orders).expect("text"))
                    .stdout(Stdio::null());
                bus.branch(&mut command)?;
                command.spawn()?.id().to_string()
            }
            _ => format!("no such thing: {path}"),
        })
    }
}

impl Service<Request<Incoming>> for App {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let app = self.clone();
        Box::pin(async move {
            let said = match app.obey(request.uri().path()).await {
                Ok(said) => said,
                Err(error) => format!("error: {error}"),
            };
            Ok(Response::new(Full::from(said)))
        })
    }
}
