//! What comes from the bus, for people.

use std::io::{self, ErrorKind, Write};

use data_encoding::BASE64;

use crate::{
    bus::{Departure, Peer, Role},
    cli::ctl::show::table,
    control::bus::Shown,
    error::{Error, Result},
};

/// Why standard output took no more.
#[derive(Debug)]
pub(super) enum Unread {
    /// Nobody reads it any more, which is the reader's affair.
    Gone,
    /// Another reason.
    Failed(Error),
}

/// Writes to standard output, now.
pub(super) fn put(bytes: &[u8]) -> std::result::Result<(), Unread> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Unread::Gone),
        Err(error) => Err(Unread::Failed(Error::runtime(
            "cannot write the result",
            error,
        ))),
    }
}

/// An answer: JSON and text as a line, other bytes as they are.
pub(super) fn answer(payload: Shown) -> Result<Vec<u8>> {
    let text = match payload {
        Shown::Payload(value) => value.to_string(),
        Shown::Text(text) => text,
        Shown::Base64(text) => {
            let bytes = BASE64.decode(text.as_bytes());
            return bytes.map_err(|_| Error::failed("the answer is not what it says it is"));
        }
    };
    let mut bytes = text.into_bytes();
    if bytes.last() != Some(&b'\n') {
        bytes.push(b'\n');
    }
    Ok(bytes)
}

/// The table of `ctl bus peers`: masters, then their workers, then guests.
pub(super) fn peers(peers: &[Peer]) -> String {
    let heads = [
        "ID",
        "WHAT",
        "NODE",
        "PID",
        "READY",
        "LOAD",
        "APPLICATIONS",
        "FUNCTIONS",
    ];
    let mut sorted: Vec<_> = peers.iter().collect();
    sorted.sort_by_key(|peer| (peer.id.master(), kind(peer.role), peer.id.number()));
    let rows = sorted.into_iter().map(|peer| {
        let applications: Vec<_> = peer.applications.keys().map(|a| plain(a)).collect();
        let functions: Vec<_> = peer.functions.iter().map(|f| plain(f)).collect();
        [
            peer.id.to_string(),
            what(peer.role),
            plain(&peer.node),
            peer.pid.to_string(),
            if peer.ready { "yes" } else { "no" }.into(),
            peer.load.to_string(),
            applications.join(" "),
            functions.join(" "),
        ]
    });
    table(heads, rows.collect(), &[0, 1, 2, 4, 6, 7])
}

/// A line about somebody who has come, changed or gone.
pub(super) fn presence(what_happened: &str, peer: &Peer, reason: Option<Departure>) -> String {
    let mut line = format!(
        "{what_happened:<8} {}, {}, process {} on {}",
        what(peer.role),
        peer.id,
        peer.pid,
        plain(&peer.node)
    );
    for (names, title) in [
        (peer.applications.keys().collect::<Vec<_>>(), "hosts"),
        (peer.functions.iter().collect(), "offers"),
    ] {
        if !names.is_empty() {
            let names: Vec<_> = names.into_iter().map(|name| plain(name)).collect();
            line += &format!(", {title} {}", names.join(" "));
        }
    }
    match reason {
        None => {}
        Some(Departure::Exit(code)) => line += &format!(": it ended with code {code}"),
        Some(Departure::Signal(number)) => line += &format!(": signal {number} ended it"),
        Some(Departure::Left) => line += ": it has left",
        Some(Departure::Cut) => line += ": it was cut off, for it sent what is no message",
        Some(Departure::Silent) => line += ": nothing has been heard of it for too long",
    }
    line + "\n"
}

/// The order in a table.
fn kind(role: Role) -> u8 {
    match role {
        Role::Master => 0,
        Role::Worker { .. } => 1,
        Role::Guest => 2,
    }
}

fn what(role: Role) -> String {
    match role {
        Role::Master => "master".into(),
        Role::Worker { seat, generation } => format!("worker {seat} ({generation})"),
        Role::Guest => "guest".into(),
    }
}

/// What somebody on the bus has chosen to say, without what a terminal would obey.
pub(super) fn plain(name: &str) -> String {
    let shown = |c: char| if c.is_control() { '?' } else { c };
    name.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn peer(number: u32, role: Role) -> Peer {
        let json = json!({
            "id": format!("000000000000001f:{number}"), "role": role, "parent": null, "node": "n\u{1b}",
            "pid": 10 + number, "ready": number != 2, "applications": {}, "functions": [], "load": 3,
        });
        serde_json::from_value(json).expect("a peer")
    }

    #[test]
    fn peers_are_a_table_and_terminals_are_safe() {
        let worker = |seat| Role::Worker {
            seat,
            generation: 1,
        };
        let mut host = peer(1, worker(0));
        host.applications = [("a\u{7}b".into(), json!({})), ("c".into(), json!(1))].into();
        host.functions = vec!["f".into()];
        let list = [
            peer(3, Role::Guest),
            peer(2, worker(1)),
            host,
            peer(0, Role::Master),
        ];
        assert_eq!(
            peers(&list),
            "\
ID                  WHAT          NODE  PID  READY  LOAD  APPLICATIONS  FUNCTIONS
000000000000001f:0  master        n?     10  yes       3
000000000000001f:1  worker 0 (1)  n?     11  yes       3  a?b c         f
000000000000001f:2  worker 1 (1)  n?     12  no        3
000000000000001f:3  guest         n?     13  yes       3
"
        );
    }

    #[test]
    fn comings_and_goings_are_a_line_each() {
        let mut host = peer(3, Role::Guest);
        host.applications = [("a".into(), json!({}))].into();
        assert_eq!(
            presence("changed", &host, None),
            "changed  guest, 000000000000001f:3, process 13 on n?, hosts a\n"
        );
        let gone = |reason| presence("offline", &peer(0, Role::Master), Some(reason));
        for (reason, end) in [
            (Departure::Signal(9), ": signal 9 ended it\n"),
            (Departure::Exit(1), ": it ended with code 1\n"),
            (Departure::Left, ": it has left\n"),
        ] {
            assert!(gone(reason).ends_with(end), "{reason:?}");
        }
    }

    #[test]
    fn answers_are_lines_or_bytes() {
        for (payload, expected) in [
            (Shown::Payload(json!({"a": 1})), &b"{\"a\":1}\n"[..]),
            (Shown::Text("x".into()), b"x\n"),
            (Shown::Text("x\n".into()), b"x\n"),
            (Shown::Base64("/wA=".into()), b"\xff\x00"),
        ] {
            assert_eq!(answer(payload).expect("sound"), expected);
        }
        assert!(answer(Shown::Base64("?".into())).is_err());
    }
}
