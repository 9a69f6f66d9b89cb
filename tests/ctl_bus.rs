//! The bus from outside: `pointsman ctl bus`, and programs that speak its protocol. The master, its
//! workers and all guests are real processes.

mod harness;

#[path = "ctl_bus/guest.rs"]
mod guest;

use std::{
    fs,
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    process::Command,
};

use serde_json::{Value, json};

use self::{
    guest::{Guest, Running},
    harness::{DEADLINE, Demo, Finished, Pointsman, place::Place, until},
};

/// The page that says how a guest speaks.
const PAGE: &str = include_str!("../docs/bus.md");

/// A master with a worker that has nothing to do.
fn start(name: &str) -> (Place, Pointsman, Demo) {
    let (place, demo) = (Place::new(name), Demo::start("a"));
    let proxy = place.start(&demo.url(), &["--workers", "1"]);
    (place, proxy, demo)
}

#[track_caller]
fn bus(place: &Place, arguments: &[&str]) -> Finished {
    place.ctl(&[&["bus"][..], arguments].concat())
}

#[track_caller]
fn works(place: &Place, arguments: &[&str]) -> String {
    let done = bus(place, arguments);
    assert_eq!(done.code, Some(0), "{arguments:?}: {done:?}");
    done.stdout
}

#[track_caller]
fn peers(place: &Place) -> Vec<Value> {
    let list = place.works(&["--json", "bus", "peers"]);
    serde_json::from_str(&list).expect("a list")
}

/// Waits until somebody hosts an application.
#[track_caller]
fn hosted(place: &Place, application: &str) -> Value {
    until(&format!("somebody hosts {application}"), || {
        let all = peers(place).into_iter();
        let mut hosts = all.filter(|peer| peer["applications"].get(application).is_some());
        hosts.next()
    })
}

#[test]
fn guests_talk_to_each_other_in_every_encoding() {
    let (place, _proxy, _demo) = start("talk");
    let (mut ann, mut bob) = (Guest::join(&place), Guest::join(&place));
    assert_ne!(ann.you, bob.you);
    bob.does(json!({"op": "subscribe", "pattern": "room.*"}));
    for said in [
        json!({"payload": {"a": [1, null, "é\n"]}}),
        json!({"text": "good\nmorning"}),
        json!({"base64": "/wA="}),
        json!({"text": ""}),
    ] {
        let mut order = json!({"op": "publish", "topic": "room.7"});
        let fields = said.as_object().expect("fields").clone();
        order
            .as_object_mut()
            .expect("fields")
            .extend(fields.clone());
        ann.say(order);
        let heard = bob.next();
        assert_eq!(heard["event"], "message", "{heard}");
        assert_eq!(heard["topic"], "room.7");
        assert_eq!(heard["pattern"], "room.*");
        assert_eq!(heard["from"], ann.you.as_str());
        assert!(
            heard["ticket"].is_null() && heard["missed"].is_null(),
            "{heard}"
        );
        for (field, value) in fields {
            assert_eq!(heard[&field], value, "{heard}");
        }
    }
    // Orders are done in order, and what is not listened to any more does not come.
    for number in 0..500 {
        ann.say(json!({"op": "publish", "topic": "room.7", "payload": number}));
    }
    for number in 0..500 {
        assert_eq!(bob.next()["payload"], number);
    }
    bob.does(json!({"op": "unsubscribe", "pattern": "room.*"}));
    bob.does(json!({"op": "subscribe", "pattern": "other"}));
    ann.does(json!({"op": "publish", "topic": "room.7", "text": "unheard"}));
    ann.does(json!({"op": "publish", "topic": "other", "text": "heard", "to": bob.you}));
    assert_eq!(bob.next()["text"], "heard");
}

