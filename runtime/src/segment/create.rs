//! Making a segment, and opening one that somebody else made.
//!
//! 1. Make the file as large as the limit needs (sparse). 2. Reserve the fixed tables. 3. Map. 4. Fill the header. 5. Commit the
//! first chunk. 6. Store the magic number, with Release. An opener reads the magic first, with Acquire, then compares field by
//! field and names the first that differs.
//! **If the maker dies** before step 6 the segment reads as "no coheap segment" for ever, and goes with its last descriptor.
#![expect(unsafe_code, reason = "maps the file and adopts the mapping")]

use std::{
    num::NonZeroUsize,
    os::fd::{AsFd, OwnedFd},
    ptr::NonNull,
    sync::atomic::Ordering::{Acquire, Relaxed, Release},
};

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, mmap_anonymous, munmap};
use shm_layout::{
    MAX_HEAP_BYTES,
    geometry::Geometry,
    header::{Header, LAYOUT_HASH, LAYOUT_VERSION, MAGIC},
    word::PhaseWord,
};

use super::{Backing, Segment, backing, huge, limits};
use crate::{Error, error::Result, heap::oracle::Oracles, names};

/// What a new segment should be.
#[derive(Clone, Debug)]
pub struct SegmentConfig {
    /// Hard limit of the heap in bytes, rounded up to 4 MiB. A reservation of addresses, not of memory.
    pub max_bytes: u64,
    /// Where the bytes live.
    pub backing: Backing,
    /// GOGC: a cycle ends when the heap has grown by this percentage over what the last one left. Negative: off.
    pub gc_percent: i32,
    /// The pacer works harder above this many bytes; 0 for 95 % of the hard limit.
    pub soft_limit_bytes: u64,
    /// P's that may run tasks.
    pub procs: u16,
    /// Deaths of one step after which its task is given up; 0 never.
    pub redeliver_max: u32,
    /// Name of the heap, for people; at most 63 bytes.
    pub name: String,
}

impl Default for SegmentConfig {
    fn default() -> Self {
        SegmentConfig {
            max_bytes: 4 << 30,
            backing: Backing::Memfd,
            gc_percent: 100,
            soft_limit_bytes: 0,
            procs: 256,
            redeliver_max: 3,
            name: "heap".into(),
        }
    }
}

/// Go's: the heap does not shrink its goal below this, times GOGC / 100.
pub(crate) const HEAP_MINIMUM_BYTES: u64 = 4 << 20;

impl Segment {
    /// Makes a segment.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a limit that 32-bit references cannot reach or a name that is too long; [`Error::Exists`] for a taken
    /// name; [`Error::NoMemory`] when the first pages cannot be reserved; [`Error::Os`] otherwise.
    pub fn create(config: &SegmentConfig) -> Result<Segment> {
        let Some(geo) = Geometry::of_limit(config.max_bytes) else {
            return Err(Error::Invalid {
                what: format!(
                    "a heap of {} bytes is more than the {MAX_HEAP_BYTES} that references reach",
                    config.max_bytes
                ),
            });
        };
        if config.name.len() > 63 || config.name.is_empty() {
            return Err(Error::Invalid {
                what: format!("heap name {:?} must have 1 to 63 bytes", config.name),
            });
        }
        let (fd, owned) = backing::make(&config.backing, &config.name, geo.total_bytes)?;
        limits::reserve(fd.as_fd(), 0, geo.areas_at)?;
        limits::reserve(fd.as_fd(), geo.workers_at, geo.fixed_end - geo.workers_at)?;
        let base = map(&fd, geo.total_bytes)?;
        // SAFETY: mapped just now with this length from a file of this length, which is sealed or belongs to our uid.
        let segment = unsafe { Segment::adopt(base, geo, fd, owned) };
        fill_header(&segment, config);
        crate::recover::init_lock(segment.hdr)?;
        segment.grow(
            0,
            shm_layout::word::Owner::new(shm_layout::word::Owner::RECOVERER, 0),
        )?;
        segment.reserve_null_page();
        // Release: partner of the Acquire in `check`; an opener that sees the magic sees everything above.
        segment.hdr.id.magic.store(MAGIC, Release);
        Ok(segment)
    }

