//! The programs that the tests run, each a cluster; which one, the environment says.

use std::{convert::Infallible, io, time::Duration};

use http_body_util::Full;
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    service::Service,
};
use pointsman::{Application, Cluster, Conn, Master, Peer, ReceivedListeners, Worker, bus::To};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
};

/// Names the program that this process is to be.
pub const PROGRAM: &str = "LIBRARY_PROGRAM";
/// The mode that it runs in.
pub const MODE: &str = "LIBRARY_MODE";

/// Runs a program; in its workers too.
pub fn run(program: &str) -> pointsman::Result<()> {
    let cluster = base();
    match program {
        "raw" => cluster
            .listen("127.0.0.1:0")
            .workers(2)
            .serve_connections(obey),
        "hurried" => cluster
            .listen("127.0.0.1:0")
            .workers(2)
            .drain_timeout(Duration::from_secs(1))
            .serve_connections(obey),
        "nodes" => cluster
            .host("localhost")
            .port(0)
            .nodes(3)
            .master_listen(true)
            .serve_connections_with(|worker| async move {
                println!("made {}", worker.id());
                obey
            }),
        "one-node" => cluster
            .port(0)
            .nodes(1)
            .master_listen(true)
            .serve_connections(obey),
        "no-node" => cluster.port(0).nodes(0).serve_connections(obey),
        "both" => cluster.port(0).nodes(2).workers(2).serve_connections(obey),
        "hooks" => hooks(cluster.listen("127.0.0.1:0").workers(2)).serve_connections_with(
            |worker| async move {
                worker.on_drain({
                    let id = worker.id();
                    move || println!("drain {id}")
                });
                obey
            },
        ),
        "no-restart" => hooks(cluster.listen("127.0.0.1:0").workers(2))
            .restart_children(false)
            .serve_connections(obey),
        "sniff" => cluster
            .listen("127.0.0.1:0")
            .workers(2)
            .serve_connections(sniff),
        "listeners" => cluster
            .listen("127.0.0.1:0")
            .workers(2)
            .serve_connections_with(|worker| async move {
                let arrivals = worker.received_listeners().await.expect("a bus");
                tokio::task::spawn_local(accept_for_ever(worker, arrivals));
                obey
            }),
        "http" => cluster
            .listen("127.0.0.1:0")
            .workers(2)
            .serve(|worker| async move {
                if worker.id() == 0 {
                    tokio::task::spawn_local(pass_on(worker.clone()));
                }
                WhoAndWhy(worker)
            }),
        "master" => cluster
            .listen("127.0.0.1:0")
            .workers(2)
            .on_master(|master| _ = tokio::task::spawn_local(master_passes_on(master)))
            .serve_connections(obey),
        other => panic!("no program '{other}'"),
    }
}

/// What all of them have.
fn base() -> Cluster {
    let mode = std::env::var(MODE).unwrap_or_else(|_| "handoff".into());
    let cluster = Cluster::new();
    println!("is_master {}", cluster.is_master());
    cluster
        .admin("127.0.0.1:0")
        .control(None)
        .mode(mode.parse().expect("a mode"))
        .on_ready(|ready| {
            println!(
                "ready {} {}",
                ready.listen[0],
                ready.admin.expect("asked for")
            )
        })
}

/// Hooks that say so, and one that panics.
fn hooks(cluster: Cluster) -> Cluster {
    cluster
        .on_worker_start(|_| panic!("as hooks may"))
        .on_worker_start(|w| println!("start {} {} {}", w.id, w.generation, w.pid))
        .on_worker_restart(|w| println!("restart {} {}", w.id, w.generation))
        .on_worker_stop(|w, why| println!("stop {} {} {why:?}", w.id, w.generation))
}

/// Moves each connection to the worker that its first byte names.
async fn sniff(conn: Conn) -> io::Result<()> {
    if conn.message().is_some() {
        return obey(conn).await;
    }
    let mut first = [0];
    conn.peek(&mut first).await?;
    let (worker, seat) = (conn.worker().clone(), u16::from(first[0] - b'0'));
    let moved = worker
        .send_connection(To::Worker(seat), conn, "sniffed")
        .await;
    moved.map_err(io::Error::other)
}

/// Serves what comes by the listeners that others pass to this worker.
async fn accept_for_ever(worker: Worker, mut arrivals: ReceivedListeners) {
    while let Some((listener, moved)) = arrivals.next().await {
        println!("listener {} {:?}", worker.id(), moved.message().bytes());
        let worker = worker.clone();
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if let Ok(conn) = worker.adopt(stream) {
                    tokio::task::spawn_local(obey(conn));
                }
            }
        });
    }
}

/// Moves what comes by a listener of its own to the other worker.
async fn pass_on(worker: Worker) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    println!("own {}", listener.local_addr().expect("bound"));
    while let Ok((stream, _)) = listener.accept().await {
        let conn = worker.adopt(stream).expect("connected");
        let moved = worker.send_connection(To::Worker(1), conn, "by hand").await;
        moved.expect("the other worker is there");
    }
}

