//! Routes, methods and header fields, without a socket.

use std::path::PathBuf;

use hyper::header::{
    ACCEPT, ACCESS_CONTROL_ALLOW_ORIGIN, CONTENT_SECURITY_POLICY, ETAG, IF_NONE_MATCH,
};

use super::*;
use crate::{
    control::ReloadReport,
    dispatch::mode::{Arm, Mode},
    scoreboard::Scoreboard,
};

fn cluster() -> Status {
    let arm = Arm::new(Mode::Shared, None).expect("it takes none");
    Status::new(Scoreboard::create().expect("memory"), 2, arm)
}

fn ask(status: &Status, request: Request<()>) -> Answer {
    answer(&request, status, &Registry::new())
}

fn get(status: &Status, path: &str, accept: &str) -> Answer {
    let request = Request::get(path).header(ACCEPT, accept).body(());
    ask(status, request.expect("a request"))
}

fn body(answer: Answer) -> String {
    let mut frame = std::pin::pin!(answer.into_body());
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    let mut text = Vec::new();
    while let std::task::Poll::Ready(Some(Ok(piece))) =
        hyper::body::Body::poll_frame(frame.as_mut(), &mut cx)
    {
        text.extend_from_slice(&piece.into_data().unwrap_or_default());
    }
    String::from_utf8(text).expect("UTF-8")
}

fn field<'a>(answer: &'a Answer, name: &str) -> &'a str {
    let value = answer.headers().get(name);
    value.map_or("", |value| value.to_str().expect("ASCII"))
}

/// What browsers send.
const BROWSER: &str = "text/html,application/xhtml+xml,*/*;q=0.8";

const ALL: [&str; 16] = [
    "/",
    "/page",
    "/page.css",
    "/page.js",
    "/page/numbers.js",
    "/page/chart.js",
    "/page/tables.js",
    "/page/comparison.js",
    "/metrics",
    "/healthz",
    "/readyz",
    "/workers",
    "/status",
    "/live",
    "/comparison",
    "/comparison?brief",
];

#[test]
fn each_path_has_its_type_and_the_fields_that_bind_a_browser() {
    let status = cluster();
    for path in ALL {
        for accept in [BROWSER, "*/*"] {
            let answer = get(&status, path, accept);
            let (code, kind) = match path {
                "/" if accept == BROWSER => (200, "text/html; charset=utf-8"),
                "/page" => (200, "text/html; charset=utf-8"),
                "/page.css" => (200, "text/css; charset=utf-8"),
                _ if path.ends_with(".js") => (200, "text/javascript; charset=utf-8"),
                "/metrics" => (200, "text/plain; version=0.0.4; charset=utf-8"),
                "/workers" | "/status" | "/live" | "/comparison?brief" => (200, "application/json"),
                // No worker is ready.
                "/readyz" => (503, "text/plain; charset=utf-8"),
                // Nothing has been compared.
                "/comparison" => (404, "text/plain; charset=utf-8"),
                _ => (200, "text/plain; charset=utf-8"),
            };
            assert_eq!(answer.status(), code, "{path}");
            assert_eq!(field(&answer, "content-type"), kind, "{path}");
            assert_eq!(
                field(&answer, "x-content-type-options"),
                "nosniff",
                "{path}"
            );
            assert_eq!(field(&answer, "referrer-policy"), "no-referrer", "{path}");
            assert!(!answer.headers().contains_key(ACCESS_CONTROL_ALLOW_ORIGIN));
            let is_file = path.starts_with("/page") || kind.starts_with("text/html");
            let caching = if is_file { "no-cache" } else { "no-store" };
            assert_eq!(field(&answer, "cache-control"), caching, "{path}");
            assert_eq!(answer.headers().contains_key(ETAG), is_file, "{path}");
            let policy = field(&answer, CONTENT_SECURITY_POLICY.as_str());
            assert_eq!(
                policy.starts_with("default-src 'none'; "),
                is_file,
                "{path}"
            );
            assert!(!policy.contains("unsafe"), "{path}");
        }
    }
    assert_eq!(field(&get(&status, "/", BROWSER), "vary"), "accept");
    assert_eq!(field(&get(&status, "/", "*/*"), "vary"), "accept");
}

