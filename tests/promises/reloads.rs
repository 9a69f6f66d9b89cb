//! The configuration, read again while clients are served.

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    net::{SocketAddr, TcpListener},
    sync::atomic::{AtomicBool, AtomicU16, Ordering::Relaxed},
    thread,
};

use nix::sys::signal::Signal::SIGHUP;
use pointsman::Mode;

use crate::harness::{Client, Demo, Gate, Pointsman, get, is_true, place::Place, until};

/// A port that is free now, and that nobody is given who asks for any: those are higher.
fn free_port() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = std::process::id() as u16 % 1000;
    until("a port is free", || {
        let port = 20_000 + (start * 10 + NEXT.fetch_add(1, Relaxed)) % 10_000;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        TcpListener::bind(address).is_ok().then_some(address)
    })
}

/// A configuration with `more` in it.
fn text(listen: &[SocketAddr], upstream: &str, more: &str) -> String {
    let listen: Vec<String> = listen.iter().map(|a| format!("\"{a}\"")).collect();
    let listen = listen.join(", ");
    format!("listen = [{listen}]\nupstream = \"{upstream}\"\nworkers = 2\n{more}\n")
}

fn successful(proxy: &Pointsman) -> f64 {
    proxy.metric("pointsman_config_last_reload_successful", &[])
}

/// Reloads by signal, as a service manager's script would, and waits for the end of it. Did it work?
#[track_caller]
fn hang_up(place: &Place, proxy: &Pointsman) -> bool {
    let reloads = || proxy.metric("pointsman_config_reloads_total", &[]);
    let before = reloads();
    proxy.signal(SIGHUP);
    until("it is asked to reload", || is_true(reloads() > before));
    place.settled();
    successful(proxy) == 1.0
}

/// The names of all series that are there.
fn series(proxy: &Pointsman) -> BTreeSet<String> {
    proxy.metrics().into_keys().collect()
}

#[test]
fn listeners_come_and_go_and_clients_of_the_others_see_nothing_of_it() {
    let demo = Demo::start("one");
    for mode in Mode::ALL {
        let place = Place::new("listeners");
        let [stays, goes, comes] = [free_port(), free_port(), free_port()];
        let more = format!("mode = \"{mode}\"");
        place.configure(text(&[stays, goes], &demo.url(), &more));
        let proxy = place.start_configured(&[]);
        let pids = proxy.worker_pids();
        let mut kept = [stays, goes].map(Client::connect);
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let load = scope.spawn(|| {
                let mut answered = 0;
                while !stop.load(Relaxed) {
                    assert_eq!(get(stays, "/").status, 200);
                    answered += 1;
                }
                answered
            });
            // Ends the load if an assertion fails, too.
            let guard = Stop(&stop);
            for (listen, gone) in [([stays, comes], goes), ([stays, goes], comes)] {
                place.configure(text(&listen, &demo.url(), &more));
                assert!(hang_up(&place, &proxy), "{mode}: {}", proxy.log());
                for address in listen {
                    for _ in 0..5 {
                        assert_eq!(get(address, "/").status, 200, "{mode}");
                    }
                }
                // Its port is anybody's, and nobody's yet.
                let refused = Client::try_connect(gone).err().map(|e| e.kind());
                assert_eq!(refused, Some(ErrorKind::ConnectionRefused), "{mode}");
                let somebody = TcpListener::bind(gone).expect("a port that is free again");
                for client in &mut kept {
                    assert_eq!(client.get("/").expect("still open").status, 200, "{mode}");
                }
                drop(somebody);
                let status = place.report("status");
                let listeners: Vec<_> = status["listeners"]
                    .as_array()
                    .expect("a list")
                    .iter()
                    .map(|l| l["address"].as_str().expect("text").to_owned())
                    .collect();
                let expected: BTreeSet<_> = listen.map(|a| a.to_string()).into();
                assert_eq!(listeners.into_iter().collect::<BTreeSet<_>>(), expected);
            }
            drop(guard);
            assert!(load.join().expect("nobody failed") > 0);
        });
        assert_eq!(proxy.worker_pids(), pids, "{mode}: no worker was replaced");
        let lost = proxy.metric("pointsman_connections_lost_total", &[]);
        assert_eq!(lost, 0.0, "{mode}");
    }
}

