//! The floor: bytes from one socket to the other and back, and nothing else. It reads no request, adds no
//! header, and opens a connection to the upstream for each one that it accepts; where connections stay, what it
//! costs is about what any proxy in user space must that does not let the kernel splice.

use anyhow::Result;
use clap::Args;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::TcpStream;

use crate::upstream::{alone, listen};

/// What it reads at once of requests and of answers, bytes: the large answer in one piece, as others can be told to.
const PIECES: (usize, usize) = (8 * 1024, 64 * 1024);

/// Relays bytes, and knows nothing of HTTP (used by the other commands).
#[derive(Debug, Args)]
pub(crate) struct Relay {
    /// Port on 127.0.0.1
    port: u16,
    /// Port of the upstream on 127.0.0.1
    upstream: u16,
}

impl Relay {
    /// Relays until it is ended.
    pub(crate) fn run(&self) -> Result<()> {
        alone(async {
            let listener = listen(self.port)?;
            loop {
                let Ok((client, _)) = listener.accept().await else {
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                    continue;
                };
                let upstream = self.upstream;
                tokio::task::spawn_local(async move { pass(client, upstream).await.ok() });
            }
        })
    }
}

async fn pass(mut client: TcpStream, upstream: u16) -> std::io::Result<()> {
    let mut server = TcpStream::connect(("127.0.0.1", upstream)).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    copy_bidirectional_with_sizes(&mut client, &mut server, PIECES.0, PIECES.1).await?;
    Ok(())
}