#[test]
fn a_guest_asks_and_another_answers_or_refuses_or_goes() {
    let (place, _proxy, _demo) = start("ask");
    let (mut ann, mut bob) = (Guest::join(&place), Guest::join(&place));
    bob.does(json!({"op": "host", "application": "sum", "description": {"v": 1}}));
    assert_eq!(hosted(&place, "sum")["id"], bob.you.as_str());
    let call = |id: u32| {
        json!({
            "op": "call", "application": "sum", "action": "add", "payload": [1, 2], "deadline": 20, "id": id,
        })
    };
    ann.say(call(1));
    ann.say(call(2));
    let first = bob.next();
    assert_eq!(
        (&first["application"], &first["action"]),
        (&json!("sum"), &json!("add"))
    );
    let second = bob.next();
    // Answers go by ticket, not by order.
    bob.say(json!({"op": "refuse", "ticket": second["ticket"], "error": "too hot"}));
    let refused = ann.next();
    assert_eq!(
        (&refused["id"], &refused["reason"]),
        (&json!(2), &json!("refused"))
    );
    assert!(
        refused["error"].as_str().expect("text").contains("too hot"),
        "{refused}"
    );
    bob.does(json!({"op": "reply", "ticket": first["ticket"], "payload": 3}));
    let reply = ann.next();
    assert_eq!((&reply["id"], &reply["payload"]), (&json!(1), &json!(3)));
    assert_eq!(reply["from"], bob.you.as_str());
    // A ticket is good for one answer.
    let again = bob.ask(json!({"op": "reply", "ticket": first["ticket"]}));
    assert_eq!(again["reason"], "invalid", "{again}");
    // What it has not answered when it goes fails at once.
    ann.does(json!({"op": "watch"}));
    ann.say(call(3));
    bob.next_of("message");
    let bobs = bob.you.clone();
    drop(bob);
    let (mut failed, mut offline) = (None, None);
    while failed.is_none() || offline.is_none() {
        let event = ann.next();
        if event["event"] == "error" {
            failed = Some((event["id"].clone(), event["reason"].clone()));
        } else if event["what"] == "offline" {
            offline = Some((event["peer"]["id"].clone(), event["reason"].clone()));
        }
    }
    assert_eq!(failed, Some((json!(3), json!("gone"))));
    assert_eq!(offline, Some((json!(bobs), json!("left"))));
    ann.say(call(4));
    assert_eq!(ann.next_error()["reason"], "no-host");
}

#[test]
fn shell_commands_publish_subscribe_call_and_host() {
    let (place, _proxy, _demo) = start("shell");
    let mut heard = Running::ctl_bus(&place, &["subscribe", "a.>", "--count", "2"]);
    let mut host = Running::ctl_bus(
        &place,
        &["host", "upper", "--count", "2", "--", "tr", "a-z", "A-Z"],
    );
    hosted(&place, "upper");
    assert_eq!(
        works(&place, &["call", "upper/please", "good morning"]),
        "GOOD MORNING\n"
    );
    let line = place.works(&["--json", "bus", "call", "upper", "x"]);
    let reply: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(reply["text"], "X");
    assert_eq!(host.code(), Some(0), "it has answered as many as it was to");
    // The subscriber may not be there yet: it is said until it is heard.
    until("both messages are heard", || {
        works(
            &place,
            &["publish", "a.b", "{\"n\":1}", "--encoding", "json"],
        );
        heard.has_ended().then_some(())
    });
    assert_eq!(heard.code(), Some(0));
    let lines = heard.lines();
    assert_eq!(lines.len(), 2, "{lines:?}");
    for line in lines {
        let message: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(
            (&message["topic"], &message["payload"]),
            (&json!("a.b"), &json!({"n": 1}))
        );
    }
    let table = works(&place, &["peers"]);
    assert!(
        table.contains("worker 0 (1)") && table.contains("master"),
        "{table}"
    );
}

