//! Files that hold secrets, and what async-nats is told of them.

use std::{
    fs::File,
    io::Read,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
    time::Duration,
};

use async_nats::ConnectOptions;
use nix::fcntl::OFlag;

use super::envelope::Secret;
use crate::{
    config::BusOptions,
    error::{Error, Result, describe},
};

/// More than any secret has.
const LARGEST: u64 = 64 * 1024;
/// The shortest secret that masters may share, in bytes.
const SHORTEST: usize = 16;

/// How long a server may take to answer at a connect.
const CONNECT: Duration = Duration::from_secs(5);
/// How often a server that says nothing is asked whether it is there; the third time nothing came, it is not.
const PING: Duration = Duration::from_secs(10);
/// Messages that may wait between async-nats's task and ours, on each side; with the largest packets that
/// is some megabytes.
const WAITING: usize = 128;

/// What it takes to go onto NATS. It cannot be shown.
pub(crate) struct Credentials {
    /// For async-nats.
    pub(crate) connect: ConnectOptions,
    /// What all masters that believe each other know.
    pub(crate) secret: Option<Secret>,
}

/// Reads all that `options` names.
///
/// # Errors
/// A file cannot be read, or others may read it, or it does not hold what it should. Not what it holds.
pub(crate) fn read(options: &BusOptions) -> Result<Credentials> {
    let mut connect = ConnectOptions::new()
        .name("pointsman")
        // Nobody is to hear himself.
        .no_echo()
        .connection_timeout(CONNECT)
        .ping_interval(PING)
        .client_capacity(WAITING)
        .subscription_capacity(WAITING)
        .ignore_discovered_servers()
        .require_tls(options.demands_tls());
    if let (Some(user), Some(file)) = (&options.user, &options.password_file) {
        connect = connect.user_and_password(user.clone(), line("bus-password-file", file)?);
    }
    if let Some(file) = &options.token_file {
        connect = connect.token(line("bus-token-file", file)?);
    }
    if let Some(file) = &options.nkey_file {
        let seed = line("bus-nkey-file", file)?;
        if !seed.starts_with("SU") {
            return Err(of(
                "bus-nkey-file",
                file,
                "it holds no seed of a user (SU…)",
            ));
        }
        connect = connect.nkey(seed);
    }
    if let Some(file) = &options.credentials {
        let text = text("bus-credentials", file)?;
        let unread = |_| of("bus-credentials", file, "it holds no JWT with its seed");
        connect = connect.credentials(&text).map_err(unread)?;
    }
    if let Some(file) = &options.ca {
        open("bus-ca", file)?;
        connect = connect.add_root_certificates(file.clone());
    }
    if let (Some(cert), Some(key)) = (&options.cert, &options.key) {
        open("bus-cert", cert)?;
        bytes("bus-key", key)?;
        connect = connect.add_client_certificate(cert.clone(), key.clone());
    }
    let secret = options.secret_file.as_ref().map(|file| {
        let mut secret = bytes("bus-secret-file", file)?;
        while secret.last().is_some_and(u8::is_ascii_whitespace) {
            secret.pop();
        }
        if secret.len() < SHORTEST {
            let why = format!("a secret has at least {SHORTEST} bytes (openssl rand -hex 32)");
            return Err(of("bus-secret-file", file, &why));
        }
        Ok(Secret::new(&secret, &options.prefix))
    });
    Ok(Credentials {
        connect,
        secret: secret.transpose()?,
    })
}

/// The only line of a file that holds a secret.
fn line(setting: &str, file: &Path) -> Result<String> {
    let text = text(setting, file)?;
    let line = text.trim_end();
    if line.is_empty() || line.contains(['\n', '\r']) {
        return Err(of(setting, file, "one line is wanted"));
    }
    Ok(line.to_owned())
}

fn text(setting: &str, file: &Path) -> Result<String> {
    String::from_utf8(bytes(setting, file)?).map_err(|_| of(setting, file, "this is no text"))
}

