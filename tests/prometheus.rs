//! What `dashboards/` promises, held against a running cluster, a real Prometheus that scrapes it, and
//! `promtool`. Of the Grafana dashboard the structure and every expression are checked; Grafana itself
//! is not run.

mod harness;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::harness::{Client, Demo, Pointsman, get, is_true, place::Place, until};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("dashboards")
}

fn file(name: &str) -> String {
    let path = folder().join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The dashboard.
fn dashboard() -> Value {
    serde_json::from_str(&file("pointsman.json")).expect("JSON")
}

/// Its panels but for the titles of rows.
fn panels(dashboard: &Value) -> Vec<&Value> {
    let panels = dashboard["panels"].as_array().expect("a list").iter();
    panels.filter(|panel| panel["type"] != "row").collect()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field]
        .as_str()
        .unwrap_or_else(|| panic!("no {field} in {value}"))
}

/// The metrics that are named in `text`. Between colons stand the names of recorded series, which are
/// Prometheus' own.
fn names(text: &str) -> BTreeSet<&str> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    text.split(|c| !word(c))
        .filter(|name| !name.contains(':'))
        .filter(|name| {
            ["pointsman_", "process_"]
                .iter()
                .any(|p| name.starts_with(p))
        })
        .collect()
}

/// A command of Debian's package.
fn program(name: &str) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file());
    let found = found.unwrap_or_else(|| {
        panic!("{name} is missing: apt-get install --no-install-recommends prometheus (`make test` does that)")
    });
    Command::new(found)
}

/// `promtool` with these arguments in `dashboards/`, and `input`; it must find nothing to say against it.
#[track_caller]
fn promtool(arguments: &[&str], input: &str) -> String {
    let mut child = program("promtool")
        .args(arguments)
        .current_dir(folder())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a program");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(input.as_bytes()).expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
    said.into_owned()
}

/// Two workers under load: one request on each connection, without end.
struct Busy {
    proxy: Pointsman,
    place: Place,
    slow: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
    client: Option<thread::JoinHandle<()>>,
    _demo: Demo,
}

impl Busy {
    fn start(name: &str) -> Self {
        let (place, demo) = (Place::new(name), Demo::start("one"));
        let proxy = place.start(&demo.url(), &["--workers", "2"]);
        let (slow, over) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicBool::new(false)),
        );
        let client = thread::spawn({
            let (slow, over, address) = (slow.clone(), over.clone(), proxy.address());
            move || {
                // One that stays, so that some are always open.
                let mut kept = Client::connect(address);
                while !over.load(Relaxed) {
                    get(address, "/");
                    let _ = kept.get("/");
                    if slow.load(Relaxed) {
                        // The load is to be less; how much less is measured.
                        thread::park_timeout(Duration::from_millis(400));
                    }
                }
            }
        });
        Self {
            proxy,
            place,
            slow,
            over,
            client: Some(client),
            _demo: demo,
        }
    }

    fn page(&self) -> String {
        self.proxy.admin("/metrics").text()
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
        if let Some(client) = self.client.take() {
            client.thread().unpark();
            let _ = client.join();
        }
    }
}

/// A Prometheus of the test's own, with the configuration of `dashboards/`.
struct Prometheus {
    process: Child,
    address: SocketAddr,
}

impl Prometheus {
    /// One that scrapes `instance` each second and keeps its data at `place`.
    fn start(place: &Place, instance: SocketAddr) -> Self {
        let config = file("prometheus.yml");
        for part in ["127.0.0.1:9900", "interval: 5s"] {
            assert!(config.contains(part), "no {part} in prometheus.yml");
        }
        let config = config
            .replace("127.0.0.1:9900", &instance.to_string())
            .replace("interval: 5s", "interval: 1s");
        fs::write(place.path("prometheus.yml"), config).expect("written");
        fs::write(place.path("alerts.yml"), file("alerts.yml")).expect("written");
        // Nobody keeps a port free: whoever takes it in that moment is made way for.
        for _ in 0..5 {
            if let Some(started) = Self::try_start(place) {
                return started;
            }
        }
        let log = fs::read_to_string(place.path("prometheus.log")).unwrap_or_default();
        panic!("Prometheus does not start:\n{log}");
    }

