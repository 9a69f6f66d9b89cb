//! Modes, pauses and numbers of workers, changed while connections are open, wait, and come.

use pointsman::Mode;

use crate::harness::{
    Client, Demo, Gate, PATIENT, Pointsman, all_are_answered, get, is_true, knock, place::Place,
    resume, stop, until,
};

const REQUEST: &str = "GET / HTTP/1.1\r\nhost: test\r\n\r\n";
const HELD: &str = "GET /held HTTP/1.1\r\nhost: test\r\n\r\n";

/// A metric's sum over the series of a mode.
fn of(proxy: &Pointsman, name: &str, mode: Mode) -> f64 {
    proxy.metric(name, &[&format!("mode=\"{mode}\"")])
}

fn lost(proxy: &Pointsman) -> f64 {
    proxy.metric("pointsman_connections_lost_total", &[])
}

/// Every ordered pair of modes, each beginning where the one before has ended.
fn pairs() -> Vec<(Mode, Mode)> {
    let mut left: Vec<(Mode, Mode)> = Mode::ALL
        .into_iter()
        .flat_map(|from| Mode::ALL.map(|to| (from, to)))
        .collect();
    // A walk over all edges of a complete graph; it turns back to whoever has most left.
    let (mut walk, mut here) = (Vec::new(), Mode::Handoff);
    while !left.is_empty() {
        let next = left
            .iter()
            .filter(|(from, _)| *from == here)
            .max_by_key(|(_, to)| left.iter().filter(|(from, _)| from == to).count());
        // From a dead end, `mode` takes us elsewhere first.
        let edge = *next.unwrap_or(&left[0]);
        left.retain(|e| *e != edge);
        here = edge.1;
        walk.push(edge);
    }
    walk
}

#[test]
fn from_every_mode_to_every_other_nobody_is_lost_and_each_is_counted_where_it_belongs() {
    const WAITING: usize = 8;
    const NEW: usize = 6;
    let (place, demo) = (Place::new("pairs"), Demo::start("one"));
    // Nobody is taken for stuck while the test makes them stand still.
    let proxy = place.start(&demo.url(), &PATIENT);
    let pids = proxy.worker_pids();
    let mut kept = vec![Client::connect(proxy.address())];
    let mut mode = Mode::Handoff;
    let pairs = pairs();
    assert_eq!(pairs.len(), 16);
    for (from, to) in pairs {
        let what = format!("{from} to {to}");
        if from != mode {
            place.works(&["mode", from.name()]);
        }
        kept.push(Client::connect(proxy.address()));
        for client in &mut kept {
            assert_eq!(client.get("/").expect("an answer").status, 200, "{what}");
        }
        // They wait wherever connections wait in this mode: in a queue of the kernel's, or in a
        // worker's line.
        pids.iter().for_each(|pid| stop(*pid));
        let mut waiting = knock(&proxy, WAITING, REQUEST);
        let active = |mode| of(&proxy, "pointsman_mode_active_seconds_total", mode);
        let before = active(from);
        until("time is counted for the mode in force", || {
            is_true(active(from) > before)
        });
        place.works(&["mode", to.name()]);
        pids.iter().for_each(|pid| resume(*pid));
        all_are_answered(&mut waiting, &what);
        mode = to;

        let (then, now) = (active(from), active(to));
        until("time is counted for the new mode", || {
            is_true(active(to) > now)
        });
        if from != to {
            assert_eq!(active(from), then, "{what}: its time is over");
        }
        let count = |mode| of(&proxy, "pointsman_connections_total", mode);
        let (then, now) = (count(from), count(to));
        for _ in 0..NEW {
            assert_eq!(get(proxy.address(), "/").status, 200, "{what}");
        }
        assert_eq!(count(to), now + NEW as f64, "{what}");
        if from != to {
            assert_eq!(count(from), then, "{what}: nothing new is counted there");
        }
        for client in &mut kept {
            assert_eq!(client.get("/").expect("still open").status, 200, "{what}");
        }
    }
    // One at a time: together they have not been in force for longer than there is anything at all.
    let active = proxy.metric("pointsman_mode_active_seconds_total", &[]);
    let uptime = place.report("status")["uptime_seconds"].as_f64();
    assert!(
        uptime.is_some_and(|all| active <= all),
        "{active} {uptime:?}"
    );
    assert_eq!((proxy.worker_pids(), lost(&proxy)), (pids, 0.0));
    assert_eq!(proxy.each_worker("generation"), [1, 1]);
    drop(kept);
    until("every connection is closed", || {
        is_true(proxy.metric("pointsman_connections_open", &[]) == 0.0)
    });
}

