//! A folder of a test's own, with the control socket of the master under test, its configuration, and
//! whatever else must have a path.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::Command,
};

use super::{DEADLINE, Finished, Pointsman, run_to_end, until};

/// Where a test has its control socket; gone with the test.
pub struct Place(pub PathBuf);

impl Place {
    /// A new one; `name` is the test's.
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("pm-ctl-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).expect("a directory for temporary files");
        Self(path)
    }

    /// The path of something in it.
    pub fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("ASCII").to_owned()
    }

    /// The path of the control socket.
    pub fn socket(&self) -> String {
        self.path("s")
    }

    /// How much lies in it.
    pub fn entries(&self) -> usize {
        fs::read_dir(&self.0).expect("a directory").count()
    }

    /// Starts a master that has its control socket here.
    #[track_caller]
    pub fn start(&self, upstream: &str, arguments: &[&str]) -> Pointsman {
        let socket = self.socket();
        Pointsman::start(
            &[upstream],
            &[&["--control", &socket][..], arguments].concat(),
        )
    }

    /// Starts a master that has its control socket here, and everything else from the file that
    /// [`configure`](Self::configure) wrote.
    #[track_caller]
    pub fn start_configured(&self, arguments: &[&str]) -> Pointsman {
        let (socket, file) = (self.socket(), self.path("file.toml"));
        let flags = ["--control", &socket, "-c", &file];
        Pointsman::start_on(&[], &[], &[&flags[..], arguments].concat())
    }

    /// Writes the configuration file.
    pub fn configure(&self, text: impl AsRef<[u8]>) {
        // As editors do it: never half a file.
        let (half, whole) = (self.path("file.toml~"), self.path("file.toml"));
        fs::write(&half, text).expect("written");
        fs::rename(half, whole).expect("renamed");
    }

    /// Runs `pointsman ctl` for the master that is here.
    #[track_caller]
    pub fn ctl(&self, arguments: &[&str]) -> Finished {
        let socket = self.socket();
        run_to_end(&[&["ctl", "--control", &socket][..], arguments].concat())
    }

    /// The same, where it must work; what it said.
    #[track_caller]
    pub fn works(&self, arguments: &[&str]) -> String {
        let done = self.ctl(arguments);
        assert_eq!(done.code, Some(0), "{arguments:?}: {done:?}");
        done.stdout
    }

    /// The same, where it must be refused; why, in the one line that comes after any progress.
    #[track_caller]
    pub fn refuses(&self, arguments: &[&str]) -> String {
        let done = self.ctl(arguments);
        assert_eq!(done.code, Some(1), "{arguments:?}: {done:?}");
        assert!(done.stdout.is_empty(), "{arguments:?}: {done:?}");
        let last = done.stderr.lines().last().expect("it says why");
        last.to_owned()
    }

    /// `ctl --json` with a report.
    #[track_caller]
    pub fn report(&self, of: &str) -> serde_json::Value {
        serde_json::from_str(&self.works(&["--json", of])).expect("JSON")
    }

    /// Waits until nothing is in progress.
    #[track_caller]
    pub fn settled(&self) -> serde_json::Value {
        until("nothing is in progress", || {
            let status = self.report("status");
            status["operation"].is_null().then_some(status)
        })
    }

    /// `POST /verb` over the control socket, without a `ctl` process: for many in a row. The last line
    /// of the answer.
    #[track_caller]
    pub fn post(&self, verb: &str, body: &str) -> String {
        let mut stream = UnixStream::connect(self.socket()).expect("a master");
        stream.set_read_timeout(Some(DEADLINE)).expect("a socket");
        let length = body.len();
        write!(
            stream,
            "POST /{verb} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
        )
        .expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let last = answer.lines().rfind(|line| line.starts_with('{'));
        last.unwrap_or_else(|| panic!("{answer}")).to_owned()
    }

    /// Puts a program here, a script for `/bin/sh`. Written by a process of its own: a file that this
    /// one has open for writing may be inherited, for a moment, by what another test is starting, and
    /// cannot be run then.
    pub fn script(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        let write = "printf '#!/bin/sh\\n%s\\n' \"$1\" > \"$2\" && chmod 700 \"$2\"";
        let done = Command::new("/bin/sh")
            .args(["-c", write, "sh", text, &path])
            .status();
        assert!(done.expect("a shell").success());
        path
    }

    /// Puts the binary under test here under another name, in place of what has it now, as a package
    /// manager would: the file that was there lives on while it runs.
    pub fn install(&self, name: &str) -> String {
        let path = self.path(name);
        let _ = fs::remove_file(&path);
        let binary = env!("CARGO_BIN_EXE_pointsman");
        if fs::hard_link(binary, &path).is_err() {
            // On another file system. See `script` for why not by us.
            let done = Command::new("cp").args([binary, &path]).status();
            assert!(done.expect("coreutils").success());
        }
        path
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
