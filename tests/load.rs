//! The load that benchmarks are made with: does it keep its schedule, and count what happened?

#[path = "load/server.rs"]
mod server;

use std::{
    io::Write,
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    sync::RwLock,
    thread,
    time::{Duration, Instant},
};

use pointsman::{
    compare::Drive,
    load::{Errors, Order, Outcome, Scenario, driver::Load},
    scoreboard::histogram::Snapshot,
};

use server::{HELLO, Server, Then};

const PROGRAM: &str = env!("CARGO_BIN_EXE_pointsman");

/// Four clients that keep their connections, for a moment, measured from the beginning.
fn order(target: SocketAddr) -> Order {
    Order {
        target,
        host: "load.test".into(),
        scenario: Scenario::Keepalive,
        path: "/".into(),
        slow_path: "/slow".into(),
        clients: 4,
        addresses: 1,
        drive: Drive::Closed,
        poisson: false,
        warm_up: Duration::ZERO,
        duration: Duration::from_millis(400),
        timeout: Duration::from_secs(10),
        seed: 1,
    }
}

/// What comes of it.
#[track_caller]
fn outcome(order: &Order) -> Outcome {
    let mut load = Load::start(Path::new(PROGRAM), order, None).expect("the binary under test");
    load.wait_begun().expect("it can be done");
    load.wait_ended().expect("it can be done")
}

/// Why it cannot be done.
#[track_caller]
fn refusal(order: &Order) -> String {
    let mut load = Load::start(Path::new(PROGRAM), order, None).expect("the binary under test");
    let refused = load.wait_begun().and_then(|()| load.wait_ended());
    refused.expect_err("it cannot be done").to_string()
}

/// How many lasted longer than 0.52 s, the edge of a bucket.
fn slow(of: &Snapshot) -> u64 {
    let edge = Duration::from_nanos(524_288_000);
    let (_, below) = of
        .cumulative()
        .find(|(bound, _)| *bound == edge)
        .expect("an edge");
    of.count() - below
}

/// Every request was answered, and all is counted alike.
#[track_caller]
fn all_is_well(outcome: &Outcome) {
    assert_eq!(outcome.errors, Errors::default());
    assert!(outcome.requests > 0, "{outcome:?}");
    assert_eq!(outcome.service.count(), outcome.requests);
}

#[test]
fn closed_load_counts_what_the_server_has_answered() {
    let server = Server::saying(HELLO);
    let outcome = outcome(&order(server.address));
    all_is_well(&outcome);
    assert_eq!(outcome.latency, outcome.service);
    assert_eq!((outcome.connections, outcome.unanswered), (4, 0));
    assert!(outcome.seconds >= 0.4);
    // Each client may have had one under way at the end.
    let missed = server.seen.requests() as u64 - outcome.requests;
    assert!(missed <= 4, "{missed} answers were not counted");
}

#[test]
fn clients_stay_until_whoever_ordered_them_has_looked_at_the_server() {
    let server = Server::saying(HELLO);
    let order = order(server.address);
    let mut load = Load::start(Path::new(PROGRAM), &order, None).expect("the binary under test");
    load.wait_begun().expect("it can be done");
    all_is_well(&load.wait_ended().expect("it can be done"));
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(200) {
        assert_eq!(server.seen.gone(), 0, "what its end costs would be counted");
        thread::park_timeout(Duration::from_millis(5));
    }
    drop(load);
    let begun = Instant::now();
    while server.seen.gone() < 4 {
        assert!(begun.elapsed() < Duration::from_secs(30), "they stay");
        thread::park_timeout(Duration::from_millis(5));
    }
}

#[test]
fn what_comes_before_measuring_is_not_counted() {
    let server = Server::saying(HELLO);
    let outcome = outcome(&Order {
        warm_up: Duration::from_millis(300),
        duration: Duration::from_millis(100),
        ..order(server.address)
    });
    all_is_well(&outcome);
    assert_eq!(outcome.connections, 0, "they were opened before");
    assert!((outcome.requests as usize) + 4 < server.seen.requests());
}

/// A server that stands still for a second at its 100th request.
fn stalling_once() -> Server {
    let gate = RwLock::new(());
    Server::start(move |request, stream| {
        if request.number == 100 {
            let _closed = gate.write().expect("nobody panics");
            thread::sleep(Duration::from_secs(1));
        } else {
            drop(gate.read().expect("nobody panics"));
        }
        match stream.write_all(HELLO) {
            Ok(()) => Then::Keep,
            Err(_) => Then::Close,
        }
    })
}