    fn try_start(place: &Place) -> Option<Self> {
        let address = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a free port");
        let log = fs::File::create(place.path("prometheus.log")).expect("a file");
        let process = program("prometheus")
            .arg(format!("--config.file={}", place.path("prometheus.yml")))
            .arg(format!("--storage.tsdb.path={}", place.path("data")))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("a program");
        let mut started = Self { process, address };
        let ready = until("Prometheus is ready", || {
            if started.process.try_wait().expect("our child").is_some() {
                return Some(false);
            }
            Client::try_connect(address).ok()?;
            (get(address, "/-/ready").status == 200).then_some(true)
        });
        ready.then_some(started)
    }

    /// What it says to `expression` now: labels and value of each series.
    #[track_caller]
    fn query(&self, expression: &str) -> Vec<(BTreeMap<String, String>, f64)> {
        let path = format!("/api/v1/query?query={}", encoded(expression));
        let answer = get(self.address, &path);
        let answer: Value = serde_json::from_slice(&answer.body).expect("JSON");
        assert_eq!(answer["status"], "success", "{expression}: {answer}");
        assert!(answer["warnings"].is_null(), "{expression}: {answer}");
        let result = &answer["data"]["result"];
        assert_eq!(answer["data"]["resultType"], "vector", "{expression}");
        let series = result.as_array().expect("a list").iter();
        series
            .map(|series| {
                let labels = serde_json::from_value(series["metric"].clone()).expect("labels");
                let value = series["value"][1].as_str().expect("a number as text");
                (labels, value.parse().expect("a number"))
            })
            .collect()
    }

    /// Waits until there is a number to `expression`.
    #[track_caller]
    fn has_data(&self, expression: &str) {
        until(&format!("there is data for {expression}"), || {
            let series = self.query(expression);
            is_true(series.iter().any(|(_, value)| value.is_finite()))
        });
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// `text` as the value of a query.
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let bytes = text.bytes().map(|byte| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    });
    bytes.collect()
}

/// The queries that README tells people to ask.
fn queries_of_the_readme() -> Vec<String> {
    let readme = file("README.md");
    let blocks = readme.split("```promql\n").skip(1);
    let queries = blocks.filter_map(|block| Some(block.split_once("```")?.0.trim().to_owned()));
    queries.collect()
}

#[test]
fn every_metric_that_is_named_exists() {
    let busy = Busy::start("named");
    let files: Vec<PathBuf> = fs::read_dir(folder())
        .expect("a folder")
        .map(|entry| entry.expect("readable").path())
        .collect();
    let texts = files
        .iter()
        .map(|path| fs::read_to_string(path).expect("text"));
    let texts: Vec<String> = texts.collect();
    let named: BTreeSet<&str> = texts.iter().flat_map(|text| names(text)).collect();
    assert!(named.len() > 40, "{named:?}");
    // Some are there once something has happened.
    until("a mode was in force and served", || {
        let more = |name| busy.proxy.metric(name, &[]) > 0.0;
        is_true(more("pointsman_mode_active_seconds_total") && more("pointsman_requests_total"))
    });
    let page = busy.page();
    let there: BTreeSet<&str> = page
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    let missing: Vec<_> = named.difference(&there).collect();
    assert!(missing.is_empty(), "named, and not there: {missing:?}");
}

