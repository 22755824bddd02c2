//! Arrays of the datapath, mapped into this process: writing an element is writing memory.
//!
//! One of the two places with `unsafe` in the dataplane; the other is `bpf/`.

use std::{
    ffi::c_void,
    io, iter,
    marker::PhantomData,
    os::fd::BorrowedFd,
    ptr::NonNull,
    slice,
    sync::atomic::{AtomicU32, AtomicU64, Ordering, fence},
};

use aya::Pod;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// What the mapping is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Reading and writing.
    Write,
    /// Reading only.
    Read,
}

/// The elements of an array map (`BPF_F_MMAPABLE`, since 5.5) in memory.
///
/// Programs read the memory at the same time, so it is only touched in words of 32 bits that are
/// written and read whole. An element of several words is not written at once: see
/// [`proxy_common::Backend`] for why no program relies on that.
#[derive(Debug)]
pub(super) struct Mapped<T> {
    memory: NonNull<c_void>,
    bytes: usize,
    elements: u32,
    access: Access,
    _elements: PhantomData<T>,
}

impl<T: Pod> Mapped<T> {
    const WORDS: usize = size_of::<T>() / size_of::<u32>();
    /// The kernel rounds elements up to 8 bytes.
    const STRIDE: usize = size_of::<T>().next_multiple_of(8);

    /// Maps all `elements` of `map`, which must be an array of `T`.
    ///
    /// # Errors
    /// The map is not mappable, or not as large.
    pub(super) fn new(map: BorrowedFd<'_>, elements: u32, access: Access) -> io::Result<Self> {
        const { assert!(size_of::<T>().is_multiple_of(size_of::<u32>()), "elements consist of words") };
        let elements_usize = usize::try_from(elements).map_err(io::Error::other)?;
        let bytes = elements_usize
            .checked_mul(Self::STRIDE)
            .and_then(|bytes| bytes.checked_next_multiple_of(rustix::param::page_size()))
            .ok_or(io::ErrorKind::InvalidInput)?;
        let protection = match access {
            Access::Write => ProtFlags::READ | ProtFlags::WRITE,
            Access::Read => ProtFlags::READ,
        };
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory in use. The
        // kernel refuses lengths beyond the map.
        let memory = unsafe { mmap(std::ptr::null_mut(), bytes, protection, MapFlags::SHARED, map, 0) }?;
        let memory = NonNull::new(memory).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { memory, bytes, elements, access, _elements: PhantomData })
    }

    /// How many elements there are.
    pub(super) fn len(&self) -> u32 {
        self.elements
    }

    /// The element at `index`; `None` beyond the end.
    pub(super) fn get(&self, index: u32) -> Option<T> {
        let mut value = std::mem::MaybeUninit::<T>::uninit();
        for (number, word) in self.words(index)?.enumerate() {
            let bits = word.load(Ordering::Relaxed);
            // SAFETY: `number` is below WORDS, so the write is within `value`; it need not be aligned.
            unsafe { value.as_mut_ptr().cast::<u32>().add(number).write_unaligned(bits) };
        }
        // SAFETY: all words of `value` were written, and a `Pod` type is valid for every bit pattern.
        Some(unsafe { value.assume_init() })
    }

    /// The elements that have a bit set, with their indexes. All others are passed over quickly: large arrays are mostly
    /// zeros.
    pub(super) fn nonzero(&self) -> impl Iterator<Item = (u32, T)> {
        let mut from = 0;
        iter::from_fn(move || {
            let index = self.next_nonzero(from)?;
            from = index + 1;
            Some((index, self.get(index)?))
        })
    }

    /// The index of the first such element, from this one on.
    fn next_nonzero(&self, from: u32) -> Option<u32> {
        const WORD: usize = size_of::<u64>();
        let elements = usize::try_from(self.elements).ok()?;
        let words = elements * Self::STRIDE / WORD;
        // SAFETY: the mapping is aligned and has that many words of 64 bits, also those between elements. Words of another size are only
        // stored with `&mut self`, so never at the same time in this process; the kernel is beyond the memory model.
        let memory = unsafe { slice::from_raw_parts(self.memory.cast::<AtomicU64>().as_ptr(), words) };
        let mut at = usize::try_from(from).ok()? * Self::STRIDE / WORD;
        while at < words {
            if memory[at].load(Ordering::Relaxed) != 0 {
                return (at * WORD / Self::STRIDE).try_into().ok();
            }
            at += 1;
        }
        None
    }

    /// Writes the element at `index`; false beyond the end.
    pub(super) fn set(&mut self, index: u32, value: &T) -> bool {
        if self.access != Access::Write {
            return false;
        }
        let Some(words) = self.words(index) else { return false };
        for (number, word) in words.enumerate() {
            // SAFETY: `number` is below WORDS, so the read is within `value`; it need not be aligned,
            // and `Pod` types have no padding that could be uninitialised.
            let bits = unsafe { std::ptr::from_ref(value).cast::<u32>().add(number).read_unaligned() };
            word.store(bits, Ordering::Relaxed);
        }
        true
    }

    /// The words of an element.
    fn words(&self, index: u32) -> Option<impl Iterator<Item = &AtomicU32>> {
        let index = (index < self.elements).then_some(index)?;
        let start = usize::try_from(index).ok()? * Self::STRIDE;
        let memory = self.memory.cast::<u8>();
        Some((0..Self::WORDS).map(move |word| {
            // SAFETY: the element lies within the mapping, which lives as long as `self`. Its words are
            // aligned, as the mapping is and the stride is a multiple of 8. Everybody in this process
            // accesses them atomically; what the kernel does is beyond the memory model and writes whole
            // words as well. Read-only mappings are only loaded from.
            unsafe { AtomicU32::from_ptr(memory.add(start + word * size_of::<u32>()).cast::<u32>().as_ptr()) }
        }))
    }
}

/// Makes everything written so far visible before anything that is written later, also by system calls.
pub(super) fn settle() {
    fence(Ordering::SeqCst);
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this length, and no reference to it outlives `self`.
        let result = unsafe { munmap(self.memory.as_ptr(), self.bytes) };
        debug_assert!(result.is_ok(), "unmapping what was mapped");
    }
}

// SAFETY: the mapping belongs to the process and not to a thread, and is accessed atomically.
unsafe impl<T: Send> Send for Mapped<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Mapped<T> {}
