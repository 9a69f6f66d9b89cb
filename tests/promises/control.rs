//! The control socket and `pointsman ctl`.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::PathBuf,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
};

use nix::sys::signal::Signal::SIGKILL;

use crate::harness::{
    Client, Demo, Gate, Pointsman, children, get, is_running, kill, place::Place, run_to_end, until,
};

#[test]
fn the_socket_is_for_its_owner_only_and_goes_with_the_master() {
    let (place, demo) = (Place::new("owner"), Demo::start("a"));
    let mut proxy = place.start(&demo.url(), &["--workers", "1"]);
    let mode = fs::metadata(place.socket()).expect("there").permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
    let pid = proxy.pid();
    assert!(!place.works(&["stop"]).is_empty());
    assert!(!is_running(pid), "ctl waits until it is gone");
    assert!(proxy.wait().success());
    assert_eq!(place.entries(), 0);
    let after = place.ctl(&["status"]);
    assert_eq!(after.code, Some(3), "{after:?}");
    assert!(after.stderr.contains("running?"), "{after:?}");
}

#[test]
fn reports_tell_what_is_so_to_people_and_to_scripts() {
    let (place, demo) = (Place::new("reports"), Demo::start("a"));
    let proxy = place.start(&demo.url(), &["--workers", "2"]);
    let status = place.report("status");
    assert_eq!(status["pid"], proxy.pid());
    assert_eq!(status["state"], "running");
    assert_eq!(
        (&status["workers"], &status["workers_ready"]),
        (&2.into(), &2.into())
    );
    assert_eq!(
        status["listeners"][0]["address"],
        proxy.address().to_string()
    );
    let workers = place.report("workers");
    let seats = workers["workers"].as_array().expect("a list").iter();
    let pids: Vec<_> = seats.filter_map(|seat| seat["pid"].as_i64()).collect();
    let known: Vec<_> = proxy.worker_pids().into_iter().map(i64::from).collect();
    assert_eq!(pids, known);

    let page = place.works(&["status"]);
    assert!(page.contains("2 of 2 ready"), "{page}");
    assert!(page.contains(&proxy.address().to_string()), "{page}");
    let table = place.works(&["workers"]);
    assert!(table.contains("WORKER"), "{table}");
    for pid in known {
        assert!(table.contains(&pid.to_string()), "{table}");
    }
}

#[test]
fn a_path_that_is_taken_is_left_alone() {
    let (place, demo) = (Place::new("taken"), Demo::start("a"));
    let proxy = place.start(&demo.url(), &["--workers", "1"]);
    let socket = place.socket();
    let serve = |socket: &str| {
        run_to_end(&[
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "off",
            "--upstream",
            &demo.url(),
            "--control",
            socket,
        ])
    };
    let second = serve(&socket);
    assert_eq!(second.code, Some(1), "{second:?}");
    assert!(
        second.stderr.contains("in use by another master"),
        "{second:?}"
    );
    assert_eq!(place.report("status")["pid"], proxy.pid());

    let file = place.0.join("file");
    fs::write(&file, "precious").expect("written");
    let third = serve(file.to_str().expect("ASCII"));
    assert_eq!(third.code, Some(1), "{third:?}");
    assert!(third.stderr.contains("no socket"), "{third:?}");
    assert_eq!(fs::read(&file).expect("still there"), b"precious");
}

#[test]
fn what_a_killed_master_left_is_replaced() {
    let (place, demo) = (Place::new("stale"), Demo::start("a"));
    let mut proxy = place.start(&demo.url(), &["--workers", "1"]);
    kill(proxy.pid(), SIGKILL);
    proxy.wait();
    let after = place.ctl(&["status"]);
    assert_eq!(after.code, Some(3), "{after:?}");
    let proxy = place.start(&demo.url(), &["--workers", "1"]);
    assert_eq!(place.report("status")["pid"], proxy.pid());
}

