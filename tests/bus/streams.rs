//! Streams of bytes between two workers: a worker's part in it, and what is promised.
//!
//! A worker has one stream: one that it has opened (`stream`), or has been given (`take-streams`). `write`
//! writes so many bytes into it and ends that direction, `read` reads until the end, and both go on
//! by themselves; `streamed` tells how far they are.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use nix::sys::signal::Signal::SIGKILL;
use pointsman::bus::{Stream, Subscription};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::unix::{OwnedReadHalf, OwnedWriteHalf},
    task::spawn_local,
};

use super::{cluster::Cluster, runner::Test};
use crate::harness::{is_true, kill, until};

pub const TESTS: &[Test] = &[
    (
        "a_writer_waits_for_its_reader_and_nobody_else_does",
        a_writer_waits_for_its_reader_and_nobody_else_does,
    ),
    (
        "a_stream_ends_with_the_process_at_its_other_end",
        a_stream_ends_with_the_process_at_its_other_end,
    ),
];

/// A worker's stream.
#[derive(Default)]
pub struct Streaming {
    reader: RefCell<Option<OwnedReadHalf>>,
    writer: RefCell<Option<OwnedWriteHalf>>,
    written: Cell<u64>,
    read: Cell<u64>,
    /// Bytes that were not what was written.
    wrong: Cell<u64>,
    read_all: Cell<bool>,
    write_failed: Cell<bool>,
    read_failed: Cell<bool>,
}

impl Streaming {
    /// Holds the last that is offered.
    pub async fn take(self: Rc<Self>, mut offered: Subscription) {
        while let Some(Ok(message)) = offered.next().await {
            if let Ok(stream) = message.accept_stream() {
                self.hold(stream);
            }
        }
    }

    /// Holds this one.
    pub fn hold(&self, stream: Stream) {
        let (reader, writer) = stream.into_inner().into_split();
        self.reader.replace(Some(reader));
        self.writer.replace(Some(writer));
    }

    /// Begins to write so many bytes.
    pub fn write(self: Rc<Self>, bytes: u64) {
        let mut writer = self.writer.take().expect("there is a stream");
        spawn_local(async move {
            let mut piece = vec![0; 32 * 1024];
            while self.written.get() < bytes {
                let at = self.written.get();
                let size = piece.len().min((bytes - at) as usize);
                (at..).zip(&mut piece).for_each(|(at, b)| *b = byte(at));
                match writer.write(&piece[..size]).await {
                    Ok(n) => self.written.set(at + n as u64),
                    Err(_) => return self.write_failed.set(true),
                }
            }
            if writer.shutdown().await.is_err() {
                self.write_failed.set(true);
            }
        });
    }

    /// Begins to read until the end.
    pub fn read(self: Rc<Self>) {
        let mut reader = self.reader.take().expect("there is a stream");
        spawn_local(async move {
            let mut piece = vec![0; 32 * 1024];
            loop {
                match reader.read(&mut piece).await {
                    Ok(0) => return self.read_all.set(true),
                    Err(_) => return self.read_failed.set(true),
                    Ok(n) => {
                        let at = self.read.get();
                        let wrong = (at..).zip(&piece[..n]).filter(|(at, b)| byte(*at) != **b);
                        self.wrong.set(self.wrong.get() + wrong.count() as u64);
                        self.read.set(at + n as u64);
                    }
                }
            }
        });
    }

    /// How far it is.
    pub fn report(&self) -> Value {
        json!({
            "written": self.written.get(),
            "read": self.read.get(),
            "wrong": self.wrong.get(),
            "read_all": self.read_all.get(),
            "write_failed": self.write_failed.get(),
            "read_failed": self.read_failed.get(),
        })
    }
}

/// What stands at this place in every stream.
fn byte(at: u64) -> u8 {
    (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8
}

fn a_writer_waits_for_its_reader_and_nobody_else_does() {
    const BYTES: u64 = 20_000_000;
    let cluster = Cluster::start(2);
    let (a, b) = (cluster.worker(0), cluster.worker(1));
    b.ok(json!({ "do": "take-streams", "topic": "copy" }));
    a.ok(json!({ "do": "stream", "to": b.id, "topic": "copy" }));
    let through_the_hub = || cluster.metric("pointsman_bus_bytes_total");
    let before = through_the_hub();
    a.ok(json!({ "do": "write", "bytes": BYTES }));
    // The one writes, the other does not read, and both go on with all else that they do.
    b.ok(json!({ "do": "subscribe", "pattern": "meanwhile", "then": "echo" }));
    let ask = json!({ "do": "request", "to": b.id, "topic": "meanwhile", "payload": "?" });
    let written = || a.ok(json!({ "do": "streamed" }))["written"].as_u64();
    until("the writer stands still", || {
        let before = written();
        (0..100).for_each(|_| assert_eq!(a.ok(ask.clone())["payload"], "echo ?"));
        is_true(before > Some(0) && before == written())
    });
    assert!(written() < Some(1_000_000), "{:?} bytes wait", written());
    b.ok(json!({ "do": "read" }));
    let came = until("all has come", || {
        let report = b.ok(json!({ "do": "streamed" }));
        (report["read_all"] == true).then_some(report)
    });
    assert_eq!(came["read"], BYTES);
    assert_eq!(came["wrong"], 0);
    // The other direction is another matter, and still open.
    b.ok(json!({ "do": "write", "bytes": 1000 }));
    a.ok(json!({ "do": "read" }));
    let back = until("the answer has come", || {
        let report = a.ok(json!({ "do": "streamed" }));
        (report["read_all"] == true).then_some(report)
    });
    assert_eq!((&back["read"], &back["wrong"]), (&json!(1000), &json!(0)));
    // Not a byte of it went through the master.
    let passed = through_the_hub() - before;
    assert!(passed < 1_000_000.0, "{passed} bytes went through the hub");
}

fn a_stream_ends_with_the_process_at_its_other_end() {
    let cluster = Cluster::start(2);
    let (a, b) = (cluster.worker(0), cluster.worker(1));
    b.ok(json!({ "do": "take-streams", "topic": "copy" }));
    a.ok(json!({ "do": "stream", "to": b.id, "topic": "copy" }));
    a.ok(json!({ "do": "write", "bytes": 20_000_000 }));
    a.ok(json!({ "do": "read" }));
    kill(b.pid, SIGKILL);
    // Nobody else has an end of it: the master has kept none.
    until("both directions end", || {
        let report = a.ok(json!({ "do": "streamed" }));
        let is_read = report["read_all"] == true || report["read_failed"] == true;
        is_true(is_read && report["write_failed"] == true)
    });
}
