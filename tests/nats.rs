//! Masters that meet on a real NATS server, each with a worker, all of them processes.
//!
//! This program is all of these: the tests, the masters, and the masters' workers.

#[path = "nats/cluster.rs"]
mod cluster;
#[path = "nats/program.rs"]
mod program;
#[path = "harness/nats.rs"]
mod server;

use std::{
    os::unix::fs::PermissionsExt,
    process::{Command, ExitCode},
};

use nix::sys::signal::Signal;

use self::{
    cluster::{Running, until},
    program::{ORDERS, Orders, serve},
    server::NatsServer,
};

const TESTS: [(&str, fn()); 11] = [
    (
        "who_is_below_a_master_is_met_through_it",
        who_is_below_a_master_is_met_through_it,
    ),
    (
        "secrets_in_the_open_are_refused",
        secrets_in_the_open_are_refused,
    ),
    (
        "masters_see_and_hear_each_other",
        masters_see_and_hear_each_other,
    ),
    (
        "applications_are_found_elsewhere",
        applications_are_found_elsewhere,
    ),
    (
        "a_server_that_dies_costs_no_more_than_it_must",
        a_server_that_dies_costs_no_more_than_it_must,
    ),
    (
        "who_stands_still_is_gone_until_it_moves",
        who_stands_still_is_gone_until_it_moves,
    ),
    (
        "clusters_with_other_prefixes_do_not_meet",
        clusters_with_other_prefixes_do_not_meet,
    ),
    (
        "whoever_has_not_the_secret_is_a_stranger",
        whoever_has_not_the_secret_is_a_stranger,
    ),
    (
        "an_upgrade_comes_back_under_its_name",
        an_upgrade_comes_back_under_its_name,
    ),
    (
        "a_flood_is_bounded_and_in_order",
        a_flood_is_bounded_and_in_order,
    ),
    (
        "a_worker_that_dies_is_gone_everywhere",
        a_worker_that_dies_is_gone_everywhere,
    ),
];

/// A master named `name` on this server.
fn orders(server: &NatsServer, name: &str) -> Orders {
    Orders {
        name: name.into(),
        servers: server.url("nats"),
        prefix: "test".into(),
        secret: None,
        hosts: None,
    }
}

/// Two that have met.
fn pair(server: &NatsServer) -> (Running, Running) {
    let a = Running::start(&orders(server, "a"));
    let b = Running::start(&orders(server, "b"));
    a.sees(&b.id());
    b.sees(&a.id());
    (a, b)
}

/// Publishes until `to` has heard it: that somebody wants it comes to be known a moment after who is there.
fn reaches(from: &Running, to: &Running) {
    until("what is wanted is known", || {
        from.ask("/publish/news.first/x");
        (!to.heard("news.first").is_empty()).then_some(())
    });
}

fn masters_see_and_hear_each_other() {
    let server = NatsServer::start();
    let (a, b) = pair(&server);
    reaches(&a, &b);
    reaches(&b, &a);
    let (from, to) = (a.id(), b.id());
    // Each once, in order, and the sender hears what it has published, too.
    assert_eq!(a.ask("/many/news.many/500"), "said");
    let expected: Vec<_> = (0..500).map(|i| format!("news.many {from} {i}")).collect();
    for one in [&b, &a] {
        until("all has come", || {
            (one.heard("news.many").len() >= 500).then_some(())
        });
        assert_eq!(one.heard("news.many"), expected);
    }
    a.ask("/broadcast/news.all/b");
    a.ask(&format!("/send/{to}/news.one/c"));
    until("it has come", || {
        (!b.heard("news.one").is_empty()).then_some(())
    });
    assert_eq!(b.heard("news.one"), [format!("news.one {from} c")]);
    assert_eq!(b.heard("news.all"), [format!("news.all {from} b")]);
    assert!(a.heard("news.one").is_empty() && a.heard("news.all").is_empty());
    assert_eq!(a.ask(&format!("/ask/{to}/why")), "b answers why");
    assert_eq!(b.ask(&format!("/ask/{from}/why")), "a answers why");
    let nobody = format!("{}:9", b.master());
    assert!(
        a.ask(&format!("/ask/{nobody}/why"))
            .starts_with("error: nobody is there")
    );
    // Nothing that is attached goes through NATS, and that is said.
    let stream = a.ask(&format!("/stream/{to}"));
    assert!(
        stream.starts_with("error: ") && stream.contains("NATS"),
        "{stream}"
    );
    assert_eq!(a.ask(&format!("/ask/{to}/again")), "b answers again");
}

fn applications_are_found_elsewhere() {
    let server = NatsServer::start();
    let host = Orders {
        hosts: Some("shop".into()),
        ..orders(&server, "b")
    };
    let a = Running::start(&orders(&server, "a"));
    assert!(a.ask("/call/shop/sell").starts_with("error: nobody hosts"));
    let b = Running::start(&host);
    a.sees(&b.id());
    until("it is known who hosts it", || {
        (a.ask("/call/shop/sell") == "b does sell").then_some(())
    });
    drop(b);
    // It said goodbye to nobody, so this takes until it has been silent for too long.
    until("it is known to be gone", || {
        a.ask("/call/shop/sell")
            .starts_with("error: nobody hosts")
            .then_some(())
    });
}

