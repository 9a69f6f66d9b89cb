//! A real NATS server, and what it takes to let somebody in.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

const DEADLINE: Duration = Duration::from_secs(30);

/// A server on a free port, with a folder for files. Dropping it ends it, and removes the folder.
pub struct NatsServer {
    child: Option<Child>,
    pub address: SocketAddr,
    folder: PathBuf,
}

impl NatsServer {
    /// Starts one that lets everybody in.
    pub fn start() -> Self {
        let server = Self::prepare();
        server.configure("");
        server.begin()
    }

    /// One that is not there yet, but has its address and folder.
    pub fn prepare() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Relaxed);
        // An address of its own in each process: what is free on it stays free.
        let pid = std::process::id();
        let host = Ipv4Addr::new(127, 1 + (pid >> 8 & 0x7f) as u8, pid as u8, 1 + count as u8);
        let free = TcpListener::bind((host, 0)).expect("a free port");
        let folder = std::env::temp_dir().join(format!("pm-nats-{pid}-{count}"));
        fs::create_dir_all(&folder).expect("a folder");
        Self {
            child: None,
            address: free.local_addr().expect("an address"),
            folder,
        }
    }

    /// Goes by these lines besides its address.
    pub fn configure(&self, lines: &str) {
        let text = format!(
            "listen: \"{}\"\nlog_file: \"{}\"\ndebug: true\n{lines}\n",
            self.address,
            self.log().display()
        );
        fs::write(self.folder.join("conf"), text).expect("written");
    }

    /// Starts, after [`prepare`](Self::prepare) and [`configure`](Self::configure).
    pub fn begin(mut self) -> Self {
        self.start_again();
        self
    }

    /// Starts once more, on the same address.
    pub fn start_again(&mut self) {
        let child = Command::new("nats-server")
            .arg("-c")
            .arg(self.folder.join("conf"))
            // Debian has it in sbin.
            .env("PATH", path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nats-server (apt-get install nats-server)");
        self.child = Some(child);
        let begun = Instant::now();
        while TcpStream::connect(self.address).is_err() {
            let child = self.child.as_mut().expect("started");
            let ended = child.try_wait().expect("a child");
            assert!(ended.is_none(), "nats-server: {}", self.said());
            assert!(
                begun.elapsed() < DEADLINE,
                "no nats-server at {}",
                self.address
            );
            thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// Ends it as `kill -9` does.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.child.as_ref().expect("it runs").id() as i32
    }

    /// Its URL, with this scheme.
    pub fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.address)
    }

    /// All that it has logged.
    pub fn said(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// A file that only we may read.
    pub fn secret(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.join(name);
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("mode");
        path
    }

    /// A certificate authority, and a certificate for the server and one for a client, each with its key:
    /// `ca.pem`, `server.pem`, `server.key`, `client.pem`, `client.key`.
    pub fn certificates(&self) -> &Path {
        let ip = self.address.ip();
        let san = format!("subjectAltName=IP:{ip}");
        let new = [
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
        ];
        self.openssl(
            &[
                &new[..],
                &["-x509", "-subj", "/CN=authority", "-days", "2"],
                &["-keyout", "ca.key", "-out", "ca.pem"],
            ]
            .concat(),
        );
        for name in ["server", "client"] {
            let (key, request) = (format!("{name}.key"), format!("{name}.csr"));
            let (cert, subject) = (format!("{name}.pem"), format!("/CN={name}"));
            self.openssl(
                &[
                    &new[..],
                    &[
                        "-subj", &subject, "-addext", &san, "-keyout", &key, "-out", &request,
                    ],
                ]
                .concat(),
            );
            self.openssl(&[
                "x509",
                "-req",
                "-in",
                &request,
                "-CA",
                "ca.pem",
                "-CAkey",
                "ca.key",
                "-CAcreateserial",
                "-copy_extensions",
                "copy",
                "-days",
                "2",
                "-out",
                &cert,
            ]);
        }
        &self.folder
    }

    fn openssl(&self, arguments: &[&str]) {
        let made = Command::new("openssl")
            .args(arguments)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .output()
            .expect("openssl (apt-get install openssl)");
        let said = String::from_utf8_lossy(&made.stderr);
        assert!(made.status.success(), "openssl {arguments:?}: {said}");
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn path() -> String {
    let usual = std::env::var("PATH").unwrap_or_default();
    format!("{usual}:/usr/local/sbin:/usr/sbin")
}