#[test]
fn no_metric_is_left_out_of_the_dashboard() {
    let busy = Busy::start("left-out");
    let dashboard = file("pointsman.json");
    let shown = names(&dashboard);
    let page = busy.page();
    let families = page.lines().filter_map(|line| {
        let name = line.strip_prefix("# TYPE ")?.split(' ').next()?;
        name.starts_with("pointsman_").then_some(name)
    });
    let families: Vec<&str> = families.collect();
    assert!(families.len() > 30, "{families:?}");
    for family in families {
        let bucket = format!("{family}_bucket");
        assert!(
            shown.contains(family) || shown.contains(bucket.as_str()),
            "no panel shows {family}"
        );
    }
}

#[test]
fn the_dashboard_is_whole() {
    let dashboard = dashboard();
    let all = dashboard["panels"].as_array().expect("a list");
    assert!(dashboard["schemaVersion"].as_u64().expect("a number") >= 38);
    let (mut ids, mut titles, mut taken) = (BTreeSet::new(), BTreeSet::new(), BTreeMap::new());
    for panel in all {
        let title = text(panel, "title");
        assert!(titles.insert(title), "two panels are called {title}");
        assert!(
            ids.insert(panel["id"].as_u64().expect("a number")),
            "{title}"
        );
        let at = |field: &str| panel["gridPos"][field].as_u64().expect("a number");
        let (x, y, w, h) = (at("x"), at("y"), at("w"), at("h"));
        assert!(w > 0 && h > 0 && x + w <= 24, "{title} lies outside");
        for place in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            let other = taken.insert(place, title);
            assert_eq!(other, None, "{title} lies over another panel");
        }
    }
    let variables = dashboard["templating"]["list"].as_array().expect("a list");
    let variable = |name: &str| variables.iter().find(|v| v["name"] == name);
    assert_eq!(variable("datasource").expect("one")["type"], "datasource");
    for name in ["job", "instance"] {
        let query = text(variable(name).expect(name), "definition");
        assert!(query.contains("pointsman_build_info"), "{name}: {query}");
    }
    for panel in panels(&dashboard) {
        let title = text(panel, "title");
        assert!(
            !text(panel, "description").is_empty(),
            "{title} says nothing"
        );
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        let targets = panel["targets"].as_array().expect("a list");
        assert!(!targets.is_empty(), "{title} shows nothing");
        let references: BTreeSet<_> = targets.iter().map(|t| text(t, "refId")).collect();
        assert_eq!(references.len(), targets.len(), "{title}");
        for target in targets {
            let expression = text(target, "expr");
            assert!(
                expression.contains("instance=~\"$instance\"")
                    && expression.contains("job=\"$job\""),
                "{title}: {expression}"
            );
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
        }
    }
}

#[test]
fn the_readme_explains_every_panel_and_every_alert() {
    let (readme, dashboard) = (file("README.md"), dashboard());
    for panel in panels(&dashboard) {
        let line = format!(
            "| {} | {} |",
            text(panel, "title"),
            text(panel, "description")
        );
        assert!(readme.contains(&line), "not in README: {line}");
    }
    let (rules, tests) = (file("alerts.yml"), file("alerts.test.yml"));
    let alerts = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "));
    let alerts: Vec<&str> = alerts.collect();
    assert!(alerts.len() > 10, "{alerts:?}");
    for alert in alerts {
        assert!(readme.contains(&format!("| `{alert}` |")), "{alert}");
        // Each is tested both ways.
        let cases = tests.split("- eval_time:").filter(|case| {
            let mut lines = case.lines().map(str::trim);
            lines.any(|line| line.strip_prefix("alertname: ") == Some(alert))
        });
        let (quiet, loud): (Vec<&str>, Vec<&str>) =
            cases.partition(|case| case.contains("exp_alerts: []"));
        assert!(
            !quiet.is_empty() && !loud.is_empty(),
            "{alert} is not tested both ways"
        );
    }
    let rule = |what: &str| rules.matches(what).count();
    for each in ["severity: ", "summary: ", "action: "] {
        assert_eq!(rule("- alert: "), rule(each), "{each}");
    }
    assert!(queries_of_the_readme().len() >= 3);
}