#[test]
fn the_mode_changes_while_it_runs() {
    let (place, demo) = (Place::new("mode"), Demo::start("a"));
    let proxy = place.start(&demo.url(), &["--workers", "2"]);
    let mut kept = Client::connect(proxy.address());
    for (mode, policy) in [
        ("shared", None),
        ("reuseport", None),
        ("hybrid", Some("round-robin")),
        ("handoff", Some("remote-address")),
        ("handoff", Some("least-loaded")),
    ] {
        let arm: Vec<_> = ["mode", mode].into_iter().chain(policy).collect();
        place.works(&arm);
        let status = place.report("status");
        assert_eq!(status["mode"], mode);
        assert_eq!(status["policy"], policy.unwrap_or("none"));
        let label = format!("mode=\"{mode}\"");
        let policy = format!("policy=\"{}\"", policy.unwrap_or("none"));
        let labels = [label.as_str(), policy.as_str()];
        let count = || proxy.metric("pointsman_connections_total", &labels);
        let before = count();
        assert_eq!(get(proxy.address(), "/").status, 200);
        until("it counts for the new arm", || {
            (count() > before).then_some(())
        });
        assert_eq!(kept.get("/").expect("still open").status, 200);
    }
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let (place, demo) = (Place::new("refused"), Demo::start("a"));
    let proxy = place.start(&demo.url(), &["--workers", "2"]);
    let before = (proxy.worker_pids(), place.report("status")["mode"].clone());
    for (arguments, code) in [
        (&["mode", "shared", "round-robin"][..], 2),
        (&["mode", "fast"], 2),
        (&["workers", "set", "0"], 2),
        (&["drain", "7"], 1),
        (&["upgrade", "/nowhere/pointsman"], 1),
        (&["upgrade", "/bin/false"], 1),
    ] {
        let done = place.ctl(arguments);
        assert_eq!(done.code, Some(code), "{arguments:?}: {done:?}");
        assert!(done.stdout.is_empty(), "{arguments:?}: {done:?}");
    }
    let after = (proxy.worker_pids(), place.report("status")["mode"].clone());
    assert_eq!(before, after);
    assert_eq!(get(proxy.address(), "/").status, 200);
}

#[test]
fn a_drained_worker_finishes_what_it_holds_and_is_replaced() {
    let (place, gate) = (Place::new("drain"), Gate::start());
    let proxy = place.start(&gate.url(), &["--workers", "2", "--policy", "round-robin"]);
    let before = proxy.worker_pids();
    // One held request in each worker.
    let mut held = [0, 1].map(|_| Client::connect(proxy.address()));
    for client in &mut held {
        client
            .send("GET /held HTTP/1.1\r\nhost: test\r\n\r\n")
            .expect("sent");
    }
    gate.await_held(2);
    thread::scope(|scope| {
        let draining = scope.spawn(|| place.works(&["drain", "0"]));
        until("the successor takes connections", || {
            let workers = place.report("workers");
            let seat = &workers["workers"][0];
            let old = workers["draining"].as_array()?.first()?["pid"].clone();
            let new = seat["state"] == "ready" && seat["pid"] != before[0];
            (new && old == before[0]).then_some(())
        });
        assert!(is_running(before[0]));
        gate.open();
        assert!(!draining.join().expect("it works").is_empty());
    });
    for mut client in held {
        let answer = client.read_answer(false).expect("not lost");
        assert_eq!(answer.text(), Gate::HELD);
    }
    until("the old one is gone", || {
        (!is_running(before[0])).then_some(())
    });
    assert_eq!(proxy.worker_pids()[1], before[1]);
}

#[test]
fn a_rolling_restart_replaces_everybody_and_fails_nobody() {
    let (place, demo) = (Place::new("restart"), Demo::start("a"));
    let proxy = place.start(&demo.url(), &["--workers", "3"]);
    let before = proxy.worker_pids();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut answered = 0;
            while !stop.load(Relaxed) {
                assert_eq!(get(proxy.address(), "/").status, 200);
                answered += 1;
            }
            answered
        });
        let lines = place.works(&["--json", "restart"]);
        stop.store(true, Relaxed);
        let last = lines.lines().last().expect("at least one");
        let last: serde_json::Value = serde_json::from_str(last).expect("JSON");
        assert_eq!(last["event"], "done", "{lines}");
        assert!(load.join().expect("no request failed") > 0);
    });
    let after = proxy.worker_pids();
    assert!(
        before.iter().all(|pid| !after.contains(pid)),
        "{before:?} {after:?}"
    );
    assert_eq!(place.report("status")["workers_ready"], 3);
}

