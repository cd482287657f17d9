//! The one unsafe corner: memory that outlives this process, and two questions to the kernel.
//!
//! A mapping is handed out only as atomic words and atomic bytes. Every bit pattern of those is
//! valid and no access to them can race, so whatever another process may have left there can be
//! wrong but never undefined; and relaxed loads and stores of words cost what plain ones do. The
//! exception are the read buffers of the shards, which the kernel fills through a plain slice: each
//! such range is handed out once, to one owner, and nothing else in this process looks at it.
//!
//! All of it works on ordinary memory too (see [`Memory::plain`]), which has no system call in it,
//! so that the logic above can be tested under an interpreter.
#![allow(
    unsafe_code,
    reason = "rustix has safe words for neither mmap nor TCP_INFO; both are kept in this file"
)]

use std::ffi::c_int;
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::ops::{Deref, DerefMut, Range};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{Advice, MapFlags, ProtFlags};

use super::cut::cut;

const WORD: usize = size_of::<u64>();

/// Bytes that are written between two cuts: all of them would take tests too long.
const CUT_BYTES: usize = 64;

/// A fixed range of memory: words below `bytes_from`, bytes above, and read buffers in between.
#[derive(Debug)]
pub(super) struct Memory {
    base: NonNull<u8>,
    length: usize,
    /// Where words end.
    words: usize,
    /// Where bytes begin; between the two lie the read buffers.
    bytes_from: usize,
    backing: Backing,
    /// A bit for each read buffer that has its owner.
    lent: AtomicU64,
}

#[derive(Debug)]
enum Backing {
    /// Shared pages of a memfd.
    File(OwnedFd),
    /// Shared pages that nobody else can reach.
    Anonymous,
    /// A boxed slice of words, given back on drop.
    #[cfg_attr(not(test), expect(dead_code, reason = "for tests"))]
    Plain,
}

// SAFETY: the pointer is to memory that lives as long as the value, and is used only as atomics or
// through the exclusive buffers, which are `Send` by being byte slices.
unsafe impl Send for Memory {}
// SAFETY: as above; shared access is by atomics alone.
unsafe impl Sync for Memory {}

impl Memory {
    /// New pages, in a memfd if the kernel has it. Pages cost nothing until they are touched.
    pub(super) fn create(length: usize, words: usize, bytes_from: usize) -> io::Result<Self> {
        match memfd(length) {
            Ok(fd) => Self::open(fd, length, words, bytes_from),
            Err(error) => {
                tracing::warn!(%error, "no memfd: calls cannot outlive this process");
                let flags = MapFlags::SHARED | MapFlags::NORESERVE;
                let protection = ProtFlags::READ | ProtFlags::WRITE;
                // SAFETY: a new mapping at an address of the kernel's choice.
                let base = unsafe {
                    rustix::mm::mmap_anonymous(std::ptr::null_mut(), length, protection, flags)?
                };
                Self::of(base, length, words, bytes_from, Backing::Anonymous)
            }
        }
    }

