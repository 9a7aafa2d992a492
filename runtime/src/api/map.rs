//! A hash map that grows, and that every process may read and change without waiting for another.
//!
//! ```text
//! map -> table -> buckets: [ MOVED | link -> link -> END ]      link: (entry, next), never changed once published
//!          |                          |       |
//!        prev table (while moving)  entry   entry: (hash, key, value)      value nil: removed, for ever
//! ```
//! A bucket is one word that refers to a list of *links*. Links are immutable, so that word stands for the whole list: who replaces
//! it by compare-exchange knows that no key has come or gone meanwhile. *Entries* are shared by all lists that contain them; only
//! their value changes, by compare-exchange, and an empty value is final. References are whole words with no bit to spare for
//! marks, and collected memory has no ABA, so this is simpler than Harris' or Shalev and Shavit's lists, for lists this short.
//!
//! 1. *Get* hashes, loads table, bucket, links, value. It never writes.
//! 2. *Insert* finds the entry and replaces its value, or puts a new link before the list: **one compare-exchange** either way. Dead
//!    entries that it meets are left out of the new list.
//! 3. *Remove* swaps the value for nil: **the removal**. Then it puts a list without the entry in place; if that fails (a lost
//!    race, no memory) the next insertion or removal in that bucket does it.
//! 4. *Growing*: a table twice as large, all buckets *unset*, is published by one compare-exchange; the old one is its `prev`. A
//!    bucket of the new table is set by whoever needs it first, and every insertion sets sixteen more: *freeze* the old bucket (a `MOVED`
//!    link before its list, by compare-exchange, after which nothing enters it), pick the live entries that belong here, set by
//!    compare-exchange from nil. Two who do so come to lists that mean the same; the loser's is garbage. `moved` counts buckets
//!    that were *seen set*, so it may be moved by anybody; when it has reached the end, `prev` is dropped. A table grows only when it has
//!    no `prev`.
//!
//! **Linearised**: inserting and replacing at their compare-exchange, removing at its swap; getting where the value is loaded, or, when
//! there is no entry, where the bucket is (an unset bucket is read through to the old one, which counts until it is set).
//! **Cost**: O(1) expected, and lock-free; two entries per bucket at most on average; growing is spread over the insertions, but for
//! the allocation of the new table's buckets (4 bytes each). Removed entries are garbage once unlinked.
//! **If a process dies** anywhere, every bucket is a complete list, as before or after. What it may leave: an entry without value, a
//! table half moved (the others go on), a count that is off by one. The count decides when to grow, and nothing else.
//! **Rejected:** freezing whole tables (somebody waits); moving entries one by one (a key would be nowhere or twice in between).
#![expect(unsafe_code, reason = "gives values their type back")]

use std::{
    marker::PhantomData,
    sync::atomic::Ordering::{AcqRel, Acquire, Relaxed},
};

use super::{Array, Cx, Gc, GcStr, Slot, Target, item::shareable_shell};
use crate::{Shared, error::Result, failpoint};
use shm_layout::sync::{AtomicI64, AtomicU32};

/// Buckets of the first table, and how many a table may have.
const FIRST: usize = 16;
const MOST: usize = 1 << 26;
/// Entries per bucket past which a table grows.
const FILL: usize = 2;
/// Buckets that an insertion sets in a table that is being moved to.
const HELP: usize = 16;

/// One key: at most one live entry has it.
#[derive(Shared)]
#[shared(name = "coheap::MapEntry")]
struct Entry {
    hash: u32,
    key: Slot<GcStr>,
    value: Slot<()>,
}

/// `END` has neither field, `MOVED` has only `next`.
#[derive(Shared)]
#[shared(name = "coheap::MapLink")]
struct Link {
    entry: Slot<Entry>,
    next: Slot<Link>,
}

#[derive(Shared)]
#[shared(name = "coheap::MapTable")]
struct Table {
    /// A power of two of them. Nil: not set yet.
    buckets: Slot<Array<Slot<Link>>>,
    /// Where unset buckets' entries are. Nil once all are set.
    prev: Slot<Table>,
    /// An `END` for everybody.
    end: Slot<Link>,
    /// All buckets below were seen set.
    moved: AtomicU32,
}

#[derive(Shared)]
#[shared(name = "coheap::Map")]
struct MapCell {
    count: AtomicI64,
    table: Slot<Table>,
    pad: u32,
}

