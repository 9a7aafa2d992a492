//! The life word: how a death becomes known, and certain.
//!
//! A leased P's thread holds a robust, process-shared pthread mutex in its P record for as long as it lives. The kernel walks the
//! thread's list of held robust mutexes when the thread ends, for whatever reason, and marks them: that store comes after the
//! thread's last one, within about 100 microseconds of a kill, whatever the size of the process. `raw_sync`'s `Mutex` over the
//! memory we initialised does locking and unlocking; whether it is dead is read from its first word.
//!
//! **Why not `raw_sync::Event`, `RwLock` or its own `Mutex::new`:** none of them survives a killed holder or waiter.
//! **Who may touch it:** the owner locks and unlocks; everybody else reads the word, and the watcher sets the kernel's "waiters"
//! bit so that a death also wakes it. A new lease wakes the watcher as well ([`say_leased`]), or it would not wait for that word until
//! its patience with the old ones ends.
#![expect(
    unsafe_code,
    reason = "initialises a pthread mutex in shared memory and hands it to raw_sync; asks for a thread's scheduling"
)]

use std::{
    cell::Cell,
    sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, SeqCst},
    time::Duration,
};

use raw_sync::locks::{LockImpl, LockInit, Mutex};
use shm_layout::sync::AtomicU32;
use shm_layout::{proc::ProcRecord, word::ProcWord};

use crate::{Error, error::Result, recover, robust, segment::Segment};

/// The kernel's "owner died" bit in a robust futex word.
const FUTEX_OWNER_DIED: u32 = 0x4000_0000;
/// The kernel's "somebody waits" bit.
const FUTEX_WAITERS: u32 = 0x8000_0000;
const FUTEX_TID_MASK: u32 = 0x3fff_ffff;
/// A watcher's slice: the kernel's smallest.
const SHORT_SLICE_NS: u64 = 100_000;
/// How long a watcher leaves a recovery to another at first, and at most: a recovery takes some 20 microseconds, unless its recoverer is stopped.
const ASIDE: Duration = Duration::from_micros(100);
const ASIDE_MAX: Duration = Duration::from_millis(5);
/// The slice of a process that starts: a few times the longest that the kernel chooses by itself.
const LONG_SLICE_NS: u64 = 20_000_000;

/// The held life word of this thread's P. Ends by [`LifeLock::release`], or by the thread's end.
pub(crate) struct LifeLock {
    lock: Box<dyn LockImpl>,
}

/// The futex word at the start of a record's life mutex.
pub(crate) fn word(record: &ProcRecord) -> &AtomicU32 {
    let first = &raw const record.life.0;
    // SAFETY: 1. In bounds and aligned: the first four bytes of an array of `AtomicU64`. 2. glibc puts the lock word first in
    // `pthread_mutex_t`, and treats it as an atomic 32-bit integer, as the kernel does.
    unsafe { &*first.cast::<AtomicU32>() }
}

/// Initialises the record's life mutex and takes it for this thread.
///
/// # Errors
/// [`Error::Os`] when the mutex cannot be made or is held: it is never held, because the lease is exclusive.
pub(crate) fn take(record: &ProcRecord) -> Result<LifeLock> {
    let at = (&raw const record.life.0)
        .cast_mut()
        .cast::<libc::pthread_mutex_t>();
    // SAFETY: the record's life bytes, which nobody else uses: the caller has leased the record, and the last lease's thread has
    // ended or unlocked.
    unsafe { robust::init(at) }?;
    // SAFETY: the memory is a valid pthread mutex from here on, process-shared and robust; `raw_sync` keeps no other state in it.
    let made = unsafe { Mutex::from_existing(at.cast(), std::ptr::null_mut()) };
    let (lock, _) =
        made.map_err(|e| Error::os("taking the life word", std::io::Error::other(e.to_string())))?;
    // The guard releases when dropped; it is forgotten, and `release` unlocks by hand.
    let guard = lock.lock().map_err(|e| {
        Error::os(
            "locking the life word",
            std::io::Error::other(e.to_string()),
        )
    })?;
    std::mem::forget(guard);
    Ok(LifeLock { lock })
}

impl LifeLock {
    /// Gives the life word up in order.
    pub fn release(self) {
        // An error would mean that this thread does not hold it; then there is nothing to give up.
        let _ = self.lock.release();
    }
}

