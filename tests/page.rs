//! The page of the admin interface, in a real browser.

mod harness;

#[path = "harness/browser.rs"]
mod browser;
#[path = "page/canned.rs"]
mod canned;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use pointsman::scoreboard::histogram::Snapshot;
use serde_json::{Value, json};

use self::{
    browser::Browser,
    canned::{HOSTILE, comparison, extreme},
    harness::{Client, Demo, Lcg, Pointsman, is_true, kill, place::Place},
};

/// Clients that send requests one after the other, with a rest between them.
struct Load {
    answered: Arc<AtomicU64>,
    ends: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Load {
    fn start(proxy: &Pointsman, clients: usize) -> Self {
        let (answered, ends) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let address = proxy.address();
        let threads = (0..clients).map(|_| {
            let (answered, ends) = (answered.clone(), ends.clone());
            thread::spawn(move || {
                while !ends.load(Relaxed) {
                    let Ok(mut client) = Client::try_connect(address) else {
                        continue;
                    };
                    // Anew from time to time: only new connections see a new mode.
                    for _ in 0..50 {
                        if ends.load(Relaxed) || client.get("/").is_err() {
                            break;
                        }
                        answered.fetch_add(1, Relaxed);
                        thread::park_timeout(Duration::from_millis(10));
                    }
                }
            })
        });
        Self {
            threads: threads.collect(),
            answered,
            ends,
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.ends.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn url(proxy: &Pointsman) -> String {
    format!("http://{}/", proxy.admin)
}

/// A number as the page shows it.
fn shown(text: &str) -> Option<f64> {
    let digits: String = text
        .chars()
        .filter(|c| c.is_ascii_digit() || *c == '.')
        .collect();
    digits.parse().ok()
}

/// Nothing was complained of, and nobody else was asked for anything.
#[track_caller]
fn all_was_well(page: &Browser, proxy: &Pointsman) {
    assert!(page.complaints.is_empty(), "{:#?}", page.complaints);
    let home = url(proxy);
    let is_ours = |asked: &&String| {
        asked.starts_with(&home) || asked.starts_with("data:") || *asked == "about:blank"
    };
    let foreign: Vec<&String> = page.asked.iter().filter(|asked| !is_ours(asked)).collect();
    assert!(foreign.is_empty(), "{foreign:?}");
    for part in ["", "page.js", "page.css", "live", "comparison?brief"] {
        let address = format!("{home}{part}");
        assert!(page.asked.contains(&address), "{part} was never asked for");
    }
}

#[test]
fn under_load_the_page_shows_what_happens_and_follows_a_switch() {
    let demo = Demo::start("one");
    let place = Place::new("page");
    let flags = [
        "--workers",
        "3",
        "--mode",
        "handoff",
        "--policy",
        "round-robin",
    ];
    let proxy = place.start(&demo.url(), &flags);
    let load = Load::start(&proxy, 6);
    let mut page = Browser::start("load");
    page.looks(1280, 900, false);
    page.open(&url(&proxy));

    // What the page says of a second, against what clients counted in about the same time.
    let mut looks = vec![(Instant::now(), load.answered.load(Relaxed))];
    let mut rate_is_right = |page: &mut Browser| {
        looks.push((Instant::now(), load.answered.load(Relaxed)));
        let (now, counted) = *looks.last()?;
        let ago = Duration::from_millis(1500);
        let (then, before) = looks.iter().rfind(|(then, _)| now - *then >= ago)?;
        let real = (counted - before) as f64 / (now - *then).as_secs_f64();
        let rate = shown(&page.text("#rate"))?;
        is_true(real > 0.0 && rate > 0.6 * real && rate < 1.6 * real)
    };
    page.until("the rate is that of the load", &mut rate_is_right);

    assert_eq!(page.number_of("#workers tr[data-worker]"), 3);
    assert_eq!(page.text("#contact"), "live");
    assert_eq!(page.text("#state"), "running");
    assert_eq!(
        (page.text("#mode"), page.text("#policy")),
        ("handoff".into(), "round-robin".into())
    );
    let pids = proxy.worker_pids();
    for (seat, pid) in pids.iter().enumerate() {
        let row = format!("#workers tr[data-worker='{seat}']");
        assert_eq!(
            page.text(&format!("{row} td:nth-child(9)")),
            pid.to_string()
        );
        assert_eq!(page.text(&format!("{row} td:nth-child(2)")), "ready");
    }
    assert_eq!(
        page.text("#listeners th[scope=row]"),
        proxy.address().to_string()
    );
    page.until("a latency is shown", |page| {
        let p99 = shown(&page.text("#p99"))?;
        is_true(p99 > 0.0 && page.text("#latency .line.second").is_empty())
    });
    page.until("the connections of the clients are shown", |page| {
        is_true(shown(&page.text("#open"))? >= 4.0)
    });
    page.until("the charts have lines", |page| {
        let drawn = page.value(
            "document.querySelector('#throughput .line.first').getAttribute('d').includes('L')",
        );
        is_true(drawn == true)
    });

    // The values of a moment can be read without a mouse.
    let looked_back = page.value(
        "const chart = document.querySelector('#throughput svg'); chart.focus(); \
         chart.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowLeft', bubbles: true })); \
         const seen = document.querySelector('#throughput .when').textContent; chart.blur(); seen",
    );
    let looked_back = looked_back.as_str().expect("a text").to_owned();
    assert!(
        looked_back.ends_with(", handoff/round-robin"),
        "{looked_back}"
    );
    assert_eq!(page.text("#throughput .when"), "");

    place.works(&["mode", "shared"]);
    page.until("the page shows the new mode", |page| {
        is_true(page.text("#mode") == "shared" && page.text("#policy").is_empty())
    });
    page.until("the chart marks the switch", |page| {
        is_true(page.number_of("#throughput .change") >= 1)
    });
    page.until("requests are counted for both modes", |page| {
        let rows = page.number_of("#arms tbody tr");
        let in_force = page.text("#arms tr.on th span:nth-child(2)");
        let requests = shown(&page.text("#arms tr.on td:nth-child(4)"))?;
        is_true(rows == 2 && in_force == "shared" && requests > 0.0)
    });
    page.until("the rate is that of the load again", &mut rate_is_right);

    kill(pids[1], nix::sys::signal::Signal::SIGKILL);
    page.until("the page shows that a worker was started again", |page| {
        let row = "#workers tr[data-worker='1']";
        let restarts = page.text(&format!("{row} td.odd:nth-child(7)"));
        let state = page.text(&format!("{row} td:nth-child(2)"));
        is_true(restarts == "1" && state == "ready")
    });
    page.picture("page-load");
    assert!(
        page.text("#comparison-none")
            .contains("pointsman ctl compare")
    );
    all_was_well(&page, &proxy);
}

#[test]
fn the_page_says_when_the_master_is_gone_and_goes_on_when_it_is_back() {
    // An address that nobody else connects from: its port stays free while there is no master.
    let start = |admin: &str, workers: &str| {
        let (listen, upstream) = (["127.0.0.1:0"], ["http://127.0.0.1:9"]);
        Pointsman::start_with_admin(admin, &listen, &upstream, &["--workers", workers])
    };
    let proxy = start("127.0.0.77:0", "2");
    let admin = proxy.admin.to_string();
    let mut page = Browser::start("gone");
    page.open(&url(&proxy));
    page.until("the page is live", |page| {
        is_true(page.text("#rate") == "0")
    });
    all_was_well(&page, &proxy);

    drop(proxy);
    page.until("the page says so", |page| {
        let said = page.text("#contact");
        is_true(said.starts_with("no answer since ") && said.contains("asking on"))
    });
    let since = page.text("#contact");
    assert_eq!(page.value("document.body.dataset.contact"), "none");
    page.picture("page-gone");

    let again = start(&admin, "1");
    page.until("the page shows the new master", |page| {
        let said = page.text("#contact");
        let rows = page.number_of("#workers tr[data-worker]");
        is_true(said.starts_with("live; started anew") && rows == 1)
    });
    assert_ne!(page.text("#contact"), since);
    assert!(
        page.text("#facts")
            .contains(&format!("process {}", again.pid()))
    );
    // The counters began anew: no difference between the two masters is taken for a rate.
    page.until("there is a rate again", |page| {
        is_true(page.text("#rate") == "0")
    });
    let refused = page.complaints.iter().filter(|c| !c.contains("ERR_"));
    assert_eq!(refused.count(), 0, "{:#?}", page.complaints);
}

#[test]
fn the_page_asks_only_while_somebody_looks_and_never_twice_at_once() {
    let proxy = Pointsman::start(&["http://127.0.0.1:9"], &["--workers", "1"]);
    let mut page = Browser::start("hidden");
    page.open(&url(&proxy));
    let times = |page: &mut Browser| {
        page.value("0");
        page.asked
            .iter()
            .filter(|asked| asked.ends_with("/live"))
            .count()
    };
    let hide = |page: &mut Browser, is_hidden: bool| {
        page.value(&format!(
            "Object.defineProperty(document, 'hidden', {{ value: {is_hidden}, configurable: true }}); \
             document.dispatchEvent(new Event('visibilitychange'))"
        ));
    };
    page.until("it asks again and again", |page| is_true(times(page) >= 3));
    hide(&mut page, true);
    // One that was on its way may be counted still. After that, the comparison's timer has its turn
    // as well, without anybody asking.
    let clock = |page: &mut Browser| page.value("performance.now()").as_f64().expect("ms");
    let begun = clock(&mut page);
    page.until("a while has passed in the page", |page| {
        is_true(clock(page) > begun + 1200.0)
    });
    let before = page.asked.len();
    page.until("a while has passed in the page", |page| {
        is_true(clock(page) > begun + 6500.0)
    });
    assert_eq!(page.asked.len(), before, "it asks though nobody looks");
    hide(&mut page, false);
    page.until("it asks again", |page| is_true(page.asked.len() > before));

    // No answer comes: it waits for one, and does not ask a second time.
    page.value(
        "window.begun = 0; window.most = 0; const real = window.fetch; \
         window.fetch = (path, how) => { \
           if (path !== 'live') return real(path, how); \
           window.begun += 1; window.most = Math.max(window.most, window.begun); \
           return new Promise((done) => setTimeout(done, 2500)) \
             .then(() => { window.begun -= 1; return real(path, how); }) }; 0",
    );
    let asked = times(&mut page);
    page.until("slow answers came", |page| {
        is_true(times(page) >= asked + 2)
    });
    assert_eq!(page.value("window.most"), 1);
    all_was_well(&page, &proxy);
}

#[test]
fn a_long_time_in_which_nobody_looked_is_not_taken_for_a_rate_of_now() {
    let proxy = Pointsman::start(&["http://127.0.0.1:9"], &["--workers", "1"]);
    let live: Value = serde_json::from_slice(&proxy.admin("/live").body).expect("JSON");
    let mut page = Browser::start("long");
    page.open(&url(&proxy));
    page.until("the page is live", |page| {
        is_true(page.text("#contact") == "live")
    });
    all_was_well(&page, &proxy);
    // As if the page had been hidden for ten minutes before its second answer, with six million requests meanwhile,
    // and ten a second from then on.
    page.value(&format!(
        "const clock = performance.now.bind(performance); let ahead = 0; \
         performance.now = () => clock() + ahead; \
         const real = window.fetch; const live = {live}; let n = 0; \
         window.fetch = async (path, how) => {{ \
           if (path !== 'live') return real(path, how); \
           n += 1; \
           if (n === 2) ahead = 600_000; \
           live.at = n === 1 ? 1e6 : 1e6 + 598 + n; \
           live.requests['2xx'] = n === 1 ? 0 : 6e6 + 10 * n; \
           return {{ ok: true, json: async () => structuredClone(live) }}; }}; 0"
    ));
    page.until("there is a rate again", |page| {
        is_true(page.text("#rate") == "10")
    });
    let all = page.value(
        "const chart = document.querySelector('#throughput svg'); \
         Array.from({ length: 50 }, () => { \
           chart.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowLeft' })); \
           return chart.getAttribute('aria-label'); }).join('; ')",
    );
    let all = all.as_str().expect("a text");
    assert!(all.contains("requests/s 10,"), "{all}");
    assert!(!all.contains("requests/s 10,000"), "{all}");
}

#[test]
fn the_browser_refuses_what_the_page_has_no_need_of() {
    let proxy = Pointsman::start(&["http://127.0.0.1:9"], &["--workers", "1"]);
    let mut page = Browser::start("refused");
    page.open(&url(&proxy));
    page.until("the page is live", |page| {
        is_true(page.text("#contact") == "live")
    });
    all_was_well(&page, &proxy);
    // As if the page had a hole: a script in the markup, a handler in an attribute, a call to somebody
    // else, a picture from there.
    let elsewhere = format!("http://{}/", proxy.address());
    let refused = page.value(&format!(
        "(async () => {{ \
           const refused = []; \
           addEventListener('securitypolicyviolation', (e) => refused.push(e.effectiveDirective)); \
           const add = (name, of) => {{ \
             const made = Object.assign(document.createElement(name), of); \
             document.body.append(made); return made; }}; \
           add('script', {{ textContent: 'window.broken = 1' }}); \
           const button = document.createElement('button'); \
           button.setAttribute('onclick', 'window.broken = 1'); \
           document.body.append(button); button.click(); \
           await fetch('{elsewhere}').catch(() => 0); \
           add('img', {{ src: '{elsewhere}' }}); \
           while (refused.length < 4) await new Promise((done) => setTimeout(done, 5)); \
           return refused.sort().join(' '); }})()"
    ));
    assert_eq!(
        refused,
        "connect-src img-src script-src-attr script-src-elem"
    );
    assert_eq!(page.value("typeof window.broken"), "undefined");
    // And all of that was noticed: what the other tests take for silence is silence.
    let policy = page
        .complaints
        .iter()
        .filter(|c| c.contains("Content Security Policy"));
    assert!(policy.count() >= 4, "{:#?}", page.complaints);
}

#[test]
fn quantiles_in_the_page_are_those_of_the_histogram() {
    let proxy = Pointsman::start(&["http://127.0.0.1:9"], &["--workers", "1"]);
    let mut page = Browser::start("quantiles");
    page.open(&url(&proxy));
    let mut random = Lcg(20_261_120);
    let mut early = Snapshot::default();
    for round in 0..6 {
        let mut late = early.clone();
        for _ in 0..10_usize.pow(round) / 2 {
            // From nothing to beyond the last bucket.
            let size = random.below(39) as u32;
            let nanoseconds = random.below(1 << size) as u64;
            late.record(Duration::from_nanos(nanoseconds));
        }
        let between = late.since(&early);
        for q in [0.0, 0.5, 0.9, 0.99, 1.0] {
            let (now, then) = (json!(late), json!(early));
            let value = page.value(&format!(
                "import('/page/numbers.js').then((n) => n.quantile(n.countedSince({now}, {then}), {q}))"
            ));
            let expected = between.quantile(q).map(|d| d.as_secs_f64());
            match (value.as_f64(), expected) {
                (None, None) => {}
                (Some(value), Some(expected)) => {
                    let off = (value / expected - 1.0).abs();
                    assert!(off < 1e-9, "{q} of {round}: {value} for {expected}");
                }
                other => panic!("{q} of {round}: {other:?}"),
            }
        }
        early = late;
    }
    assert!(early.count() > 50_000);
}

#[test]
fn a_comparison_is_drawn_with_its_intervals_while_it_runs_and_after() {
    let proxy = Pointsman::start(&["http://127.0.0.1:9"], &["--workers", "2"]);
    let mut page = Browser::start("comparison");
    page.looks(1280, 900, false);
    let running = json!({ "ending": "running" });
    page.answer(
        "/comparison?brief",
        Some(comparison(6, 15, &running, "arm")),
    );
    page.open(&url(&proxy));
    page.until("it is shown", |page| {
        is_true(page.number_of("#forest tbody tr") == 6)
    });
    assert_eq!(page.text("#progress-text"), "round 3 of 12, block 15 of 72");
    assert!(page.text("#comparison-what").contains("as it came, to arm"));
    assert_eq!(
        page.value("document.getElementById('comparison-none').hidden"),
        true
    );
    // The base has no interval, the third none for the latency.
    assert_eq!(page.number_of("#forest circle.ratio"), 5 + 5 + 4);
    assert_eq!(
        page.text("#forest tr[data-arm='arm 2'] .by.worse"),
        "−9.0 %"
    );
    assert_eq!(
        page.text("#forest tr[data-arm='arm 5'] .by.better"),
        "+8.2 %"
    );
    assert!(
        page.text("#forest tr[data-arm='arm 2'] th")
            .contains("recommended")
    );
    assert!(
        page.text("#forest tr[data-arm='arm 1'] th")
            .contains("noise")
    );
    assert!(
        page.text("#forest tr[data-arm='arm 3'] th")
            .contains("7 errors")
    );
    // Marks stand in order of their ratios, the line at 1 between them.
    let places = page.value(
        "[...document.querySelectorAll('#forest tbody td:nth-child(2) circle')] \
         .map((c) => parseFloat(c.getAttribute('cx')))",
    );
    let places: Vec<f64> = serde_json::from_value(places).expect("numbers");
    assert!(
        places[1] < 50.0 && places[2] > places[3] && places[4] > 50.0,
        "{places:?}"
    );
    page.picture("comparison-running");

    let over = json!({ "ending": "guarded", "why": "p99 rose from 3 ms to 40 ms" });
    page.answer("/comparison?brief", Some(comparison(6, 72, &over, "arm")));
    page.until("it is over", |page| {
        is_true(
            page.text("#comparison-what")
                .contains("guard: p99 rose from 3 ms"),
        )
    });
    assert_eq!(
        page.value("document.getElementById('progress').hidden"),
        true
    );
    all_was_well(&page, &proxy);
}

#[test]
fn names_from_outside_stay_text_and_extremes_are_drawn() {
    let proxy = Pointsman::start(&["http://127.0.0.1:9"], &["--workers", "2"]);
    let mut live: Value = serde_json::from_slice(&proxy.admin("/live").body).expect("JSON");
    let mut page = Browser::start("extremes");
    page.looks(1280, 900, true);
    let complete = json!({ "ending": "failed", "why": HOSTILE });
    page.answer(
        "/comparison?brief",
        Some(comparison(9, 3, &complete, HOSTILE)),
    );

    extreme(&mut live);
    page.answer("/live", Some(live.clone()));
    page.open(&url(&proxy));
    page.until("all workers are shown", |page| {
        is_true(page.number_of("#workers tr[data-worker]") == 128)
    });
    page.until("the comparison is shown", |page| {
        is_true(page.number_of("#forest tbody tr") == 9)
    });
    assert_eq!(page.number_of("#skyline rect"), 128);
    for place in [
        "#mode",
        "#state",
        "#listeners tbody th",
        "#workers tbody th",
        "#forest tbody th span",
    ] {
        assert_eq!(page.text(place), HOSTILE, "{place}");
    }
    for place in [
        "#operation",
        "#failure",
        "#facts",
        "#recommendation",
        "#comparison-what",
        "#arms tbody th",
    ] {
        assert!(page.text(place).contains(HOSTILE), "{place}");
    }
    live["at"] = json!(1e9 + 1.0);
    live["latency"] = json!({ "sum_ns": 0, "buckets": [] });
    page.answer("/live", Some(live.clone()));
    page.until("a difference was taken", |page| {
        is_true(page.text("#rate") == "0")
    });
    page.picture("extremes");
    page.looks(360, 800, true);
    let overflow = "document.documentElement.scrollWidth - innerWidth";
    page.until("it fits a phone", |page| {
        is_true(page.value(overflow).as_f64()? <= 0.0)
    });
    page.picture("extremes-narrow");
    page.looks(780, 900, false);

    // And nothing at all.
    for list in ["workers", "draining", "arms"] {
        live[list] = json!([]);
    }
    live["requests"] = json!({});
    live["status"]["listeners"] = json!([]);
    page.answer("/live", Some(live));
    page.until("no worker is shown", |page| {
        is_true(page.number_of("#workers tr[data-worker], #draining tr, #arms tbody tr") == 0)
    });

    for foreign in ["img", "body script", "[onerror]"] {
        assert_eq!(page.number_of(foreign), 0, "{foreign}");
    }
    assert_eq!(page.value("typeof window.broken"), "undefined");
    all_was_well(&page, &proxy);
}