#[test]
fn a_stall_of_the_server_shows_in_all_that_was_planned_meanwhile() {
    for (poisson, scenario) in [
        (false, Scenario::Keepalive),
        (true, Scenario::Keepalive),
        (true, Scenario::PerConnection),
    ] {
        let server = stalling_once();
        let outcome = outcome(&Order {
            scenario,
            clients: 8,
            drive: Drive::Open { rate: 500.0 },
            poisson,
            duration: Duration::from_secs(3),
            ..order(server.address)
        });
        assert_eq!(outcome.errors, Errors::default());
        // All that was planned is there: 1,500, or a Poisson number of that mean.
        let planned = outcome.latency.count();
        assert_eq!(planned, outcome.requests + outcome.unanswered);
        match poisson {
            false => assert!((1499..=1500).contains(&planned), "{planned}"),
            true => assert!((1300..=1700).contains(&planned), "{planned}"),
        }
        // In the first 0.48 s of the stall 240 were due, and each waited for more than 0.52 s. A load
        // that waits for the server would have sent one for each client, and noticed 8.
        let (late, served_late) = (slow(&outcome.latency), slow(&outcome.service));
        assert!(late > 150, "{scenario:?}: only {late} were late");
        assert!(
            served_late <= 8,
            "{scenario:?}: {served_late} at once with 8 clients"
        );
        // Those that were sent and have no answer at the end.
        let under_way = outcome.lag.count() - outcome.service.count();
        assert!(under_way <= 8, "{under_way}");
    }
}

#[test]
fn what_has_no_answer_at_the_end_counts_with_the_time_that_it_has_waited() {
    // Nobody is answered after the 50th.
    let server = Server::start(|request, stream| {
        if request.number > 50 {
            loop {
                thread::park();
            }
        }
        let _ = stream.write_all(HELLO);
        Then::Keep
    });
    let outcome = outcome(&Order {
        drive: Drive::Open { rate: 200.0 },
        duration: Duration::from_secs(2),
        ..order(server.address)
    });
    assert_eq!((outcome.requests, outcome.errors), (50, Errors::default()));
    assert_eq!(outcome.latency.count(), 50 + outcome.unanswered);
    assert!(
        (349..=350).contains(&outcome.unanswered),
        "{}",
        outcome.unanswered
    );
    // Due from 0.25 s on, and those due before 1.48 s have waited for more than 0.52 s.
    assert!(slow(&outcome.latency) > 240);
}

#[test]
fn every_scenario_does_what_it_says() {
    use Scenario::{Bodies, Bursts, LongLived, Mixed, PerConnection};
    let open = Drive::Open { rate: 400.0 };
    for (scenario, drive) in [
        (PerConnection, Drive::Closed),
        (PerConnection, open),
        (Mixed, Drive::Closed),
        (Mixed, open),
        (LongLived, Drive::Closed),
        (LongLived, open),
        (Bodies, Drive::Closed),
        (Bodies, open),
        (Bursts, Drive::Closed),
        (Bursts, open),
    ] {
        let body = if scenario == Bodies { 65_536 } else { 5 };
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {body}\r\n\r\n");
        let server = Server::saying([head.into_bytes(), vec![b'x'; body]].concat());
        let outcome = outcome(&Order {
            scenario,
            clients: 20,
            drive,
            warm_up: Duration::from_millis(200),
            duration: Duration::from_secs(1),
            ..order(server.address)
        });
        let what = format!("{scenario:?} {drive:?}");
        println!("{what}: {} requests", outcome.requests);
        all_is_well(&outcome);
        let seen = &server.seen;
        let share = seen.slow() as f64 / seen.requests() as f64;
        match scenario {
            PerConnection | Bursts => {
                assert_eq!(seen.closing(), seen.requests(), "{what}");
                // The last ones may not have asked, or not been counted.
                let more = seen.connections() as u64 - outcome.connections;
                assert!(seen.connections() <= seen.requests() + 20, "{what}");
                assert!(more > 0, "{what}: none before measuring");
            }
            Mixed => assert!((0.03..0.25).contains(&share), "{what}: {share}"),
            LongLived => {
                assert!(seen.connections() > 20, "{what}: none was replaced");
                assert_eq!(seen.closing(), 0, "{what}");
            }
            _ => assert_eq!(seen.connections(), 20, "{what}"),
        }
        if scenario != Mixed {
            assert_eq!(seen.slow(), 0, "{what}");
        }
    }
}