/// Is the lease's thread certified dead? Only ever true after its last store.
pub(crate) fn is_dead(record: &ProcRecord) -> bool {
    let life = word(record).load(Acquire);
    // Acquire: pairs with the kernel's store at the thread's end: everything it stored is visible to recovery.
    life & FUTEX_OWNER_DIED != 0 && record.armed.load(Acquire) == 1
}

/// Tells the watcher that there is one life word more. A death before this leaves it to the watcher's patience.
pub(crate) fn say_leased(segment: &Segment) {
    let leases = &segment.hdr.sched.leases;
    // SeqCst: the lease before the count, partner of `Watch::wait`, which reads the count before it looks for leases.
    leases.fetch_add(1, SeqCst);
    crate::futex::wake(leases, u32::MAX >> 1);
}

/// How soon the kernel runs a thread that has been woken ([`be_prompt`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promptness {
    /// Before every ordinary thread.
    RealTime,
    /// Before a thread that computes, if it has had no more than its share.
    ShortSlice,
    /// As everybody.
    Ordinary,
}

/// Asks the kernel to run this thread soon whenever it wakes: for a watcher, whose work is short and urgent.
///
/// 1. The lowest real-time priority, where that is allowed (`CAP_SYS_NICE`, or `LimitRTPRIO=1` of a unit). A woken thread is put on
/// the processor of the dying one as often as not, and that one tears its memory down in the kernel: an ordinary watcher waited for
/// the end of it, 0.5 to 3 ms (traced; detection p99 1.2 ms before, 0.15 to 0.3 ms after, on two processors with nothing else on).
/// 2. Else a short slice (Linux 6.12 and later): before a thread that computes, and nothing is taken from anybody in the long run.
///
/// A class that somebody has chosen for this thread stays. **What a fault can do:** a recovery is bounded by the tables, and the
/// kernel leaves a twentieth of each second to ordinary threads (`sched_rt_runtime_us`). Nothing this thread starts inherits it.
///
/// ```
/// std::thread::spawn(|| coheap::life::be_prompt()).join().unwrap();
/// ```
pub fn be_prompt() -> Promptness {
    let Some(mut attr) = ordinary_attr() else {
        return Promptness::Ordinary;
    };
    let wanted = libc::sched_attr {
        sched_policy: libc::SCHED_FIFO as u32,
        sched_flags: libc::SCHED_FLAG_RESET_ON_FORK as u64,
        sched_nice: 0,
        sched_priority: 1,
        sched_runtime: 0,
        ..attr
    };
    if set_attr(&wanted) {
        return Promptness::RealTime;
    }
    attr.sched_runtime = SHORT_SLICE_NS;
    if set_attr(&attr) {
        Promptness::ShortSlice
    } else {
        Promptness::Ordinary
    }
}

/// Asks the kernel to let others go first for as long as `f` runs, where they want this processor: for the start of a process that
/// takes a dead one's place while the survivors work.
///
/// By a long slice (Linux 6.12 and later): the same share of the processor, later. **Rejected:** niceness and `SCHED_IDLE`, which
/// cannot be taken back without a privilege.
///
/// ```
/// assert_eq!(coheap::life::patiently(|| 7), 7);
/// ```
pub fn patiently<T>(f: impl FnOnce() -> T) -> T {
    let before = ordinary_attr();
    if let Some(attr) = before {
        set_attr(&libc::sched_attr {
            sched_runtime: LONG_SLICE_NS,
            ..attr
        });
    }
    let done = f();
    if let Some(attr) = before {
        // Zero is the kernel's own choice, which is what it said before.
        set_attr(&libc::sched_attr {
            sched_runtime: 0,
            ..attr
        });
    }
    done
}

/// This thread's scheduling, unless somebody has chosen a class for it.
fn ordinary_attr() -> Option<libc::sched_attr> {
    // SAFETY: plain numbers, for which zeroes are values.
    let mut attr: libc::sched_attr = unsafe { std::mem::zeroed() };
    attr.size = size_of::<libc::sched_attr>() as u32;
    // SAFETY: the kernel writes at most `size` bytes into a live structure.
    let known = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attr, attr.size, 0) };
    (known == 0 && attr.sched_policy == libc::SCHED_OTHER as u32).then_some(attr)
}