/// A map from bytes to references that every process may read and change at any time.
///
/// ```
/// use coheap::*;
/// #[derive(Shared)] struct Count { n: u64 }
/// # let segment = Segment::create(&Default::default())?;
/// # let mut p = P::lease(segment)?;
/// p.enter(|cx| {
///     let cx = &*cx;
///     let counts = GcMap::<Count>::new(cx)?;
///     cx.root("counts")?.set(cx, Some(counts));
///     counts.insert(cx, "grey", cx.alloc(Count { n: 1 })?)?;
///     assert_eq!(counts.get(cx, "grey").unwrap().n, 1);
///     assert_eq!(counts.remove(cx, "grey").unwrap().n, 1);
///     assert!(counts.get(cx, "grey").is_none());
///     Ok::<(), Error>(())
/// })?;
/// # Ok::<(), Error>(())
/// ```
#[repr(transparent)]
pub struct GcMap<V> {
    cell: MapCell,
    values: PhantomData<fn() -> V>,
}

shareable_shell!(GcMap, MapCell);

impl<V: Target> GcMap<V> {
    /// A new, empty map.
    ///
    /// # Errors
    /// Those of [`Cx::alloc`] and [`Cx::array`].
    pub fn new<'cx>(cx: &'cx Cx<'_>) -> Result<Gc<'cx, GcMap<V>>> {
        let end = link(cx, None, None)?;
        let table = Table::new(cx, FIRST, end)?;
        for bucket in table.buckets(cx).iter() {
            bucket.store(cx, Some(end));
        }
        table.moved.store(FIRST as u32, Relaxed);
        let map = cx.alloc(GcMap {
            cell: MapCell {
                count: AtomicI64::new(0),
                table: Slot::nil(),
                pad: 0,
            },
            values: PhantomData,
        })?;
        map.cell.table.store(cx, Some(table));
        Ok(map)
    }

    /// The value of `key`, if it has one.
    pub fn get<'cx>(&self, cx: &'cx Cx<'_>, key: impl AsRef<[u8]>) -> Option<Gc<'cx, V>> {
        let key = key.as_ref();
        let hash = hash(key);
        let list = self.cell.list(cx, hash);
        find(cx, list, hash, key)?.value.load(cx).map(typed)
    }

    /// Has `key` a value?
    pub fn contains_key(&self, cx: &Cx<'_>, key: impl AsRef<[u8]>) -> bool {
        self.get(cx, key).is_some()
    }

