//! Connections moved by hand: a very important client is served by a worker of its own.
//!
//! It is the example of Node's `subprocess.send(message, socket)`: whoever comes from one address, here
//! 127.0.0.9, is served with special priority by worker 0, everybody else by workers 1 and 2. Any worker may
//! be the one that gets the connection; the one that must not serve it moves it, with a message, to one
//! that shall. The client sees nothing of that but the answer.
//!
//! ```sh
//! cargo run --example vip              # or: … vip 127.0.0.1:9000 10.1.2.3
//! nc 127.0.0.1 7000                    # normal
//! nc -s 127.0.0.9 127.0.0.1 7000       # special
//! ```
//!
//! Where addresses are all that counts, let the master do it instead: `Cluster::worker_group`.

use std::{io, net::IpAddr};

use pointsman::{Cluster, Conn, Worker, bus::To};
use tokio::io::AsyncWriteExt;

/// The worker for special connections.
const SPECIAL: u16 = 0;
const WORKERS: u16 = 3;

/// Serves a connection or moves it to who shall.
async fn serve(conn: Conn, vip: IpAddr) -> io::Result<()> {
    let worker = conn.worker().clone();
    let is_vip = conn.peer().ip() == vip;
    let is_moved = conn.message().is_some();
    if is_moved || is_vip == (worker.id() == SPECIAL) {
        return answer(conn).await;
    }
    let (seat, message) = match is_vip {
        true => (SPECIAL, "special"),
        false => (1 + conn.peer().port() % (WORKERS - 1), "normal"),
    };
    match worker
        .send_connection(To::Worker(seat), conn, message)
        .await
    {
        Ok(()) => Ok(()),
        // Nobody is there just now: better served by the wrong one than not at all.
        Err(failed) if failed.conn.is_some() => {
            eprintln!("worker {seat} cannot take it: {failed}");
            answer(failed.conn.expect("just looked")).await
        }
        Err(failed) => Err(io::Error::other(failed)),
    }
}

/// Says who serves it, and why.
async fn answer(mut conn: Conn) -> io::Result<()> {
    let worker = conn.worker();
    let text = match conn.message() {
        Some(moved) => {
            let priority = String::from_utf8_lossy(moved.message().bytes());
            format!(
                "{priority} priority: {}, moved here by {}\n",
                name(worker),
                moved.from()
            )
        }
        None if worker.id() == SPECIAL => format!("special priority: {}\n", name(worker)),
        None => format!("normal priority: {}\n", name(worker)),
    };
    conn.write_all(text.as_bytes()).await?;
    conn.shutdown().await
}

fn name(worker: &Worker) -> String {
    format!("worker {}, process {}", worker.id(), std::process::id())
}

fn main() -> pointsman::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:7000".into());
    let vip = arguments.next().unwrap_or_else(|| "127.0.0.9".into());
    let vip: IpAddr = vip.parse().expect("the second argument is an IP address");
    Cluster::new()
        .listen(address)
        .workers(WORKERS)
        .on_ready(|ready| println!("listening on {}", ready.listen[0]))
        .serve_connections(move |conn| serve(conn, vip))
}