#[test]
fn a_server_may_close_a_kept_connection_at_any_time() {
    let close = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
    // It says so, or just does it, or takes another request first and then thinks better of it.
    for (which, server) in [
        Server::start(|_, stream| {
            let _ = stream.write_all(close);
            Then::Close
        }),
        Server::start(|_, stream| {
            let _ = stream.write_all(HELLO);
            Then::Close
        }),
        Server::start(|request, stream| {
            if request.on_connection == 3 {
                return Then::Close;
            }
            let _ = stream.write_all(HELLO);
            Then::Keep
        }),
        // An answer that ends with its connection.
        Server::start(|_, stream| {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nhello");
            Then::Close
        }),
    ]
    .into_iter()
    .enumerate()
    {
        for drive in [Drive::Closed, Drive::Open { rate: 300.0 }] {
            let outcome = outcome(&Order {
                drive,
                ..order(server.address)
            });
            assert_eq!(outcome.errors, Errors::default(), "{which} {drive:?}");
            assert!(outcome.requests > 0, "{which} {drive:?}");
            assert!(outcome.connections > 4, "{which} {drive:?}");
        }
    }
}

#[test]
fn what_goes_wrong_is_counted_by_what_it_is() {
    type Pick = fn(&Errors) -> u64;
    let endless_head = [
        b"HTTP/1.1 200 OK\r\n".as_slice(),
        &b"x: y\r\n".repeat(20_000),
    ]
    .concat();
    let cases: [(&str, Vec<u8>, Then, Pick); 7] = [
        (
            "status",
            b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n".into(),
            Then::Keep,
            |e| e.status,
        ),
        ("garbage", b"what?\r\n\r\n".into(), Then::Keep, |e| {
            e.malformed
        }),
        ("too much", [HELLO, b"more"].concat(), Then::Keep, |e| {
            e.malformed
        }),
        ("endless head", endless_head, Then::Keep, |e| e.malformed),
        ("cut", HELLO[..HELLO.len() - 1].into(), Then::Close, |e| {
            e.closed
        }),
        ("nothing", Vec::new(), Then::Close, |e| e.closed),
        ("silence", Vec::new(), Then::Keep, |e| e.timeout),
    ];
    for (what, answer, then, pick) in cases {
        let server = Server::start(move |_, stream| {
            let _ = stream.write_all(&answer);
            then
        });
        for scenario in [Scenario::Keepalive, Scenario::PerConnection] {
            if what == "silence" && scenario == Scenario::PerConnection {
                // This server closes it then.
                continue;
            }
            let outcome = outcome(&Order {
                scenario,
                timeout: Duration::from_millis(100),
                ..order(server.address)
            });
            assert_eq!(outcome.requests, 0, "{what}: {outcome:?}");
            assert!(pick(&outcome.errors) > 0, "{what}: {:?}", outcome.errors);
            assert_eq!(
                pick(&outcome.errors),
                outcome.errors.total(),
                "{what}: {:?}",
                outcome.errors
            );
            let timeouts = outcome.errors.timeout;
            assert_eq!(outcome.latency.count(), timeouts, "{what}");
        }
    }
}

#[test]
fn an_answer_without_end_ends_at_the_limit_and_holds_up_nobody() {
    // One endless answer, as fast as it is taken; everybody else is served.
    let server = Server::start(|request, stream| {
        if request.number == 1 {
            let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfffffffffff\r\n";
            let mut open = stream.write_all(head);
            let piece = vec![b'x'; 1 << 20];
            while open.is_ok() {
                open = stream.write_all(&piece);
            }
            return Then::Close;
        }
        let _ = stream.write_all(HELLO);
        Then::Keep
    });
    let outcome = outcome(&Order {
        duration: Duration::from_secs(2),
        timeout: Duration::from_millis(700),
        ..order(server.address)
    });
    assert_eq!(outcome.errors.timeout, 1, "{:?}", outcome.errors);
    assert_eq!(outcome.errors.total(), 1, "{:?}", outcome.errors);
    assert!(outcome.requests > 0);
}

