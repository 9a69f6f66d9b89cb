//! Memory shared between processes: a sealed `memfd`, mapped as a typed structure of atomics.

use std::{
    fmt, io,
    num::NonZeroUsize,
    ops::Deref,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    ptr::NonNull,
};

use nix::{
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::{
        memfd::{MFdFlags, memfd_create},
        mman::{MapFlags, ProtFlags, mmap, munmap},
    },
    unistd::ftruncate,
};

/// A structure that may live in memory shared with other processes.
///
/// # Safety
/// Any bit pattern must be a valid value (zero included), and every byte that a safe caller can
/// reach must be an atomic, since other processes write to it at any time. Implement it through
/// `shared_struct!`, which checks both field by field.
pub unsafe trait Shared: Sync + 'static {}

// SAFETY: an atomic integer has no invalid bit pattern, and it is an atomic.
unsafe impl Shared for std::sync::atomic::AtomicU64 {}
// SAFETY: as its elements.
unsafe impl<T: Shared, const N: usize> Shared for [T; N] {}

/// Declares a `#[repr(C)]` structure whose fields are all [`Shared`](crate::sys::shm::Shared), each
/// starting on a cache line of its own where `align(128)` is asked for (two lines: the adjacent-line
/// prefetcher fetches pairs).
macro_rules! shared_struct {
    ($(#[$meta:meta])* $vis:vis struct $name:ident { $($(#[$fmeta:meta])* $fvis:vis $field:ident : $type:ty),* $(,)? }) => {
        $(#[$meta])*
        #[repr(C)]
        $vis struct $name { $($(#[$fmeta])* $fvis $field: $type),* }
        // SAFETY: the bound below does not hold, and this does not compile, unless every field is
        // itself Shared; repr(C) structures of such fields are valid for any bit pattern.
        #[allow(unsafe_code)]
        unsafe impl $crate::sys::shm::Shared for $name where $($type: $crate::sys::shm::Shared),* {}
    };
}

pub(crate) use shared_struct;

/// A `T` in shared memory. Fresh memory is zero; pages that nobody touches cost nothing.
pub struct Mapping<T: Shared> {
    memory: OwnedFd,
    address: NonNull<T>,
}

// SAFETY: a Mapping is a shared reference to a `T: Sync` that is not tied to any thread.
unsafe impl<T: Shared> Send for Mapping<T> {}
// SAFETY: as above; it hands out nothing but `&T`.
unsafe impl<T: Shared> Sync for Mapping<T> {}

impl<T: Shared> Mapping<T> {
    const SIZE: usize = size_of::<T>();

    /// Makes a new zeroed region called `name` (seen in `/proc/PID/maps`).
    ///
    /// # Errors
    /// As `memfd_create(2)` and `mmap(2)`.
    pub fn create(name: &str) -> io::Result<Self> {
        let memory = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
        ftruncate(&memory, Self::SIZE as i64)?;
        // No process may shrink what another has mapped: that would be a SIGBUS.
        fcntl(
            &memory,
            FcntlArg::F_ADD_SEALS(
                SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL,
            ),
        )?;
        Self::open(memory)
    }

    /// Maps a region that another process made with [`create`](Self::create).
    ///
    /// # Errors
    /// `InvalidData` if its size or its seals are not those of a `T`; else as `mmap(2)`.
    pub fn open(memory: OwnedFd) -> io::Result<Self> {
        let size = nix::sys::stat::fstat(&memory)?.st_size;
        let seals = SealFlag::from_bits_truncate(fcntl(&memory, FcntlArg::F_GET_SEALS)?);
        if size != Self::SIZE as i64 || !seals.contains(SealFlag::F_SEAL_SHRINK) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "shared memory of {size} bytes where {} are expected",
                    Self::SIZE
                ),
            ));
        }
        let length = NonZeroUsize::new(Self::SIZE).expect("a shared structure has a size");
        // SAFETY: a new mapping at an address of the kernel's choice aliases nothing of ours. It is
        // as long as `T` (checked above), cannot shrink (sealed), and is page-aligned.
        let address = unsafe {
            mmap(
                None,
                length,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
                &memory,
                0,
            )?
        };
        const { assert!(align_of::<T>() <= 4096, "mappings are page-aligned") };
        Ok(Self {
            memory,
            address: address.cast(),
        })
    }
}

impl<T: Shared> Deref for Mapping<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: `address` maps SIZE readable and writable bytes until drop; `T: Shared` is valid
        // for any bit pattern and only atomics are reachable, so writes by others are no data race.
        unsafe { self.address.as_ref() }
    }
}

impl<T: Shared> AsFd for Mapping<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }
}

impl<T: Shared> Drop for Mapping<T> {
    fn drop(&mut self) {
        // SAFETY: mapped by `open` with this length, and `&mut self` proves that no `&T` is left.
        // An error would mean that it is not mapped: nothing to do about it here.
        let _ = unsafe { munmap(self.address.cast(), Self::SIZE) };
    }
}

impl<T: Shared> fmt::Debug for Mapping<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapping")
            .field("bytes", &Self::SIZE)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use super::*;

    type Table = [AtomicU64; 1000];

    #[test]
    fn what_one_mapping_writes_another_reads() {
        let a: Mapping<Table> = Mapping::create("test").expect("create");
        let b: Mapping<Table> =
            Mapping::open(a.as_fd().try_clone_to_owned().expect("dup")).expect("open");
        assert!(b.iter().all(|word| word.load(Relaxed) == 0));
        a[999].store(7, Relaxed);
        assert_eq!(b[999].load(Relaxed), 7);
    }

    #[test]
    fn a_region_of_another_size_or_without_seals_is_refused() {
        let a: Mapping<[AtomicU64; 8]> = Mapping::create("test").expect("create");
        let fd = a.as_fd().try_clone_to_owned().expect("dup");
        assert!(Mapping::<Table>::open(fd).is_err(), "wrong size");
        let bare = memfd_create("bare", MFdFlags::MFD_CLOEXEC).expect("memfd");
        ftruncate(&bare, 8000).expect("truncate");
        assert!(Mapping::<Table>::open(bare).is_err(), "not sealed");
    }
}