    /// Gives `key` this value; returns the one it had.
    ///
    /// # Errors
    /// Those of [`Cx::alloc`]. Nothing has happened then.
    pub fn insert<'cx>(
        &self,
        cx: &'cx Cx<'_>,
        key: impl AsRef<[u8]>,
        value: Gc<'_, V>,
    ) -> Result<Option<Gc<'cx, V>>> {
        let key = key.as_ref();
        loop {
            let Some(entry) = self.cell.find_or_add(cx, key, || Ok(value.untyped()))? else {
                return Ok(None);
            };
            if let Some(old) = entry.replace(cx, value.untyped()) {
                return Ok(Some(typed(old)));
            }
        }
    }

    /// The value of `key`; if it has none, it gets the one that `make` makes. `make` may run in vain, when another is quicker.
    ///
    /// ```
    /// # use coheap::*;
    /// # use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
    /// # #[derive(Shared)] struct Count { n: AtomicU64 }
    /// # let mut p = P::lease(Segment::create(&Default::default())?)?;
    /// # p.enter(|cx| {
    /// # let cx = &*cx;
    /// let counts = GcMap::<Count>::new(cx)?;
    /// for word in ["black", "white", "black"] {
    ///     let count = counts.get_or_insert_with(cx, word, || cx.alloc(Count { n: AtomicU64::new(0) }))?;
    ///     count.n.fetch_add(1, Relaxed);
    /// }
    /// assert_eq!(counts.get(cx, "black").unwrap().n.load(Relaxed), 2);
    /// # Ok::<(), Error>(())
    /// # })?;
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of `make` and of [`Cx::alloc`]. Nothing has happened then.
    pub fn get_or_insert_with<'cx>(
        &self,
        cx: &'cx Cx<'_>,
        key: impl AsRef<[u8]>,
        mut make: impl FnMut() -> Result<Gc<'cx, V>>,
    ) -> Result<Gc<'cx, V>> {
        let key = key.as_ref();
        loop {
            let mut made = None;
            let found = self.cell.find_or_add(cx, key, || {
                let value = make()?;
                made = Some(value);
                Ok(value.untyped())
            })?;
            match found {
                None => return Ok(made.expect("an entry is added with a value")),
                Some(entry) => {
                    if let Some(value) = entry.value.load(cx) {
                        return Ok(typed(value));
                    }
                }
            }
        }
    }

    /// As [`GcMap::get_or_insert_with`], with a value that exists already.
    ///
    /// # Errors
    /// Those of [`Cx::alloc`]. Nothing has happened then.
    pub fn get_or_insert<'cx>(
        &self,
        cx: &'cx Cx<'_>,
        key: impl AsRef<[u8]>,
        value: Gc<'cx, V>,
    ) -> Result<Gc<'cx, V>> {
        self.get_or_insert_with(cx, key, || Ok(value))
    }

    /// Replaces the value of `key` by `new` if it is `old`. True when it did.
    ///
    /// ```
    /// # use coheap::*;
    /// # let mut p = P::lease(Segment::create(&Default::default())?)?;
    /// # p.enter(|cx| {
    /// # let cx = &*cx;
    /// let map = GcMap::<GcStr>::new(cx)?;
    /// let (old, new) = (cx.str("old")?, cx.str("new")?);
    /// map.insert(cx, "key", old)?;
    /// assert!(map.replace(cx, "key", old, new));
    /// assert!(!map.replace(cx, "key", old, new));
    /// # Ok::<(), Error>(())
    /// # })?;
    /// # Ok::<(), Error>(())
    /// ```
    pub fn replace(
        &self,
        cx: &Cx<'_>,
        key: impl AsRef<[u8]>,
        old: Gc<'_, V>,
        new: Gc<'_, V>,
    ) -> bool {
        let key = key.as_ref();
        let hash = hash(key);
        find(cx, self.cell.list(cx, hash), hash, key).is_some_and(|entry| {
            entry
                .value
                .compare_exchange(cx, Some(old.untyped()), Some(new.untyped()))
        })
    }

    /// Removes `key`; returns the value it had.
    pub fn remove<'cx>(&self, cx: &'cx Cx<'_>, key: impl AsRef<[u8]>) -> Option<Gc<'cx, V>> {
        let key = key.as_ref();
        let hash = hash(key);
        let entry = find(cx, self.cell.list(cx, hash), hash, key)?;
        let value = entry.kill(cx)?;
        failpoint!("map.removed");
        self.cell.count.fetch_sub(1, Relaxed);
        self.cell.tidy(cx, hash);
        Some(typed(value))
    }

    /// How many keys have a value. Changes that are under way may or may not be counted, and every death in the middle of one may put
    /// it off by one for good: for an exact number count [`GcMap::iter`].
    pub fn len(&self) -> usize {
        self.cell.count.load(Relaxed).max(0) as usize
    }

    /// Is there none, as far as [`GcMap::len`] knows?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keys and values, in no order: every key once that is there from beginning to end, and perhaps some that come or go meanwhile.
    ///
    /// ```
    /// # use coheap::*;
    /// # let mut p = P::lease(Segment::create(&Default::default())?)?;
    /// # p.enter(|cx| {
    /// # let cx = &*cx;
    /// let map = GcMap::<GcStr>::new(cx)?;
    /// map.insert(cx, "colour", cx.str("grey")?)?;
    /// for (key, value) in map.iter(cx) {
    ///     println!("{:?}: {:?}", key.as_str(), value.as_str());
    /// }
    /// # Ok::<(), Error>(())
    /// # })?;
    /// # Ok::<(), Error>(())
    /// ```
    pub fn iter<'cx>(&self, cx: &'cx Cx<'_>) -> impl Iterator<Item = (Gc<'cx, GcStr>, Gc<'cx, V>)> {
        let table = self.cell.table(cx);
        (0..table.buckets(cx).len())
            .flat_map(move |i| table.entries_of(cx, i))
            .filter_map(move |e| Some((e.key.load(cx)?, typed(e.value.load(cx)?))))
    }
}

fn typed<V>(value: Gc<'_, ()>) -> Gc<'_, V> {
    // SAFETY: called in `GcMap<V>` only, whose entries' values are `V`s: it lets nothing else in.
    unsafe { value.cast() }
}

fn link<'cx>(
    cx: &'cx Cx<'_>,
    entry: Option<Gc<'_, Entry>>,
    next: Option<Gc<'_, Link>>,
) -> Result<Gc<'cx, Link>> {
    let link = cx.alloc(Link {
        entry: Slot::nil(),
        next: Slot::nil(),
    })?;
    link.entry.store(cx, entry);
    link.next.store(cx, next);
    Ok(link)
}