/// Whether the kernel has agreed.
fn set_attr(attr: &libc::sched_attr) -> bool {
    // SAFETY: the kernel reads `size` bytes of a live structure, and changes nothing but this thread's scheduling.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, std::ptr::from_ref(attr), 0) == 0 }
}

/// Is the thread that said `JOINING` but has not armed its life word gone? Told by pid and start time, because there is no word yet.
pub(crate) fn is_stillborn(record: &ProcRecord, owner: ProcWord) -> bool {
    record.armed.load(Acquire) == 0 && !process_exists(owner.pid(), record.start_time.load(Acquire))
}

/// Does the process of this pid and start time exist, other than as a zombie?
pub fn process_exists(pid: u32, start_time: u64) -> bool {
    match start_time_of(pid) {
        Some((started, state)) => {
            (start_time == 0 || started == start_time) && state != 'Z' && state != 'X'
        }
        None => false,
    }
}

/// Start time in clock ticks since boot, and state letter, of a process.
pub fn start_time_of(pid: u32) -> Option<(u64, char)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command stands in parentheses and may hold anything, a parenthesis too: count from the last one.
    let rest = &stat[stat.rfind(')')? + 2..];
    let mut fields = rest.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((fields.nth(18)?.parse().ok()?, state))
}

/// Waits for deaths by the life words of all leased P's.
///
/// ```no_run
/// # let segment = coheap::Segment::create(&Default::default()).unwrap();
/// let watch = coheap::life::Watch::new(segment.clone());
/// for death in watch.recover(std::time::Duration::from_secs(1)) {
///     println!("P {} was recovered", death.p);
/// }
/// ```
pub struct Watch {
    segment: Segment,
    /// How long it steps aside next for who is recovering already.
    aside: Cell<Duration>,
}

impl Watch {
    /// A watcher of this segment's P's.
    pub fn new(segment: Segment) -> Watch {
        Watch {
            segment,
            aside: Cell::new(ASIDE),
        }
    }

    /// Waits as [`Watch::wait`], and recovers the dead. Returns what it recovered.
    ///
    /// Where a survivor is at it already the watcher steps aside, the longer the longer that takes: it may run in real time ([`be_prompt`]) and on the
    /// survivor's processor, and whoever asks again and again there keeps it from ever coming to its end (108 ms were seen, until the kernel moved the
    /// survivor).
    pub fn recover(&self, patience: Duration) -> Vec<recover::DeathReport> {
        if !self.wait(patience) {
            self.aside.set(ASIDE);
            return Vec::new();
        }
        let reports = recover::recover_dead(&self.segment);
        if reports.is_empty() {
            std::thread::sleep(self.aside.get());
            self.aside.set(ASIDE_MAX.min(self.aside.get() * 2));
        } else {
            self.aside.set(ASIDE);
        }
        reports
    }

    /// Waits until a life word says "dead", until a P is leased, or until `patience` is over. True when some P is certified dead.
    ///
    /// ```
    /// let segment = coheap::Segment::create(&Default::default()).unwrap();
    /// assert!(!coheap::life::Watch::new(segment).wait(std::time::Duration::from_millis(1)));
    /// ```
    pub fn wait(&self, patience: Duration) -> bool {
        let leases = &self.segment.hdr.sched.leases;
        let leased = leases.load(SeqCst);
        let live: Vec<&ProcRecord> = self
            .segment
            .used_procs()
            .iter()
            .filter(|r| is_leased(r))
            .collect();
        if live.iter().any(|r| is_dead(r)) {
            return true;
        }
        // One call waits for 128 words at most; more P's than that are looked at in turn by the time-out.
        let mut waits: Vec<_> = live.iter().take(127).filter_map(|r| arm(r)).collect();
        waits.push((leases, leased));
        wait_any(&waits, patience);
        live.iter().any(|r| is_dead(r))
    }
}

fn is_leased(record: &ProcRecord) -> bool {
    let state = ProcWord(record.word.0.load(Acquire)).state();
    matches!(
        state,
        ProcWord::LIVE | ProcWord::LEAVING | ProcWord::JOINING
    ) && record.armed.load(Acquire) == 1
}