#[test]
fn what_does_not_work_has_an_exit_code_and_names_the_way_out() {
    let (place, proxy, _demo) = start("codes");
    for (arguments, code, why) in [
        (&["call", "nobody"][..], 1, "pointsman ctl bus peers"),
        (&["request", "nobody.listens"], 1, "pointsman ctl bus peers"),
        (
            &["run", "f", "--on", "000000000000001f:3"],
            1,
            "pointsman ctl bus peers",
        ),
        (
            &["subscribe", "a", "--count", "1", "--timeout", "50ms"],
            1,
            "0 of 1 lines",
        ),
        (&["publish", "$mine"], 2, "$"),
        (&["publish", "no topic"], 2, "no topic"),
        (&["host", "a/b", "--", "true"], 2, "a/b"),
    ] {
        let done = bus(&place, arguments);
        assert_eq!(done.code, Some(code), "{arguments:?}: {done:?}");
        assert!(done.stderr.contains(why), "{arguments:?}: {done:?}");
        assert!(done.stdout.is_empty(), "{arguments:?}: {done:?}");
    }
    // Somebody who never answers.
    let mut silent = Guest::join(&place);
    silent.does(json!({"op": "host", "application": "silent"}));
    let done = bus(&place, &["call", "silent", "--timeout", "50ms"]);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.stderr.contains("no answer in time"), "{done:?}");
    let mut failing = Running::ctl_bus(
        &place,
        &[
            "host",
            "failing",
            "--count",
            "1",
            "--",
            "sh",
            "-c",
            "echo no such word >&2; exit 3",
        ],
    );
    hosted(&place, "failing");
    let done = bus(&place, &["call", "failing"]);
    assert!(
        done.code == Some(1) && done.stderr.contains("no such word"),
        "{done:?}"
    );
    assert_eq!(failing.code(), Some(0));
    let works_for_nobody = works(&place, &["publish", "nobody.listens", "x"]);
    assert!(works_for_nobody.is_empty());
    drop(proxy);
    let done = bus(&place, &["peers"]);
    assert_eq!(done.code, Some(3), "{done:?}");
    assert!(done.stderr.contains("running?"), "{done:?}");
}

#[test]
fn lines_that_make_no_sense_cost_an_error_line_and_nothing_else() {
    let (place, _proxy, _demo) = start("hostile");
    let mut guest = Guest::join(&place);
    for (line, reason) in [
        (vec![b'x'; 3 << 20], "line"),
        (vec![b'['; 600 * 1024], "line"),
        (vec![b'['; 400 * 1024], "order"),
        ((0..=255).filter(|byte| *byte != b'\n').collect(), "order"),
        (b"{\"op\":\"publish\",\"topic\":\"t\"".to_vec(), "order"),
        (b"{\"op\":\"fly\"}".to_vec(), "order"),
        (
            b"{\"op\":\"publish\",\"topic\":\"a b\"}".to_vec(),
            "invalid",
        ),
        (
            b"{\"op\":\"subscribe\",\"pattern\":\"$connection\"}".to_vec(),
            "invalid",
        ),
        (
            b"{\"op\":\"host\",\"application\":\"\"}".to_vec(),
            "invalid",
        ),
        (
            format!(
                "{{\"op\":\"publish\",\"topic\":\"t\",\"text\":\"{}\"}}",
                "x".repeat(70_000)
            )
            .into_bytes(),
            "invalid",
        ),
    ] {
        guest.say_bytes(&line);
        guest.say_bytes(b"\r\n\n");
        let error = guest.next();
        let shown = String::from_utf8_lossy(&line[..line.len().min(40)]);
        assert_eq!(
            (&error["event"], &error["reason"]),
            (&json!("error"), &json!(reason)),
            "{shown}: {error}"
        );
        assert!(error.to_string().len() < 1000, "{error}");
    }
    guest.does(json!({"op": "subscribe", "pattern": "t"}));
    guest.does(json!({"op": "unsubscribe", "pattern": "t"}));
    // A line that breaks off ends with its guest.
    guest.say_bytes(b"{\"op\":\"publ");
    guest
        .stream
        .get_ref()
        .shutdown(Shutdown::Write)
        .expect("open");
    assert_eq!(guest.try_next(), None);
    assert!(!works(&place, &["peers"]).is_empty());
}

