//! Fields: which ones end here, which ones are ours to set. Pure.

use hyper::{
    HeaderMap,
    header::{
        CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderName, HeaderValue, TRANSFER_ENCODING,
        UPGRADE,
    },
};

use super::fault::Fault;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Fields that concern one connection only (RFC 9110, section 7.6.1), besides those that
/// `Connection` names.
fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
    )
}

/// Fields by which a client could pretend to be somebody else.
fn is_claim_about_client(name: &HeaderName) -> bool {
    // CGI, WSGI, Rack and the like read '_' as '-': x_real_ip would do as well.
    let same = |text: &str, what: &str| {
        let mut pairs = text.bytes().zip(what.bytes());
        text.len() >= what.len() && pairs.all(|(a, b)| a == b || a == b'_' && b == b'-')
    };
    let name = name.as_str();
    match name.as_bytes().first() {
        Some(b'f') => name == "forwarded",
        Some(b'x') => same(name, "x-forwarded-") || name.len() == 9 && same(name, "x-real-ip"),
        _ => false,
    }
}

/// Adds to `doomed`, the fixed list's fields, those that `Connection` names; and a length beside
/// chunks, where the chunks count (RFC 9112, section 6.3) and nobody behind us may be told otherwise.
/// Says whether the connection ought to be closed after this message.
///
/// # Errors
/// It names a field without which the message cannot be understood.
fn read_connection(headers: &HeaderMap, doomed: &mut Vec<HeaderName>) -> Result<bool, Fault> {
    let mut closes = false;
    if doomed.contains(&TRANSFER_ENCODING) {
        // hyper takes off the chunks only; any other coding would be passed on without its name.
        let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
        let chunked = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"chunked");
        if !codings.next().is_some_and(chunked) || codings.next().is_some() {
            return Err(Fault::Malformed("a Transfer-Encoding other than chunked\n"));
        }
        closes = headers.contains_key(CONTENT_LENGTH);
        if closes {
            doomed.push(CONTENT_LENGTH);
        }
    }
    for token in tokens(headers, &CONNECTION) {
        // What is usually named is no field at all.
        if token.eq_ignore_ascii_case("keep-alive") {
            continue;
        }
        if token.eq_ignore_ascii_case("close") {
            closes = true;
            continue;
        }
        let Ok(name) = HeaderName::try_from(token) else {
            continue;
        };
        if [HOST, CONTENT_LENGTH, TRANSFER_ENCODING].contains(&name) {
            return Err(Fault::Malformed(
                "Connection names a field that belongs to the message\n",
            ));
        }
        doomed.push(name);
    }
    Ok(closes)
}

/// The elements of a comma-separated field.
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

/// The protocol that a request asks to upgrade to. `h2c` is not one: a tunnel for it would carry
/// requests past everything that is checked here (RFC 9113, section 3.1, has retired it).
pub(super) fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let protocol = headers.get(UPGRADE)?;
    let asked = tokens(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"));
    let h2c = tokens(headers, &UPGRADE).any(|token| token.eq_ignore_ascii_case("h2c"));
    (asked && !h2c).then(|| protocol.clone())
}

/// Does the client wait for a go-ahead before it sends its body (RFC 9110, section 10.1.1)?
pub(super) fn expects_continue(headers: &HeaderMap) -> bool {
    headers
        .get(EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// A request's fields as the upstream gets them: nothing that concerned the client's connection,
/// and about the client only what we know ourselves. `host` is what the target said, if anything.
///
/// # Errors
/// The client's fault: not exactly one `Host`, or a `Connection` that names what it may not.
pub(super) fn for_upstream(
    headers: &mut HeaderMap,
    client: &HeaderValue,
    host: Option<HeaderValue>,
    upgrade: Option<HeaderValue>,
) -> Result<(), Fault> {
    // One look at every field; most requests have nothing to remove.
    let mut doomed = Vec::new();
    let mut hosts = 0;
    for name in headers.iter().map(|(name, _)| name) {
        if name == HOST {
            hosts += 1;
        } else if is_hop_by_hop(name) || is_claim_about_client(name) {
            doomed.push(name.clone());
        }
    }
    if hosts > 1 {
        return Err(Fault::Malformed("more than one Host field\n"));
    }
    if !doomed.is_empty() {
        read_connection(headers, &mut doomed)?;
        doomed.iter().for_each(|name| _ = headers.remove(name));
    }
    if let Some(host) = host {
        headers.insert(HOST, host);
    }
    if let Some(protocol) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol);
    }
    introduce(headers, client);
    Ok(())
}

/// Tells the upstream what we know of the client.
pub(super) fn introduce(headers: &mut HeaderMap, client: &HeaderValue) {
    headers.insert(X_FORWARDED_FOR, client.clone());
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("http"));
    if let Some(host) = headers.get(HOST).cloned() {
        headers.insert(X_FORWARDED_HOST, host);
    }
}

/// Is this one of the fields that [`introduce`] sets?
pub(super) fn is_introduction(name: &HeaderName) -> bool {
    name.as_str().starts_with("x-forwarded-")
}

