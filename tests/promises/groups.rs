//! Worker groups, and clients that are pinned to them.

use std::net::{IpAddr, SocketAddr};

use nix::sys::signal::Signal::SIGKILL;

use crate::harness::{Client, Demo, Pointsman, is_true, kill, place::Place, resume, stop, until};

const SPECIAL: [u8; 4] = [127, 1, 2, 3];
const WIDE: [u8; 4] = [127, 1, 9, 9];
const ANYBODY: [u8; 4] = [127, 0, 0, 1];

/// Two groups of one worker each, and two workers for everybody else; one network lies in the other.
const GROUPS: [&str; 10] = [
    "--workers",
    "4",
    "--worker-group",
    "special=1",
    "--worker-group",
    "wide=1",
    "--pin",
    "127.1.0.0/16=wide",
    "--pin",
    "127.1.2.3=special",
];

fn connect(source: [u8; 4], address: SocketAddr) -> Client {
    Client::connect_from(IpAddr::from(source), address)
}

/// Opens connections from `source` and sees to it that each is served.
#[track_caller]
fn hold(proxy: &Pointsman, source: [u8; 4], n: usize) -> Vec<Client> {
    let one = || {
        let mut client = connect(source, proxy.address());
        assert_eq!(client.get("/").expect("an answer").status, 200);
        client
    };
    (0..n).map(|_| one()).collect()
}

/// Sends a request without waiting for the answer.
#[track_caller]
fn ask(source: [u8; 4], address: SocketAddr) -> Client {
    let mut client = connect(source, address);
    client
        .send("GET / HTTP/1.1\r\nhost: test\r\n\r\n")
        .expect("sent");
    client
}

/// Waits until the worker in a seat is in a state.
#[track_caller]
fn await_state(proxy: &Pointsman, seat: usize, state: &str) {
    until(state, || is_true(proxy.state(seat) == state));
}

#[test]
fn pinned_clients_have_their_groups_to_themselves_under_every_policy() {
    for policy in ["round-robin", "least-loaded", "remote-address"] {
        let (place, demo) = (Place::new(&format!("pins-{policy}")), Demo::start("one"));
        let proxy = place.start(&demo.url(), &[&GROUPS[..], &["--policy", policy]].concat());
        let mut held = Vec::new();
        for _ in 0..3 {
            held.extend(hold(&proxy, SPECIAL, 2));
            held.extend(hold(&proxy, ANYBODY, 4));
            held.extend(hold(&proxy, WIDE, 1));
        }
        let open = proxy.each_worker("connections_open");
        assert_eq!(
            (open[0], open[1], open[2] + open[3]),
            (6, 3, 12),
            "{policy}"
        );
        if policy == "round-robin" {
            assert_eq!(open[2..], [6, 6], "nobody else takes a turn of theirs");
        }
        let report = proxy.workers();
        let groups: Vec<_> = (0..4)
            .map(|i| report["workers"][i]["group"].as_str())
            .collect();
        assert_eq!(groups, [Some("special"), Some("wide"), None, None]);
        let page = place.works(&["workers"]);
        assert!(page.contains("group special"), "{page}");

        // Shadows stay within the groups, as their policies would; the kernel could not.
        let shadows: Vec<String> = proxy.metrics().into_keys().collect();
        let of = |rule: &str| {
            let rule = format!("policy=\"{rule}\"");
            shadows
                .iter()
                .filter(|name| name.starts_with("pointsman_shadow_") && name.contains(&rule))
                .count()
        };
        assert!(
            of("round-robin") > 0 && of("kernel-hash") == 0,
            "{shadows:?}"
        );
        let of_special = |rule: &str| {
            let rule = format!("policy=\"{rule}\"");
            proxy.metric(
                "pointsman_shadow_connections_open",
                &[&rule, "worker=\"0\""],
            )
        };
        for rule in ["round-robin", "least-loaded", "remote-address"] {
            assert_eq!(of_special(rule), 6.0, "{rule} under {policy}");
        }
    }
}

