//! Debian's Chromium without a window, told what to do over its DevTools protocol
//! (<https://chromedevtools.github.io/devtools-protocol/>): JSON over a WebSocket. It has a folder of its
//! own, resolves no name, and goes with the test.

use std::{
    fs,
    io::ErrorKind,
    net::{SocketAddr, TcpStream},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
};

use data_encoding::BASE64;
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{self, Message, WebSocket};

use crate::harness::{DEADLINE, place::Place, until};

/// A browser takes a core to itself for a while; several at once would only wait for each other.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A browser with one page. Dropping it ends it.
pub struct Browser {
    child: Child,
    socket: WebSocket<TcpStream>,
    /// The page, among all that the browser can be told about.
    session: String,
    commands: u64,
    /// Answers that this gives in the server's place, by what the address ends with.
    canned: Vec<(String, Option<Value>)>,
    /// What the page's console said that is no mere talk, and what broke in it.
    pub complaints: Vec<String>,
    /// Every address that the page asked for.
    pub asked: Vec<String>,
    profile: Place,
    _alone: MutexGuard<'static, ()>,
}

impl Browser {
    /// Starts one, with an empty page.
    ///
    /// # Panics
    /// There is none, or it does not work.
    #[track_caller]
    pub fn start(name: &str) -> Self {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let profile = Place::new(&format!("browser-{name}"));
        let folder = profile.path("");
        let child = Command::new("chromium")
            .args(["--headless=new", "--remote-debugging-port=0"])
            .arg(format!("--user-data-dir={}", profile.path("profile")))
            // In a container there is neither a second user to become, nor a display, nor much of /dev/shm.
            .args(["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
            // Nothing leaves the machine, whatever the page or the browser itself may want.
            .arg("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.*")
            .args([
                "--disable-background-networking",
                "--disable-component-update",
            ])
            .args(["--disable-sync", "--disable-breakpad", "--no-first-run"])
            .args(["--no-proxy-server", "--hide-scrollbars", "about:blank"])
            .env("HOME", &folder)
            .env("XDG_CONFIG_HOME", &folder)
            .env("XDG_CACHE_HOME", &folder)
            .env("TMPDIR", &folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // It has many processes; they are ended as one group.
            .process_group(0)
            .spawn();
        let mut child = match child {
            Ok(child) => child,
            Err(error) if error.kind() == ErrorKind::NotFound => panic!(
                "there is no Chromium to look at the page with: apt-get install chromium (make test does)"
            ),
            Err(error) => panic!("chromium: {error}"),
        };
        let port = PathBuf::from(profile.path("profile/DevToolsActivePort"));
        let (port, path) = until("chromium tells where it can be reached", || {
            let ended = child.try_wait().expect("our child");
            assert!(ended.is_none(), "chromium has ended: {ended:?}");
            let text = fs::read_to_string(&port).ok()?;
            let (port, path) = text.split_once('\n')?;
            (!path.is_empty()).then(|| (port.parse().expect("a port"), path.trim().to_owned()))
        });
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let stream = TcpStream::connect(address).expect("chromium");
        stream.set_read_timeout(Some(DEADLINE)).expect("a socket");
        let (socket, _) =
            tungstenite::client(format!("ws://{address}{path}"), stream).expect("a handshake");
        let mut browser = Self {
            child,
            socket,
            session: String::new(),
            commands: 0,
            canned: Vec::new(),
            complaints: Vec::new(),
            asked: Vec::new(),
            profile,
            _alone: alone,
        };
        let target = browser.tell("Target.createTarget", json!({ "url": "about:blank" }));
        let page = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.tell("Target.attachToTarget", page);
        browser.session = text(&attached["sessionId"]);
        for part in ["Page", "Runtime", "Network", "Log"] {
            browser.tell(&format!("{part}.enable"), json!({}));
        }
        browser
    }

    /// From now on, what the page asks for at an address that ends with `ending` is answered with `answer`
    /// and does not reach the server; `None`: there is no answer at all.
    #[track_caller]
    pub fn answer(&mut self, ending: &str, answer: Option<Value>) {
        self.canned.retain(|(known, _)| known != ending);
        self.canned.push((ending.to_owned(), answer));
        let patterns: Vec<Value> = self
            .canned
            .iter()
            // A question mark stands for any character here.
            .map(|(ending, _)| json!({ "urlPattern": format!("*{ending}") }))
            .collect();
        self.tell("Fetch.enable", json!({ "patterns": patterns }));
    }

    /// Loads an address and waits until the page's script has run.
    #[track_caller]
    pub fn open(&mut self, address: &str) {
        let gone = self.tell("Page.navigate", json!({ "url": address }));
        assert_eq!(gone["errorText"], Value::Null, "{address}");
        let loaded = format!(
            "location.href === {} && document.readyState",
            json!(address)
        );
        self.until("the page is there", |page| {
            (page.value(&loaded) == "complete").then_some(())
        });
    }

    /// How large the page is, and whether it is dark.
    #[track_caller]
    pub fn looks(&mut self, width: u32, height: u32, is_dark: bool) {
        let size = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false,
        });
        self.tell("Emulation.setDeviceMetricsOverride", size);
        let scheme = if is_dark { "dark" } else { "light" };
        let feature = json!({ "name": "prefers-color-scheme", "value": scheme });
        self.tell(
            "Emulation.setEmulatedMedia",
            json!({ "features": [feature] }),
        );
    }

    /// The value of an expression in the page; of a promise, what it becomes.
    ///
    /// # Panics
    /// It throws.
    #[track_caller]
    pub fn value(&mut self, expression: &str) -> Value {
        let question = json!({
            "expression": expression, "returnByValue": true, "awaitPromise": true,
        });
        let answer = self.tell("Runtime.evaluate", question);
        let thrown = &answer["exceptionDetails"];
        assert!(thrown.is_null(), "{expression}: {thrown:#}");
        answer["result"]["value"].clone()
    }

    /// The text of the first element that `selector` names; nothing if there is none.
    #[track_caller]
    pub fn text(&mut self, selector: &str) -> String {
        let selector = json!(selector);
        text(&self.value(&format!(
            "document.querySelector({selector})?.textContent.trim() ?? ''"
        )))
    }

    /// How many elements `selector` names.
    #[track_caller]
    pub fn number_of(&mut self, selector: &str) -> u64 {
        let selector = json!(selector);
        let number = self.value(&format!("document.querySelectorAll({selector}).length"));
        number.as_u64().expect("a number")
    }

    /// Waits until `look` sees what it wants.
    #[track_caller]
    pub fn until<T>(&mut self, what: &str, mut look: impl FnMut(&mut Self) -> Option<T>) -> T {
        until(what, || look(self))
    }

    /// Saves a picture of the whole page to `target/tmp`, for people.
    #[track_caller]
    pub fn picture(&mut self, name: &str) {
        let how = json!({ "format": "png", "captureBeyondViewport": true });
        let picture = self.tell("Page.captureScreenshot", how);
        let picture = BASE64.decode(text(&picture["data"]).as_bytes());
        let picture = picture.expect("base64");
        assert!(picture.starts_with(b"\x89PNG"), "no picture");
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.png"));
        fs::write(path, picture).expect("written");
    }

    /// Asks for something and waits for the answer; what the page does meanwhile is noted.
    #[track_caller]
    fn tell(&mut self, method: &str, parameters: Value) -> Value {
        let id = self.send(method, parameters);
        loop {
            let message = match self.socket.read() {
                Ok(Message::Text(message)) => message,
                Ok(_) => continue,
                Err(error) => panic!("{method}: chromium does not answer: {error}"),
            };
            let mut message: Value = serde_json::from_str(&message).expect("JSON");
            if message["id"] == id {
                let error = &message["error"];
                assert!(error.is_null(), "{method}: {error}");
                return message["result"].take();
            }
            self.note(&message);
        }
    }

    fn send(&mut self, method: &str, parameters: Value) -> u64 {
        self.commands += 1;
        let mut command = json!({ "id": self.commands, "method": method, "params": parameters });
        if !self.session.is_empty() {
            command["sessionId"] = json!(self.session);
        }
        let sent = self.socket.send(Message::text(command.to_string()));
        sent.expect("chromium listens");
        self.commands
    }

    fn note(&mut self, event: &Value) {
        let about = &event["params"];
        match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => self.complaints.push(about.to_string()),
            Some("Runtime.consoleAPICalled") if about["type"] != "log" => {
                self.complaints.push(about.to_string());
            }
            Some("Log.entryAdded") if about["entry"]["level"] != "info" => {
                self.complaints.push(about["entry"].to_string());
            }
            Some("Network.requestWillBeSent") => {
                self.asked.push(text(&about["request"]["url"]));
            }
            Some("Fetch.requestPaused") => self.stand_in(about),
            _ => {}
        }
    }