#[test]
fn a_flood_that_nobody_reads_the_answers_of_costs_the_others_nothing() {
    let (place, proxy, _demo) = start("flood");
    let memory = || {
        let status = fs::read_to_string(format!("/proc/{}/status", proxy.pid())).expect("it runs");
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().nth(1));
        kib.and_then(|kib| kib.parse::<u64>().ok())
            .expect("a number")
    };
    let before = memory();
    // Lines that each cost an answer, until no more of them are taken.
    let guest = Guest::join(&place);
    let socket = guest.stream.get_ref();
    socket.set_nonblocking(true).expect("a socket");
    let lines = "nonsense\n".repeat(1000);
    let mut taken = 0;
    let mut full = 0;
    until("it is not read from any more", || {
        match (&*socket).write(lines.as_bytes()) {
            Ok(n) => (taken, full) = (taken + n, 0),
            Err(_) => full += 1,
        }
        assert!(taken < 64 << 20, "it is read from though it does not read");
        (full > 20).then_some(())
    });
    assert!(
        memory() < before + (16 << 10),
        "{before} KiB, then {} KiB",
        memory()
    );
    // The others, and the master, go on.
    let (mut ann, mut bob) = (Guest::join(&place), Guest::join(&place));
    bob.does(json!({"op": "subscribe", "pattern": "t"}));
    ann.say(json!({"op": "publish", "topic": "t", "text": "x"}));
    assert_eq!(bob.next()["text"], "x");
    assert_eq!(place.report("status")["state"], "running");
    assert_eq!(harness::get(proxy.address(), "/").status, 200);
}

#[test]
fn a_slow_guest_loses_the_oldest_and_is_told_how_many() {
    const MESSAGES: u64 = 20_000;
    let (place, _proxy, _demo) = start("slow");
    let (mut slow, mut quick) = (Guest::join(&place), Guest::join(&place));
    slow.does(json!({"op": "subscribe", "pattern": "t"}));
    let text = "x".repeat(1000);
    for number in 0..MESSAGES {
        quick.say(json!({"op": "publish", "topic": "t", "payload": [number, text]}));
    }
    quick.does(json!({"op": "publish", "topic": "t", "payload": ["last"]}));
    // Nobody has waited for it; now it reads.
    let (mut heard, mut missed, mut before) = (0, 0, None);
    loop {
        let message = slow.next();
        missed += message["missed"].as_u64().unwrap_or(0);
        heard += 1;
        let Some(number) = message["payload"][0].as_u64() else {
            break;
        };
        assert!(before < Some(number), "{before:?}, then {number}");
        before = Some(number);
    }
    assert!(
        missed > 0,
        "{MESSAGES} messages of a kilobyte cannot all have waited"
    );
    assert_eq!(heard + missed, MESSAGES + 1);
}

#[test]
fn guests_have_places_of_their_own() {
    let (place, _proxy, _demo) = start("places");
    let mut guests: Vec<_> = (0..64).map(|_| Guest::join(&place)).collect();
    let refused = Guest::try_join(&place).err().expect("no place");
    assert!(
        refused.contains("503") && refused.contains("64 guests"),
        "{refused}"
    );
    let done = bus(&place, &["publish", "t"]);
    assert!(
        done.code == Some(1) && done.stderr.contains("64 guests"),
        "{done:?}"
    );
    assert_eq!(place.report("status")["state"], "running");
    guests.pop();
    until("the place is free", || Guest::try_join(&place).ok());
}