impl Link {
    fn is_moved(&self) -> bool {
        self.entry.is_nil() && !self.next.is_nil()
    }
}

/// The list of a bucket, frozen or not.
fn unfrozen<'cx>(cx: &'cx Cx<'_>, list: Gc<'cx, Link>) -> Gc<'cx, Link> {
    if list.is_moved() {
        list.next.load(cx).expect("a frozen bucket keeps its list")
    } else {
        list
    }
}

/// The entries of a list, dead ones included.
fn entries<'cx>(
    cx: &'cx Cx<'_>,
    list: Gc<'cx, Link>,
) -> impl Iterator<Item = Gc<'cx, Entry>> + Clone {
    std::iter::successors(Some(unfrozen(cx, list)), |l| l.next.load(cx))
        .map_while(|l| l.entry.load(cx))
}

fn find<'cx>(
    cx: &'cx Cx<'_>,
    list: Gc<'cx, Link>,
    hash: u32,
    key: &[u8],
) -> Option<Gc<'cx, Entry>> {
    entries(cx, list)
        .find(|e| e.hash == hash && e.key.load(cx).is_some_and(|k| k.as_bytes() == key))
}

/// A list of these entries, but for the dead, and then `rest`.
fn chain<'cx>(
    cx: &'cx Cx<'_>,
    entries: impl Iterator<Item = Gc<'cx, Entry>>,
    rest: Gc<'cx, Link>,
) -> Result<Gc<'cx, Link>> {
    entries
        .filter(|e| !e.is_dead())
        .try_fold(rest, |list, e| link(cx, Some(e), Some(list)))
}

impl Entry {
    fn is_dead(&self) -> bool {
        self.value.is_nil()
    }

    /// Another value for a live entry; the one it had. `None` when the entry is dead.
    fn replace<'cx>(&self, cx: &'cx Cx<'_>, new: Gc<'_, ()>) -> Option<Gc<'cx, ()>> {
        loop {
            let old = self.value.load(cx)?;
            if self.value.compare_exchange(cx, Some(old), Some(new)) {
                return Some(old);
            }
        }
    }

    /// The end of an entry; the value it had. `None` when it is dead already.
    fn kill<'cx>(&self, cx: &'cx Cx<'_>) -> Option<Gc<'cx, ()>> {
        // AcqRel, as all of `Slot`. Nil needs no barrier.
        cx.gc(self.value.raw().swap(0, AcqRel))
    }
}

impl MapCell {
    fn table<'cx>(&self, cx: &'cx Cx<'_>) -> Gc<'cx, Table> {
        self.table.load(cx).expect("a map has a table")
    }

    /// The list that `hash` belongs to, for reading.
    fn list<'cx>(&self, cx: &'cx Cx<'_>, hash: u32) -> Gc<'cx, Link> {
        let table = self.table(cx);
        table.list(cx, table.bucket_of(cx, hash))
    }

