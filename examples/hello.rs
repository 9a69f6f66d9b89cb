//! The smallest service: four workers that say hello, each one process.
//!
//! ```sh
//! cargo run --example hello            # or: … hello 127.0.0.1:9000
//! curl http://127.0.0.1:8080/
//! ```
//!
//! The program runs once as the master and once more for every worker; nothing in it needs to know which
//! of them it is. End a worker with `kill -9` and ask again: nobody notices but its successor.

use std::convert::Infallible;

use http_body_util::Full;
use hyper::{Response, body::Bytes};
use pointsman::{Cluster, service_fn};

fn main() -> pointsman::Result<()> {
    let address = std::env::args().nth(1);
    Cluster::new()
        .listen(address.as_deref().unwrap_or("127.0.0.1:8080"))
        .workers(4)
        .on_ready(|ready| println!("listening on http://{}", ready.listen[0]))
        .serve(|worker| async move {
            service_fn(move |_request| {
                let (id, pid) = (worker.id(), std::process::id());
                let text = format!("hello from worker {id}, process {pid}\n");
                async { Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(text))) }
            })
        })
}
