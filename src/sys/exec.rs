//! Becoming another program in place: same process, same children, same descriptors.
//!
//! What the next program is to know travels in a `memfd` whose number, with the process id that it is
//! meant for, is in the variable [`LUGGAGE`]: a JSON list of descriptor numbers on the first line,
//! then whatever the sender wrote.

use std::{
    ffi::{CString, OsString},
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStringExt,
    },
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    sys::memfd::{MFdFlags, memfd_create},
};

/// The environment variable that names the luggage.
pub const LUGGAGE: &str = "POINTSMAN_LUGGAGE";

/// Descriptors and words for the next program.
#[derive(Debug, Default)]
pub struct Luggage {
    /// What it is to know, in the sender's own words.
    pub words: Vec<u8>,
    /// In an order that the words refer to.
    pub descriptors: Vec<OwnedFd>,
}

/// Writes words and descriptor numbers to where the next program will read them.
fn pack(words: &[u8], numbers: &[RawFd]) -> io::Result<File> {
    let mut memory = File::from(memfd_create("pointsman-luggage", MFdFlags::MFD_CLOEXEC)?);
    serde_json::to_writer(&mut memory, numbers)?;
    memory.write_all(b"\n")?;
    memory.write_all(words)?;
    memory.seek(SeekFrom::Start(0))?;
    Ok(memory)
}

/// The luggage as a descriptor, for another process to look at. It holds no descriptors.
///
/// # Errors
/// As `memfd_create(2)` and `write(2)`.
pub fn sample(words: &[u8]) -> io::Result<OwnedFd> {
    pack(words, &[]).map(OwnedFd::from)
}

/// The words of a [`sample`].
///
/// # Errors
/// It is none.
pub fn read_sample(memory: OwnedFd) -> io::Result<Vec<u8>> {
    read(File::from(memory)).map(|(words, _)| words)
}

fn read(mut memory: File) -> io::Result<(Vec<u8>, Vec<RawFd>)> {
    let mut bytes = Vec::new();
    memory.seek(SeekFrom::Start(0))?;
    memory.read_to_end(&mut bytes)?;
    let end = bytes
        .iter()
        .position(|b| *b == b'\n')
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no luggage in there"))?;
    let numbers = serde_json::from_slice(&bytes[..end])?;
    bytes.drain(..=end);
    Ok((bytes, numbers))
}

/// Runs `program` in the place of this one, with the arguments and the environment of this one. All
/// other threads end; they must hold back signals (see
/// [`hold_signals`](super::child::hold_signals)), or one that they take is lost. Signals are held back until the next program calls
/// [`admit_signals`](super::child::admit_signals): one that comes between the two programs is not lost,
/// and does not end the process.
///
/// Returns only if that failed; then nothing has changed, and the luggage is given back.
pub fn become_program(program: &Path, luggage: Luggage) -> (io::Error, Luggage) {
    let mut changed = Vec::new();
    let failed = match try_become(program, &luggage, &mut changed) {
        Ok(never) => match never {},
        Err(error) => error,
    };
    for number in changed {
        set_inheritable(number, false);
    }
    super::child::admit_signals();
    (failed, luggage)
}

fn try_become(
    program: &Path,
    luggage: &Luggage,
    changed: &mut Vec<RawFd>,
) -> io::Result<std::convert::Infallible> {
    let text = |text: OsString| CString::new(text.into_vec()).map_err(io::Error::other);
    let numbers: Vec<RawFd> = luggage.descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let memory = pack(&luggage.words, &numbers)?;
    let mut environment = vec![CString::new(format!(
        "{LUGGAGE}={}:{}",
        memory.as_raw_fd(),
        std::process::id()
    ))?];
    for (name, value) in std::env::vars_os().filter(|(name, _)| name != LUGGAGE) {
        let mut pair = name;
        pair.push("=");
        pair.push(value);
        environment.push(text(pair)?);
    }
    let arguments = std::env::args_os()
        .map(text)
        .collect::<io::Result<Vec<_>>>()?;
    let program = text(program.as_os_str().to_owned())?;
    // Not to be changed back: it is closed if we fail.
    set_inheritable(memory.as_raw_fd(), true);
    for number in numbers {
        changed.push(number);
        set_inheritable(number, true);
    }
    super::child::hold_signals();
    Ok(nix::unistd::execve(&program, &arguments, &environment)?)
}

