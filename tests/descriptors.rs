//! No descriptor and no process is left behind, however many connections come and go.

mod harness;

use std::{collections::BTreeMap, net::SocketAddr, thread};

use nix::sys::signal::Signal::SIGKILL;
use pointsman::Mode;

use harness::{Client, Demo, Pointsman, children, descriptors, get, is_true, kill, until};

const CLIENTS: usize = 2;
const CONNECTIONS: usize = 10_000;

/// Each worker keeps at most one connection to the upstream, so that what stays open is a fixed
/// number once each has one.
fn start(demo: &Demo, mode: Mode) -> Pointsman {
    let flags = [
        "--workers",
        "2",
        "--upstream-idle-connections",
        "1",
        "--mode",
        mode.name(),
    ];
    let proxy = Pointsman::start(&[&demo.url()], &flags);
    warm(&proxy);
    proxy
}

/// Sends requests until every worker keeps a connection to the upstream.
#[track_caller]
fn warm(proxy: &Pointsman) {
    until("every worker has served", || {
        get(proxy.address(), "/");
        is_true(
            proxy.metric("pointsman_upstream_connections_open", &[]) >= 2.0
                && proxy
                    .each_worker("connections_handed_over")
                    .iter()
                    .zip(proxy.each_worker("connections_self_accepted"))
                    .all(|(handed, accepted)| handed + accepted > 0),
        )
    });
    quiet(proxy);
}

#[track_caller]
fn quiet(proxy: &Pointsman) {
    until("every connection is closed", || {
        is_true(
            proxy.metric("pointsman_connections_open", &[]) == 0.0
                && proxy.metric("pointsman_upstream_connections_open", &[]) == 2.0,
        )
    });
}

/// Open descriptors of the master and of each worker, by what they are.
fn census(proxy: &Pointsman) -> Vec<usize> {
    let workers = proxy.worker_pids();
    std::iter::once(proxy.pid())
        .chain(workers)
        .map(descriptors)
        .collect()
}

/// What the descriptors are, for a message.
fn kinds(proxy: &Pointsman) -> Vec<BTreeMap<String, usize>> {
    let kinds = |pid: i32| {
        let mut kinds = BTreeMap::new();
        for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let target = std::fs::read_link(entry.path()).unwrap_or_default();
            let kind = target.to_string_lossy();
            let kind = kind.split(':').next().unwrap_or_default().to_owned();
            *kinds.entry(kind).or_default() += 1;
        }
        kinds
    };
    let workers = proxy.worker_pids();
    std::iter::once(proxy.pid())
        .chain(workers)
        .map(kinds)
        .collect()
}

/// Waits until no process has more descriptors open than at the start.
#[track_caller]
fn back_to(proxy: &Pointsman, start: &[usize], what: &str) {
    let begun = std::time::Instant::now();
    until("descriptors are back to the start value", || {
        let now = census(proxy);
        let back = now.len() == start.len() && now.iter().zip(start).all(|(now, then)| now <= then);
        assert!(
            back || begun.elapsed() < harness::DEADLINE / 2,
            "{what}: {start:?} at the start, {now:?} now: {:#?}",
            kinds(proxy)
        );
        is_true(back)
    });
}

/// Connections of every sort: answered, closed without a word, and broken off in the middle.
fn visit(address: SocketAddr, n: usize) {
    for i in 0..n {
        match i % 10 {
            3 => drop(Client::connect(address)),
            6 => {
                let mut client = Client::connect(address);
                client.send("GET / HTT").expect("an open connection");
            }
            8 => {
                let mut client = Client::connect(address);
                // Gone before the answer, or during it.
                client
                    .send("GET /bytes?n=5000 HTTP/1.1\r\nhost: test\r\n\r\n")
                    .expect("an open connection");
            }
            _ => assert_eq!(get(address, "/").status, 200),
        }
    }
}

#[test]
fn ten_thousand_connections_leave_no_descriptor_behind() {
    let demo = Demo::start("one");
    for mode in Mode::ALL {
        let proxy = start(&demo, mode);
        let start = census(&proxy);
        assert!(start.iter().all(|n| *n > 3), "{start:?}");
        thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| visit(proxy.address(), CONNECTIONS / CLIENTS));
            }
        });
        // Those broken off may have taken the kept connection with them.
        warm(&proxy);
        back_to(&proxy, &start, mode.name());
        let taken = proxy.metric("pointsman_connections_total", &[]);
        assert!(taken >= CONNECTIONS as f64, "{mode}: {taken}");
        let zombies = children(proxy.pid());
        assert!(zombies.iter().all(|(_, state)| *state != 'Z'));
    }
}

#[test]
fn dead_workers_leave_no_descriptor_and_no_zombie_behind() {
    let demo = Demo::start("one");
    for mode in Mode::ALL {
        let proxy = start(&demo, mode);
        let start = census(&proxy);
        for generation in 2..=3 {
            let _open: Vec<Client> = (0..20).map(|_| Client::connect(proxy.address())).collect();
            let pids = proxy.worker_pids();
            pids.iter().for_each(|pid| kill(*pid, SIGKILL));
            until("both are replaced", || {
                let workers = proxy.workers();
                let workers = workers["workers"].as_array().expect("a list").clone();
                is_true(
                    workers
                        .iter()
                        .all(|w| w["generation"] == generation && w["state"] == "ready"),
                )
            });
        }
        warm(&proxy);
        back_to(&proxy, &start, mode.name());
        let children = children(proxy.pid());
        assert_eq!(children.len(), 2, "{mode}: {children:?}");
        assert!(
            children.iter().all(|(_, state)| *state != 'Z'),
            "{mode}: {children:?}"
        );
    }
}
