//! What a process may do: becoming another user, capabilities, the limit of open files.

use std::{fmt, io};

use nix::{
    errno::Errno,
    sys::{
        prctl,
        resource::{Resource, getrlimit, setrlimit},
    },
    unistd::{Gid, Group, Uid, User, getresgid, getresuid, setgroups, setresgid, setresuid},
};

/// A user and a group that a process can become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The user.
    pub uid: u32,
    /// The group, the only one.
    pub gid: u32,
    /// As it was asked for.
    name: String,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (uid {}, gid {})", self.name, self.uid, self.gid)
    }
}

/// Finds a user and a group, each by name or by number; without a group, the user's own. As with
/// chown(1), a name that looks like a number is tried as a name first.
///
/// # Errors
/// There is none of that name, or the user is root. The text says which, and what to do.
pub fn look_up(user: &str, group: Option<&str>) -> io::Result<Identity> {
    let number = number(user);
    let entry = match (User::from_name(user)?, number) {
        (Some(entry), _) => Some(entry),
        (None, Some(uid)) => User::from_uid(Uid::from_raw(uid))?,
        (None, None) => return Err(invalid(format!("there is no user '{user}' here"))),
    };
    let uid = match &entry {
        Some(entry) => entry.uid.as_raw(),
        None => number.expect("a user without an entry is a number"),
    };
    if uid == 0 {
        return Err(invalid(format!(
            "user '{user}' is root, who gives up nothing: name another, or none"
        )));
    }
    let gid = match (group, entry) {
        (Some(group), _) => find_group(group)?,
        (None, Some(entry)) => entry.gid.as_raw(),
        (None, None) => {
            return Err(invalid(format!(
                "user {uid} is not in the user database, so its group is not known: name that too (--group)"
            )));
        }
    };
    let name = user.to_owned();
    Ok(Identity { uid, gid, name })
}

fn find_group(group: &str) -> io::Result<u32> {
    if let Some(entry) = Group::from_name(group)? {
        return Ok(entry.gid.as_raw());
    }
    number(group).ok_or_else(|| invalid(format!("there is no group '{group}' here")))
}

/// A user's or a group's number; the largest stands for "none" in the kernel.
fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|n| *n != u32::MAX)
}

/// Becomes `identity` for good: no way back, no other groups, no capabilities, and no program run
/// from here can regain any. Being it already is fine.
///
/// The process is made "not dumpable": others of the same user, its workers above all, can neither
/// trace it nor look into its memory or its descriptors. It can still read all that it needs of its
/// own `/proc/self`, and start itself again through `/proc/self/exe`; `exec` makes the child
/// dumpable again, so that the master may read the child's figures even where `/proc` hides what one
/// must not trace.
///
/// # Errors
/// It is not permitted; other threads run already, each of which has privileges of its own; or
/// something was not given up. The process must not go on then.
pub fn drop_to(identity: &Identity) -> io::Result<()> {
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    if threads != 1 {
        return Err(io::Error::other(format!(
            "{threads} threads run already, and each has privileges of its own"
        )));
    }
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    // Before the change of user, which takes away the right to do it.
    empty_bounding_set()?;
    let became = setgroups(&[gid])
        .and_then(|()| setresgid(gid, gid, gid))
        .and_then(|()| setresuid(uid, uid, uid));
    let is_it = || -> nix::Result<bool> {
        let (users, groups) = (getresuid()?, getresgid()?);
        Ok([users.real, users.effective, users.saved] == [uid; 3]
            && [groups.real, groups.effective, groups.saved] == [gid; 3])
    };
    match became {
        Ok(()) => {}
        // Whoever was started as that user can change nothing, and need not.
        Err(Errno::EPERM) if is_it()? => {}
        Err(Errno::EPERM) => {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "only root may become another user (capabilities SETUID, SETGID): start it as root, or leave --user and --group out",
            ));
        }
        Err(errno) => return Err(errno.into()),
    }
    clear_capabilities()?;
    prctl::set_no_new_privs()?;
    prctl::set_dumpable(false)?;
    // Trust nothing: a way back would show only when it is used against us.
    // SAFETY: a plain system call; it is expected to fail, and if not we do not go on.
    let back = unsafe { libc::setuid(0) } == 0;
    if back || !is_it()? {
        return Err(io::Error::other("privileges were not given up for good"));
    }
    Ok(())
}

/// Closes this process to others of the same user once more, as [`drop_to`] did: `exec` has opened it.
///
/// # Errors
/// As `prctl(2)`.
pub fn close_again() -> io::Result<()> {
    Ok(prctl::set_dumpable(false)?)
}

/// Takes from a worker what it does not need: capabilities, the way to new ones, and core dumps,
/// which would hold what clients sent. Works without privileges too. Capabilities are each thread's
/// own: to be called before there is a second one.
///
/// # Errors
/// The kernel refuses; nothing that it lets an unprivileged process do is asked of it.
pub fn disarm() -> io::Result<()> {
    empty_bounding_set()?;
    clear_capabilities()?;
    prctl::set_no_new_privs()?;
    let (_, hard) = getrlimit(Resource::RLIMIT_CORE)?;
    Ok(setrlimit(Resource::RLIMIT_CORE, 0, hard)?)
}

