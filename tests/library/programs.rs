//! The programs that the tests run, each a cluster; which one, the environment says.

use std::{io, time::Duration};

use pointsman::{Cluster, Conn};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

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

/// Does what each line says.
async fn obey(conn: Conn) -> io::Result<()> {
    let worker = conn.worker().clone();
    let about = format!("{} {}", conn.peer(), conn.listener());
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
            "panic" => panic!("as handlers may"),
            "exit" => std::process::exit(3),
            "task" => {
                let conn = conn.into_inner();
                tokio::task::spawn_local(echo(conn));
                return Ok(());
            }
            "thread" => {
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