#[test]
fn promtool_has_nothing_to_say_against_any_of_it() {
    let busy = Busy::start("promtool");
    let said = promtool(&["check", "metrics"], &busy.page());
    assert_eq!(said.trim(), "");
    promtool(&["check", "config", "prometheus.yml"], "");
    promtool(&["check", "rules", "alerts.yml"], "");
    let said = promtool(&["test", "rules", "alerts.test.yml"], "");
    assert!(said.contains("SUCCESS"), "{said}");
}

#[test]
fn prometheus_scrapes_a_cluster_and_answers_what_every_panel_asks() {
    let busy = Busy::start("scraped");
    let admin = busy.proxy.admin;
    let prometheus = Prometheus::start(&busy.place, admin);
    let instance = admin.to_string();
    until("it is up", || {
        let up = prometheus.query("up{job=\"pointsman\"}");
        is_true(
            up.iter()
                .any(|(labels, value)| labels["instance"] == instance && *value == 1.0),
        )
    });
    let dashboard = dashboard();
    for panel in panels(&dashboard) {
        for target in panel["targets"].as_array().expect("a list") {
            let expression = text(target, "expr")
                .replace("$__rate_interval", "10s")
                .replace("$__range", "1m")
                .replace("$job", "pointsman")
                .replace("$instance", &instance);
            assert!(!expression.contains('$'), "{expression}");
            prometheus.has_data(&expression);
        }
    }
    for query in queries_of_the_readme() {
        prometheus.has_data(&query);
    }
    let rules = file("alerts.yml");
    for name in rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- record: "))
    {
        prometheus.has_data(name);
    }
    let rules: Value =
        serde_json::from_slice(&get(prometheus.address, "/api/v1/rules").body).expect("JSON");
    let groups = rules["data"]["groups"].as_array().expect("a list").iter();
    let rules = groups.flat_map(|group| group["rules"].as_array().expect("a list"));
    let rules: Vec<&Value> = rules.collect();
    assert!(rules.len() > 15, "{rules:?}");
    for rule in rules {
        assert!(rule["lastError"].is_null(), "{rule}");
        assert_ne!(rule["state"], "firing", "nothing is wrong: {rule}");
    }
}

#[test]
fn modes_are_compared_by_one_query_after_a_switch() {
    let busy = Busy::start("compared");
    let prometheus = Prometheus::start(&busy.place, busy.proxy.admin);
    let query = &queries_of_the_readme()[0];
    let rate = |mode: &str| {
        let series = prometheus.query(query);
        let found = series
            .into_iter()
            .find(|(labels, _)| labels["mode"] == mode);
        found.map(|(_, value)| value)
    };
    let counted = |mode: &str| {
        let label = format!("mode=\"{mode}\"");
        let requests = busy.proxy.metric("pointsman_requests_total", &[&label]);
        let active = busy
            .proxy
            .metric("pointsman_mode_active_seconds_total", &[&label]);
        (active, requests / active)
    };
    until("the first mode has something to show for itself", || {
        let (active, counted) = counted("handoff");
        is_true(rate("handoff").is_some_and(|rate| rate > 0.0) && counted > 5.0 && active > 5.0)
    });
    // The second gets less to do, and is in force for longer.
    busy.place.works(&["mode", "shared"]);
    busy.slow.store(true, Relaxed);
    until("the second served far less in each of its seconds", || {
        let (active, shared) = counted("shared");
        is_true(active > 5.0 && shared * 4.0 < counted("handoff").1)
    });
    until("one query tells them apart, by what was counted", || {
        let (handoff, shared) = rate("handoff").zip(rate("shared"))?;
        // Samples lie on seconds, counters do not: near enough is enough.
        let near = |rate: f64, counted: f64| rate > counted / 3.0 && rate < counted * 3.0;
        let fits = near(handoff, counted("handoff").1) && near(shared, counted("shared").1);
        is_true(handoff > 2.0 * shared && fits)
    });
}