fn a_server_that_dies_costs_no_more_than_it_must() {
    let mut server = NatsServer::prepare();
    server.configure("");
    // Not there at the start: all serve.
    let a = Running::start(&orders(&server, "a"));
    let b = Running::start(&orders(&server, "b"));
    let own = |one: &Running| one.ask(&format!("/ask/{}/me", one.id()));
    assert_eq!(
        (own(&a), own(&b)),
        ("a answers me".into(), "b answers me".into())
    );
    until("it says so", || {
        a.said().contains("no NATS server at").then_some(())
    });
    server.start_again();
    a.sees(&b.id());
    b.sees(&a.id());
    server.kill();
    let gone = format!("offline {} Silent", b.id());
    until("the other is gone", || {
        (!a.heard(&gone).is_empty()).then_some(())
    });
    assert_eq!(own(&a), "a answers me");
    a.ask("/publish/news.lost/x");
    assert!(
        a.ask(&format!("/ask/{}/why", b.id()))
            .starts_with("error: nobody is there")
    );
    server.start_again();
    a.sees(&b.id());
    b.sees(&a.id());
    reaches(&a, &b);
    assert_eq!(a.ask(&format!("/ask/{}/why", b.id())), "b answers why");
    assert!(b.heard("news.lost").is_empty(), "what is old does not come");
}

fn who_stands_still_is_gone_until_it_moves() {
    let server = NatsServer::start();
    let (a, b) = pair(&server);
    let (other, master) = (b.id(), b.master());
    b.signal(Signal::SIGSTOP);
    let gone = format!("offline {other} Silent");
    until("it is gone", || (!a.heard(&gone).is_empty()).then_some(()));
    assert!(!a.ask("/peers").contains(&master));
    b.signal(Signal::SIGCONT);
    a.sees(&other);
    reaches(&a, &b);
    reaches(&b, &a);
    assert_eq!(a.heard(&gone).len(), 1);
    // It does not blame the others.
    assert!(b.heard("offline").is_empty());
}

fn clusters_with_other_prefixes_do_not_meet() {
    let server = NatsServer::start();
    let (a, b) = pair(&server);
    let elsewhere = |name| Orders {
        prefix: "other".into(),
        ..orders(&server, name)
    };
    let c = Running::start(&elsewhere("c"));
    let d = Running::start(&elsewhere("d"));
    c.sees(&d.id());
    reaches(&c, &d);
    for (one, others) in [(&a, [&c, &d]), (&c, [&a, &b])] {
        let peers = one.ask("/peers");
        assert!(
            others.iter().all(|other| !peers.contains(&other.master())),
            "{peers}"
        );
    }
    assert!(a.heard("news.first").is_empty());
}

fn whoever_has_not_the_secret_is_a_stranger() {
    let server = NatsServer::start();
    let with = |name: &str, secret: &str| Orders {
        secret: Some(server.secret(secret, secret).display().to_string()),
        ..orders(&server, name)
    };
    let a = Running::start(&with("a", "the secret of all of us"));
    let b = Running::start(&with("b", "the secret of all of us"));
    let c = Running::start(&with("c", "the secret of others"));
    let d = Running::start(&orders(&server, "d"));
    a.sees(&b.id());
    let dropped = |one: &Running, reason: &str| {
        one.metric(&format!(
            "pointsman_bus_nats_dropped_total{{reason=\"{reason}\"}}"
        ))
    };
    until("strangers are counted", || {
        let counts = [
            (&a, "forged"),
            (&a, "unsigned"),
            (&c, "forged"),
            (&d, "forged"),
        ];
        counts
            .iter()
            .all(|(one, reason)| dropped(one, reason) > 0.0)
            .then_some(())
    });
    for stranger in [&c, &d] {
        assert!(!a.ask("/peers").contains(&stranger.master()));
        assert!(!stranger.ask("/peers").contains(&a.master()));
    }
    assert_eq!(a.metric("pointsman_bus_nats_connected"), 1.0);
    assert_eq!(a.metric("pointsman_bus_nats_masters"), 1.0);
    assert_eq!(a.metric("pointsman_bus_nats_reconnects_total"), 0.0);
    // Nor is it said anywhere.
    let shown = a.said() + &a.status();
    assert!(!shown.contains("the secret of"), "{shown}");
}

