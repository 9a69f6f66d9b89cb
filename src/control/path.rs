//! Where the control socket is, and how one is bound that nobody else can use, steal or lose.

use std::{
    env,
    ffi::OsString,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, ErrorKind},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{
            ffi::OsStrExt,
            fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, lchown},
        },
    },
    path::{Path, PathBuf},
};

use nix::{
    fcntl::OFlag,
    sys::{
        socket::{getsockopt, sockopt::PeerCredentials},
        stat::{Mode, fchmod},
    },
    unistd::geteuid,
};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::{
    config::ControlSocket,
    error::{Error, Result},
    sys::lock::try_lock,
};

/// The longest path of a Unix socket: what fits into its address, with the zero at the end.
const LONGEST: usize = 107;

/// Connections that wait for the master; more than it answers at once.
const BACKLOG: i32 = 128;

/// A directory in which masters usually have their sockets.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The directory.
    pub(super) directory: PathBuf,
    /// Is it ours to make, and so to be checked? One that the service manager made is trusted as it
    /// is; with `DynamicUser=` it is a symbolic link, for example.
    ours: bool,
}

impl Place {
    /// One that is not ours to check.
    pub(super) fn trusted(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            ours: false,
        }
    }

    /// May a socket that lies here be trusted to be a master's? In `/tmp` anybody can make a
    /// directory of our name.
    pub(super) fn is_safe(&self) -> bool {
        !self.ours || check_directory(&self.directory).is_ok()
    }
}

/// The usual directories, the best first.
pub(super) fn places() -> Vec<Place> {
    places_by(|name| env::var_os(name))
}

fn places_by(variable: impl Fn(&str) -> Option<OsString>) -> Vec<Place> {
    let directory = |name| {
        variable(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let first = |paths: OsString| env::split_paths(&paths).find(|path| path.is_absolute());
    let mut places = Vec::new();
    if let Some(directory) = variable("RUNTIME_DIRECTORY").and_then(first) {
        places.push(Place::trusted(directory));
    }
    // It outlives a log-out only as a name in the environment.
    if let Some(parent) = directory("XDG_RUNTIME_DIR").filter(|path| path.is_dir()) {
        places.push(Place {
            directory: parent.join("pointsman"),
            ours: true,
        });
    }
    places.push(Place {
        directory: format!("/tmp/pointsman-{}", geteuid()).into(),
        ours: true,
    });
    places
}

/// The usual place for this process's socket; its directory is made if need be.
///
/// # Errors
/// The directory cannot be made, or others have a hand in it.
pub(crate) fn usual() -> Result<PathBuf> {
    usual_in(places())
}

fn usual_in(places: Vec<Place>) -> Result<PathBuf> {
    let place = places
        .into_iter()
        .next()
        .expect("the one in /tmp is always there");
    if place.ours {
        make_directory(&place.directory)?;
    }
    // Process ids are not unique where containers share the directory: then the next name is tried.
    let pid = std::process::id();
    let mut names = std::iter::once(format!("{pid}.sock"))
        .chain((2..=MAX_NAMESAKES).map(|n| format!("{pid}-{n}.sock")))
        .map(|name| place.directory.join(name));
    let first = place.directory.join(format!("{pid}.sock"));
    Ok(names
        .find(|path| !matches!(probe(path), Probe::Answers(_)))
        .unwrap_or(first))
}

/// How many masters with one process id may have their sockets in one directory.
const MAX_NAMESAKES: u32 = 16;

/// Makes a directory that only we may look into, or makes sure that the one that is there is such.
fn make_directory(directory: &Path) -> Result<()> {
    match DirBuilder::new().mode(0o700).create(directory) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => {
            return Err(Error::runtime(
                format!(
                    "cannot make {} for the control socket (choose another place with --control PATH)",
                    directory.display()
                ),
                error,
            ));
        }
    }
    check_directory(directory)
}

/// Once this has said yes, nobody else can change what is in the directory, nor, in a sticky `/tmp`,
/// put another in its place.
fn check_directory(directory: &Path) -> Result<()> {
    let refused = |why: String| {
        Err(Error::failed(format!(
            "{} is no safe place for the control socket: {why}; remove it, or choose another place with --control PATH",
            directory.display()
        )))
    };
    let found = match fs::symlink_metadata(directory) {
        Ok(found) => found,
        Err(error) => return refused(crate::error::describe(&error)),
    };
    if !found.is_dir() {
        return refused("it is not a directory".into());
    }
    if found.uid() != geteuid().as_raw() {
        return refused(format!("it belongs to uid {}", found.uid()));
    }
    if found.mode() & 0o022 != 0 {
        return refused("others may write to it".into());
    }
    Ok(())
}

/// Refuses a path that fits into no socket's address.
pub(super) fn check_length(path: &Path) -> Result<()> {
    let length = path.as_os_str().as_bytes().len();
    if length > LONGEST {
        return Err(Error::usage(format!(
            "{}: {length} bytes are too long for a socket's path, which has at most {LONGEST}",
            path.display()
        )));
    }
    Ok(())
}

/// Who is behind a socket's path.
#[derive(Debug)]
pub(super) enum Probe {
    /// Somebody takes connections; with the process that made it listen, if we may see it.
    Answers(Option<i32>),
    /// Nobody does.
    Dead,
    /// It is not for us.
    Denied,
    /// There is nothing.
    Nothing,
    /// It could not be found out.
    Unknown(io::Error),
}

/// Connects to `path`, only to see whether somebody is there. Never waits: whoever has a full queue
/// is there too.
pub(super) fn probe(path: &Path) -> Probe {
    let connect = || -> io::Result<Socket> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
        socket.connect(&SockAddr::unix(path)?)?;
        Ok(socket)
    };
    match connect() {
        Ok(socket) => {
            let pid = getsockopt(&socket, PeerCredentials).map(|peer| peer.pid());
            Probe::Answers(pid.ok().filter(|pid| *pid > 0))
        }
        Err(error) => match error.kind() {
            ErrorKind::WouldBlock => Probe::Answers(None),
            ErrorKind::ConnectionRefused => Probe::Dead,
            ErrorKind::PermissionDenied => Probe::Denied,
            ErrorKind::NotFound => Probe::Nothing,
            _ => Probe::Unknown(error),
        },
    }
}