    /// The live entry of `key`, or `None` after one has been added, with the value that `make` makes.
    fn find_or_add<'cx>(
        &self,
        cx: &'cx Cx<'_>,
        key: &[u8],
        mut make: impl FnMut() -> Result<Gc<'cx, ()>>,
    ) -> Result<Option<Gc<'cx, Entry>>> {
        let hash = hash(key);
        let mut fresh = None;
        loop {
            let table = self.table(cx);
            let bucket = table.bucket_of(cx, hash);
            let list = table.set_bucket(cx, bucket)?;
            if list.is_moved() {
                continue;
            }
            if let Some(entry) = find(cx, list, hash, key).filter(|e| !e.is_dead()) {
                return Ok(Some(entry));
            }
            let entry = match fresh {
                Some(entry) => entry,
                None => *fresh.insert(new_entry(cx, hash, key, make()?)?),
            };
            let new = link(cx, Some(entry), Some(tidied(cx, &table, list)?))?;
            failpoint!("map.made");
            if table.buckets(cx)[bucket].compare_exchange(cx, Some(list), Some(new)) {
                failpoint!("map.inserted");
                self.added(cx, table);
                return Ok(None);
            }
        }
    }

    /// After an insertion: count, help, grow. It has happened: a lack of memory is for the next one to report.
    fn added(&self, cx: &Cx<'_>, table: Gc<'_, Table>) {
        let count = self.count.fetch_add(1, Relaxed) + 1;
        let buckets = table.buckets(cx).len();
        let _ = if !table.prev.is_nil() {
            table.help(cx)
        } else if count > (buckets * FILL) as i64 && buckets < MOST {
            self.grow(cx, table)
        } else {
            Ok(())
        };
    }

    fn grow(&self, cx: &Cx<'_>, table: Gc<'_, Table>) -> Result<()> {
        if !self.table(cx).is(table) {
            return Ok(());
        }
        let end = table.end.load(cx).expect("set when made");
        let next = Table::new(cx, table.buckets(cx).len() * 2, end)?;
        next.prev.store(cx, Some(table));
        failpoint!("map.grown");
        self.table.compare_exchange(cx, Some(table), Some(next));
        Ok(())
    }

    /// Leaves dead entries out of the list that `hash` belongs to. If that fails, the next one does.
    fn tidy(&self, cx: &Cx<'_>, hash: u32) {
        let table = self.table(cx);
        let bucket = table.bucket_of(cx, hash);
        let Some(list) = table.buckets(cx)[bucket].load(cx) else {
            return;
        };
        if list.is_moved() {
            return;
        }
        if let Ok(new) = tidied(cx, &table, list) {
            table.buckets(cx)[bucket].compare_exchange(cx, Some(list), Some(new));
        }
    }
}

fn new_entry<'cx>(
    cx: &'cx Cx<'_>,
    hash: u32,
    key: &[u8],
    value: Gc<'_, ()>,
) -> Result<Gc<'cx, Entry>> {
    let entry = cx.alloc(Entry {
        hash,
        key: Slot::nil(),
        value: Slot::nil(),
    })?;
    entry.key.store(cx, Some(cx.str(key)?));
    entry.value.store(cx, Some(value));
    Ok(entry)
}

/// The list without its dead: itself, if there are none.
fn tidied<'cx>(cx: &'cx Cx<'_>, table: &Table, list: Gc<'cx, Link>) -> Result<Gc<'cx, Link>> {
    if entries(cx, list).any(|e| e.is_dead()) {
        let end = table.end.load(cx).expect("set when made");
        chain(cx, entries(cx, list), end)
    } else {
        Ok(list)
    }
}

impl Table {
    fn new<'cx>(cx: &'cx Cx<'_>, buckets: usize, end: Gc<'_, Link>) -> Result<Gc<'cx, Table>> {
        let table = cx.alloc(Table {
            buckets: Slot::nil(),
            prev: Slot::nil(),
            end: Slot::nil(),
            moved: AtomicU32::new(0),
        })?;
        table.buckets.store(cx, Some(cx.array(buckets)?));
        table.end.store(cx, Some(end));
        Ok(table)
    }

    fn buckets<'cx>(&self, cx: &'cx Cx<'_>) -> &'cx Array<Slot<Link>> {
        self.buckets.load(cx).expect("set when made").to_ref()
    }

    fn bucket_of(&self, cx: &Cx<'_>, hash: u32) -> usize {
        hash as usize & (self.buckets(cx).len() - 1)
    }

    /// The list of a bucket, for reading: the old table's while this one's is unset, which may hold other buckets' entries too.
    fn list<'cx>(&self, cx: &'cx Cx<'_>, bucket: usize) -> Gc<'cx, Link> {
        let buckets = self.buckets(cx);
        loop {
            if let Some(list) = buckets[bucket].load(cx) {
                return list;
            }
            // No previous table: dropped since we looked, so the bucket is set by now.
            if let Some(prev) = self.prev.load(cx) {
                let old = &prev.to_ref().buckets(cx)[bucket & (buckets.len() / 2 - 1)];
                return old.load(cx).expect("a table that grows is all set");
            }
        }
    }

    fn entries_of<'cx>(
        &self,
        cx: &'cx Cx<'_>,
        bucket: usize,
    ) -> impl Iterator<Item = Gc<'cx, Entry>> + use<'cx> {
        let mask = self.buckets(cx).len() - 1;
        entries(cx, self.list(cx, bucket)).filter(move |e| e.hash as usize & mask == bucket)
    }

    /// The list of a bucket, for changing: sets it from the previous table if it is unset.
    fn set_bucket<'cx>(&self, cx: &'cx Cx<'_>, bucket: usize) -> Result<Gc<'cx, Link>> {
        let buckets = self.buckets(cx);
        loop {
            if let Some(list) = buckets[bucket].load(cx) {
                return Ok(list);
            }
            let Some(prev) = self.prev.load(cx) else {
                continue;
            };
            freeze(cx, &prev.buckets(cx)[bucket & (buckets.len() / 2 - 1)])?;
            failpoint!("map.frozen");
            let end = self.end.load(cx).expect("set when made");
            // Still unset: it reads through to the frozen list. Set meanwhile: then the exchange fails.
            let list = chain(cx, self.entries_of(cx, bucket), end)?;
            buckets[bucket].compare_exchange(cx, None, Some(list));
            failpoint!("map.set");
        }
    }

    /// Sets some more buckets; the last of them drops the previous table.
    fn help(&self, cx: &Cx<'_>) -> Result<()> {
        let from = self.moved.load(Acquire) as usize;
        let to = (from + HELP).min(self.buckets(cx).len());
        for bucket in from..to {
            self.set_bucket(cx, bucket)?;
        }
        // AcqRel: buckets seen set, then counted.
        if self.moved.fetch_max(to as u32, AcqRel) as usize >= self.buckets(cx).len()
            || to == self.buckets(cx).len()
        {
            self.prev.store(cx, None);
        }
        Ok(())
    }
}