#[test]
fn one_thing_at_a_time() {
    let (place, gate) = (Place::new("busy"), Gate::start());
    let proxy = place.start(&gate.url(), &["--workers", "1"]);
    let mut held = Client::connect(proxy.address());
    held.send("GET /held HTTP/1.1\r\nhost: test\r\n\r\n")
        .expect("sent");
    gate.await_held(1);
    assert_eq!(place.works(&["--no-wait", "drain", "0"]), "begun\n");
    until("it is in progress", || {
        (!place.report("status")["operation"].is_null()).then_some(())
    });
    let second = place.ctl(&["restart"]);
    assert_eq!(second.code, Some(1), "{second:?}");
    gate.open();
    assert_eq!(
        held.read_answer(false).expect("not lost").text(),
        Gate::HELD
    );
    until("it is over", || {
        place.report("status")["operation"].is_null().then_some(())
    });
    place.works(&["restart"]);
}

#[test]
fn the_number_of_workers_changes_while_it_runs() {
    let (place, demo) = (Place::new("number"), Demo::start("a"));
    let proxy = place.start(&demo.url(), &["--workers", "3"]);
    for number in [1, 3, 2] {
        place.works(&["workers", "set", &number.to_string()]);
        let status = place.report("status");
        assert_eq!(status["workers"], number);
        assert_eq!(status["workers_ready"], number);
        assert_eq!(get(proxy.address(), "/").status, 200);
    }
}

#[test]
fn while_paused_connections_wait_and_none_is_refused() {
    let (place, demo) = (Place::new("pause"), Demo::start("a"));
    let proxy = place.start(&demo.url(), &["--workers", "1"]);
    place.works(&["pause"]);
    assert_eq!(place.report("status")["state"], "paused");
    let accepted = proxy.metric("pointsman_connections_total", &[]);
    let mut clients = [0; 8].map(|_| Client::connect(proxy.address()));
    for client in &mut clients {
        client
            .send("GET / HTTP/1.1\r\nhost: test\r\n\r\n")
            .expect("sent");
    }
    // Some rounds of the master's loop.
    for _ in 0..20 {
        assert_eq!(proxy.metric("pointsman_connections_total", &[]), accepted);
    }
    place.works(&["resume"]);
    assert_eq!(place.report("status")["state"], "running");
    for mut client in clients {
        assert_eq!(client.read_answer(false).expect("not lost").status, 200);
    }
}

#[test]
fn a_reader_that_does_not_read_is_no_crash() {
    let (place, demo) = (Place::new("pipe"), Demo::start("a"));
    let _proxy = place.start(&demo.url(), &["--workers", "1"]);
    let mut child = Command::new(env!("CARGO_BIN_EXE_pointsman"))
        .args(["ctl", "--control", &place.socket(), "status"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary under test");
    drop(child.stdout.take());
    let done = child.wait_with_output().expect("its output");
    let said = String::from_utf8_lossy(&done.stderr);
    assert_eq!((done.status.code(), said.as_ref()), (Some(0), ""));
}

#[test]
fn a_socket_that_is_no_masters_is_said_to_be() {
    let place = Place::new("foreign");
    let listener = UnixListener::bind(place.socket()).expect("free");
    let hangs_up = thread::spawn(move || drop(listener.accept()));
    let done = place.ctl(&["status"]);
    hangs_up.join().expect("it accepted");
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.stderr.contains("went away"), "{done:?}");
}

#[test]
fn a_bad_binary_that_leaves_a_process_behind_keeps_nobody_waiting() {
    let (place, demo) = (Place::new("orphan"), Demo::start("a"));
    let proxy = place.start(&demo.url(), &["--workers", "1"]);
    let (script, left) = (place.0.join("bad"), place.0.join("left"));
    // What it leaves behind has standard error and nothing else.
    let text = "#!/bin/bash\n\
        for fd in /proc/$$/fd/*; do n=${fd##*/}; [ $n -gt 2 ] && [ $n -lt 255 ] && eval \"exec $n>&-\"; done\n\
        sleep 300 &\n\
        echo $! > LEFT\n\
        exit 3\n";
    let text = text.replace("LEFT", left.to_str().expect("ASCII"));
    fs::write(&script, text).expect("written");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("ours");
    let refused = place.ctl(&["upgrade", script.to_str().expect("ASCII")]);
    let left = fs::read_to_string(left).expect("it ran");
    let left = left.trim().parse().expect("a process id");
    let lives = is_running(left);
    kill(left, SIGKILL);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("exit code 3"), "{refused:?}");
    assert!(lives, "the master waited for it");
    assert_eq!(proxy.admin("/healthz").status, 200);
}