#[test]
fn while_paused_nothing_is_accepted_in_any_mode_whatever_else_changes() {
    let (place, demo) = (Place::new("pauses"), Demo::start("one"));
    for mode in Mode::ALL {
        let proxy = place.start(&demo.url(), &["--workers", "2", "--mode", mode.name()]);
        let mut kept = Client::connect(proxy.address());
        assert_eq!(kept.get("/").expect("an answer").status, 200);
        place.works(&["pause"]);
        assert_eq!(proxy.metric("pointsman_paused", &[]), 1.0);
        let accepted = proxy.metric("pointsman_connections_total", &[]);
        let mut waiting = knock(&proxy, 10, REQUEST);
        let nobody = |when: &str| {
            for _ in 0..20 {
                let now = proxy.metric("pointsman_connections_total", &[]);
                assert_eq!(now, accepted, "{mode}: {when}");
            }
        };
        nobody("paused");
        assert_eq!(kept.get("/").expect("still open").status, 200, "{mode}");
        for other in Mode::ALL {
            place.works(&["mode", other.name()]);
            nobody("in another mode");
        }
        place.works(&["restart"]);
        waiting.extend(knock(&proxy, 10, REQUEST));
        nobody("with other workers");
        place.works(&["workers", "set", "3"]);
        nobody("with more workers");
        assert_eq!(place.report("status")["state"], "paused");
        place.works(&["mode", mode.name()]);
        place.works(&["resume"]);
        assert_eq!(proxy.metric("pointsman_paused", &[]), 0.0);
        all_are_answered(&mut waiting, mode.name());
        assert_eq!(get(proxy.address(), "/").status, 200);
        assert_eq!(lost(&proxy), 0.0, "{mode}");
    }
}

#[test]
fn the_number_of_workers_changes_in_every_mode_and_whoever_is_served_is_served() {
    let place = Place::new("scale");
    for mode in Mode::ALL {
        let gate = Gate::start();
        let proxy = place.start(&gate.url(), &["--workers", "2", "--mode", mode.name()]);
        let before = proxy.worker_pids();
        let mut held = Vec::new();
        until("each worker holds a request", || {
            held.extend(knock(&proxy, 1, HELD));
            gate.await_held(held.len());
            is_true(
                proxy
                    .each_worker("requests_in_flight")
                    .iter()
                    .all(|n| *n > 0),
            )
        });

        // Each of the new ones is reached: by its own listener, where workers have one.
        place.works(&["workers", "set", "4"]);
        assert_eq!(
            proxy.worker_pids()[..2],
            before,
            "{mode}: who was there stays"
        );
        until("each of the new ones serves", || {
            assert_eq!(get(proxy.address(), "/").text(), Gate::FREE, "{mode}");
            is_true(
                match mode {
                    Mode::Handoff => proxy.taken(),
                    _ => proxy.each_worker("connections_self_accepted"),
                }[2..]
                    .iter()
                    .all(|n| *n > 0),
            )
        });

        // Those that hold a request are among those that go.
        place.works(&["workers", "set", "1"]);
        assert_eq!(place.report("status")["workers"], 1);
        for _ in 0..30 {
            assert_eq!(get(proxy.address(), "/").text(), Gate::FREE, "{mode}");
        }
        let draining = place.report("status")["workers_draining"].as_u64();
        assert_eq!(
            draining,
            Some(1),
            "{mode}: who holds nothing is gone, who does is not"
        );
        place.works(&["workers", "set", "3"]);
        until("the third, new again, serves", || {
            assert_eq!(get(proxy.address(), "/").text(), Gate::FREE, "{mode}");
            let now = proxy.workers()["workers"][2].clone();
            let taken = proxy.taken()[2];
            is_true(now["generation"] == 2 && taken > 0)
        });
        gate.open();
        for mut client in held {
            let answer = client.read_answer(false).expect("not lost");
            assert_eq!(answer.text(), Gate::HELD, "{mode}");
        }
        until("whoever had to go is gone", || {
            is_true(place.report("status")["workers_draining"] == 0)
        });
        assert_eq!(lost(&proxy), 0.0, "{mode}");
        assert_eq!(proxy.worker_pids()[0], before[0], "{mode}");
        // The seat that was given up is not one whose worker is missing; what it did is remembered.
        let page = proxy.admin("/metrics").text();
        let has = |line: &str| page.lines().any(|l| l.starts_with(line));
        for gauge in ["worker_up", "worker_ready", "worker_connections_open"] {
            let of = |seat| format!("pointsman_{gauge}{{worker=\"{seat}\"}} ");
            assert!(has(&of(2)) && !has(&of(3)), "{mode}: {gauge}\n{page}");
        }
        assert!(has("pointsman_worker_cpu_seconds_total{worker=\"3\"} "));
    }
}