/// Sets how many descriptors this process and its children may have: `wanted`, or all that is
/// allowed. The soft and the hard limit that are in force then. The hard limit stays, so that a
/// later binary may ask for more.
///
/// # Errors
/// More is wanted than the hard limit allows.
pub fn limit_descriptors(wanted: Option<u64>) -> io::Result<(u64, u64)> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if let Some(wanted) = wanted.filter(|wanted| *wanted > hard) {
        return Err(invalid(format!(
            "{wanted} open files are wanted (--nofile), but the hard limit is {hard}: raise that (ulimit -Hn, LimitNOFILE=), or ask for less"
        )));
    }
    let wanted = wanted.unwrap_or(hard);
    if wanted != soft {
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard)?;
    }
    Ok((wanted, hard))
}

/// Takes every capability out of the bounding set, so that no program run from here can have any. It
/// takes a capability itself; whoever lacks that can give `no_new_privs` only, to the same end.
fn empty_bounding_set() -> io::Result<()> {
    // The kernel says which is the last: what it does not know it will not read.
    for capability in 0.. {
        // SAFETY: plain system calls with numbers as arguments.
        let (held, dropped) = unsafe {
            match libc::prctl(libc::PR_CAPBSET_READ, capability, 0, 0, 0) {
                1 => (1, libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0)),
                other => (other, 0),
            }
        };
        if held < 0 {
            break;
        }
        match Errno::result(dropped) {
            Ok(_) => {}
            Err(Errno::EPERM) => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// Gives up the ambient, effective, permitted and inheritable capabilities of the calling thread.
fn clear_capabilities() -> io::Result<()> {
    /// `struct __user_cap_header_struct` (linux/capability.h).
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    /// `struct __user_cap_data_struct`.
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    /// `_LINUX_CAPABILITY_VERSION_3`: two sets of 32 bits each.
    const VERSION: u32 = 0x2008_0522;

    // SAFETY: a plain system call with numbers as arguments.
    Errno::result(unsafe {
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_CLEAR_ALL,
            0,
            0,
            0,
        )
    })?;
    let header = Header {
        version: VERSION,
        pid: 0,
    };
    let none = [Data {
        effective: 0,
        permitted: 0,
        inheritable: 0,
    }; 2];
    // SAFETY: the kernel reads the header and, for this version, two data structures; both outlive
    // the call. It writes to the header only if it does not know the version, which it has done
    // since 2.6.26; the pointer is to memory that may be written nevertheless.
    Errno::result(unsafe {
        let mut header = header;
        libc::syscall(libc::SYS_capset, &raw mut header, none.as_ptr())
    })?;
    Ok(())
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_groups_are_found_by_name_and_by_number() {
        let nobody = look_up("nobody", None).expect("every system has one");
        let by_number = look_up(&nobody.uid.to_string(), None).expect("the same");
        assert_eq!((nobody.uid, nobody.gid), (by_number.uid, by_number.gid));
        let group = look_up("nobody", Some("root")).expect("every system has one");
        assert_eq!((group.uid, group.gid), (nobody.uid, 0));
        let strange = look_up("4123456", Some("4123457")).expect("numbers");
        assert_eq!((strange.uid, strange.gid), (4_123_456, 4_123_457));
    }

    #[test]
    fn who_cannot_be_become_is_refused_by_name() {
        for (user, group, culprit) in [
            ("no-such-user", None, "no user 'no-such-user'"),
            ("4294967295", None, "no user '4294967295'"),
            ("-1", None, "no user '-1'"),
            ("nobody", Some("no-such-group"), "no group 'no-such-group'"),
            ("4123456", None, "--group"),
            ("root", None, "'root' is root"),
            ("0", Some("0"), "'0' is root"),
        ] {
            let error = look_up(user, group).expect_err(culprit).to_string();
            assert!(error.contains(culprit), "{error}");
        }
    }

    #[test]
    fn privileges_are_not_dropped_beside_other_threads() {
        // The test harness runs each test on a thread, so there are two at least.
        let nobody = look_up("nobody", None).expect("every system has one");
        let before = getresuid().expect("there is one");
        let error = drop_to(&nobody).expect_err("threads").to_string();
        assert!(error.contains("threads run already"), "{error}");
        assert_eq!(getresuid().expect("there is one"), before);
    }

    #[test]
    fn more_descriptors_than_allowed_are_refused_with_both_numbers() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("there is one");
        let wanted = hard + 1;
        let error = limit_descriptors(Some(wanted))
            .expect_err("too many")
            .to_string();
        assert!(
            error.contains(&wanted.to_string()) && error.contains(&hard.to_string()),
            "{error}"
        );
    }
}
