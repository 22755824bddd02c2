//! Carries the entries of a table over into one that takes its place: of another size, or of another layout.
//!
//! The programs of a former agent use the former table until they are replaced, so entries are carried over more than once:
//! as often as one likes before ([`CarryOver::copy`]), and once after ([`CarryOver::finish`]). Nothing is removed from either
//! table. It says nothing about pins: where a former table waits is known to [`super::pins`].

use aya::Pod;

use super::tables::{HashTable, TableError};

/// What became of the entries of a former table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Entries that were written.
    pub written: usize,
    /// Entries, the oldest ones, for which there is no room.
    pub left_behind: usize,
}

/// A table whose entries are being carried over.
pub trait CarryOver: Send {
    /// Adds what the new programs must know before they see anything; most tables have nothing of that kind.
    ///
    /// # Errors
    /// A table cannot be read or written.
    fn prepare(&mut self) -> Result<(), TableError> {
        Ok(())
    }

    /// Makes every entry of the former table one of the new table, but for what the new table knows newer. To be called while former
    /// programs begin what begins. The second call writes what has changed since the first one.
    ///
    /// # Errors
    /// A table cannot be read or written.
    fn copy(&mut self) -> Result<Carried, TableError>;

    /// Adds what the new table has no entry for, and what has become something else since [`Self::copy`]. To be called when former programs
    /// begin nothing any more: what the new programs have written stays.
    ///
    /// # Errors
    /// As [`Self::copy`].
    fn finish(&mut self) -> Result<Carried, TableError>;
}

/// An entry that goes over.
struct Entry<K0, K1, V1> {
    former_key: K0,
    key: K1,
    value: V1,
}

/// Entries that go over, and how many do not for want of room.
type Entries<K0, K1, V1> = (Vec<Entry<K0, K1, V1>>, usize);

/// A hash table that takes the place of another one.
pub struct HashCarry<K0, V0, K1, V1, C, A> {
    former: HashTable<K0, V0>,
    table: HashTable<K1, V1>,
    convert: C,
    last_used: A,
    is_first: fn(&V1) -> bool,
    is_same: fn(&V1, &V1) -> bool,
}

impl<K0, V0, K1, V1, C, A> HashCarry<K0, V0, K1, V1, C, A>
where
    C: Fn(K0, V0) -> Option<(K1, V1)>,
    A: Fn(&V1) -> u32,
{
    /// From `former` to `table`. `convert` says what an entry becomes, `None` if it is left behind on purpose. Where the new
    /// table is smaller, those entries go over for which `last_used` gives the highest numbers.
    pub const fn new(former: HashTable<K0, V0>, table: HashTable<K1, V1>, convert: C, last_used: A) -> Self {
        Self { former, table, convert, last_used, is_first: |_| false, is_same: |_, _| true }
    }

    /// With entries that the new programs must know before they see anything.
    #[must_use]
    pub fn with_first(self, is_first: fn(&V1) -> bool) -> Self {
        Self { is_first, ..self }
    }

    /// With keys whose entries become something else.
    #[must_use]
    pub fn that_change(self, is_same: fn(&V1, &V1) -> bool) -> Self {
        Self { is_same, ..self }
    }
}

impl<K0, V0, K1, V1, C, A> HashCarry<K0, V0, K1, V1, C, A>
where
    K0: Pod + Ord,
    V0: Pod,
    K1: Pod + Ord,
    V1: Pod + PartialEq,
    C: Fn(K0, V0) -> Option<(K1, V1)>,
    A: Fn(&V1) -> u32,
{
    /// The entries that go over, oldest first, and how many do not for want of room.
    fn entries(&self) -> Result<Entries<K0, K1, V1>, TableError> {
        let former = self.former.all()?;
        let converted = |(former_key, value)| {
            let (key, value) = (self.convert)(former_key, value)?;
            Some(Entry { former_key, key, value })
        };
        let mut entries: Vec<_> = former.into_iter().filter_map(converted).collect();
        entries.sort_by_key(|entry| (self.last_used)(&entry.value));
        let room = usize::try_from(self.table.capacity()).unwrap_or(usize::MAX);
        let left_behind = entries.len().saturating_sub(room);
        entries.drain(..left_behind);
        Ok((entries, left_behind))
    }
}

impl<K0, V0, K1, V1, C, A> CarryOver for HashCarry<K0, V0, K1, V1, C, A>
where
    K0: Pod + Ord + Send,
    V0: Pod + Send,
    K1: Pod + Ord + Send,
    V1: Pod + PartialEq + Send,
    C: Fn(K0, V0) -> Option<(K1, V1)> + Send,
    A: Fn(&V1) -> u32 + Send,
{
    fn prepare(&mut self) -> Result<(), TableError> {
        let (mut entries, _) = self.entries()?;
        entries.retain(|entry| (self.is_first)(&entry.value));
        entries.iter().try_for_each(|entry| self.table.insert_new(&entry.key, &entry.value).map(drop))
    }

    fn copy(&mut self) -> Result<Carried, TableError> {
        let present = self.table.all()?;
        let (entries, left_behind) = self.entries()?;
        let goes_over = |Entry { key, value, .. }: &Entry<K0, K1, V1>| {
            let is_newer = |present: &V1| (self.last_used)(present) > (self.last_used)(value);
            present.get(key).is_none_or(|present| present != value && !is_newer(present))
        };
        let entries: Vec<(K1, V1)> =
            entries.into_iter().filter(goes_over).map(|entry| (entry.key, entry.value)).collect();
        let refused = self.table.insert(&entries)?.len();
        Ok(Carried { written: entries.len() - refused, left_behind: left_behind + refused })
    }

    fn finish(&mut self) -> Result<Carried, TableError> {
        // In this order: what the new programs take from the former table meanwhile is not there any more when that is read.
        let present = self.table.all()?;
        let (entries, left_behind) = self.entries()?;
        let mut carried = Carried { written: 0, left_behind };
        for Entry { former_key, key, value } in &entries {
            let is_written = match present.get(key) {
                None => self.table.insert_new(key, value)?,
                Some(present)
                    if !(self.is_same)(present, value) && (self.last_used)(present) <= (self.last_used)(value) =>
                {
                    self.table.insert(&[(*key, *value)])?.is_empty()
                }
                Some(_) => false,
            };
            // Or while it is written.
            if is_written && self.former.get(former_key)?.is_none() {
                self.table.remove(key)?;
            } else if is_written {
                carried.written += 1;
            }
        }
        Ok(carried)
    }
}