/// A control socket of ours that listens. Dropping it removes it from the file system.
#[derive(Debug)]
pub(crate) struct Bound {
    // First, so that the names are gone before the lock is.
    names: Names,
    listener: OwnedFd,
    lock: OwnedFd,
}

/// Removes the socket and its lock file, in the process that made them and in no other.
#[derive(Debug)]
struct Names {
    path: PathBuf,
    /// The process that is to remove them; 0: none.
    owner: u32,
}

impl Drop for Names {
    fn drop(&mut self) {
        if self.owner == std::process::id() {
            // Whatever else may have been put there by now is not ours to remove.
            if is_socket(&self.path).is_ok_and(|socket| socket) {
                let _ = fs::remove_file(&self.path);
            }
            let _ = fs::remove_file(lock_path(&self.path));
        }
    }
}

impl Bound {
    /// Binds what the configuration asks for; `None` if it asks for none.
    ///
    /// # Errors
    /// As [`usual`] and [`bind`](Self::bind).
    pub(crate) fn open(socket: &ControlSocket) -> Result<Option<Self>> {
        let path = match socket {
            ControlSocket::Off => return Ok(None),
            ControlSocket::At(path) => path.clone(),
            ControlSocket::Usual => {
                let path = usual()?;
                path.parent().into_iter().for_each(sweep);
                path
            }
        };
        Self::bind(&path).map(Some)
    }