/// Ends the threads that look at it.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn an_address_that_somebody_else_has_is_refused_by_name_until_it_is_free() {
    let (place, demo) = (Place::new("taken-port"), Demo::start("one"));
    let [stays, wanted] = [free_port(), free_port()];
    place.configure(text(&[stays], &demo.url(), ""));
    let proxy = place.start_configured(&[]);
    let somebody = TcpListener::bind(wanted).expect("a free port");
    place.configure(text(&[stays, wanted], &demo.url(), ""));
    let why = place.refuses(&["reload"]);
    assert!(why.contains(&wanted.to_string()), "{why}");
    assert_eq!(successful(&proxy), 0.0);
    drop(somebody);
    place.works(&["reload"]);
    assert_eq!(successful(&proxy), 1.0);
    assert_eq!(get(wanted, "/").status, 200);
}

#[test]
fn what_is_wrong_changes_nothing_and_the_next_good_file_is_taken() {
    let (place, demo) = (Place::new("broken"), Demo::start("one"));
    let address = free_port();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = taken.local_addr().expect("bound");
    let good = text(&[address], &demo.url(), "mode = \"shared\"");
    place.configure(&good);
    let proxy = place.start_configured(&[]);
    let mut kept = Client::connect(address);
    assert_eq!(kept.get("/").expect("an answer").status, 200);
    let pids = proxy.worker_pids();
    let other = "http://127.0.0.1:9";
    let cases: Vec<(&str, String)> = vec![
        ("file.toml:1:", "listen = [".into()),
        ("wokers", text(&[address], other, "wokers = 3")),
        ("fast", text(&[address], other, "mode = \"fast\"")),
        (
            "policy",
            text(
                &[address],
                other,
                "mode = \"shared\"\npolicy = \"round-robin\"",
            ),
        ),
        ("listen", text(&[], other, "")),
        (
            "192.0.2.1",
            text(&[address, "192.0.2.1:80".parse().expect("one")], other, ""),
        ),
        // All the rest is new and good, and must not be done by halves.
        (
            &*taken.to_string().leak(),
            text(
                &[free_port(), taken],
                other,
                "mode = \"handoff\"\nidle-timeout = 9\nmax-workers = 5",
            ),
        ),
        ("ftp", text(&[address], "ftp://x", "")),
        ("workers", text(&[address], other, "max-workers = 1")),
        (
            "hang-kill",
            text(&[address], other, "hang-after = 2\nhang-kill = 1"),
        ),
        ("nofile", text(&[address], other, "nofile = 1000")),
        (
            "master-serves",
            text(&[address], other, "master-serves = true"),
        ),
        ("user", text(&[address], other, "user = \"nobody\"")),
    ];
    let before = (series(&proxy), place.report("status")["listeners"].clone());
    for (culprit, text) in cases {
        place.configure(&good);
        place.works(&["reload"]);
        assert_eq!(successful(&proxy), 1.0);
        place.configure(&text);
        let why = place.refuses(&["reload"]);
        assert!(why.contains(culprit), "'{culprit}' is not named: {why}");
        assert_eq!(successful(&proxy), 0.0, "{culprit}");
        let status = place.report("status");
        let told = status["reload"]["error"].as_str().unwrap_or_default();
        assert!(told.contains(culprit), "{culprit}: {status}");
        assert!(!hang_up(&place, &proxy), "{culprit}: by signal");
        assert_eq!(
            (&status["mode"], &status["workers"]),
            (&"shared".into(), &2.into())
        );
        assert_eq!(proxy.worker_pids(), pids, "{culprit}");
        assert_eq!(kept.get("/").expect("still open").status, 200, "{culprit}");
        assert_eq!(get(address, "/").text(), "hello from one\n", "{culprit}");
        let now = (series(&proxy), status["listeners"].clone());
        let more: Vec<_> = now.0.difference(&before.0).collect();
        assert!(more.is_empty(), "{culprit}: {more:?}");
        assert_eq!(now, before, "{culprit}");
    }
    place.configure(good);
    assert!(hang_up(&place, &proxy), "{}", proxy.log());
}

