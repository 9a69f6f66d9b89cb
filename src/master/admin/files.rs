//! The page for browsers: files that are part of the binary. It asks `/live` and `/comparison` and
//! nobody else, so that it works where there is no network but the one to here.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    HeaderMap, Response, StatusCode,
    header::{
        ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderValue,
        IF_NONE_MATCH,
    },
};

/// Nothing from elsewhere, nothing inline, nothing sent anywhere, in nobody's frame: what a worker, an
/// upstream or a configuration is called cannot become code, even if the page had a hole.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self' data:; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

/// One file of the page.
#[derive(Debug)]
pub(super) struct File {
    path: &'static str,
    content_type: &'static str,
    content: &'static [u8],
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// The page itself.
pub(super) static PAGE: File = File {
    path: "/page",
    content_type: HTML,
    content: include_bytes!("page.html"),
};

/// What it consists of besides.
static PARTS: [File; 6] = [
    File {
        path: "/page.css",
        content_type: CSS,
        content: include_bytes!("page.css"),
    },
    File {
        path: "/page.js",
        content_type: SCRIPT,
        content: include_bytes!("page.js"),
    },
    File {
        path: "/page/numbers.js",
        content_type: SCRIPT,
        content: include_bytes!("page/numbers.js"),
    },
    File {
        path: "/page/chart.js",
        content_type: SCRIPT,
        content: include_bytes!("page/chart.js"),
    },
    File {
        path: "/page/tables.js",
        content_type: SCRIPT,
        content: include_bytes!("page/tables.js"),
    },
    File {
        path: "/page/comparison.js",
        content_type: SCRIPT,
        content: include_bytes!("page/comparison.js"),
    },
];

/// The file at `path`.
pub(super) fn find(path: &str) -> Option<&'static File> {
    std::iter::once(&PAGE)
        .chain(&PARTS)
        .find(|file| file.path == path)
}

/// Does whoever asks want a page? Browsers name HTML; curl and Prometheus do not.
pub(super) fn is_for_a_browser(headers: &HeaderMap) -> bool {
    headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|accepted| accepted.to_ascii_lowercase().contains("text/html"))
}

impl File {
    /// The file, or 304 to those who have it.
    pub(super) fn answer(&self, headers: &HeaderMap) -> Response<Full<Bytes>> {
        let tag = self.tag();
        let known = headers.get_all(IF_NONE_MATCH).iter();
        let is_known = known
            .filter_map(|value| value.to_str().ok())
            .flat_map(|tags| tags.split(','))
            // Whoever compresses on the way may have weakened it.
            .map(|known| known.trim().trim_start_matches("W/"))
            .any(|known| known == tag || known == "*");
        let mut response = Response::new(Full::default());
        if is_known {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        } else {
            *response.body_mut() = Full::from(self.content);
        }
        let fields = response.headers_mut();
        fields.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        fields.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
        // Kept, but asked about each time: after an upgrade all parts are new together.
        fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        let tag = HeaderValue::try_from(tag).expect("hexadecimal digits in quotes");
        fields.insert(ETAG, tag);
        response
    }

    /// Names this content and no other: FNV-1a, which is plenty for telling versions apart.
    fn tag(&self) -> String {
        let mix =
            |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        let hash = self.content.iter().fold(0xcbf2_9ce4_8422_2325, mix);
        format!("\"{hash:016x}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the whole page may weigh, bytes.
    const BUDGET: usize = 60 * 1024;

    #[test]
    fn the_page_is_small_and_asks_nobody_else_for_anything() {
        let all = || std::iter::once(&PAGE).chain(&PARTS);
        let size: usize = all().map(|file| file.content.len()).sum();
        assert!(size <= BUDGET, "{size} bytes");
        for file in all() {
            let text = std::str::from_utf8(file.content).expect("UTF-8");
            for elsewhere in [
                "https://",
                "src=\"//",
                "url(",
                "@import",
                "innerHTML",
                "eval(",
            ] {
                assert!(!text.contains(elsewhere), "{elsewhere} in {}", file.path);
            }
            // The name of SVG's elements is the one address that may stand there; nothing is fetched.
            let addresses = text.matches("http://").count();
            let names = text.matches("http://www.w3.org/2000/svg").count();
            assert_eq!(addresses, names, "{}", file.path);
        }
        let page = std::str::from_utf8(PAGE.content).expect("UTF-8");
        for inline in ["<style", "style=", "<script>", " onclick", "javascript:"] {
            assert!(!page.contains(inline), "the policy forbids {inline}");
        }
    }

    #[test]
    fn every_part_that_the_page_names_is_served_where_it_looks() {
        let mut named = 0;
        for file in std::iter::once(&PAGE).chain(&PARTS) {
            let text = std::str::from_utf8(file.content).expect("UTF-8");
            for quoted in text.split('"').skip(1).step_by(2) {
                let is_part = quoted.ends_with(".js") || quoted.ends_with(".css");
                if !is_part || quoted.contains(char::is_whitespace) {
                    continue;
                }
                // Relative to the folder of the file that names it.
                let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
                let path = format!("{folder}/{}", quoted.trim_start_matches("./"));
                assert!(find(&path).is_some(), "{} names {quoted}", file.path);
                named += 1;
            }
        }
        assert!(named >= PARTS.len(), "only {named} are named");
    }

    #[test]
    fn who_has_the_file_already_is_told_so() {
        let mut headers = HeaderMap::new();
        let first = PAGE.answer(&headers);
        assert_eq!(first.status(), StatusCode::OK);
        let tag = first.headers()[ETAG].to_str().expect("ASCII").to_owned();
        for (sent, code) in [
            (tag.clone(), StatusCode::NOT_MODIFIED),
            (format!("\"x\", W/{tag}"), StatusCode::NOT_MODIFIED),
            ("*".into(), StatusCode::NOT_MODIFIED),
            ("\"x\"".into(), StatusCode::OK),
        ] {
            headers.insert(IF_NONE_MATCH, HeaderValue::try_from(&sent).expect("ASCII"));
            let again = PAGE.answer(&headers);
            assert_eq!(again.status(), code, "{sent}");
            assert_eq!(again.headers()[ETAG].to_str().expect("ASCII"), tag);
        }
        let tags: std::collections::BTreeSet<String> = PARTS.iter().map(File::tag).collect();
        assert_eq!(tags.len(), PARTS.len(), "each has its own");
    }

    #[test]
    fn browsers_are_told_by_what_they_accept() {
        for (accept, expected) in [
            (
                Some("text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"),
                true,
            ),
            (Some("Text/HTML"), true),
            (Some("*/*"), false),
            (Some("application/openmetrics-text;version=1.0.0"), false),
            (None, false),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(accept) = accept {
                headers.insert(ACCEPT, HeaderValue::from_static(accept));
            }
            assert_eq!(is_for_a_browser(&headers), expected, "{accept:?}");
        }
    }
}
