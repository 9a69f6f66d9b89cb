//! The page a browser gets: no assets but itself.

use std::fmt::Write as _;

use hyper::header::HeaderMap;

/// Up to the upstream's name.
const TOP: &str = r#"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Pointsman demo</title>
<link rel="icon" href="data:,">
<style>
  :root { color-scheme: light dark; }
  body { font: 1rem/1.5 system-ui, sans-serif; max-width: 42rem; margin: 2rem auto; padding: 0 1rem; }
  h2 { font-size: 1.1rem; margin-top: 2rem; }
  table { border-collapse: collapse; }
  td { border-top: 1px solid #8886; padding: .2rem 1rem .2rem 0; overflow-wrap: anywhere; }
  code, pre, output { font-family: ui-monospace, monospace; }
  pre, output { display: block; background: #8882; padding: .6rem; border-radius: .3rem; overflow-x: auto; white-space: pre-wrap; }
  input, button { font: inherit; }
</style>
<h1>It works</h1>
<p>Answered by upstream <strong>"#;

/// Between the name and the fields.
const FIELDS: &str = r#"</strong>. Reload to see who answers next.</p>
<h2>What the proxy said about you</h2>
"#;

/// After the fields. The links are relative, so that the page also works under a path prefix.
const BOTTOM: &str = r#"<h2>Other routes</h2>
<ul>
  <li><a href="slow?ms=500"><code>/slow?ms=500</code></a>: answers after half a second
  <li><a href="spin?us=500"><code>/spin?us=500</code></a>: answers after half a millisecond of hard work
  <li><a href="bytes?n=65536"><code>/bytes?n=65536</code></a>: 64 KiB of a pattern (<a href="bytes?n=65536&amp;chunked=1">chunked</a>)
  <li><a href="headers"><code>/headers</code></a>: your request as it arrived here
  <li><a href="status?code=503"><code>/status?code=503</code></a>: any status you like
  <li><code>/echo</code>, <code>/hash</code>: send a body and get it, or its hash, back
</ul>
<pre>curl --data hello "<span class="here"></span>echo"
curl --data hello "<span class="here"></span>hash"</pre>
<h2>WebSocket echo</h2>
<form id="ws">
  <input id="text" value="hello" aria-label="message" autocomplete="off">
  <button>Send</button>
</form>
<output id="log" for="text">not connected yet</output>
<script>
  const here = new URL(".", location.href).href;
  for (const span of document.querySelectorAll(".here")) span.textContent = here;
  const log = document.getElementById("log");
  const say = (line) => { log.textContent += "\n" + line; };
  let socket;
  document.getElementById("ws").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = document.getElementById("text").value;
    const send = () => { say("> " + text); socket.send(text); };
    if (socket && socket.readyState === WebSocket.OPEN) { send(); return; }
    socket = new WebSocket(here.replace(/^http/, "ws") + "ws");
    socket.onopen = () => { log.textContent = "connected"; send(); };
    socket.onmessage = (message) => say("< " + message.data);
    socket.onclose = (closed) => say("closed (" + closed.code + ")");
  });
</script>
</html>
"#;

/// The page for a request with these header fields, from the upstream `name`.
pub(super) fn render(name: &str, headers: &HeaderMap) -> String {
    let mut page = String::with_capacity(TOP.len() + BOTTOM.len() + 1024);
    page.push_str(TOP);
    page.push_str(&escape(name));
    page.push_str(FIELDS);

    let mut rows = String::new();
    for (field, value) in headers {
        let field = field.as_str();
        if field.starts_with("x-forwarded-") || field == "forwarded" || field == "via" {
            let value = String::from_utf8_lossy(value.as_bytes());
            // Writing to a `String` does not fail.
            let _ = writeln!(
                rows,
                "<tr><td><code>{}</code><td>{}",
                escape(field),
                escape(&value)
            );
        }
    }
    if rows.is_empty() {
        page.push_str("<p>Nothing: you seem to have come here directly.</p>\n");
    } else {
        page.push_str("<table>\n");
        page.push_str(&rows);
        page.push_str("</table>\n");
    }

    page.push_str(BOTTOM);
    page
}

/// Makes text safe in HTML: forwarded fields are whatever the client cared to send.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}