/// A response's fields as the client gets them. `tunnel`: the protocol is being switched, and the
/// client must hear of it. Says whether the upstream means to close the connection afterwards.
///
/// # Errors
/// The upstream's fault: a `Connection` that names what it may not.
pub(super) fn for_client(headers: &mut HeaderMap, tunnel: bool) -> Result<bool, Fault> {
    let protocol = if tunnel {
        headers.get(UPGRADE).cloned()
    } else {
        None
    };
    let mut doomed: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_hop_by_hop(name))
        .cloned()
        .collect();
    let mut closes = false;
    if !doomed.is_empty() {
        closes = read_connection(headers, &mut doomed).map_err(|_| Fault::Broken)?;
        doomed.iter().for_each(|name| _ = headers.remove(name));
    }
    if let Some(protocol) = protocol {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol);
    }
    Ok(closes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v)))
            .collect::<Vec<_>>()
            .into_iter()
            .fold(HeaderMap::new(), |mut map, (n, v)| {
                map.append(n, v);
                map
            })
    }

    fn client() -> HeaderValue {
        HeaderValue::from_static("192.0.2.7")
    }

    #[test]
    fn what_concerns_the_connection_ends_here() {
        let mut headers = fields(&[
            ("host", "app"),
            ("connection", "Keep-Alive, X-Secret"),
            ("connection", "x-other"),
            ("keep-alive", "timeout=5"),
            ("x-secret", "1"),
            ("x-other", "1"),
            ("te", "trailers"),
            ("proxy-authorization", "basic"),
            ("accept", "*/*"),
        ]);
        for_upstream(&mut headers, &client(), None, None).expect("valid");
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(
            left,
            [
                "accept",
                "host",
                "x-forwarded-for",
                "x-forwarded-host",
                "x-forwarded-proto"
            ]
        );
    }

    #[test]
    fn what_a_client_claims_about_itself_is_replaced_by_what_we_know() {
        let mut headers = fields(&[
            ("host", "app"),
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-for", "2.2.2.2"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-port", "443"),
            ("x-real-ip", "1.1.1.1"),
            ("forwarded", "for=1.1.1.1"),
            ("connection", "x-forwarded-for"),
        ]);
        for_upstream(&mut headers, &client(), None, None).expect("valid");
        assert_eq!(
            headers
                .get_all("x-forwarded-for")
                .iter()
                .collect::<Vec<_>>(),
            ["192.0.2.7"]
        );
        assert_eq!(headers["x-forwarded-proto"], "http");
        assert_eq!(headers["x-forwarded-host"], "app");
        for gone in ["x-forwarded-port", "x-real-ip", "forwarded", "connection"] {
            assert!(!headers.contains_key(gone), "{gone}");
        }
    }

    #[test]
    fn a_connection_field_cannot_strip_what_frames_the_message() {
        for name in ["host", "content-length", "transfer-encoding"] {
            let mut headers = fields(&[("host", "app"), ("connection", name)]);
            assert!(
                for_upstream(&mut headers, &client(), None, None).is_err(),
                "{name}"
            );
        }
    }

    #[test]
    fn underscores_do_not_hide_a_claim() {
        for name in [
            "x_forwarded_for",
            "x_real_ip",
            "x-forwarded_proto",
            "x_forwarded-host",
        ] {
            let mut headers = fields(&[("host", "app"), (name, "1.1.1.1")]);
            for_upstream(&mut headers, &client(), None, None).expect("valid");
            assert!(!headers.contains_key(name), "{name}");
        }
        let mut headers = fields(&[("host", "app"), ("x-real-ipsum", "1"), ("x-foo", "1")]);
        for_upstream(&mut headers, &client(), None, None).expect("valid");
        assert!(headers.contains_key("x-real-ipsum") && headers.contains_key("x-foo"));
    }

    #[test]
    fn codings_that_would_be_lost_are_refused() {
        for coding in ["gzip, chunked", "chunked, chunked", "identity", "xchunked"] {
            let mut headers = fields(&[("host", "app"), ("transfer-encoding", coding)]);
            assert!(
                for_upstream(&mut headers, &client(), None, None).is_err(),
                "{coding}"
            );
            let mut headers = fields(&[("transfer-encoding", coding)]);
            assert_eq!(
                for_client(&mut headers, false),
                Err(Fault::Broken),
                "{coding}"
            );
        }
    }

    #[test]
    fn two_hosts_are_refused() {
        let mut headers = fields(&[("host", "a"), ("host", "a")]);
        assert!(for_upstream(&mut headers, &client(), None, None).is_err());
    }

    #[test]
    fn upgrades_are_seen_only_where_asked_for_and_never_to_h2c() {
        let asked = |connection, protocol| {
            upgrade(&fields(&[
                ("connection", connection),
                ("upgrade", protocol),
            ]))
        };
        assert_eq!(
            asked("keep-alive, Upgrade", "websocket").expect("upgrade"),
            "websocket"
        );
        assert_eq!(asked("keep-alive", "websocket"), None);
        assert_eq!(asked("upgrade, http2-settings", "h2c"), None);
        assert_eq!(asked("upgrade", "H2C, websocket"), None);
        assert_eq!(upgrade(&fields(&[("connection", "upgrade")])), None);
    }

    #[test]
    fn an_upgrade_passes_both_ways() {
        let mut headers = fields(&[
            ("host", "a"),
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
        ]);
        let protocol = upgrade(&headers);
        for_upstream(&mut headers, &client(), None, protocol).expect("valid");
        assert_eq!(
            (&headers["connection"], &headers["upgrade"]),
            (
                &"upgrade".parse().expect("value"),
                &"websocket".parse().expect("value")
            )
        );
        for_client(&mut headers, true).expect("valid");
        assert_eq!(headers["upgrade"], "websocket");
        for_client(&mut headers, false).expect("valid");
        assert!(!headers.contains_key("upgrade"));
    }
}
