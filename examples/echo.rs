//! Any protocol on TCP: whatever a client sends comes back, from one of four workers.
//!
//! ```sh
//! cargo run --example echo             # or: … echo 127.0.0.1:9000
//! nc 127.0.0.1 7000
//! ```
//!
//! The first line that a client gets says which worker it has, and in which process.

use std::io;

use pointsman::{Cluster, Conn};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn echo(mut conn: Conn) -> io::Result<()> {
    let worker = conn.worker().clone();
    let greeting = format!("worker {}, process {}\n", worker.id(), std::process::id());
    conn.write_all(greeting.as_bytes()).await?;
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let n = tokio::select! {
            read = conn.read(&mut buffer) => read?,
            // The worker is to end, and nothing is under way on this connection.
            () = worker.draining() => 0,
        };
        if n == 0 {
            return Ok(());
        }
        conn.write_all(&buffer[..n]).await?;
    }
}

fn main() -> pointsman::Result<()> {
    let address = std::env::args().nth(1);
    Cluster::new()
        .listen(address.as_deref().unwrap_or("127.0.0.1:7000"))
        .workers(4)
        .on_ready(|ready| println!("listening on {}", ready.listen[0]))
        .serve_connections(echo)
}
