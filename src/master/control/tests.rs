//! The real server and the real client, with a supervisor that is a script.

use std::{cell::RefCell, collections::VecDeque, future::Future, path::Path};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::{
    Mode, Policy,
    control::{
        ComparePlan, ListenerReport, ReloadReport, client,
        path::{Bound, tests::Scratch},
    },
};

/// Longer than anything takes that is not broken.
const DEADLINE: Duration = Duration::from_secs(30);

/// Places that are free while nobody is connected: one is held ready for the next.
const IDLE: usize = MAX_CONNECTIONS - 1;

/// Runs a test as the control runtime runs the server.
#[track_caller]
fn run<F: Future<Output = ()>>(test: F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .expect("a runtime");
    runtime
        .block_on(async { timeout(DEADLINE, test).await })
        .expect("in time");
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A master that says what it is told to say.
struct Fake(RefCell<StatusReport>);

impl Reports for Fake {
    fn status(&self) -> StatusReport {
        self.0.borrow().clone()
    }

    fn workers(&self) -> WorkersReport {
        WorkersReport {
            mode: "handoff".into(),
            policy: "round-robin".into(),
            listeners: vec!["127.0.0.1:1".into()],
            workers: Vec::new(),
            draining: Vec::new(),
        }
    }

    fn live(&self) -> LiveReport {
        unreachable!("nobody asks")
    }

    fn comparison(&self) -> Option<compare::Report> {
        None
    }
}

/// A dispatcher that has ended.
fn forgetful() -> Explain {
    Box::new(|_| Box::pin(async { None }))
}

/// A master without a bus.
fn nobody() -> Guests {
    Guests::new(Box::new(|_| Err(std::io::ErrorKind::Unsupported.into())))
}

fn fake() -> Rc<Fake> {
    Rc::new(Fake(RefCell::new(StatusReport {
        version: "1.0.0".into(),
        pid: 1,
        state: "running".into(),
        mode: "handoff".into(),
        policy: "round-robin".into(),
        uptime_seconds: 1.5,
        upgrades: 0,
        workers: 2,
        workers_ready: 2,
        workers_hung: 0,
        workers_draining: 0,
        crash_loops: 0,
        listeners: vec![ListenerReport {
            address: "127.0.0.1:1".into(),
            connections_open: 1,
        }],
        admin: None,
        operation: None,
        last_failure: None,
        reload: ReloadReport::default(),
        connections_open: 1,
        connections_lost: 0,
        connections_redispatched: 0,
        bus: None,
    })))
}

/// A server with its socket, and the supervisor's end.
struct Stand {
    bound: Bound,
    server: Server,
    asked: mpsc::UnboundedReceiver<Asked>,
    fake: Rc<Fake>,
    _scratch: Scratch,
}

impl Stand {
    fn new(name: &str) -> Self {
        let scratch = Scratch::new(name);
        let bound = Bound::bind(&scratch.file("s")).expect("free");
        let fake = fake();
        let (ask, asked) = mpsc::unbounded_channel();
        let listener = bound.listener().expect("a listener");
        let server = serve(listener, fake.clone(), forgetful(), ask, nobody());
        Self {
            bound,
            server,
            asked,
            fake,
            _scratch: scratch,
        }
    }

    fn path(&self) -> &Path {
        self.bound.path()
    }

    /// The next verb, as the supervisor gets it.
    async fn next(&mut self) -> Asked {
        self.asked.recv().await.expect("the server lives")
    }
}

fn progress(text: &str) -> Line {
    Line::Progress { text: text.into() }
}

fn done(text: &str) -> Line {
    Line::Done { text: text.into() }
}

fn refused(text: &str, busy: bool) -> Line {
    let error = text.into();
    Line::Failed { error, busy }
}

/// Sends bytes and reads until the server closes: the status code, the head and the body, as they came.
async fn raw(path: &Path, request: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(path).await.expect("a server");
    // One that refuses need not read it all.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    // What had come before a reset stays.
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).expect("text");
    let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    (code.expect("an HTTP answer"), answer)
}

fn post(target: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {target} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{body}")
}

/// Where the answer to a question that came by the socket goes.
fn answer_to(asked: &Asked) -> &mpsc::UnboundedSender<Line> {
    asked.answer.as_ref().expect("somebody can be told")
}