#[test]
fn what_a_guest_leaves_unanswered_is_bounded_and_so_is_what_it_asks() {
    let (place, _proxy, _demo) = start("bounded");
    let (mut silent, mut ann, mut bob) = (
        Guest::join(&place),
        Guest::join(&place),
        Guest::join(&place),
    );
    silent.does(json!({"op": "host", "application": "silent"}));
    let call = |id| json!({"op": "call", "application": "silent", "deadline": 600, "id": id});
    (1..=257).for_each(|id| ann.say(call(id)));
    let error = ann.next();
    assert_eq!(
        (&error["id"], &error["reason"]),
        (&json!(257), &json!("limit")),
        "{error}"
    );
    let ticket = |silent: &mut Guest| silent.next_of("message")["ticket"].as_u64();
    let tickets: Vec<_> = (0..256).map(|_| ticket(&mut silent)).collect();
    assert_eq!(tickets, (1..=256).map(Some).collect::<Vec<_>>());
    // One more than a guest may leave unanswered costs the oldest its answer.
    bob.say(call(1));
    let refused = ann.next();
    assert_eq!(
        (&refused["id"], &refused["reason"]),
        (&json!(1), &json!("refused")),
        "{refused}"
    );
    assert_eq!(ticket(&mut silent), Some(257));
    let late = silent.ask(json!({"op": "reply", "ticket": 1, "text": "late"}));
    assert_eq!(late["reason"], "invalid", "{late}");
    silent.does(json!({"op": "reply", "ticket": 2, "text": "in time"}));
    let reply = ann.next();
    assert_eq!(
        (&reply["id"], &reply["text"]),
        (&json!(2), &json!("in time"))
    );
}