#[test]
fn the_list_names_every_path_and_each_of_them_is_there() {
    let status = cluster();
    let list = body(get(&status, "/", "*/*"));
    let named: Vec<&str> = list
        .split_whitespace()
        .filter(|word| word.len() > 1 && word.starts_with('/'))
        .collect();
    assert!(named.len() >= 8, "{list}");
    for path in named {
        let text = body(get(&status, path, "*/*"));
        assert!(!text.starts_with("not here"), "{path}");
    }
    let lost = get(&status, "/page/../page.js", BROWSER);
    assert_eq!(lost.status(), 404);
    assert!(body(lost).starts_with("not here"));
    assert_eq!(get(&status, "/page/", BROWSER).status(), 404);
}

#[test]
fn nothing_but_looking_is_allowed_and_a_look_at_the_head_is() {
    let status = cluster();
    for path in ALL {
        let request = |method: &str| {
            let request = Request::builder().method(method).uri(path).body(());
            ask(&status, request.expect("a request"))
        };
        for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
            let refusal = request(method);
            assert_eq!(refusal.status(), 405, "{method} {path}");
            assert_eq!(field(&refusal, "allow"), "GET, HEAD");
        }
        // hyper leaves the body out.
        let (head, whole) = (request("HEAD"), request("GET"));
        assert_eq!(head.status(), whole.status(), "{path}");
        assert_eq!(head.headers(), whole.headers(), "{path}");
    }
}

#[test]
fn the_page_is_sent_once_to_those_who_keep_it() {
    let status = cluster();
    let first = get(&status, "/", BROWSER);
    let tag = first.headers()[ETAG].clone();
    assert!(body(first).contains("<!doctype html>"));
    let again = Request::get("/")
        .header(ACCEPT, BROWSER)
        .header(IF_NONE_MATCH, tag)
        .body(());
    let again = ask(&status, again.expect("a request"));
    assert_eq!(again.status(), 304);
    assert_eq!(body(again), "");
}

#[test]
fn a_file_whose_name_is_no_text_does_not_spoil_the_report() {
    use std::os::unix::ffi::OsStringExt;
    let status = cluster();
    status.lock().reload = ReloadReport {
        file: Some(PathBuf::from(std::ffi::OsString::from_vec(vec![0xff]))),
        ..ReloadReport::default()
    };
    for path in ["/live", "/status"] {
        let answer = get(&status, path, "*/*");
        assert_eq!(answer.status(), 200);
        assert!(body(answer).contains('\u{fffd}'));
    }
}

#[test]
fn a_report_that_cannot_be_written_is_an_error_and_not_a_lie() {
    let no_text_for_a_key = std::collections::BTreeMap::from([([1], 2)]);
    assert_eq!(json(&no_text_for_a_key).status(), 500);
}

#[test]
fn the_brief_comparison_leaves_out_what_is_long_and_nothing_else() {
    let status = cluster();
    assert_eq!(body(get(&status, "/comparison?brief", "*/*")), "null\n");
    let mut latency = Snapshot::default();
    latency.record(Duration::from_millis(3));
    let report = serde_json::json!({
        "comparison": {
            "source": "live", "scenario": "live", "load": "as it came",
            "circumstances": { "version": "0.1.0", "command": "", "seed": 7, "began": 0,
                "processor": "", "cores": 2, "kernel": "", "notes": [] },
            "arms": [{ "name": "shared", "twin_of": null, "configuration": "mode = 'shared'" }],
            "blocks": [{ "arm": 0, "round": 1, "position": 1, "drive": { "drive": "live" },
                "began": 0.5, "seconds": 10.0, "requests": 100, "errors": 1, "connections": 3,
                "used": crate::processes::Usage::default(), "lost_threads": 0,
                "latency": latency, "handoff": latency,
                "open": [{ "at": 0.1, "by_worker": [1, 2] }], "own_share": 1.0 }],
            "rounds": 12, "ending": { "ending": "running" },
        },
        "summary": { "arms": [], "floor": null,
            "recommendation": { "arm": null, "text": "not yet", "configuration": null } },
    });
    let report: Report = serde_json::from_value(report).expect("a report");
    status.lock().comparison = Some(report.clone());
    let read = |path| -> Report {
        serde_json::from_str(&body(get(&status, path, "*/*"))).expect("a report")
    };
    assert_eq!(read("/comparison"), report);
    let mut short = report;
    short.comparison.blocks[0].latency = Snapshot::default();
    short.comparison.blocks[0].handoff = Snapshot::default();
    short.comparison.blocks[0].open.clear();
    assert_eq!(read("/comparison?brief"), short);
}