    /// Takes `path`: binds and listens there, for nobody but this user and root. What a master that
    /// was killed has left there is replaced; nothing else is.
    ///
    /// # Errors
    /// Another master has it, something that is no socket lies there, the path is too long, or the
    /// directory is missing or not ours to write to.
    pub(crate) fn bind(path: &Path) -> Result<Self> {
        check_length(path)?;
        // From here to the end nobody else of our kind touches the path.
        let lock = lock(path)?;
        let refused = |error| Error::runtime(format!("control socket {}", path.display()), error);
        match is_socket(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(refused(error)),
            Ok(false) => {
                return Err(Error::failed(format!(
                    "control socket {}: something that is no socket lies there already; \
                     remove it, or choose another path with --control",
                    path.display()
                )));
            }
            Ok(true) => match probe(path) {
                Probe::Answers(pid) => return Err(in_use(path, pid)),
                Probe::Denied => return Err(refused(ErrorKind::PermissionDenied.into())),
                Probe::Unknown(error) => return Err(refused(error)),
                Probe::Nothing => {}
                Probe::Dead => fs::remove_file(path).map_err(refused)?,
            },
        }
        let listen = || -> io::Result<Socket> {
            let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
            // The file gets the mode that the socket has when it is bound, less the umask: so it is
            // closed to others from birth, without touching the umask, which all threads share.
            fchmod(&socket, Mode::from_bits_truncate(0o600))?;
            socket.bind(&SockAddr::unix(path)?)?;
            socket.listen(BACKLOG)?;
            Ok(socket)
        };
        let listener = listen().map_err(refused)?;
        Ok(Self::from_parts(
            listener.into(),
            lock.into(),
            path.to_owned(),
        ))
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.names.path
    }

    /// Makes it another user's, before this process becomes that user. Where the directory is not that
    /// user's, the file stays behind in the end, and the next master replaces it.
    ///
    /// # Errors
    /// As `lchown(2)`.
    pub(crate) fn give_to(&self, uid: u32, gid: u32) -> io::Result<()> {
        lchown(self.path(), Some(uid), Some(gid))?;
        lchown(lock_path(self.path()), Some(uid), Some(gid))
    }

    /// The listening socket, for the runtime of this thread. This keeps its own, so that both can be
    /// handed on or served anew.
    ///
    /// # Errors
    /// As `dup(2)` and `epoll_ctl(2)`.
    pub(crate) fn listener(&self) -> io::Result<tokio::net::UnixListener> {
        let copy = std::os::unix::net::UnixListener::from(self.listener.try_clone()?);
        tokio::net::UnixListener::from_std(copy)
    }

    /// The listening socket and the lock, to be handed to another binary by `exec`.
    pub(crate) fn descriptors(&self) -> (BorrowedFd<'_>, BorrowedFd<'_>) {
        (self.listener.as_fd(), self.lock.as_fd())
    }

    /// The listener, the lock and the path, as if by `exec`: nothing is removed any more.
    #[cfg(test)]
    pub(crate) fn into_parts(mut self) -> (OwnedFd, OwnedFd, PathBuf) {
        self.names.owner = 0;
        let path = std::mem::take(&mut self.names.path);
        (self.listener, self.lock, path)
    }

    /// What [`descriptors`](Self::descriptors) and [`path`](Self::path) gave, put together again.
    pub(crate) fn from_parts(listener: OwnedFd, lock: OwnedFd, path: PathBuf) -> Self {
        let owner = std::process::id();
        Self {
            names: Names { path, owner },
            listener,
            lock,
        }
    }
}

/// Removes what masters that were killed have left in a directory of ours.
fn sweep(directory: &Path) {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let sockets = entries.map(|entry| entry.path()).filter(|path| {
        path.extension()
            .is_some_and(|extension| extension == "sock")
    });
    for path in sockets {
        // Whoever holds the lock may be about to listen there.
        if let Ok(_lock) = lock(&path)
            && matches!(probe(&path), Probe::Dead)
        {
            let _ = fs::remove_file(&path);
            let _ = fs::remove_file(lock_path(&path));
        }
    }
}

fn in_use(path: &Path, pid: Option<i32>) -> Error {
    let pid = pid.map_or_else(String::new, |pid| format!(" (process {pid})"));
    Error::failed(format!(
        "control socket {} is in use by another master{pid}; choose another path with --control",
        path.display()
    ))
}

/// Is what lies at `path` itself a socket? A symbolic link is none.
fn is_socket(path: &Path) -> io::Result<bool> {
    Ok(fs::symlink_metadata(path)?.file_type().is_socket())
}