    /// Maps a segment that another process made and passed to us.
    ///
    /// # Errors
    /// [`Error::LayoutMismatch`] naming the first field that differs; [`Error::Violation`] naming a table whose contents no heap of this
    /// size can have; [`Error::Os`] when it cannot be mapped.
    pub fn open_fd(fd: OwnedFd) -> Result<Segment> {
        let stat =
            nix::sys::stat::fstat(fd.as_fd()).map_err(|e| Error::os("stat of the segment", e))?;
        let bytes = stat.st_size.max(0) as usize;
        if bytes < size_of::<Header>() {
            return Err(Error::LayoutMismatch {
                field: "size",
                theirs: format!("{bytes} bytes"),
                ours: format!("at least {} bytes", size_of::<Header>()),
            });
        }
        let limit_bytes = check(&fd)?;
        let geo = Geometry::of_limit(limit_bytes)
            .filter(|g| g.limit_bytes == limit_bytes && g.total_bytes == bytes);
        let Some(geo) = geo else {
            return Err(Error::LayoutMismatch {
                field: "limit_bytes",
                theirs: format!("{limit_bytes} in a file of {bytes} bytes"),
                ours: "a limit that fits the file".into(),
            });
        };
        let base = map(&fd, bytes)?;
        // SAFETY: mapped just now with this length; the file has this length by fstat, and shrinking it takes our own uid (S2).
        let segment = unsafe { Segment::adopt(base, geo, fd, backing::Owned::Nothing) };
        super::check::counts(&segment)?;
        Ok(segment)
    }

    /// Incarnation of the segment in a file, whatever version made it; `None` when the file holds no segment. Maps nothing.
    ///
    /// ```
    /// let segment = coheap::Segment::create(&Default::default()).unwrap();
    /// assert_eq!(coheap::Segment::incarnation_of(segment.fd()), Some(segment.incarnation()));
    /// ```
    pub fn incarnation_of(fd: impl AsFd) -> Option<u64> {
        use shm_layout::header::Identity;
        let word = |at: usize| {
            let mut bytes = [0; 8];
            let read = nix::sys::uio::pread(fd.as_fd(), &mut bytes, at as i64);
            (read == Ok(8)).then(|| u64::from_le_bytes(bytes))
        };
        let magic = word(std::mem::offset_of!(Identity, magic))?;
        (magic == MAGIC).then(|| word(std::mem::offset_of!(Identity, incarnation)))?
    }

    /// Maps the named POSIX segment `id`.
    ///
    /// # Errors
    /// [`Error::NotRunning`] when there is none; otherwise as [`Segment::open_fd`].
    pub fn open_named(id: &str) -> Result<Segment> {
        Segment::open_fd(backing::open_named(id)?)
    }
}

fn map(fd: &OwnedFd, bytes: usize) -> Result<NonNull<u8>> {
    let at = aligned_hole(bytes)?;
    let len = NonZeroUsize::new(bytes).expect("a segment has a header");
    // SAFETY: a shared mapping in the place of a hole that `aligned_hole` has made for it changes no memory that is in use.
    let at = unsafe {
        mmap(
            Some(at),
            len,
            ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
            MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE | MapFlags::MAP_FIXED,
            fd,
            0,
        )
    };
    let at = at.map_err(|e| Error::os(format!("mapping {bytes} bytes"), e))?;
    // A forked child must not go on writing after its parent's death certificate.
    // SAFETY: the advice concerns the range mapped just now.
    unsafe { madvise(at, bytes, MmapAdvise::MADV_DONTFORK) }
        .map_err(|e| Error::os("keeping the mapping from forked children", e))?;
    Ok(at.cast())
}