/// Sets the waiters bit, without which the kernel marks a death but wakes nobody. Returns the word and the value to wait on.
fn arm(record: &ProcRecord) -> Option<(&AtomicU32, u32)> {
    let life = word(record);
    let seen = life.load(Relaxed);
    if seen & FUTEX_OWNER_DIED != 0 || seen & FUTEX_TID_MASK == 0 {
        return None;
    }
    if seen & FUTEX_WAITERS == 0 {
        life.compare_exchange(seen, seen | FUTEX_WAITERS, AcqRel, Relaxed)
            .ok()?;
    }
    Some((life, seen | FUTEX_WAITERS))
}

fn wait_any(words: &[(&AtomicU32, u32)], patience: Duration) {
    use rustix::thread::futex;
    let waiters: Vec<futex::Wait> = words
        .iter()
        .map(|&(word, value)| {
            let mut wait = futex::Wait::new();
            wait.val = u64::from(value);
            wait.uaddr = rustix::thread::futex::WaitPtr::new(word.as_ptr().cast());
            wait.flags = futex::WaitFlags::SIZE_U32;
            wait
        })
        .collect();
    let until = crate::time::now_ns() + patience.as_nanos() as u64;
    let until = rustix::time::Timespec {
        tv_sec: (until / 1_000_000_000) as i64,
        tv_nsec: (until % 1_000_000_000) as i64,
    };
    // Any outcome (woken, value changed, time-out, signal) leads to another look at the words.
    let _ = futex::waitv(
        &waiters,
        futex::WaitvFlags::empty(),
        Some(&until),
        rustix::time::ClockId::Monotonic,
    );
}

#[cfg(test)]
mod tests {
    use std::{
        sync::mpsc,
        thread,
        time::{Duration, Instant},
    };

    use super::Watch;
    use crate::{P, Segment, SegmentConfig, recover::RecoveryLock};

    fn segment() -> Segment {
        Segment::create(&SegmentConfig::default()).expect("a small segment")
    }

    /// A P whose thread ends inside a scope, without a destructor: the kernel marks its life word.
    fn dies_inside(segment: &Segment) {
        let segment = segment.clone();
        let victim = thread::spawn(move || {
            let p = P::lease(segment).expect("a P");
            p.proc().enter_scope();
            std::mem::forget(p);
        });
        victim.join().expect("no panic");
    }

    #[test]
    fn a_watcher_leaves_a_recovery_to_who_is_at_it() {
        let segment = segment();
        dies_inside(&segment);
        let watch = Watch::new(segment.clone());
        let at_it = RecoveryLock::try_take(&segment).expect("nobody recovers");
        let (begun, mut asked) = (Instant::now(), 0);
        while begun.elapsed() < Duration::from_millis(30) {
            assert!(watch.recover(Duration::from_secs(10)).is_empty());
            asked += 1;
        }
        assert!(asked <= 12, "it asked {asked} times");
        drop(at_it);
        assert_eq!(watch.recover(Duration::from_secs(10)).len(), 1);
    }

    #[test]
    fn who_collects_does_not_wait_for_the_dead() {
        let segment = segment();
        let mut p = P::lease(segment.clone()).expect("a P");
        dies_inside(&segment);
        let began = Instant::now();
        // No daemon, and no other P: nobody else recovers.
        assert!(p.collect());
        assert!(began.elapsed() < Duration::from_secs(10));
        assert_eq!(segment.deaths().len(), 1);
    }

    #[test]
    fn a_watcher_sees_a_lease_that_begins_while_it_waits() {
        let segment = segment();
        let _first = P::lease(segment.clone()).expect("a P");
        let patience = Duration::from_secs(60);
        let (ready, waits) = mpsc::channel();
        let watcher = thread::spawn({
            let segment = segment.clone();
            move || {
                let watch = Watch::new(segment);
                ready.send(()).expect("a test that waits");
                let began = Instant::now();
                while !watch.wait(patience) {}
                began.elapsed()
            }
        });
        waits.recv().expect("a watcher");
        // Nearly always the watcher waits by now; where not, the test shows less, and passes.
        thread::sleep(Duration::from_millis(50));
        dies_inside(&segment);
        assert!(watcher.join().expect("no panic") < patience / 2);
    }
}