#[test]
fn requests_go_to_a_new_upstream_and_what_the_old_one_counted_stays() {
    let place = Place::new("upstreams");
    let (a, b) = (Demo::start("a"), Demo::start("b"));
    let address = free_port();
    place.configure(text(&[address], &a.url(), ""));
    let proxy = place.start_configured(&[]);
    let pids = proxy.worker_pids();
    let counted = |demo: &Demo| {
        let endpoint = format!("endpoint=\"http://{}\"", demo.address);
        let bare = format!("endpoint=\"{}\"", demo.address);
        let name = "pointsman_upstream_requests_total";
        proxy.metric(name, &[&endpoint]) + proxy.metric(name, &[&bare])
    };
    let ten = |expected: &str| {
        for _ in 0..10 {
            assert_eq!(get(address, "/").text(), expected);
        }
    };
    ten("hello from a\n");
    assert_eq!((counted(&a), counted(&b)), (10.0, 0.0));
    place.configure(text(&[address], &b.url(), ""));
    place.works(&["reload"]);
    ten("hello from b\n");
    assert_eq!((counted(&a), counted(&b)), (10.0, 10.0));
    let now = proxy.worker_pids();
    assert!(
        now.iter().all(|pid| !pids.contains(pid)),
        "{pids:?} {now:?}"
    );
    // And back, beside the other: each goes on where it was.
    let both = format!("{}\", \"{}", b.url(), a.url());
    let listed = text(&[address], &both, "").replace("upstream = ", "upstream = [");
    place.configure(listed.replace("\nworkers", "]\nworkers"));
    place.works(&["reload"]);
    for _ in 0..20 {
        assert_eq!(get(address, "/").status, 200);
    }
    let (a, b) = (counted(&a), counted(&b));
    assert_eq!(a + b, 40.0);
    assert!(a > 10.0 && b > 10.0, "{a} {b}");
}

#[test]
fn the_files_mode_wins_over_what_was_asked_for_since() {
    let (place, demo) = (Place::new("mode-of-file"), Demo::start("one"));
    let address = free_port();
    let with = |mode: &str| text(&[address], &demo.url(), &format!("mode = \"{mode}\""));
    place.configure(with("shared"));
    let proxy = place.start_configured(&[]);
    let pids = proxy.worker_pids();
    place.works(&["mode", "handoff", "round-robin"]);
    place.works(&["pause"]);
    // A pause is nobody's setting: it stays.
    place.works(&["reload"]);
    let status = place.report("status");
    assert_eq!(
        (&status["mode"], &status["state"]),
        (&"shared".into(), &"paused".into())
    );
    place.works(&["resume"]);
    assert_eq!(get(address, "/").status, 200);
    for mode in ["reuseport", "hybrid", "handoff"] {
        place.configure(with(mode));
        assert!(hang_up(&place, &proxy));
        assert_eq!(place.report("status")["mode"], mode);
        let label = format!("mode=\"{mode}\"");
        let count = || proxy.metric("pointsman_connections_total", &[&label]);
        let before = count();
        assert_eq!(get(address, "/").status, 200);
        assert_eq!(count(), before + 1.0, "{mode}");
    }
    assert_eq!(proxy.worker_pids(), pids, "no worker was replaced");
}

