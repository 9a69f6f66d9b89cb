//! Another binary in the same process: what survives, and what happens if it is no good.

use std::{
    collections::BTreeMap,
    fs,
    net::TcpListener,
    os::unix::fs::MetadataExt,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal::{SIGHUP, SIGKILL, SIGTERM, SIGUSR2};
use pointsman::Mode;

use crate::harness::{
    Client, Demo, Gate, Pointsman, children, get, is_running, is_true, kill, place::Place, resume,
    stop, until,
};

const REQUEST: &str = "GET / HTTP/1.1\r\nhost: test\r\n\r\n";
const HELD: &str = "GET /held HTTP/1.1\r\nhost: test\r\n\r\n";

/// The file that a process runs.
fn binary_of(pid: i32) -> String {
    let path = fs::read_link(format!("/proc/{pid}/exe")).expect("it runs");
    path.to_str().expect("ASCII").to_owned()
}

fn upgrades(proxy: &Pointsman) -> f64 {
    proxy.metric("pointsman_upgrades_total", &[])
}

fn lost(proxy: &Pointsman) -> f64 {
    proxy.metric("pointsman_connections_lost_total", &[])
}

/// What must never go down.
fn counters(proxy: &Pointsman) -> BTreeMap<String, f64> {
    let is_counter = |series: &String| {
        let name = series.split('{').next().expect("a name");
        let ends = ["_total", "_count", "_bucket", "_sum"];
        ends.iter().any(|suffix| name.ends_with(suffix))
    };
    let all = proxy.metrics().into_iter();
    all.filter(|(series, _)| is_counter(series)).collect()
}

#[track_caller]
fn none_went_down(before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>) {
    for (series, value) in before {
        let now = after.get(series);
        assert!(
            now.is_some_and(|now| now >= value),
            "{series} went from {value} to {now:?}"
        );
    }
}

/// Asks for an upgrade by signal, and waits until it is all over.
#[track_caller]
fn signalled(place: &Place, proxy: &Pointsman) {
    let before = upgrades(proxy);
    proxy.signal(SIGUSR2);
    until("the binary was replaced", || {
        is_true(upgrades(proxy) > before)
    });
    place.settled();
}

#[test]
fn an_upgrade_keeps_everything_but_the_workers() {
    for mode in Mode::ALL {
        let (place, gate) = (Place::new("keeps"), Gate::start());
        let proxy = place.start(&gate.url(), &["--workers", "2", "--mode", mode.name()]);
        // What was changed since the start is kept, too.
        place.works(&["workers", "set", "3"]);
        let mut held = Vec::new();
        for round in 1..=2 {
            let (pid, workers) = (proxy.pid(), proxy.worker_pids());
            let socket = fs::metadata(place.socket()).expect("there");
            let (status, counted) = (place.report("status"), counters(&proxy));
            // The first of them waits through both.
            let mut client = Client::connect(proxy.address());
            client.send(HELD).expect("sent");
            gate.await_held(round);
            held.push(client);
            let mut idle = Client::connect(proxy.address());
            let answer = idle.get("/").expect("an answer");
            assert_eq!(answer.field("connection"), None, "{mode}");

            if round == 1 {
                let told = place.works(&["upgrade", &place.install("new")]);
                assert!(told.contains("3 of 3 workers ready"), "{told}");
            } else {
                // As a package manager does it, and an administrator after that.
                place.install("new");
                assert!(binary_of(pid).ends_with(" (deleted)"));
                signalled(&place, &proxy);
            }
            assert_eq!(binary_of(pid), place.path("new"), "{mode}");
            let now = place.report("status");
            assert_eq!(
                (&now["pid"], upgrades(&proxy)),
                (&pid.into(), round as f64),
                "{mode}"
            );
            for field in ["mode", "policy", "workers", "admin"] {
                assert_eq!(now[field], status[field], "{mode}: {field}");
            }
            assert_eq!(now["listeners"][0]["address"], proxy.address().to_string());
            assert!(now["uptime_seconds"].as_f64() >= status["uptime_seconds"].as_f64());
            let same = fs::metadata(place.socket()).expect("there");
            assert_eq!(same.ino(), socket.ino(), "{mode}: it is the same socket");
            none_went_down(&counted, &counters(&proxy));
            let after = proxy.worker_pids();
            assert!(after.iter().all(|pid| !workers.contains(pid)), "{mode}");
            assert!(
                after.iter().all(|w| binary_of(*w) == binary_of(pid)),
                "{mode}"
            );
            assert_eq!(get(proxy.address(), "/").text(), Gate::FREE, "{mode}");
            // Nobody was cut: who has nothing to wait for is dismissed in peace, who has, waits.
            assert_eq!(idle.read_to_end().expect("a clean close"), b"", "{mode}");
            until("only who holds a request is left", || {
                is_true(place.report("status")["workers_draining"] == round)
            });
        }
        gate.open();
        for mut client in held {
            let answer = client.read_answer(false).expect("not lost");
            assert_eq!(answer.text(), Gate::HELD, "{mode}");
            assert_eq!(answer.field("connection"), Some("close"), "{mode}");
        }
        until("the earlier workers are gone", || {
            is_true(place.report("status")["workers_draining"] == 0)
        });
        assert_eq!(children(proxy.pid()).len(), 3, "{mode}");
        assert_eq!(lost(&proxy), 0.0, "{mode}");
    }
}

#[test]
fn nobody_who_comes_during_upgrades_is_refused_or_cut() {
    let demo = Demo::start("one");
    for mode in Mode::ALL {
        let place = Place::new("load");
        let proxy = place.start(&demo.url(), &["--workers", "2", "--mode", mode.name()]);
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let load = scope.spawn(|| {
                let mut answered = 0;
                while !stop.load(Relaxed) {
                    assert_eq!(get(proxy.address(), "/").status, 200, "{mode}");
                    answered += 1;
                }
                answered
            });
            let guard = Stop(&stop);
            for _ in 0..2 {
                place.works(&["upgrade"]);
            }
            drop(guard);
            let answered = load.join().expect("nobody failed");
            let counted = || proxy.metric("pointsman_requests_total", &["2xx"]);
            assert_eq!(counted(), f64::from(answered), "{mode}");
        });
        assert_eq!((upgrades(&proxy), lost(&proxy)), (2.0, 0.0), "{mode}");
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
fn the_demo_upstreams_live_through_an_upgrade_and_still_end_with_the_master() {
    let place = Place::new("demo");
    let socket = place.socket();
    let flags = ["--control", &socket, "--demo", "--workers", "2"];
    let mut proxy = Pointsman::start(&[], &flags);
    let demos = |proxy: &Pointsman| {
        let workers = proxy.worker_pids();
        let mut pids: Vec<i32> = children(proxy.pid())
            .into_iter()
            .map(|(pid, _)| pid)
            .collect();
        pids.retain(|pid| !workers.contains(pid));
        pids.sort_unstable();
        pids
    };
    let before = demos(&proxy);
    assert_eq!(before.len(), 2);
    place.works(&["upgrade"]);
    until("the earlier workers are gone", || {
        is_true(demos(&proxy).len() == 2)
    });
    assert_eq!(demos(&proxy), before);
    for _ in 0..4 {
        assert_eq!(get(proxy.address(), "/").status, 200);
    }
    proxy.signal(SIGTERM);
    assert_eq!(proxy.wait().code(), Some(0));
    until("the demo upstreams are gone", || {
        is_true(!before.iter().any(|pid| is_running(*pid)))
    });
}

#[test]
fn a_worker_that_drains_goes_on_draining_and_its_deadline_is_the_one_that_it_had() {
    const LIMIT: Duration = Duration::from_secs(6);
    let (place, gate) = (Place::new("draining"), Gate::start());
    let proxy = place.start(&gate.url(), &["--workers", "1", "--drain-timeout", "6"]);
    let mut held = Client::connect(proxy.address());
    held.send(HELD).expect("sent");
    gate.await_held(1);
    let pid = proxy.worker_pids()[0];
    let begun = Instant::now();
    place.works(&["restart"]);
    let left = || {
        let report = place.report("workers");
        let draining = report["draining"].as_array().expect("a list").clone();
        let it = draining.iter().find(|worker| worker["pid"] == pid)?;
        assert_eq!(it["connections_open"], 1, "{report}");
        it["seconds_left"].as_f64()
    };
    // Some of it is over by its own clock, more than what an upgrade takes.
    let before = until("half of its time is over", || {
        left().filter(|left| *left < 3.5)
    });
    place.works(&["upgrade"]);
    let after = left().expect("it drains still");
    assert!(after < before, "{before} s were left, {after} s are");
    assert!(is_running(pid));
    until("its time is over", || is_true(!is_running(pid)));
    assert!(begun.elapsed() >= LIMIT);
    until("what it held is counted as lost", || {
        is_true(lost(&proxy) == 1.0)
    });
    assert!(held.read_answer(false).is_err());
    assert_eq!(get(proxy.address(), "/").text(), Gate::FREE);
}

#[test]
fn a_pause_lasts_through_an_upgrade_and_whoever_waits_is_answered_after_it() {
    let (place, demo) = (Place::new("paused"), Demo::start("one"));
    for mode in Mode::ALL {
        let proxy = place.start(&demo.url(), &["--workers", "2", "--mode", mode.name()]);
        place.works(&["pause"]);
        let mut waiting: Vec<Client> = (0..10).map(|_| Client::connect(proxy.address())).collect();
        for client in &mut waiting {
            client.send(REQUEST).expect("sent");
        }
        place.works(&["upgrade"]);
        assert_eq!(place.report("status")["state"], "paused", "{mode}");
        let taken = proxy.metric("pointsman_connections_total", &[]);
        assert_eq!(taken, 0.0, "{mode}");
        place.works(&["resume"]);
        for mut client in waiting {
            assert_eq!(
                client.read_answer(false).expect("not lost").status,
                200,
                "{mode}"
            );
        }
    }
}

#[test]
fn a_worker_that_stands_still_does_not_keep_the_others_from_an_upgrade() {
    let demo = Demo::start("one");
    for mode in Mode::ALL {
        let place = Place::new("stuck");
        let flags = [
            "--workers",
            "2",
            "--drain-timeout",
            "2",
            "--mode",
            mode.name(),
        ];
        let proxy = place.start(&demo.url(), &flags);
        let before = proxy.worker_pids();
        stop(before[0]);
        for _ in 0..10 {
            assert_eq!(get(proxy.address(), "/").status, 200, "{mode}");
        }
        let told = place.works(&["upgrade"]);
        assert!(told.contains("2 of 2 workers ready"), "{mode}: {told}");
        for _ in 0..10 {
            assert_eq!(get(proxy.address(), "/").status, 200, "{mode}");
        }
        resume(before[0]);
        until("the earlier workers are gone", || {
            is_true(!before.iter().any(|pid| is_running(*pid)))
        });
        assert_eq!(lost(&proxy), 0.0, "{mode}");
    }
}

#[test]
fn after_an_upgrade_the_configuration_file_is_read_as_before() {
    let (place, demo) = (Place::new("file"), Demo::start("one"));
    let with = |mode: &str| {
        let url = demo.url();
        format!("listen = \"127.0.0.1:0\"\nupstream = \"{url}\"\nworkers = 2\nmode = \"{mode}\"\n")
    };
    place.configure(with("shared"));
    let proxy = place.start_configured(&[]);
    // What the file says now is for the next reload to find out, not for an upgrade.
    place.configure(with("hybrid"));
    place.works(&["upgrade"]);
    assert_eq!(place.report("status")["mode"], "shared");
    place.works(&["reload"]);
    let status = place.report("status");
    assert_eq!(status["mode"], "hybrid");
    assert_eq!(status["reload"]["file"], place.path("file.toml"));
    assert_eq!(
        status["listeners"][0]["address"],
        proxy.address().to_string()
    );
    place.configure("mode = 5\n");
    assert!(place.refuses(&["reload"]).contains("mode"));
    assert_eq!(get(proxy.address(), "/").status, 200);
}

#[test]
fn a_binary_that_is_no_good_changes_nothing() {
    let (place, gate) = (Place::new("bad"), Gate::start());
    let proxy = place.start(&gate.url(), &["--workers", "2"]);
    let mut kept = Client::connect(proxy.address());
    assert_eq!(kept.get("/").expect("an answer").text(), Gate::FREE);
    let mut held = Client::connect(proxy.address());
    held.send(HELD).expect("sent");
    gate.await_held(1);
    let binary = binary_of(proxy.pid());
    let text = place.path("text");
    fs::write(&text, "no program at all\n").expect("written");
    let forbidden = place.script("forbidden", "exit 0");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(&forbidden, mode).expect("ours");
    let cases = [
        (
            place.script("refuses", "echo 'no, thanks' >&2; exit 3"),
            "no, thanks",
        ),
        (
            place.script("does-nothing", "exit 0"),
            "before it was ready",
        ),
        (place.script("crashes", "kill -SEGV $$"), "SIGSEGV"),
        (place.script("hangs", "exec sleep 600"), "within 10s"),
        (place.path("missing"), "no such file"),
        (place.path(""), "denied"),
        (forbidden, "denied"),
    ];
    let before = (proxy.worker_pids(), place.report("status")["mode"].clone());
    for (path, why) in cases {
        let counted = counters(&proxy);
        let told = place.refuses(&["upgrade", &path]).to_lowercase();
        assert!(told.contains(&path.to_lowercase()), "{path}: {told}");
        assert!(
            told.contains(&why.to_lowercase()),
            "{path}: '{why}' is not told: {told}"
        );
        assert!(told.contains("nothing has changed"), "{path}: {told}");
        let status = place.report("status");
        assert_eq!(
            (&status["upgrades"], &status["pid"]),
            (&0.into(), &proxy.pid().into())
        );
        assert!(
            status["last_failure"]
                .as_str()
                .is_some_and(|f| f.contains(&path))
        );
        assert_eq!(
            (proxy.worker_pids(), status["mode"].clone()),
            before,
            "{path}"
        );
        none_went_down(&counted, &counters(&proxy));
        assert_eq!(
            kept.get("/").expect("still open").text(),
            Gate::FREE,
            "{path}"
        );
        assert_eq!(get(proxy.address(), "/").text(), Gate::FREE, "{path}");
        until("no trial is left", || {
            is_true(children(proxy.pid()).len() == 2)
        });
    }
    // What is not even a program for the kernel.
    assert!(
        place
            .refuses(&["upgrade", &text])
            .contains("nothing has changed")
    );
    assert_eq!(binary_of(proxy.pid()), binary);
    gate.open();
    assert_eq!(
        held.read_answer(false).expect("not lost").text(),
        Gate::HELD
    );
    assert_eq!((upgrades(&proxy), lost(&proxy)), (0.0, 0.0));
    // And a good one is welcome.
    place.works(&["upgrade"]);
    assert_eq!(upgrades(&proxy), 1.0);
}

#[test]
fn a_bad_binary_that_leaves_somebody_behind_does_not_keep_the_master_waiting() {
    let (place, demo) = (Place::new("behind"), Demo::start("one"));
    let proxy = place.start(&demo.url(), &["--workers", "1"]);
    // It is gone at once, and what it has started, as a program in the background does, keeps nothing
    // open but its standard error, where it says nothing.
    let file = place.path("pid");
    let close = "for i in {3..99}; do eval \"exec $i>&-\"; done";
    let background = format!("{close}; echo $BASHPID > {file}; exec sleep 600");
    let bad = place.script("bad", &format!("exec bash -c '({background}) & exit 3'"));
    place.works(&["--no-wait", "upgrade", &bad]);
    let left: i32 = until("somebody is left behind", || {
        fs::read_to_string(&file).ok()?.trim().parse().ok()
    });
    until("the trial is over", || {
        is_true(children(proxy.pid()).len() == 1)
    });
    // Whatever comes of it, the one left behind must go.
    let ask = || {
        let mut admin = Client::try_connect(proxy.admin)?;
        let limit = Some(Duration::from_secs(5));
        admin.socket().set_read_timeout(limit)?;
        admin.get("/healthz")
    };
    let told = ask().ok().map(|answer| answer.status);
    kill(left, SIGKILL);
    assert_eq!(told, Some(200), "the master does not answer");
    let status = place.settled();
    let why = status["last_failure"].as_str().expect("it failed");
    assert!(why.contains("exit code 3"), "{why}");
    assert_eq!(upgrades(&proxy), 0.0);
}

#[test]
fn while_the_master_serves_there_is_no_upgrade() {
    let (place, demo) = (Place::new("serves"), Demo::start("one"));
    let proxy = place.start(&demo.url(), &["--workers", "1", "--master-serves"]);
    let told = place.refuses(&["upgrade"]);
    assert!(told.contains("--master-serves"), "{told}");
    proxy.signal(SIGUSR2);
    until("the signal is refused too", || {
        is_true(proxy.log().matches("upgrade (SIGUSR2) failed").count() == 1)
    });
    assert_eq!(
        (upgrades(&proxy), get(proxy.address(), "/").status),
        (0.0, 200)
    );
}

#[test]
fn a_signal_to_stop_is_heard_whenever_in_an_upgrade_it_comes() {
    let demo = Demo::start("one");
    // When: at once, when the trial has ended well, when the new binary has just begun.
    for when in ["at once", "handing over", "exec", "replacing"] {
        for mode in Mode::ALL {
            let place = Place::new("signal");
            let mut proxy = place.start(&demo.url(), &["--workers", "2", "--mode", mode.name()]);
            let (pid, new) = (proxy.pid(), place.install("new"));
            assert_eq!(place.works(&["--no-wait", "upgrade", &new]), "begun\n");
            match when {
                "at once" => {}
                "handing over" => until("the trial begins", || {
                    is_true(children(pid).len() > 2 || binary_of(pid) == new)
                }),
                "exec" => until("it is the new binary", || is_true(binary_of(pid) == new)),
                _ => until("it replaces the workers", || {
                    // It may be over before anybody sees it.
                    let seen = children(pid).len() > 2 || proxy.log().contains("upgraded: ");
                    is_true(binary_of(pid) == new && seen)
                }),
            }
            let family: Vec<i32> = children(pid).into_iter().map(|(pid, _)| pid).collect();
            proxy.signal(SIGTERM);
            let status = proxy.wait();
            assert_eq!(
                status.code(),
                Some(0),
                "{mode}, {when}: {status}\n{}",
                proxy.log()
            );
            until("all of them are gone", || {
                is_true(!family.iter().any(|pid| is_running(*pid)))
            });
            TcpListener::bind(proxy.address()).expect("the port is free");
            assert!(
                !std::path::Path::new(&place.socket()).exists(),
                "{mode}, {when}"
            );
        }
    }
}

#[test]
fn a_signal_to_reload_that_comes_during_the_exec_ends_nothing() {
    let (place, demo) = (Place::new("hup"), Demo::start("one"));
    let proxy = place.start(&demo.url(), &["--workers", "2"]);
    for round in 1..=3 {
        let name = format!("new-{round}");
        let new = place.install(&name);
        place.works(&["--no-wait", "upgrade", &new]);
        until("it is the new binary", || {
            // A signal that nobody listens for would end it.
            proxy.signal(SIGHUP);
            is_true(binary_of(proxy.pid()) == new)
        });
        place.settled();
        assert_eq!(upgrades(&proxy), f64::from(round));
        assert_eq!(get(proxy.address(), "/").status, 200);
    }
}