/// Addresses for a mapping of `bytes`, aligned for huge pages, held by a mapping that cannot be touched.
fn aligned_hole(bytes: usize) -> Result<NonZeroUsize> {
    let failed = |e| Error::os(format!("finding {bytes} bytes of addresses"), e);
    let span = NonZeroUsize::new(bytes + huge::ALIGN).expect("more than nothing");
    let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
    // SAFETY: a fresh mapping at an address of the kernel's choice changes no memory that exists.
    let hole =
        unsafe { mmap_anonymous(None, span, ProtFlags::PROT_NONE, flags) }.map_err(failed)?;
    let first = hole.addr().get();
    let at = first.next_multiple_of(huge::ALIGN);
    let (before, after) = (at - first, first + huge::ALIGN - at);
    for (from, n) in [(0, before), (before + bytes, after)] {
        if n > 0 {
            // SAFETY: a part of the hole above, which nobody has seen.
            let part = unsafe { hole.byte_add(from) };
            // SAFETY: as above.
            unsafe { munmap(part, n) }.map_err(failed)?;
        }
    }
    Ok(NonZeroUsize::new(at).expect("not the zero page"))
}

/// Compares the header of the file with ours; the limit when all is well.
fn check(fd: &OwnedFd) -> Result<u64> {
    let mut bytes = [0u8; size_of::<shm_layout::header::Identity>()];
    let got = nix::sys::uio::pread(fd, &mut bytes, 0)
        .map_err(|e| Error::os("reading the segment's header", e))?;
    if got < bytes.len() {
        return Err(Error::LayoutMismatch {
            field: "size",
            theirs: format!("{got} bytes"),
            ours: format!("{} bytes", bytes.len()),
        });
    }
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let half = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    use shm_layout::header::Identity as I;
    use std::mem::offset_of;
    let differs = |field, theirs: u64, ours: u64| {
        Err(Error::LayoutMismatch {
            field,
            theirs: format!("{theirs:#x}"),
            ours: format!("{ours:#x}"),
        })
    };
    let magic = word(offset_of!(I, magic));
    if magic != MAGIC {
        return differs("magic", magic, MAGIC);
    }
    let version = half(offset_of!(I, layout_version));
    if version != LAYOUT_VERSION {
        return differs("layout_version", version.into(), LAYOUT_VERSION.into());
    }
    let hash = word(offset_of!(I, layout_hash));
    if hash != LAYOUT_HASH {
        return differs("layout_hash", hash, LAYOUT_HASH);
    }
    Ok(word(offset_of!(I, limit_bytes)))
}

fn fill_header(segment: &Segment, config: &SegmentConfig) {
    let h = segment.hdr;
    let id = &h.id;
    id.layout_version.store(LAYOUT_VERSION, Relaxed);
    id.layout_hash.store(LAYOUT_HASH, Relaxed);
    id.uid.store(nix::unistd::Uid::current().as_raw(), Relaxed);
    id.incarnation.store(fastrand::u64(1..), Relaxed);
    id.limit_bytes.store(segment.geo.limit_bytes, Relaxed);
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    id.created_at_ns.store(now.as_nanos() as u64, Relaxed);
    names::write(&id.name, &config.name);
    h.gc.phase.0.store(PhaseWord(0).with_epoch(1).0, Relaxed);
    h.gc.gc_percent.store(config.gc_percent, Relaxed);
    let soft = if config.soft_limit_bytes == 0 {
        segment.geo.limit_bytes / 100 * 95
    } else {
        config.soft_limit_bytes
    };
    h.gc.soft_limit.store(soft, Relaxed);
    h.gc.trigger_ratio.store(65536 * 7 / 8, Relaxed);
    crate::gc::gc_controller::set_trigger(segment);
    h.sched
        .gomaxprocs
        .0
        .store(config.procs.max(1).into(), Relaxed);
    h.sched.next_timer_ns.0.store(u64::MAX, Relaxed);
    h.sched.redeliver_max.store(config.redeliver_max, Relaxed);
    Oracles::of(&crate::debug::debug()).write(segment);
    debug_assert_eq!(id.magic.load(Acquire), 0);
}