#[test]
fn an_explanation_names_the_pin_and_only_the_workers_of_the_group() {
    let (place, demo) = (Place::new("pin-why"), Demo::start("one"));
    let proxy = place.start(&demo.url(), &GROUPS);
    for (source, pin, group, candidates) in [
        (SPECIAL, Some("127.1.2.3/32"), Some("special"), &["0"][..]),
        (WIDE, Some("127.1.0.0/16"), Some("wide"), &["1"]),
        (ANYBODY, None, None, &["2", "3"]),
    ] {
        let _held = hold(&proxy, source, 1);
        let text = place.works(&["--json", "explain", "--last", "1"]);
        let report: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let decision = &report["decisions"][0];
        assert_eq!(
            (decision["pin"].as_str(), decision["group"].as_str()),
            (pin, group)
        );
        let among = decision["candidates"].as_array().expect("a list");
        let among: Vec<_> = among
            .iter()
            .map(|c| c["worker"].as_str().expect("a label"))
            .collect();
        assert_eq!(among, candidates);
        let worker = decision["worker"].as_str().expect("a label");
        assert!(candidates.contains(&worker), "{decision}");
        for (rule, worker) in decision["shadows"].as_object().expect("shadows") {
            assert_ne!(rule, "kernel-hash");
            assert!(
                candidates.contains(&worker.as_str().expect("a label")),
                "{decision}"
            );
        }
        let page = place.works(&["explain", "--last", "1"]);
        assert_eq!(page.contains("goes to group"), pin.is_some(), "{page}");
    }
}

#[test]
fn clients_wait_for_their_group_and_nobody_waits_for_another() {
    let demo = Demo::start("one");
    let proxy = Pointsman::start(&[&demo.url()], &GROUPS);
    let pids = proxy.worker_pids();
    let _known = hold(&proxy, SPECIAL, 1);
    stop(pids[0]);
    let mut waits: Vec<Client> = (0..5).map(|_| ask(SPECIAL, proxy.address())).collect();
    await_state(&proxy, 0, "hung");
    hold(&proxy, ANYBODY, 10);
    hold(&proxy, WIDE, 10);
    waits.extend((0..5).map(|_| ask(SPECIAL, proxy.address())));
    hold(&proxy, ANYBODY, 10);
    assert_eq!(proxy.state(0), "hung");
    assert_eq!(proxy.taken()[0], 1, "and nobody else has them");
    resume(pids[0]);
    for client in &mut waits {
        assert_eq!(client.read_answer(false).expect("not lost").status, 200);
    }
    assert_eq!(proxy.taken()[0], 11);

    // The other way round.
    await_state(&proxy, 0, "ready");
    stop(pids[2]);
    stop(pids[3]);
    let mut waits: Vec<Client> = (0..5).map(|_| ask(ANYBODY, proxy.address())).collect();
    await_state(&proxy, 2, "hung");
    await_state(&proxy, 3, "hung");
    hold(&proxy, SPECIAL, 10);
    let before = proxy.taken();
    resume(pids[2]);
    for client in &mut waits {
        assert_eq!(client.read_answer(false).expect("not lost").status, 200);
    }
    assert_eq!(proxy.taken()[..2], before[..2]);
    resume(pids[3]);
    await_state(&proxy, 3, "ready");
}

#[test]
fn a_client_of_a_group_whose_worker_is_killed_gets_its_successor() {
    let demo = Demo::start("one");
    let proxy = Pointsman::start(&[&demo.url()], &GROUPS);
    for _ in 0..3 {
        let pid = proxy.worker_pids()[0];
        // Sent to it, and claimed by nobody.
        stop(pid);
        let mut client = ask(SPECIAL, proxy.address());
        hold(&proxy, WIDE, 1);
        kill(pid, SIGKILL);
        hold(&proxy, ANYBODY, 2);
        assert_eq!(client.read_answer(false).expect("not lost").status, 200);
        let newer = proxy.worker_pids()[0];
        assert!(newer != pid, "{newer}");
        assert_eq!(proxy.taken()[0], 1);
    }
}