/// Lets nothing enter the list of `bucket` any more.
fn freeze(cx: &Cx<'_>, bucket: &Slot<Link>) -> Result<()> {
    loop {
        let list = bucket.load(cx).expect("a table that grows is all set");
        if list.is_moved() {
            return Ok(());
        }
        let moved = link(cx, None, Some(list))?;
        if bucket.compare_exchange(cx, Some(list), Some(moved)) {
            return Ok(());
        }
    }
}

/// Folded multiplication over eight bytes at a time (as in wyhash), the same in every process and build. Low bits choose buckets.
/// Not for keys that an enemy chooses.
fn hash(key: &[u8]) -> u32 {
    fn mix(a: u64, b: u64) -> u64 {
        let wide = u128::from(a) * u128::from(b);
        (wide >> 64) as u64 ^ wide as u64
    }
    const SEED: [u64; 2] = [0xa076_1d64_78bd_642f, 0xe703_7ed1_a0b4_28db];
    let mut h = key.len() as u64 ^ SEED[1];
    let (words, tail) = key.as_chunks::<8>();
    for &word in words {
        h = mix(h ^ u64::from_le_bytes(word), SEED[0]);
    }
    if !tail.is_empty() {
        h = mix(h ^ short_word(tail), SEED[0]);
    }
    let h = mix(h ^ SEED[0], SEED[1]);
    (h >> 32) as u32 ^ h as u32
}

/// One to seven bytes, the first one lowest, zeroes above: two reads that may overlap instead of a copy of a length that only a call
/// can make.
fn short_word(bytes: &[u8]) -> u64 {
    let n = bytes.len();
    if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        let high = u64::from(u32::from_le_bytes(*last));
        return u64::from(u32::from_le_bytes(*first)) | high << (8 * (n - 4));
    }
    let byte = |i: usize| u64::from(bytes[i]) << (8 * i);
    byte(0) | byte(n / 2) | byte(n - 1)
}

#[cfg(test)]
mod tests {
    use super::{hash, short_word};

    #[test]
    fn a_short_word_is_its_bytes_and_zeroes() {
        let bytes = [0x81, 0x92, 0xa3, 0xb4, 0xc5, 0xd6, 0xe7];
        for n in 1..=bytes.len() {
            let mut word = [0; 8];
            word[..n].copy_from_slice(&bytes[..n]);
            assert_eq!(short_word(&bytes[..n]), u64::from_le_bytes(word), "{n}");
        }
    }

    /// A map in a named segment outlives the build that made it.
    #[test]
    fn a_hash_is_the_same_in_every_build() {
        let of = |key: &str| hash(key.as_bytes());
        let known = [
            of(""),
            of("a"),
            of("heap"),
            of("coheap"),
            of("coheap's keys"),
        ];
        assert_eq!(
            known,
            [
                0x5610_36bd,
                0x72ad_1048,
                0xc68e_c126,
                0x6eab_5bf5,
                0x023d_0ffb
            ]
        );
    }
}