/// A master that runs by a file, which the test changes.
fn by_file(place: &Place, text: &str) -> (Pointsman, PathBuf) {
    let file = place.0.join("pointsman.toml");
    fs::write(&file, text).expect("written");
    let socket = place.socket();
    let proxy = Pointsman::start_on(
        &[],
        &[],
        &["--control", &socket, "-c", file.to_str().expect("ASCII")],
    );
    (proxy, file)
}

#[test]
fn a_reload_whose_new_worker_does_not_come_up_changes_nothing() {
    let (place, demo) = (Place::new("late"), Demo::start("a"));
    let before = format!(
        "listen = '127.0.0.1:0'\nupstream = '{}'\nworkers = 1\n",
        demo.url()
    );
    let (proxy, file) = by_file(&place, &before);
    let after = format!(
        "listen = '127.0.0.1:0'\nupstream = '{}'\nworkers = 2\nmode = 'shared'\n",
        demo.url()
    );
    let seen = |of: &str| place.report("status")[of].clone();
    // Kills the second worker as soon as it is there; should it have been ready before, once more.
    until("the second worker dies before it is ready", || {
        fs::write(&file, &after).expect("written");
        let known = proxy.worker_pids();
        let over = AtomicBool::new(false);
        let done = thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Relaxed) {
                    for (pid, _) in children(proxy.pid()) {
                        if !known.contains(&pid) {
                            kill(pid, SIGKILL);
                        }
                    }
                    thread::yield_now();
                }
            });
            let done = place.ctl(&["reload"]);
            over.store(true, Relaxed);
            done
        });
        if done.code == Some(0) {
            fs::write(&file, &before).expect("written");
            place.works(&["reload"]);
            return None;
        }
        assert!(done.stderr.contains("nothing has changed"), "{done:?}");
        Some(())
    });
    assert_eq!(seen("mode"), "handoff");
    assert_eq!(seen("workers"), 1);
    assert_eq!(seen("reload")["successful"], false);
    assert_eq!(seen("crash_loops"), 0);
    fs::write(&file, &after).expect("written");
    place.works(&["reload"]);
    assert_eq!((seen("mode"), seen("workers")), ("shared".into(), 2.into()));
}

#[test]
fn reloads_that_are_refused_use_nothing_up() {
    let (place, demo) = (Place::new("columns"), Demo::start("a"));
    let (proxy, file) = by_file(
        &place,
        &format!(
            "listen = '127.0.0.1:0'\nupstream = '{}'\nworkers = 1\n",
            demo.url()
        ),
    );
    // More upstreams than there is room for, and an address that nobody here has.
    for n in 0..65 {
        let text = format!(
            "upstream = 'http://127.0.0.1:{}'\nlisten = ['127.0.0.1:0', '192.0.2.1:80']\n",
            1000 + n
        );
        fs::write(&file, text).expect("written");
        let refused = place.ctl(&["reload"]);
        assert!(refused.stderr.contains("192.0.2.1:80"), "{refused:?}");
    }
    let page = proxy.metrics();
    assert!(!page.keys().any(|name| name.contains(":1000")), "{page:?}");
    let other = Demo::start("b");
    fs::write(
        &file,
        format!(
            "listen = '127.0.0.1:0'\nupstream = '{}'\nworkers = 1\n",
            other.url()
        ),
    )
    .expect("written");
    place.works(&["reload"]);
}