fn set_inheritable(number: RawFd, inheritable: bool) {
    // SAFETY: the caller owns the descriptor; only its flag is changed.
    let descriptor = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
    let flags = match inheritable {
        true => FdFlag::empty(),
        false => FdFlag::FD_CLOEXEC,
    };
    // Fails only for a descriptor that is not open, which one that is owned cannot be.
    let _ = fcntl(descriptor, FcntlArg::F_SETFD(flags));
}

/// Has an earlier program left luggage for this process? Takes nothing.
pub fn has_luggage() -> bool {
    number_of_luggage().is_some()
}

fn number_of_luggage() -> Option<RawFd> {
    let value = std::env::var(LUGGAGE).ok()?;
    let (number, pid) = value.split_once(':')?;
    // Children have the variable too, but another number.
    (pid.parse() == Ok(std::process::id())).then(|| number.parse().ok())?
}

/// The luggage that has arrived and was not taken yet.
static ARRIVED: Mutex<Option<Luggage>> = Mutex::new(None);

/// Opens what an earlier program left for this process, once.
fn open_luggage() -> io::Result<MutexGuard<'static, Option<Luggage>>> {
    static OPENED: AtomicBool = AtomicBool::new(false);
    let mut arrived = ARRIVED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(number) = number_of_luggage()
        && !OPENED.swap(true, Ordering::AcqRel)
    {
        // SAFETY: left open by the program before, in this same process, for exactly this purpose;
        // adopted once (above), and nothing else in this process can know the number.
        let memory = unsafe { File::from_raw_fd(number) };
        let (words, numbers) = read(memory)?;
        let adopt = |number| {
            set_inheritable(number, false);
            // SAFETY: as above; each is named once.
            unsafe { OwnedFd::from_raw_fd(number) }
        };
        *arrived = Some(Luggage {
            words,
            descriptors: numbers.into_iter().map(adopt).collect(),
        });
    }
    Ok(arrived)
}

/// Looks into the luggage before it is taken.
pub fn peek_luggage<T>(look: impl FnOnce(&Luggage) -> Option<T>) -> Option<T> {
    open_luggage().ok()?.as_ref().and_then(look)
}

/// Takes the luggage that an earlier program left for this process, if there is any. Once: a second call
/// finds none.
///
/// # Errors
/// It cannot be read.
pub fn take_luggage() -> io::Result<Option<Luggage>> {
    Ok(open_luggage()?.take())
}

/// A path by which this process can run the program that `descriptor` has open, wherever its file is by
/// now.
pub fn path_of(descriptor: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", descriptor.as_raw_fd()).into()
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};

    use super::*;

    #[test]
    fn a_sample_is_read_back_and_anything_else_is_refused() {
        let sample = sample(b"words\nand more").expect("memfd");
        assert_eq!(read_sample(sample).expect("a sample"), b"words\nand more");
        let empty = memfd_create("test", MFdFlags::MFD_CLOEXEC).expect("memfd");
        assert!(read_sample(empty).is_err());
    }

    #[test]
    fn a_program_that_cannot_be_run_changes_nothing() {
        let file = File::open("/dev/null").expect("there");
        let luggage = Luggage {
            words: b"x".to_vec(),
            descriptors: vec![file.into()],
        };
        for program in ["/nowhere", "/", "/dev/null"] {
            let luggage = Luggage {
                words: luggage.words.clone(),
                descriptors: vec![luggage.descriptors[0].try_clone().expect("dup")],
            };
            let (_, back) = become_program(Path::new(program), luggage);
            let flags = fcntl(&back.descriptors[0], FcntlArg::F_GETFD).expect("open");
            assert_eq!(flags, FdFlag::FD_CLOEXEC.bits(), "{program}");
            let mut blocked = SigSet::empty();
            pthread_sigmask(SigmaskHow::SIG_BLOCK, None, Some(&mut blocked)).expect("readable");
            assert!(!blocked.contains(nix::sys::signal::SIGTERM), "{program}");
        }
        assert!(take_luggage().expect("none").is_none());
    }
}