#[test]
fn clients_have_addresses_of_their_own_if_they_are_to() {
    let server = Server::saying(HELLO);
    for scenario in [Scenario::Keepalive, Scenario::PerConnection] {
        all_is_well(&outcome(&Order {
            scenario,
            clients: 6,
            addresses: 3,
            ..order(server.address)
        }));
    }
    assert_eq!(server.seen.addresses().len(), 3);
    assert!(
        server
            .seen
            .addresses()
            .iter()
            .all(|address| address.is_loopback())
    );
}

#[test]
fn a_server_that_goes_away_is_an_error_and_no_storm() {
    let server = Server::start(|_, stream| {
        let _ = stream.write_all(HELLO);
        Then::Keep
    });
    let order = Order {
        scenario: Scenario::PerConnection,
        duration: Duration::from_secs(1),
        ..order(server.address)
    };
    let mut load = Load::start(Path::new(PROGRAM), &order, None).expect("the binary under test");
    load.wait_begun().expect("it is there");
    drop(server);
    let outcome = load.wait_ended().expect("it ends as planned");
    assert!(outcome.errors.connect > 0, "{outcome:?}");
    // Four clients that pause for 10 ms after each failure.
    assert!(outcome.errors.total() <= 4 * 101, "{:?}", outcome.errors);
}

#[test]
fn what_cannot_be_done_is_refused_in_one_line_that_says_why() {
    let server = Server::saying(HELLO);
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let nobody = free.local_addr().expect("bound");
    drop(free);
    let good = order(server.address);
    for (bad, culprit) in [
        (order(nobody), nobody.to_string()),
        (
            Order {
                clients: 0,
                ..good.clone()
            },
            "clients".into(),
        ),
        (
            Order {
                clients: 4_000_000_000,
                ..good.clone()
            },
            "limit is".into(),
        ),
        (
            Order {
                drive: Drive::Open { rate: 0.0 },
                ..good.clone()
            },
            "rate".into(),
        ),
        (
            Order {
                drive: Drive::Open { rate: -1.0 },
                ..good.clone()
            },
            "rate".into(),
        ),
        (
            Order {
                drive: Drive::Open { rate: f64::NAN },
                ..good.clone()
            },
            "order".into(),
        ),
        (
            Order {
                duration: Duration::ZERO,
                ..good
            },
            "duration".into(),
        ),
    ] {
        let why = refusal(&bad);
        assert!(why.contains(&culprit), "{culprit}: {why}");
        assert!(!why.contains('\n'), "{why}");
    }
    assert_eq!(server.seen.requests(), 0);
}

#[test]
fn it_ends_with_whoever_has_ordered_it() {
    let server = Server::saying(HELLO);
    let order = Order {
        duration: Duration::from_secs(3600),
        ..order(server.address)
    };
    let mut child = Command::new(PROGRAM)
        .arg("load")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary under test");
    let mut input = child.stdin.take().expect("piped");
    let line = serde_json::to_string(&order).expect("plain data");
    writeln!(input, "{line}").expect("it reads its order");
    let until = |what: &str, condition: &mut dyn FnMut() -> bool| {
        let begun = Instant::now();
        while !condition() {
            assert!(
                begun.elapsed() < Duration::from_secs(30),
                "waited in vain: {what}"
            );
            thread::park_timeout(Duration::from_millis(5));
        }
    };
    until("it has begun", &mut || server.seen.requests() > 0);
    drop(input);
    until("it has ended", &mut || {
        child.try_wait().expect("our child").is_some()
    });
}

#[test]
fn it_can_be_awaited_and_is_gone_when_nobody_wants_it() {
    let server = Server::saying(HELLO);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let order = order(server.address);
        let mut load = Load::start(Path::new(PROGRAM), &order, Some(&[0])).expect("it starts");
        load.begun().await.expect("it can be done");
        all_is_well(&load.ended().await.expect("it can be done"));

        let long = Order {
            duration: Duration::from_secs(3600),
            ..order
        };
        let mut load = Load::start(Path::new(PROGRAM), &long, None).expect("it starts");
        load.begun().await.expect("it can be done");
        let place = format!("/proc/{}", load.pid());
        assert!(Path::new(&place).exists());
        drop(load);
        assert!(!Path::new(&place).exists());
    });
}