#[test]
fn plain_http_will_do_for_an_errand() {
    let (place, _proxy, _demo) = start("http");
    let mut guest = Guest::join(&place);
    guest.does(json!({"op": "subscribe", "pattern": "t"}));
    let post = |op: &str, body: Value| -> (u16, Value) {
        let body = body.to_string();
        exchange(
            &place,
            &format!(
                "POST /bus/{op} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            ),
        )
    };
    let (code, answer) = post("publish", json!({"topic": "t", "text": "x"}));
    assert_eq!((code, &answer["event"]), (200, &json!("ok")));
    assert_eq!(guest.next()["text"], "x");
    let (code, answer) = exchange(&place, "GET /bus/peers HTTP/1.1\r\nhost: x\r\n\r\n");
    assert_eq!(code, 200);
    let list = answer["peers"].as_array().expect("a list");
    assert!(
        list.iter().any(|peer| peer["id"] == guest.you.as_str()),
        "{answer}"
    );
    for (op, body, expected, why) in [
        (
            "call",
            json!({"application": "nobody"}),
            404,
            "nobody hosts",
        ),
        ("publish", json!({"topic": "a b"}), 400, "a b"),
        ("publish", json!({}), 400, "topic"),
        ("publish", json!([]), 400, "publish"),
        ("subscribe", json!({"pattern": "t"}), 400, "pointsman-bus"),
        ("fly", json!({}), 400, "there is no such op"),
        (
            "request",
            json!({"topic": "t", "deadline": 0.05}),
            504,
            "in time",
        ),
    ] {
        let (code, answer) = post(op, body);
        assert_eq!(code, expected, "{op}: {answer}");
        assert!(
            answer["error"].as_str().expect("why").contains(why),
            "{op}: {answer}"
        );
    }
    let (code, _) = exchange(&place, "GET /bus/publish HTTP/1.1\r\nhost: x\r\n\r\n");
    assert_eq!(code, 405);
    let (code, answer) = exchange(&place, "GET /bus HTTP/1.1\r\nhost: x\r\n\r\n");
    assert_eq!(code, 426);
    assert!(
        answer["error"]
            .as_str()
            .expect("why")
            .contains("pointsman-bus"),
        "{answer}"
    );
}

/// One request over the control socket; the status code and the last line of the answer.
#[track_caller]
fn exchange(place: &Place, request: &str) -> (u16, Value) {
    let mut stream = UnixStream::connect(place.socket()).expect("a master");
    stream.set_read_timeout(Some(DEADLINE)).expect("a socket");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    let last = answer
        .lines()
        .last()
        .and_then(|line| serde_json::from_str(line).ok());
    (
        code.expect("HTTP"),
        last.unwrap_or_else(|| panic!("{answer}")),
    )
}

#[test]
fn guests_are_told_good_bye_and_subscribers_come_back_after_an_upgrade() {
    let (place, mut proxy, _demo) = start("upgrade");
    let mut guest = Guest::join(&place);
    guest.does(json!({"op": "subscribe", "pattern": "t"}));
    let heard = Running::ctl_bus(&place, &["subscribe", "t"]);
    let mut host = Running::ctl_bus(&place, &["host", "clock", "--", "date"]);
    hosted(&place, "clock");
    until("it listens", || {
        guest.say(json!({"op": "publish", "topic": "t", "text": "before"}));
        guest.next_of("message");
        (!heard.lines().is_empty()).then_some(())
    });
    place.works(&["upgrade"]);
    let last = loop {
        match guest.next() {
            event if event["event"] == "bye" => break event,
            _ => {}
        }
    };
    assert_eq!(last["again"], true, "{last}");
    assert!(
        last["error"]
            .as_str()
            .expect("why")
            .contains("another binary"),
        "{last}"
    );
    assert_eq!(guest.try_next(), None);
    hosted(&place, "clock");
    assert!(!works(&place, &["call", "clock"]).is_empty());
    until("it listens again", || {
        works(&place, &["publish", "t", "after"]);
        heard
            .lines()
            .iter()
            .any(|line| line.contains("after"))
            .then_some(())
    });
    let mut guest = Guest::join(&place);
    place.works(&["stop"]);
    let last = guest.next();
    assert_eq!(
        (&last["event"], &last["again"]),
        (&json!("bye"), &json!(false))
    );
    assert!(proxy.wait().success());
    assert_eq!(host.code(), Some(1), "there is no master to come back");
}

/// A piece of code in the page, by a line that it holds.
#[track_caller]
fn example(language: &str, holds: &str) -> String {
    let fence = format!("```{language}\n");
    let mut blocks = PAGE.split(fence.as_str()).skip(1);
    let block = blocks.find_map(|block| {
        let code = block.split("```").next()?;
        code.contains(holds).then(|| code.to_owned())
    });
    block.unwrap_or_else(|| panic!("no {language} with {holds}"))
}

#[test]
fn the_pages_python_program_is_an_application() {
    let (place, _proxy, _demo) = start("python");
    let program = place.path("sum.py");
    fs::write(&program, example("python", "application=\"sum\"")).expect("written");
    let mut command = Command::new("python3");
    let _guest = Running::start(
        command
            .arg(&program)
            .env("POINTSMAN_CONTROL", place.socket()),
    );
    assert_eq!(
        hosted(&place, "sum")["applications"]["sum"]["takes"],
        "a list of numbers"
    );
    let call = |numbers| bus(&place, &["call", "sum", numbers, "--encoding", "json"]);
    assert_eq!(call("[1, 2, 3.5]").stdout, "6.5\n");
    let refused = call("7");
    assert!(
        refused.code == Some(1) && refused.stderr.contains("refused"),
        "{refused:?}"
    );
}

#[test]
fn the_pages_shell_script_is_a_guest_both_ways() {
    let (place, _proxy, _demo) = start("script");
    let directory = place.path("here");
    fs::create_dir(&directory).expect("made");
    let binaries = std::path::Path::new(env!("CARGO_BIN_EXE_pointsman"))
        .parent()
        .expect("a folder");
    let path = format!(
        "{}:{}",
        binaries.display(),
        std::env::var("PATH").expect("a path")
    );
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", &example("sh", "mkfifo orders")])
        .current_dir(&directory);
    command
        .env("POINTSMAN_CONTROL", place.socket())
        .env("PATH", path);
    let mut guest = Guest::join(&place);
    guest.does(json!({"op": "subscribe", "pattern": "log"}));
    let _script = Running::start(&mut command);
    let logged = until("it has logged what was said", || {
        guest.say(json!({"op": "publish", "topic": "room.7.said", "payload": {"who": "ann"}}));
        guest.say(json!({"op": "peers"}));
        match guest.next() {
            event if event["event"] == "message" => Some(event),
            _ => None,
        }
    });
    assert_eq!(logged["payload"]["topic"], "room.7.said", "{logged}");
    assert_eq!(logged["payload"]["payload"], json!({"who": "ann"}));
}