#[test]
fn only_the_masters_user_and_root_may_command() {
    assert!(is_allowed(0, 0) && is_allowed(0, 1000) && is_allowed(1000, 1000));
    assert!(!is_allowed(1000, 0) && !is_allowed(1001, 1000) && !is_allowed(65_534, 1000));
}

#[test]
fn reports_arrive_as_they_were_given() {
    run(async {
        let stand = Stand::new("reports");
        let status = client::status(stand.path()).await.expect("a report");
        assert_eq!(status, stand.fake.status());
        let workers = client::workers(stand.path()).await.expect("a report");
        assert_eq!(workers, stand.fake.workers());
    });
}

#[test]
fn every_verb_reaches_the_supervisor_and_its_lines_come_back() {
    run(async {
        let mut stand = Stand::new("verbs");
        let verbs = [
            Verb::Mode {
                mode: Mode::Hybrid,
                policy: Some(Policy::RoundRobin),
            },
            Verb::Mode {
                mode: Mode::Shared,
                policy: None,
            },
            Verb::Workers { count: 3 },
            Verb::Drain { worker: 1 },
            Verb::Restart,
            Verb::Reload,
            Verb::Upgrade {
                path: Some("/new".into()),
            },
            Verb::Pause,
            Verb::Resume,
            Verb::Compare(ComparePlan {
                arms: vec!["shared".into()],
                max_p99: 1.5,
                ..ComparePlan::default()
            }),
            Verb::CompareStop,
        ];
        for verb in verbs {
            assert!(VERBS.contains(&verb.name()));
            let path = stand.path().to_owned();
            let mut lines = Vec::new();
            let ask = client::ask(&path, &verb, |line| lines.push(line.clone()));
            let supervise = async {
                let asked = stand.next().await;
                let uid = nix::unistd::geteuid();
                let pid = std::process::id();
                assert_eq!(asked.by, format!("uid {uid}, process {pid}"));
                for line in [progress("one"), progress("two"), done("three")] {
                    answer_to(&asked).send(line).expect("somebody reads");
                }
                asked.verb
            };
            let (answer, seen) = tokio::join!(ask, supervise);
            assert_eq!(seen, verb);
            assert_eq!(answer.expect("done"), "three");
            assert_eq!(lines, [progress("one"), progress("two"), done("three")]);
        }
        // Without a body where there are no fields, and without a name in the body where there are.
        for (target, body, verb) in [
            ("/restart", "", Verb::Restart),
            ("/pause?wait=yes", "{}", Verb::Pause),
            ("/upgrade", " \n", Verb::Upgrade { path: None }),
            ("/drain", r#"{"worker":4}"#, Verb::Drain { worker: 4 }),
            ("/compare", "", Verb::Compare(ComparePlan::default())),
            ("/compare-stop", "{}", Verb::CompareStop),
        ] {
            let path = stand.path().to_owned();
            let request = post(target, body);
            let supervise = async {
                let asked = stand.next().await;
                answer_to(&asked)
                    .send(done("done"))
                    .expect("somebody reads");
                asked.verb
            };
            let ((code, answer), seen) = tokio::join!(raw(&path, &request), supervise);
            assert_eq!((code, seen), (200, verb));
            assert!(answer.contains("application/x-ndjson"), "{answer}");
            assert!(
                answer.contains("{\"event\":\"done\",\"text\":\"done\"}\n"),
                "{answer}"
            );
        }
    });
}

#[test]
fn each_line_is_written_as_it_comes() {
    run(async {
        let mut stand = Stand::new("flush");
        let path = stand.path().to_owned();
        let (tell, mut told) = mpsc::unbounded_channel();
        let ask = client::ask(&path, &Verb::Restart, |line| {
            tell.send(line.clone()).expect("we read");
        });
        let supervise = async {
            let asked = stand.next().await;
            for line in [progress("one"), progress("two"), done("three")] {
                answer_to(&asked)
                    .send(line.clone())
                    .expect("somebody reads");
                // The next is only sent once this one has arrived.
                assert_eq!(told.recv().await, Some(line));
            }
        };
        let (answer, ()) = tokio::join!(ask, supervise);
        assert_eq!(answer.expect("done"), "three");
    });
}

#[test]
fn the_first_line_makes_the_status_code() {
    run(async {
        let mut stand = Stand::new("code");
        for (lines, expected) in [
            (vec![done("yes")], 200),
            (vec![progress("one"), refused("too late", false)], 200),
            (vec![refused("no", false)], 422),
            (vec![refused("later", true)], 409),
            // The supervisor forgot about it.
            (vec![], 422),
        ] {
            let path = stand.path().to_owned();
            let request = post("/reload", "");
            let supervise = async {
                let asked = stand.next().await;
                for line in &lines {
                    answer_to(&asked)
                        .send(line.clone())
                        .expect("somebody reads");
                }
            };
            let ((code, answer), ()) = tokio::join!(raw(&path, &request), supervise);
            assert_eq!(code, expected, "{answer}");
            let last = answer.matches("failed").count() + answer.matches("done").count();
            assert_eq!(last, 1, "{answer}");
        }
        let path = stand.path().to_owned();
        let ask = client::ask(&path, &Verb::Reload, |_| ());
        let supervise = async {
            let asked = stand.next().await;
            let line = refused("a restart is in progress", true);
            answer_to(&asked).send(line).expect("somebody reads");
        };
        let (answer, ()) = tokio::join!(ask, supervise);
        let error = answer.expect_err("busy");
        assert_eq!(error.to_string(), "a restart is in progress");
        assert_eq!(error.exit_code(), 1);
    });
}

#[test]
fn what_makes_no_sense_is_refused_and_reaches_nobody() {
    run(async {
        let mut stand = Stand::new("nonsense");
        let get = |target: &str| format!("GET {target} HTTP/1.1\r\nhost: x\r\n\r\n");
        let chunks = format!("10001\r\n{}\r\n0\r\n\r\n", "x".repeat(0x10001));
        for (request, code, text) in [
            (get("/"), 404, "there is no /"),
            (get("/metrics"), 404, "/metrics"),
            (post("/fly", ""), 404, "/fly"),
            (post("/status", ""), 405, "allow: GET\r\n"),
            (post("/decisions", ""), 405, "allow: GET\r\n"),
            (get("/decisions?first=1"), 400, "?last=N"),
            (get("/decisions?last=all"), 400, "?last=N"),
            (get("/decisions"), 503, "ask again"),
            (get("/restart"), 405, "allow: POST\r\n"),
            (
                get("/workers").replace("GET", "PUT"),
                405,
                "allow: GET, POST\r\n",
            ),
            (post("/mode", "{"), 400, "mode:"),
            (post("/mode", "[1]"), 400, "mode:"),
            (post("/mode", ""), 400, "missing field `mode`"),
            (post("/mode", r#"{"mode":"fast"}"#), 400, "fast"),
            (
                post("/mode", r#"{"mode":"shared","now":1}"#),
                400,
                "unknown field `now`",
            ),
            (post("/restart", r#"{"now":1}"#), 400, "unknown field `now`"),
            (
                post("/restart", r#"{"verb":"stop"}"#),
                400,
                "another verb than the path",
            ),
            (post("/workers", r#"{"count":-1}"#), 400, "workers:"),
            (post("/stop?wait=maybe", ""), 400, "?wait=no"),
            (post("/mode", &"x".repeat(MAX_BODY + 1)), 413, "65536"),
            (
                format!(
                    "POST /mode HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n{chunks}"
                ),
                413,
                "65536",
            ),
        ] {
            let (got, answer) = raw(stand.path(), &request).await;
            let shown: String = request.chars().take(80).collect();
            assert_eq!(got, code, "{shown}: {answer}");
            assert!(answer.contains(text), "{shown}: {answer}");
            assert!(
                answer.contains(r#"{"event":"failed","#),
                "{shown}: {answer}"
            );
        }
        assert!(stand.asked.try_recv().is_err());
    });
}

#[test]
fn whoever_does_not_wait_is_answered_before_it_is_done() {
    run(async {
        let mut stand = Stand::new("detach");
        let begun = client::begin(stand.path(), &Verb::Restart).await;
        assert_eq!(begun.expect("begun"), "begun");
        let (code, _) = raw(stand.path(), &post("/pause?wait=no", "")).await;
        assert_eq!(code, 202);
        assert_eq!(stand.next().await.verb, Verb::Restart);
        let asked = stand.next().await;
        assert_eq!(asked.verb, Verb::Pause);
        // Nobody listens, and that hurts nobody.
        assert!(answer_to(&asked).is_closed());
        // What would end with whoever asked goes on without him.
        let compare = Verb::Compare(ComparePlan::default());
        assert!(client::begin(stand.path(), &compare).await.is_ok());
        let unattended = ComparePlan {
            unattended: true,
            ..ComparePlan::default()
        };
        assert_eq!(stand.next().await.verb, Verb::Compare(unattended));
        let error = client::begin(stand.path(), &Verb::Workers { count: 1 }).await;
        assert!(error.is_ok());
    });
}

#[test]
fn a_client_that_goes_away_leaves_nothing_behind() {
    run(async {
        let mut stand = Stand::new("gone");
        // One goes before the first line, one after it.
        for first in [None, Some(progress("one"))] {
            let mut client = UnixStream::connect(stand.path()).await.expect("a server");
            let request = post("/restart", "");
            client.write_all(request.as_bytes()).await.expect("read");
            let asked = stand.next().await;
            if let Some(line) = first {
                answer_to(&asked).send(line).expect("somebody reads");
                client.readable().await.expect("a line");
            }
            assert_eq!(stand.server.places.available_permits(), IDLE - 1);
            drop(client);
            answer_to(&asked).closed().await;
            until(|| stand.server.places.available_permits() == IDLE).await;
        }
        assert!(client::status(stand.path()).await.is_ok());
    });
}

#[test]
fn more_connections_than_are_answered_at_once_wait_their_turn() {
    run(async {
        let stand = Stand::new("many");
        let mut idle = VecDeque::new();
        for _ in 0..MAX_CONNECTIONS {
            idle.push_back(UnixStream::connect(stand.path()).await.expect("a server"));
        }
        until(|| stand.server.places.available_permits() == 0).await;
        let mut waits = Box::pin(client::status(stand.path()));
        let early = timeout(Duration::from_millis(20), &mut waits).await;
        assert!(early.is_err());
        idle.pop_front();
        assert!(waits.await.is_ok());
    });
}

#[test]
fn a_supervisor_that_is_gone_is_said_to_be() {
    run(async {
        let mut stand = Stand::new("closed");
        stand.asked.close();
        let (code, answer) = raw(stand.path(), &post("/pause", "")).await;
        assert_eq!(code, 503, "{answer}");
        let answer = client::ask(stand.path(), &Verb::Pause, |_| ()).await;
        assert!(
            answer
                .expect_err("closed")
                .to_string()
                .contains("about to end")
        );
    });
}

#[test]
fn finishing_lets_the_last_line_through() {
    run(async {
        let Stand {
            bound,
            server,
            mut asked,
            _scratch,
            ..
        } = Stand::new("finish");
        let path = bound.path();
        let request = post("/pause", "");
        let supervise = async {
            let asked = asked.recv().await.expect("the server lives");
            let last = done("last words");
            answer_to(&asked).send(last).expect("somebody reads");
            drop(asked);
            server.finish(DEADLINE).await;
        };
        let ((code, answer), ()) = tokio::join!(raw(path, &request), supervise);
        assert_eq!(code, 200);
        assert!(answer.contains("last words"), "{answer}");
        // Nobody is answered any more, though the socket still listens, and can be served anew.
        let mut late = Box::pin(client::status(path));
        let early = timeout(Duration::from_millis(20), &mut late).await;
        assert!(early.is_err());
        let (ask, _) = mpsc::unbounded_channel();
        let listener = bound.listener().expect("a listener");
        let _server = serve(listener, fake(), forgetful(), ask, nobody());
        assert!(late.await.is_ok());
    });
}

#[test]
fn stop_is_over_when_nobody_answers_any_more() {
    run(async {
        let mut stand = Stand::new("stop");
        let path = stand.path().to_owned();
        let ask = client::ask(&path, &Verb::Stop, |_| ());
        let end = async {
            let asked = stand.next().await;
            answer_to(&asked)
                .send(progress("2 connections left"))
                .expect("somebody reads");
            answer_to(&asked)
                .send(done("stopped"))
                .expect("somebody reads");
            drop(asked);
            stand.server.finish(DEADLINE).await;
            drop(stand.bound);
        };
        let (answer, ()) = tokio::join!(ask, end);
        assert_eq!(answer.expect("stopped"), "stopped");
    });
}

#[test]
fn an_upgrade_is_followed_into_the_new_binary() {
    run(async {
        let mut stand = Stand::new("upgrade");
        let path = stand.path().to_owned();
        let mut lines = Vec::new();
        let verb = Verb::Upgrade { path: None };
        let ask = client::ask(&path, &verb, |line| lines.push(line.clone()));
        let become_another = async {
            let asked = stand.next().await;
            for text in ["trying the new binary", EXEC_LINE] {
                answer_to(&asked)
                    .send(progress(text))
                    .expect("somebody reads");
            }
            drop(asked);
            stand.server.finish(DEADLINE).await;
            // The name and the backlog survive; nobody answers for a while.
            let (listener, lock, path) = stand.bound.into_parts();
            let new = fake();
            let upgraded = |operation: Option<&str>| StatusReport {
                version: "2.0.0".into(),
                upgrades: 1,
                operation: operation.map(String::from),
                ..new.status()
            };
            let busy = upgraded(Some("replacing workers"));
            let over = upgraded(None);
            let bound = Bound::from_parts(listener, lock, path);
            let asked = Rc::new(RefCell::new(VecDeque::from([
                fake().status(),
                busy.clone(),
                busy,
                over,
            ])));
            let (ask, _) = mpsc::unbounded_channel();
            let server = serve(
                bound.listener().expect("a listener"),
                Rc::new(Script(asked.clone())),
                forgetful(),
                ask,
                nobody(),
            );
            until(|| asked.borrow().is_empty()).await;
            (server, bound)
        };
        let (answer, _kept) = tokio::join!(ask, become_another);
        let text = "upgraded from 1.0.0 to 2.0.0, 2 of 2 workers ready";
        assert_eq!(answer.expect("upgraded"), text);
        assert_eq!(
            lines,
            [
                progress("trying the new binary"),
                progress(EXEC_LINE),
                progress("replacing workers"),
                done(text)
            ]
        );
    });
}

/// One report after the other.
struct Script(Rc<RefCell<VecDeque<StatusReport>>>);

impl Reports for Script {
    fn status(&self) -> StatusReport {
        self.0.borrow_mut().pop_front().expect("asked once more")
    }

    fn workers(&self) -> WorkersReport {
        unreachable!("nobody asks")
    }

    fn live(&self) -> LiveReport {
        unreachable!("nobody asks")
    }

    fn comparison(&self) -> Option<compare::Report> {
        None
    }
}

/// A master that hangs up after these lines, as one does that is killed or becomes another.
async fn hang_up_after(listener: &UnixListener, lines: &[Line]) {
    let (mut stream, _) = listener.accept().await.expect("a client");
    let mut request = [0; 4096];
    let _ = stream.read(&mut request).await.expect("a request");
    let mut answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_owned();
    for line in lines {
        let line = serde_json::to_string(line).expect("plain data");
        answer += &format!("{:x}\r\n{line}\n\r\n", line.len() + 1);
    }
    stream.write_all(answer.as_bytes()).await.expect("a client");
}

#[test]
fn a_master_that_hangs_up_is_no_success() {
    run(async {
        let scratch = Scratch::new("hang-up");
        let bound = Bound::bind(&scratch.file("s")).expect("free");
        let listener = bound.listener().expect("a listener");
        for lines in [&[][..], &[progress("one")], &[progress(EXEC_LINE)]] {
            let ask = client::ask(bound.path(), &Verb::Restart, |_| ());
            let (answer, ()) = tokio::join!(ask, hang_up_after(&listener, lines));
            let error = answer.expect_err("not done").to_string();
            assert!(error.contains("went away"), "{error}");
        }
    });
}

#[test]
fn an_upgrade_that_breaks_off_before_the_exec_has_failed() {
    run(async {
        let scratch = Scratch::new("break");
        let bound = Bound::bind(&scratch.file("s")).expect("free");
        let listener = bound.listener().expect("a listener");
        let status = serde_json::to_string(&fake().status()).expect("plain data");
        let verb = Verb::Upgrade { path: None };
        for (lines, works) in [
            (vec![progress("trying the new binary")], false),
            (vec![progress(EXEC_LINE)], true),
        ] {
            let ask = client::ask(bound.path(), &verb, |_| ());
            let master = async {
                report_once(&listener, &status).await;
                hang_up_after(&listener, &lines).await;
                if works {
                    let status = status.replace("\"upgrades\":0", "\"upgrades\":1");
                    report_once(&listener, &status).await;
                }
            };
            let (answer, ()) = tokio::join!(ask, master);
            assert_eq!(answer.is_ok(), works, "{answer:?}");
        }
    });
}

async fn report_once(listener: &UnixListener, report: &str) {
    let (mut stream, _) = listener.accept().await.expect("a client");
    let mut request = [0; 4096];
    let _ = stream.read(&mut request).await.expect("a request");
    let length = report.len();
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{report}");
    stream.write_all(answer.as_bytes()).await.expect("a client");
}