/// What is in a file that holds a secret.
fn bytes(setting: &str, path: &Path) -> Result<Vec<u8>> {
    let file = open(setting, path)?;
    let unread = |error: std::io::Error| of(setting, path, &describe(&error));
    let mode = file.metadata().map_err(unread)?.permissions().mode();
    if mode & 0o077 != 0 {
        let why = format!(
            "others may read it (mode {:03o}): chmod 600 {}",
            mode & 0o777,
            path.display()
        );
        return Err(of(setting, path, &why));
    }
    let mut bytes = Vec::new();
    file.take(LARGEST).read_to_end(&mut bytes).map_err(unread)?;
    Ok(bytes)
}

fn open(setting: &str, path: &Path) -> Result<File> {
    let unread = |error: std::io::Error| of(setting, path, &describe(&error));
    // So that nobody waits for whoever might write into a pipe.
    let file = File::options()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(path)
        .map_err(unread)?;
    if !file.metadata().map_err(unread)?.is_file() {
        return Err(of(setting, path, "this is no file"));
    }
    Ok(file)
}

fn of(setting: &str, path: &Path, why: &str) -> Error {
    Error::usage(format!("{setting} '{}': {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use super::*;

    /// A folder of its own, gone with it.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("pm-secrets-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).expect("a folder");
            Self(path)
        }

        fn file(&self, text: &[u8], mode: u32) -> PathBuf {
            let path = self.0.join("file");
            fs::write(&path, text).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("mode");
            path
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn usual() -> BusOptions {
        BusOptions::nats("nats://127.0.0.1")
    }

    fn refused(options: &BusOptions) -> String {
        let error = read(options).err().expect("refused");
        assert!(error.is_usage());
        let text = error.to_string();
        assert_eq!(text.lines().count(), 1, "{text}");
        text
    }

    #[test]
    fn what_others_may_read_is_refused() {
        let folder = Folder::new("mode");
        for mode in [0o644, 0o640, 0o604, 0o620] {
            let file = folder.file(b"hunter2hunter2hunter2\n", mode);
            for options in [
                usual().password_file("u", &file),
                usual().token_file(&file),
                usual().nkey_file(&file),
                usual().credentials(&file),
                usual().secret_file(&file),
                usual()
                    .certificate("/dev/null", &file)
                    .certificate(&file, &file),
            ] {
                let text = refused(&options);
                assert!(
                    text.contains("chmod 600") && !text.contains("hunter2"),
                    "{text}"
                );
            }
        }
        let file = folder.file(b"hunter2hunter2hunter2\n", 0o600);
        for options in [
            usual().password_file("u", &file),
            usual().token_file(&file),
            usual().secret_file(&file),
            usual().certificate(&file, &file),
        ] {
            assert!(read(&options).is_ok());
        }
    }

    #[test]
    fn what_a_file_should_hold_is_looked_for() {
        let folder = Folder::new("holds");
        let file = |text: &[u8]| folder.file(text, 0o600);
        for text in [&b""[..], b"\n", b"a\nb\n", b"\xff"] {
            assert!(refused(&usual().token_file(file(text))).contains("bus-token-file"));
        }
        assert!(refused(&usual().secret_file(file(b"fifteen bytes..\n"))).contains("16"));
        assert!(read(&usual().secret_file(file(b"sixteen bytes...\n"))).is_ok());
        let seed = refused(&usual().nkey_file(file(b"hunter2")));
        assert!(seed.contains("SU") && !seed.contains("hunter2"), "{seed}");
        let creds = refused(&usual().credentials(file(b"hunter2")));
        assert!(
            creds.contains("JWT") && !creds.contains("hunter2"),
            "{creds}"
        );
        assert!(refused(&usual().token_file("/nowhere")).contains("'/nowhere'"));
        assert!(refused(&usual().ca("/")).contains("no file"));
        let pipe = folder.0.join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
        assert!(refused(&usual().token_file(&pipe)).contains("no file"));
    }

    #[test]
    fn what_is_read_is_not_shown() {
        let folder = Folder::new("debug");
        let file = folder.file(b"hunter2", 0o600);
        let options = usual().password_file("u", &file);
        let read = read(&options).unwrap_or_else(|e| panic!("{e}"));
        let shown = format!("{:?} {options:?}", read.connect);
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