#[test]
fn more_than_may_wait_for_a_group_are_turned_away_and_counted() {
    let demo = Demo::start("one");
    let proxy = Pointsman::start(&[&demo.url()], &GROUPS);
    let pid = proxy.worker_pids()[0];
    stop(pid);
    let mut clients = vec![ask(SPECIAL, proxy.address())];
    await_state(&proxy, 0, "hung");
    clients.extend((0..400).map(|_| ask(SPECIAL, proxy.address())));
    let name = "pointsman_connections_turned_away_total";
    until("some are turned away", || {
        is_true(proxy.metric(name, &[]) >= 145.0)
    });
    hold(&proxy, ANYBODY, 3);
    assert_eq!(proxy.metric(name, &[]), 145.0, "256 may wait");
    let exhausted = proxy.metric("pointsman_accept_errors_total", &["exhausted"]);
    assert_eq!(exhausted, 0.0);
    resume(pid);
    let served = clients
        .iter_mut()
        .filter_map(|client| client.read_answer(false).ok());
    assert_eq!(served.count(), 256);
}

#[test]
fn what_groups_do_not_go_with_is_refused_while_it_runs() {
    let (place, demo) = (Place::new("pin-no"), Demo::start("one"));
    let proxy = place.start(
        &demo.url(),
        &[&GROUPS[..], &["--max-workers", "6"]].concat(),
    );
    for mode in ["hybrid", "shared", "reuseport"] {
        let why = place.refuses(&["mode", mode]);
        assert!(why.contains(mode) && why.contains("'special'"), "{why}");
    }
    let why = place.refuses(&["compare", "--arms", "handoff/round-robin,shared"]);
    assert!(why.contains("mode 'shared'"), "{why}");
    for count in ["1", "2"] {
        let why = place.refuses(&["workers", "set", count]);
        assert!(why.contains("the worker groups take 2"), "{why}");
    }
    assert_eq!(place.report("status")["mode"], "handoff");
    place.works(&["mode", "handoff", "round-robin"]);
    for count in ["3", "6"] {
        place.works(&["workers", "set", count]);
        let before = proxy.taken();
        hold(&proxy, ANYBODY, 8);
        hold(&proxy, SPECIAL, 3);
        let taken = proxy.taken();
        assert_eq!((taken[0], taken[1]), (before[0] + 3, before[1]));
    }
}

#[test]
fn groups_and_pins_are_changed_by_a_reload_and_survive_an_upgrade() {
    let (place, demo) = (Place::new("pin-reload"), Demo::start("one"));
    let configure = |more: &str| {
        let upstream = demo.url();
        place.configure(format!(
            "listen = \"127.0.0.1:0\"\nupstream = \"{upstream}\"\nworkers = 3\n{more}\n"
        ));
    };
    let pin = |to: &str| {
        configure(&format!(
            "worker-group = {{ a = 1, b = 1 }}\npin = [{{ from = \"127.1.0.0/16\", to = \"{to}\" }}]"
        ));
    };
    configure("");
    let proxy = place.start_configured(&[]);
    let goes_to = |seat: usize| {
        until("all are ready", || {
            is_true((0..3).all(|seat| proxy.state(seat) == "ready"))
        });
        let before = proxy.taken();
        let held = hold(&proxy, SPECIAL, 6);
        let taken = proxy.taken();
        assert_eq!(taken[seat], before[seat] + 6, "{before:?} {taken:?}");
        drop(held);
    };
    pin("a");
    assert!(place.works(&["reload"]).contains("worker groups"));
    goes_to(0);
    let pids = proxy.worker_pids();
    pin("b");
    place.works(&["reload"]);
    goes_to(1);
    assert_eq!(
        proxy.worker_pids(),
        pids,
        "other pins take no other workers"
    );
    place.works(&["upgrade"]);
    goes_to(1);
    let report = proxy.workers();
    assert_eq!(report["workers"][1]["group"], "b");

    configure("worker-group = { a = 3 }");
    let why = place.refuses(&["reload"]);
    assert!(
        why.contains(".toml:4: ") && why.contains("everybody else"),
        "{why}"
    );
    goes_to(1);
    configure("");
    place.works(&["reload"]);
    hold(&proxy, SPECIAL, 9);
    assert!(proxy.workers()["workers"][1]["group"].is_null());
    assert!(proxy.taken().iter().all(|n| *n > 0));
}