#[test]
fn workers_are_replaced_only_for_what_they_were_born_with() {
    let (place, demo) = (Place::new("born-with"), Demo::start("one"));
    let address = free_port();
    let with = |more: &str| text(&[address], &demo.url(), more);
    place.configure(with(""));
    let proxy = place.start_configured(&[]);
    for (line, replaces) in [
        ("", false),
        ("hang-after = 0.2", false),
        ("hang-kill = 9", false),
        ("drain-timeout = 5", false),
        ("backoff-limit = 9", false),
        ("mode = \"reuseport\"", false),
        ("policy = \"remote-address\"", false),
        ("policy = \"remote-address\"\nremote-prefix-v4 = 8", false),
        ("load-signal = \"busy\"", false),
        ("idle-timeout = 9", true),
        ("idle-timeout = 9\nhang-after = 0.3", false),
        ("first-byte-timeout = 9", true),
        ("upstream-idle-connections = 3", true),
        ("interim-responses = true", true),
        ("", true),
    ] {
        let before = proxy.worker_pids();
        place.configure(with(line));
        place.works(&["reload"]);
        assert_eq!(get(address, "/").status, 200, "{line}");
        let after = proxy.worker_pids();
        let kept = before.iter().filter(|pid| after.contains(pid)).count();
        assert_eq!(kept, if replaces { 0 } else { 2 }, "{line}");
    }
    let lost = proxy.metric("pointsman_connections_lost_total", &[]);
    assert_eq!(lost, 0.0);
}

#[test]
fn a_changed_limit_is_what_the_next_connection_meets() {
    let (place, demo) = (Place::new("limits"), Demo::start("one"));
    let address = free_port();
    let with = |more: &str| text(&[address], &demo.url(), more);
    place.configure(with("idle-timeout = 3600"));
    let _proxy = place.start_configured(&[]);
    place.configure(with("idle-timeout = 0.2"));
    place.works(&["reload"]);
    let mut client = Client::connect(address);
    assert_eq!(client.get("/").expect("an answer").status, 200);
    assert_eq!(client.read_to_end().expect("a clean close"), b"");
}

#[test]
fn a_request_under_way_is_answered_though_its_worker_is_replaced_and_its_listener_gone() {
    let (place, gate) = (Place::new("under-way"), Gate::start());
    let [first, second] = [free_port(), free_port()];
    place.configure(text(&[first], &gate.url(), ""));
    let proxy = place.start_configured(&[]);
    let mut held = Client::connect(first);
    held.send("GET /held HTTP/1.1\r\nhost: test\r\n\r\n")
        .expect("sent");
    gate.await_held(1);
    place.configure(
        text(&[second], &gate.url(), "idle-timeout = 9\nworkers = 1").replacen(
            "workers = 2\n",
            "",
            1,
        ),
    );
    place.works(&["reload"]);
    let status = place.report("status");
    assert_eq!(
        (&status["workers"], &status["workers_draining"]),
        (&1.into(), &1.into())
    );
    let gone = Client::try_connect(first).err().map(|e| e.kind());
    assert_eq!(gone, Some(ErrorKind::ConnectionRefused));
    assert_eq!(get(second, "/").text(), Gate::FREE);
    gate.open();
    let answer = held.read_answer(false).expect("not lost");
    assert_eq!(answer.text(), Gate::HELD);
    assert_eq!(answer.field("connection"), Some("close"));
    let lost = proxy.metric("pointsman_connections_lost_total", &[]);
    assert_eq!(lost, 0.0);
}

#[test]
fn signals_to_reload_in_a_storm_do_no_harm() {
    let (place, demo) = (Place::new("storm"), Demo::start("one"));
    let address = free_port();
    let with = |more: &str| text(&[address], &demo.url(), more);
    place.configure(with(""));
    let proxy = place.start_configured(&[]);
    let mut kept = Client::connect(address);
    for i in 0..50 {
        place.configure(with(["mode = \"shared\"", "mode = \"handoff\""][i % 2]));
        proxy.signal(SIGHUP);
        assert_eq!(kept.get("/").expect("still open").status, 200);
    }
    place.settled();
    place.configure(with("mode = \"reuseport\""));
    place.works(&["reload"]);
    assert_eq!(place.report("status")["mode"], "reuseport");
    assert_eq!(get(address, "/").status, 200);
    assert_eq!(kept.get("/").expect("still open").status, 200);
}