    /// Maps what is there; the file must not be shorter than `length`.
    pub(super) fn open(
        fd: OwnedFd,
        length: usize,
        words: usize,
        bytes_from: usize,
    ) -> io::Result<Self> {
        // Touching a page behind the end of a file is a fault, so the end must stay where it is.
        let long = u64::try_from(rustix::fs::fstat(&fd)?.st_size).unwrap_or(0);
        let sealed = rustix::fs::fcntl_get_seals(&fd)?.contains(SealFlags::SHRINK);
        if long < length as u64 || !sealed {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the memory of calls is cut or can be cut",
            ));
        }
        let flags = MapFlags::SHARED | MapFlags::NORESERVE;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice, of a file that is long enough
        // and stays so.
        let base =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), length, protection, flags, &fd, 0)? };
        Self::of(base, length, words, bytes_from, Backing::File(fd))
    }

    /// Ordinary memory, for tests.
    #[cfg(test)]
    pub(super) fn plain(length: usize, words: usize, bytes_from: usize) -> Self {
        let boxed = vec![0_u64; length.div_ceil(WORD)].into_boxed_slice();
        let base = Box::into_raw(boxed).cast();
        Self::of(base, length, words, bytes_from, Backing::Plain).expect("a box is somewhere")
    }

    fn of(
        base: *mut std::ffi::c_void,
        length: usize,
        words: usize,
        bytes_from: usize,
        backing: Backing,
    ) -> io::Result<Self> {
        assert!(words <= bytes_from && bytes_from <= length && words.is_multiple_of(WORD));
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let memory = Self {
            base,
            length,
            words,
            bytes_from,
            backing,
            lent: AtomicU64::new(0),
        };
        if !matches!(memory.backing, Backing::Plain) {
            // What people say does not belong into a core file. A kernel without it dumps more.
            // SAFETY: the whole of our own mapping, whose contents stay as they are.
            let _ = unsafe {
                rustix::mm::madvise(memory.base.as_ptr().cast(), length, Advice::LinuxDontDump)
            };
        }
        Ok(memory)
    }

    /// The memfd, for whoever is to hold it.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.backing {
            Backing::File(fd) => Some(fd.as_fd()),
            Backing::Anonymous | Backing::Plain => None,
        }
    }

    /// `count` words from byte `at` on.
    ///
    /// # Panics
    ///
    /// When they are not all words of this memory.
    #[inline]
    pub(super) fn words(&self, at: usize, count: usize) -> &[AtomicU64] {
        let end = at + count * WORD;
        assert!(end <= self.words && at.is_multiple_of(WORD), "no words");
        #[expect(
            clippy::cast_ptr_alignment,
            reason = "a page or a box of words, and whole words from there"
        )]
        // SAFETY: within the range that is only ever used as atomic words, aligned, and alive as
        // long as `self`.
        unsafe {
            let first = self.base.as_ptr().add(at).cast::<AtomicU64>();
            std::slice::from_raw_parts(first, count)
        }
    }

    fn bytes(&self, range: Range<usize>) -> &[AtomicU8] {
        assert!(
            self.bytes_from <= range.start && range.end <= self.length && range.start <= range.end,
            "no bytes"
        );
        // SAFETY: within the range that is only ever used as atomic bytes, and alive as long as
        // `self`.
        unsafe {
            let first = self.base.as_ptr().add(range.start).cast::<AtomicU8>();
            std::slice::from_raw_parts(first, range.len())
        }
    }

    /// Copies bytes to `at`.
    ///
    /// # Panics
    ///
    /// When they are not all bytes of this memory.
    pub(super) fn write(&self, at: usize, bytes: &[u8]) {
        let cells = self.bytes(at..at + bytes.len());
        for (cells, bytes) in cells.chunks(CUT_BYTES).zip(bytes.chunks(CUT_BYTES)) {
            cut();
            for (cell, byte) in cells.iter().zip(bytes) {
                cell.store(*byte, Ordering::Relaxed);
            }
        }
    }

    /// Copies bytes from there to the end of `to`.
    ///
    /// # Panics
    ///
    /// When they are not all bytes of this memory.
    pub(super) fn read(&self, range: Range<usize>, to: &mut Vec<u8>) {
        let cells = self.bytes(range);
        to.extend(cells.iter().map(|cell| cell.load(Ordering::Relaxed)));
    }

    /// Gives pages of bytes back: they read as zeros.
    pub(super) fn forget(&self, range: Range<usize>) {
        let cells = self.bytes(range);
        cut();
        if matches!(self.backing, Backing::Plain) {
            for cell in cells {
                cell.store(0, Ordering::Relaxed);
            }
            return;
        }
        // If it fails, the pages are only kept longer.
        // SAFETY: pages of our own shared mapping; the bytes in them change as by a store of zeros.
        let _ = unsafe {
            let first = cells.as_ptr().cast_mut().cast();
            rustix::mm::madvise(first, cells.len(), Advice::LinuxRemove)
        };
    }

    /// The read buffer `index`, each `length` bytes long. `None`: it has its owner already.
    ///
    /// # Panics
    ///
    /// When there is none of that number.
    pub(super) fn lend(self: &Arc<Self>, index: usize, length: usize) -> Option<Buffer> {
        let at = self.words + index * length;
        assert!(index < 64 && at + length <= self.bytes_from, "no buffer");
        let bit = 1 << index;
        if self.lent.fetch_or(bit, Ordering::AcqRel) & bit != 0 {
            return None;
        }
        // SAFETY: within the mapping.
        let first = unsafe { self.base.add(at) };
        let memory = Arc::clone(self);
        Some(Buffer {
            first,
            length,
            index,
            memory,
        })
    }

    /// What another process left in a read buffer; for memory whose buffers are not lent.
    pub(super) fn look(self: &Arc<Self>, index: usize, length: usize, bytes: usize) -> Vec<u8> {
        let buffer = self.lend(index, length);
        buffer.map_or_else(Vec::new, |buffer| buffer[..bytes.min(length)].to_vec())
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        match self.backing {
            Backing::File(_) | Backing::Anonymous => {
                // SAFETY: our own mapping; whatever was borrowed from it is gone with its borrow of
                // `self`, and buffers hold an `Arc` of it.
                let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.length) };
            }
            Backing::Plain => {
                let words = self.length.div_ceil(WORD);
                #[expect(clippy::cast_ptr_alignment, reason = "it was a box of words")]
                let first = self.base.as_ptr().cast::<u64>();
                // SAFETY: the box that `plain` took apart, with its length.
                drop(unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(first, words)) });
            }
        }
    }
}

