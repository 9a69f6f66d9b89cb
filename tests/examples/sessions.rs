//! `examples/sessions.rs`: every worker knows every session, also one that was born after it began.

use std::collections::{BTreeMap, BTreeSet};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::{
    Example,
    harness::{kill, until},
};

/// A client, which keeps its cookie and no connection.
#[derive(Default)]
struct Browser {
    cookie: String,
}

impl Browser {
    fn put(&mut self, sessions: &Example, name: &str, value: &str) {
        let answer = sessions.ask(&format!(
            "PUT /{name} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n{}content-length: {}\r\n\r\n{value}",
            self.cookie,
            value.len()
        ));
        assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
        let set = answer
            .lines()
            .find_map(|line| line.strip_prefix("set-cookie: "));
        if let Some(cookie) = set.and_then(|set| set.split(';').next()) {
            self.cookie = format!("cookie: other=1; {cookie}\r\n");
        }
    }

    /// What some worker knows.
    fn get(&self, sessions: &Example) -> Value {
        self.try_get(sessions).expect("an answer")
    }

    /// `None`: the worker has ended with the connection in its hands.
    fn try_get(&self, sessions: &Example) -> Option<Value> {
        let answer = sessions.try_ask(&format!(
            "GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n{}\r\n",
            self.cookie
        ))?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        Some(serde_json::from_str(body).expect("JSON"))
    }

    /// Waits until all workers of `seats` say the same.
    #[track_caller]
    fn finds_everywhere(&self, sessions: &Example, seats: &BTreeSet<u64>, expected: &Value) {
        let mut agree = BTreeMap::new();
        until("all workers say the same", || {
            let found = self.get(sessions);
            let is_as_expected = found["values"] == *expected;
            agree.insert(found["worker"].as_u64().expect("a seat"), is_as_expected);
            let all = seats.iter().all(|seat| agree.get(seat) == Some(&true));
            all.then_some(())
        });
    }
}

fn seats() -> BTreeSet<u64> {
    (0..3).collect()
}

#[test]
fn what_is_left_at_one_worker_is_found_at_all() {
    let sessions = Example::start("sessions");
    let (mut one, mut other) = (Browser::default(), Browser::default());
    one.put(&sessions, "colour", "blue");
    other.put(&sessions, "colour", "red");
    one.put(&sessions, "size", "large");
    one.finds_everywhere(
        &sessions,
        &seats(),
        &json!({"colour": "blue", "size": "large"}),
    );
    other.finds_everywhere(&sessions, &seats(), &json!({"colour": "red"}));
    assert_eq!(Browser::default().get(&sessions)["values"], json!({}));
    // One after the other, wherever each comes to: the last is the one that stays.
    for n in 0..30 {
        one.put(&sessions, "colour", &n.to_string());
    }
    one.finds_everywhere(
        &sessions,
        &seats(),
        &json!({"colour": "29", "size": "large"}),
    );
}

#[test]
fn whoever_is_born_later_knows_it_all_before_anybody_asks() {
    let sessions = Example::start("sessions");
    let mut browser = Browser::default();
    // More than one page.
    let mut expected = BTreeMap::new();
    for n in 0..100 {
        let (name, value) = (format!("name{n}"), format!("{n}").repeat(300));
        browser.put(&sessions, &name, &value);
        expected.insert(name, value);
    }
    let expected = json!(expected);
    browser.finds_everywhere(&sessions, &seats(), &expected);
    for _ in 0..3 {
        let before = browser.get(&sessions);
        let (seat, process) = (&before["worker"], &before["process"]);
        kill(
            process.as_i64().expect("a process id") as i32,
            Signal::SIGKILL,
        );
        // It does not learn little by little: the first answer is right.
        until("there is a successor", || {
            let found = browser.try_get(&sessions)?;
            assert_eq!(found["values"], expected);
            (found["worker"] == *seat && found["process"] != *process).then_some(())
        });
    }
}