fn lock_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

/// Takes the lock that goes with the socket at `path`.
fn lock(path: &Path) -> Result<File> {
    let name = lock_path(path);
    let refused = |error| {
        Error::runtime(
            format!(
                "cannot lock the control socket with {} (choose another path with --control)",
                name.display()
            ),
            error,
        )
    };
    loop {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(OFlag::O_NOFOLLOW.bits() | OFlag::O_NONBLOCK.bits())
            .open(&name)
            .map_err(refused)?;
        if !file.metadata().map_err(refused)?.is_file() {
            return Err(refused(ErrorKind::InvalidInput.into()));
        }
        match try_lock(file.as_fd()) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let pid = match probe(path) {
                    Probe::Answers(pid) => pid,
                    _ => None,
                };
                return Err(in_use(path, pid));
            }
            Err(error) => return Err(refused(error)),
        }
        // Whoever had it may have removed the file between our opening it and our locking it; then
        // the next one would make another file, and both would hold a lock.
        let held = file.metadata().map_err(refused)?;
        match fs::symlink_metadata(&name) {
            Ok(named) if (named.dev(), named.ino()) == (held.dev(), held.ino()) => return Ok(file),
            _ => {}
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::{fs::PermissionsExt, net::UnixListener};

    use super::*;

    /// A directory of its own for each test, removed in the end.
    pub(crate) struct Scratch(PathBuf);

    impl Scratch {
        pub(crate) fn new(name: &str) -> Self {
            let path = env::temp_dir().join(format!("pm-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir(&path).expect("a directory for temporary files");
            Self(path)
        }

        pub(crate) fn file(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn refusal(path: &Path) -> String {
        Bound::bind(path).expect_err("refused").to_string()
    }

    #[test]
    fn a_socket_is_ours_alone_and_leaves_nothing_behind() {
        let scratch = Scratch::new("alone");
        let path = scratch.file("s");
        let bound = Bound::bind(&path).expect("free");
        let mode = fs::metadata(&path).expect("bound").mode();
        assert_eq!(mode & 0o777, 0o600);
        let lock = fs::metadata(scratch.file("s.lock")).expect("locked");
        assert_eq!(lock.mode() & 0o777, 0o600);
        assert!(
            matches!(probe(&path), Probe::Answers(Some(pid)) if pid as u32 == std::process::id())
        );
        let error = refusal(&path);
        assert!(
            error.contains("in use by another master (process"),
            "{error}"
        );
        drop(bound);
        assert!(fs::read_dir(&scratch.0).expect("there").next().is_none());
        assert!(Bound::bind(&path).is_ok(), "free again");
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_live_one_is_not_even_without_a_lock() {
        let scratch = Scratch::new("dead");
        let path = scratch.file("s");
        let foreign = UnixListener::bind(&path).expect("free");
        let error = refusal(&path);
        assert!(error.contains("in use"), "{error}");
        drop(foreign);
        assert!(matches!(probe(&path), Probe::Dead));
        assert!(Bound::bind(&path).is_ok());
    }

    #[test]
    fn what_is_no_socket_is_never_removed() {
        let scratch = Scratch::new("foreign");
        let (file, link, target) = (scratch.file("f"), scratch.file("l"), scratch.file("t"));
        fs::write(&file, "precious").expect("written");
        assert!(refusal(&file).contains("no socket"));
        assert_eq!(fs::read(&file).expect("still there"), b"precious");
        // A link to a dead socket is a link.
        drop(UnixListener::bind(&target).expect("free"));
        std::os::unix::fs::symlink(&target, &link).expect("a link");
        assert!(refusal(&link).contains("no socket"));
        assert!(fs::symlink_metadata(&link).is_ok() && fs::symlink_metadata(&target).is_ok());
        // Nor is a lock that is a link followed.
        std::os::unix::fs::symlink(&file, scratch.file("x.lock")).expect("a link");
        assert!(refusal(&scratch.file("x")).contains("x.lock"));
        assert!(fs::symlink_metadata(scratch.file("x")).is_err());
    }

    #[test]
    fn a_path_that_no_socket_can_have_is_refused_beforehand() {
        let scratch = Scratch::new("long");
        let room = LONGEST - scratch.file("").as_os_str().len();
        let error = Bound::bind(&scratch.file(&"x".repeat(room + 1))).expect_err("too long");
        assert!(
            error.is_usage() && error.to_string().contains("107"),
            "{error}"
        );
        assert!(Bound::bind(&scratch.file(&"x".repeat(room))).is_ok());
        let error = refusal(&scratch.file("none/s"));
        assert!(error.contains("none/s.lock"), "{error}");
    }

    #[test]
    fn parts_handed_on_keep_the_socket_and_the_lock() {
        let scratch = Scratch::new("parts");
        let path = scratch.file("s");
        let (listener, lock, same) = Bound::bind(&path).expect("free").into_parts();
        assert_eq!(same, path);
        assert!(refusal(&path).contains("in use"));
        let bound = Bound::from_parts(listener, lock, same);
        assert!(matches!(probe(&path), Probe::Answers(_)));
        drop(bound);
        assert!(matches!(probe(&path), Probe::Nothing));
    }

    #[test]
    fn it_can_be_given_to_the_user_that_the_master_becomes() {
        let scratch = Scratch::new("user");
        let path = scratch.file("s");
        let bound = Bound::bind(&path).expect("free");
        // Only root can give anything away.
        let own = geteuid().as_raw();
        let user = if own == 0 { 65_534 } else { own };
        let group = fs::metadata(&path).expect("bound").gid();
        bound.give_to(user, group).expect("ours to give");
        for name in [path.clone(), lock_path(&path)] {
            let owner = fs::symlink_metadata(name).expect("there").uid();
            assert_eq!(owner, user);
        }
    }

    #[test]
    fn another_process_removes_nothing() {
        let scratch = Scratch::new("process");
        let path = scratch.file("s");
        let mut bound = Bound::bind(&path).expect("free");
        bound.names.owner += 1;
        drop(bound);
        assert!(matches!(probe(&path), Probe::Dead));
    }

    #[test]
    fn the_usual_place_is_found_from_the_environment() {
        let scratch = Scratch::new("usual");
        let xdg = scratch.file("");
        let variables = |runtime: Option<&str>, xdg: Option<&Path>| {
            let (runtime, xdg) = (runtime.map(OsString::from), xdg.map(OsString::from));
            places_by(move |name| match name {
                "RUNTIME_DIRECTORY" => runtime.clone(),
                "XDG_RUNTIME_DIR" => xdg.clone(),
                _ => None,
            })
        };
        let directories = |places: Vec<Place>| -> Vec<PathBuf> {
            places.into_iter().map(|place| place.directory).collect()
        };
        let own = PathBuf::from(format!("/tmp/pointsman-{}", geteuid()));
        assert_eq!(
            directories(variables(None, None)),
            std::slice::from_ref(&own)
        );
        assert_eq!(
            directories(variables(Some("/run/a:/run/b"), Some(&xdg))),
            [PathBuf::from("/run/a"), xdg.join("pointsman"), own.clone()]
        );
        let gone = scratch.file("gone");
        assert_eq!(directories(variables(Some(""), Some(&gone))), [own]);

        let path = usual_in(variables(None, Some(&xdg))).expect("ours");
        let mode = fs::metadata(xdg.join("pointsman")).expect("made").mode();
        assert_eq!(mode & 0o777, 0o700);
        assert!(Bound::bind(&path).is_ok());
    }

    #[test]
    fn a_directory_in_which_others_have_a_hand_is_refused() {
        let scratch = Scratch::new("hand");
        let directory = scratch.file("d");
        make_directory(&directory).expect("made");
        make_directory(&directory).expect("there");
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).expect("ours");
        let error = make_directory(&directory)
            .expect_err("open to all")
            .to_string();
        assert!(error.contains("others may write"), "{error}");
        let link = scratch.file("l");
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).expect("ours");
        std::os::unix::fs::symlink(&directory, &link).expect("a link");
        let error = make_directory(&link).expect_err("a link").to_string();
        assert!(error.contains("not a directory"), "{error}");
    }
}