/// The exclusive owner of a read buffer.
#[derive(Debug)]
pub(super) struct Buffer {
    first: NonNull<u8>,
    length: usize,
    index: usize,
    memory: Arc<Memory>,
}

// SAFETY: it is an owned range of bytes.
unsafe impl Send for Buffer {}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: initialized memory, alive by the `Arc`, and ours alone by the bit in `lent`.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.length) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`.
        unsafe { std::slice::from_raw_parts_mut(self.first.as_ptr(), self.length) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bit = 1 << self.index;
        self.memory.lent.fetch_and(!bit, Ordering::AcqRel);
    }
}

fn memfd(length: usize) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = rustix::fs::memfd_create("segue-calls", flags)?;
    rustix::fs::ftruncate(&fd, length as u64)?;
    rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(fd)
}

/// What the kernel has counted of a TCP socket: its state, bytes received in order and bytes
/// acknowledged by the peer.
pub(super) fn tcp_info(socket: BorrowedFd<'_>) -> io::Result<(u8, u64, u64)> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length =
        libc::socklen_t::try_from(size_of::<libc::tcp_info>()).expect("a small struct");
    // SAFETY: the kernel writes at most `length` bytes to `info`, which has that many.
    let failed = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if failed != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all of it is integers, and it was zeroed before the kernel wrote to it.
    let info = unsafe { info.assume_init() };
    Ok((
        info.tcpi_state,
        info.tcpi_bytes_received,
        info.tcpi_bytes_acked,
    ))
}

/// Bytes that were written to a socket and are not acknowledged yet.
pub(super) fn unacknowledged(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut bytes: c_int = 0;
    // SAFETY: SIOCOUTQ (the same as TIOCOUTQ) writes one int.
    let failed = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if failed != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(u32::try_from(bytes).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(memory: Memory) {
        let memory = Arc::new(memory);
        memory.words(8, 2)[1].store(u64::MAX, Ordering::Relaxed);
        assert_eq!(memory.words(16, 1)[0].load(Ordering::Relaxed), u64::MAX);
        let mut buffer = memory.lend(1, 4_096).expect("nobody has it");
        assert!(memory.lend(1, 4_096).is_none(), "one owner at a time");
        buffer.fill(7);
        drop(buffer);
        assert_eq!(memory.look(1, 4_096, 3), [7, 7, 7]);
        memory.write(16_384 + 5, b"left over");
        let mut read = Vec::new();
        memory.read(16_384 + 5..16_384 + 14, &mut read);
        assert_eq!(read, b"left over");
        memory.forget(16_384..20_480);
        read.clear();
        memory.read(16_384 + 5..16_384 + 14, &mut read);
        assert_eq!(read, [0; 9]);
    }

    #[test]
    fn all_kinds_of_memory_are_alike() {
        check(Memory::plain(20_480, 4_096, 16_384));
        check(Memory::create(20_480, 4_096, 16_384).unwrap());
    }

    #[test]
    fn another_mapping_sees_the_same_and_a_short_file_is_refused() {
        let ours = Memory::create(8_192, 4_096, 4_096).unwrap();
        ours.words(0, 1)[0].store(42, Ordering::Relaxed);
        let fd = || ours.fd().unwrap().try_clone_to_owned().unwrap();
        let theirs = Memory::open(fd(), 8_192, 4_096, 4_096).unwrap();
        assert_eq!(theirs.words(0, 1)[0].load(Ordering::Relaxed), 42);
        assert!(Memory::open(fd(), 12_288, 4_096, 4_096).is_err());
    }

    #[test]
    #[should_panic(expected = "no words")]
    fn words_end_where_they_end() {
        Memory::plain(8_192, 4_096, 4_096).words(4_096, 1);
    }
}