/// The same in the master, which has a listener for each worker.
async fn master_passes_on(master: Master) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    println!("own {}", listener.local_addr().expect("bound"));
    while let Ok((stream, _)) = listener.accept().await {
        let stream = stream.into_std().expect("ours");
        for worker in master.workers() {
            println!("there {} {}", worker.id, worker.pid);
        }
        let moved = master
            .send_connection(To::Worker(1), stream, "from above")
            .await;
        moved.expect("the worker is there");
    }
}

/// Says which worker answers, and what came along with the connection.
struct WhoAndWhy(Worker);

impl Application for WhoAndWhy {
    type ResponseBody = Full<Bytes>;

    #[allow(refining_impl_trait, reason = "a test")]
    fn service(
        &self,
        peer: &Peer,
    ) -> impl Service<Request<Incoming>, Response = Response<Full<Bytes>>, Error = Infallible> + 'static
    {
        let why = peer.message().map(|moved| moved.message().bytes().clone());
        let text = format!("{} {why:?}", self.0.id());
        hyper::service::service_fn(move |_| {
            let body = Full::from(text.clone());
            async { Ok::<_, Infallible>(Response::new(body)) }
        })
    }
}

/// Does what each line says.
async fn obey(conn: Conn) -> io::Result<()> {
    let worker = conn.worker().clone();
    let about = format!("{} {}", conn.peer(), conn.listener());
    let moved = conn.message().map_or("no".into(), |moved| {
        format!(
            "{} {}",
            moved.from(),
            String::from_utf8_lossy(moved.message().bytes())
        )
    });
    let mut conn = BufReader::new(conn);
    let mut line = String::new();
    loop {
        line.clear();
        if conn.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        match line.trim_end() {
            "who" => {
                say(
                    &mut conn,
                    &format!("{} {}", worker.id(), std::process::id()),
                )
                .await?
            }
            "about" => say(&mut conn, &about).await?,
            "moved" => say(&mut conn, &moved).await?,
            "nodelay" => {
                let set = socket2::SockRef::from(conn.get_ref()).tcp_nodelay()?;
                say(&mut conn, &set.to_string()).await?;
            }
            "id" => {
                let id = worker.bus().id().await.expect("a bus");
                say(&mut conn, &id.to_string()).await?;
            }
            "everybody" => match give(&worker, To::Siblings, conn, "x").await {
                Some(back) => conn = back,
                None => return Ok(()),
            },
            text if text.starts_with("move ") => {
                let (seat, message) = text[5..].split_once(' ').expect("a seat and a message");
                let to = To::Worker(seat.parse().expect("a seat"));
                match give(&worker, to, conn, message).await {
                    Some(back) => conn = back,
                    None => return Ok(()),
                }
            }
            // Does not wait for it.
            "forsake" => {
                let moving = worker.send_connection(To::Worker(1), conn.into_inner(), "x");
                _ = tokio::time::timeout(Duration::from_millis(20), moving).await;
                return Ok(());
            }
            "listen" => {
                let listener = TcpListener::bind("127.0.0.1:0").await?;
                let other = To::Worker(1 - worker.id());
                let sent = worker.send_listener(other, &listener, "yours").await;
                let said = format!("{} {sent:?}", listener.local_addr()?);
                say(&mut conn, &said).await?;
            }
            "panic" => panic!("as handlers may"),
            "exit" => std::process::exit(3),
            "task" => {
                say(&mut conn, "taken").await?;
                let conn = conn.into_inner();
                tokio::task::spawn_local(echo(conn));
                return Ok(());
            }
            "thread" => {
                say(&mut conn, "taken").await?;
                let conn = conn.into_inner();
                std::thread::spawn(move || echo_elsewhere(conn));
                return Ok(());
            }
            "drain" => {
                say(&mut conn, "waiting").await?;
                conn.get_ref().draining().await;
                return say(&mut conn, "bye").await;
            }
            "stay" => {
                say(&mut conn, "staying").await?;
                std::future::pending::<()>().await;
            }
            text => say(&mut conn, text).await?,
        }
    }
}

/// Moves the connection, or says why not.
async fn give(
    worker: &Worker,
    to: To,
    conn: BufReader<Conn>,
    message: &str,
) -> Option<BufReader<Conn>> {
    assert!(conn.buffer().is_empty(), "the client waits");
    let failed = worker
        .send_connection(to, conn.into_inner(), message)
        .await
        .err()?;
    println!("not moved: {failed}");
    let mut conn = BufReader::new(failed.conn?);
    say(&mut conn, "not moved").await.ok()?;
    Some(conn)
}

async fn say(conn: &mut BufReader<Conn>, text: &str) -> io::Result<()> {
    conn.get_mut()
        .write_all(format!("{text}\n").as_bytes())
        .await
}

async fn echo(mut conn: Conn) -> io::Result<()> {
    let mut buffer = [0; 1024];
    loop {
        let n = conn.read(&mut buffer).await?;
        if n == 0 {
            return Ok(());
        }
        conn.write_all(&buffer[..n]).await?;
    }
}

/// Echoes from a thread with another runtime: the socket stays with the one of the worker, which runs.
fn echo_elsewhere(conn: Conn) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let _ = runtime.block_on(echo(conn));
}