fn a_worker_that_dies_is_gone_everywhere() {
    let server = NatsServer::start();
    let (a, b) = pair(&server);
    let peer = b.id();
    let pid = b.pid_of_worker();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL).expect("it runs");
    let gone = format!("offline {peer} Signal(9)");
    until("its end is known, and why", || {
        (!a.heard(&gone).is_empty()).then_some(())
    });
    let successor = until("there is another", || {
        let id = b.id();
        (id != peer).then_some(id)
    });
    a.sees(&successor);
    assert_eq!(a.ask(&format!("/ask/{successor}/why")), "b answers why");
}

fn who_is_below_a_master_is_met_through_it() {
    let server = NatsServer::start();
    let (a, b) = pair(&server);
    let pid = b.ask("/branch/c").parse().expect("a process id");
    let branch = Ended(pid);
    // The only one that is of neither master and no master itself.
    let below = until("it is seen from afar", || {
        let peers = a.ask("/peers");
        let mut peers = peers.lines().map(str::to_owned);
        peers.find(|peer| {
            let known = [a.master(), b.master()];
            !peer.ends_with(":0") && !known.iter().any(|master| peer.starts_with(master))
        })
    });
    assert_eq!(a.ask(&format!("/ask/{below}/why")), "c answers why");
    assert_eq!(b.ask(&format!("/ask/{below}/why")), "c answers why");
    // It has the same settings, and leaves NATS to the one above.
    until("it says so", || {
        b.said().contains("'bus' is not used here").then_some(())
    });
    assert_eq!(a.metric("pointsman_bus_nats_masters"), 1.0);
    drop(branch);
    let gone = format!("offline {below}");
    until("its end is known", || {
        (!a.heard(&gone).is_empty()).then_some(())
    });
}

/// A process that is told to end once this is dropped.
struct Ended(i32);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.0), Signal::SIGTERM);
    }
}

fn secrets_in_the_open_are_refused() {
    let server = NatsServer::prepare();
    let refused = |arguments: &[&str]| {
        let ended = Command::new(env!("CARGO_BIN_EXE_pointsman"))
            .args(["serve", "--listen", "127.0.0.1:0", "--admin", "off"])
            .args(["--control", "off", "--upstream", "http://127.0.0.1:1"])
            .args(arguments)
            .output()
            .expect("the program");
        let said = String::from_utf8(ended.stderr).expect("text");
        assert_eq!(ended.status.code(), Some(2), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(!said.contains("hunter2"), "{said}");
        said
    };
    let said = refused(&["--bus", "nats://me:hunter2@127.0.0.1"]);
    assert!(said.contains("bus-password-file"), "{said}");
    let url = server.url("nats");
    let token = server.secret("token", "hunter2");
    let open = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(&token, open).expect("ours");
    let token = token.display().to_string();
    let said = refused(&["--bus", &url, "--bus-token-file", &token]);
    assert!(said.contains("chmod 600"), "{said}");
    let said = refused(&["--bus-token-file", &token]);
    assert!(said.contains("without bus"), "{said}");
}

fn an_upgrade_comes_back_under_its_name() {
    let server = NatsServer::start();
    let (a, b) = pair(&server);
    let (before, master) = (b.id(), b.master());
    b.signal(Signal::SIGUSR2);
    let came = || b.said().matches("on NATS as master").count() == 2;
    let done = || came() && b.said().contains("upgraded: 1 replaced");
    until("it is back", || done().then_some(()));
    let after = until("the new worker answers", || {
        let id = b.id();
        (id != before).then_some(id)
    });
    assert_eq!(b.master(), master);
    a.sees(&after);
    b.sees(&a.id());
    reaches(&a, &b);
    reaches(&b, &a);
    assert_eq!(a.ask(&format!("/ask/{after}/why")), "b answers why");
}

fn a_flood_is_bounded_and_in_order() {
    let server = NatsServer::start();
    let (a, b) = pair(&server);
    reaches(&a, &b);
    assert_eq!(a.ask("/many/news.flood/100000"), "said");
    // It may have lost some, but not the last.
    until("the last has come", || {
        a.ask("/publish/news.flood/100000");
        b.ask("/heard").contains(" 100000\n").then_some(())
    });
    let number = |line: &String| line.rsplit(' ').next()?.parse::<u64>().ok();
    let numbers: Vec<_> = b.heard("news.flood").iter().filter_map(number).collect();
    assert!(numbers.is_sorted(), "out of order");
    assert_eq!(a.ask(&format!("/ask/{}/still", b.id())), "b answers still");
    assert_eq!(b.ask(&format!("/ask/{}/still", a.id())), "a answers still");
}

fn main() -> ExitCode {
    if let Ok(orders) = std::env::var(ORDERS) {
        let orders: Orders = serde_json::from_str(&orders).expect("orders");
        let served = serve(orders);
        if let Err(error) = &served {
            eprintln!("{error}");
        }
        return served.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
    }
    // As the usual harness does: names to run, all of them if none is given.
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with('-'))
        .collect();
    for (name, test) in TESTS {
        if wanted.is_empty() || wanted.iter().any(|part| name.contains(part)) {
            test();
            println!("{name}: ok");
        }
    }
    ExitCode::SUCCESS
}