    /// Answers in the server's place.
    fn stand_in(&mut self, paused: &Value) {
        let address = text(&paused["request"]["url"]);
        let id = &paused["requestId"];
        let canned = self.canned.iter().find(|(end, _)| address.ends_with(end));
        let (method, parameters) = match canned {
            None => ("Fetch.continueRequest", json!({ "requestId": id })),
            Some((_, None)) => {
                let failed = json!({ "requestId": id, "errorReason": "ConnectionRefused" });
                ("Fetch.failRequest", failed)
            }
            Some((_, Some(answer))) => {
                let answer = json!({
                    "requestId": id, "responseCode": 200,
                    "responseHeaders": [{ "name": "content-type", "value": "application/json" }],
                    "body": BASE64.encode(answer.to_string().as_bytes()),
                });
                ("Fetch.fulfillRequest", answer)
            }
        };
        // Its answer is an event like others: nobody waits for it.
        self.send(method, parameters);
    }
}

/// A text, or nothing.
fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

impl Drop for Browser {
    fn drop(&mut self) {
        let group = Pid::from_raw(self.child.id() as i32);
        let _ = killpg(group, Signal::SIGKILL);
        let _ = self.child.wait();
        // Others of the group are not our children: wait until the folder is no longer written to.
        until("chromium has gone", || {
            killpg(group, None).is_err().then_some(())
        });
        let _ = fs::remove_dir_all(self.profile.path(""));
    }
}
