//! A page of a scan, merged from what the shards answer.
//!
//! Keys are hashed over all shards, so each of them holds a part of every range, and answers its own
//! part in pages. A shard whose page goes on at a key has told everything below that key and
//! nothing of what comes from there on. The lowest such key is the *horizon*: rows below it are
//! complete and may be given out, rows above it may still get others between them.
//!
//! A shard is asked for its fair share of the page and a little more. One that has run dry before
//! the page is full is asked again, from where it goes on. So a page fetches little more than it
//! gives out, and usually takes one round.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::id::ShardId;
use crate::op::{Found, Key, KeyRange, Page, PageLimit, Row, Value};
use crate::ring;
use crate::txn::VERSION_BUFFERED;

/// Keys of a page, at most.
pub const PAGE_ROWS_MAX: u32 = 10_000;
/// Bytes of keys and values of a page, at most, unless its only row is larger.
pub const PAGE_BYTES_MAX: u32 = 4 * 1024 * 1024;
/// A shard has answered so often that the page ends with what it has. The shard may be walking over
/// keys that were deleted: that progress is to be told before the time of the call is over.
const ANSWERS_MAX: u32 = 8;
/// Bytes that a shard is asked for, at least: less is not worth a request.
const SHARE_BYTES_MIN: u32 = 4 * 1024;

/// What a merge needs next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Ask these shards. The rest is in the answers to come.
    Ask(Vec<(ShardId, KeyRange, PageLimit)>),
    /// Nothing before further answers have come.
    Wait,
    /// It has made a page.
    Page(Page),
}

/// What is known of one shard.
#[derive(Debug)]
struct Told {
    /// Where it goes on; none if it has told everything.
    next: Option<Key>,
    /// Rows of it that are not in the page yet.
    held_count: usize,
    /// Its answers.
    answer_count: u32,
    /// Whether an answer is to come.
    is_asked: bool,
}

/// A page in the making.
///
/// - `held` has no key below one of `rows`, and no key at or above its own shard's `next`.
/// - It holds at most what one answer of each shard brought beside the page: the shares of all, and
///   for each shard one row that alone is larger than its share.
#[derive(Debug)]
pub(super) struct Merge {
    shard_count: u32,
    end: Option<Key>,
    limit: PageLimit,
    shards: BTreeMap<ShardId, Told>,
    /// The page, so far.
    rows: Vec<Row>,
    row_bytes: usize,
    /// Rows that were told and are not in the page yet.
    held: BTreeMap<Key, (ShardId, Found)>,
}

impl Merge {
    /// A merge of the parts of all shards, of which nothing is known.
    pub(super) fn new(range: KeyRange, limit: PageLimit, shard_count: u32) -> Self {
        let next = (!range.is_empty()).then_some(range.start);
        let told = || Told { next: next.clone(), held_count: 0, answer_count: 0, is_asked: false };
        Self {
            shard_count,
            end: range.end,
            limit: clamped(limit),
            shards: (1..=shard_count).map(|shard| (ShardId(shard), told())).collect(),
            rows: Vec::new(),
            row_bytes: 0,
            held: BTreeMap::new(),
        }
    }

    /// Takes what a shard answers. Says whether it can be the answer to what it was asked; if not, it
    /// counts for nothing.
    pub(super) fn take(&mut self, shard: ShardId, page: Page) -> bool {
        if !self.is_plausible(shard, &page) {
            return false;
        }
        let Some(told) = self.shards.get_mut(&shard) else {
            return false;
        };
        let is_in_range = |key: &Key| self.end.as_ref().is_none_or(|end| key < end);
        told.next = page.next.filter(is_in_range);
        told.held_count += page.rows.len();
        told.answer_count += 1;
        told.is_asked = false;
        self.held.extend(page.rows.into_iter().map(|row| (row.key, (shard, row.found))));
        true
    }

    /// Whether the shard was asked and the page is in order: it lies in what was asked for, holds the
    /// shard's own keys, and goes on behind them and behind where it began.
    fn is_plausible(&self, shard: ShardId, page: &Page) -> bool {
        let asked = self.shards.get(&shard).filter(|told| told.is_asked);
        let Some(start) = asked.and_then(|told| told.next.clone()) else {
            return false;
        };
        let keys = || page.rows.iter().map(|row| &row.key);
        let range = KeyRange { start, end: self.end.clone() };
        let are_of_shard =
            keys().all(|key| range.contains(key) && ring::shard_of(key, self.shard_count) == shard);
        let goes_on = page.next.as_ref().is_none_or(|next| {
            *next > range.start && keys().next_back().is_none_or(|last| last < next)
        });
        are_of_shard && goes_on && keys().is_sorted_by(|one, other| one < other)
    }

    /// Does what can be done, and says what is needed next.
    pub(super) fn turn(&mut self) -> Turn {
        let horizon = self.shards.values().filter_map(|told| told.next.as_ref()).min().cloned();
        while let Some(row) = self.next_row(horizon.as_ref()) {
            if self.is_full_before(&row) {
                return self.page(Some(row.key));
            }
            self.push(row);
        }
        let Some(horizon) = horizon else {
            return self.page(None);
        };
        let at_horizon = |told: &&Told| told.next.as_ref() == Some(&horizon);
        let mut blocking = self.shards.values().filter(at_horizon);
        let is_walking = |told: &Told| !told.is_asked && told.answer_count >= ANSWERS_MAX;
        if self.is_full() || blocking.any(is_walking) {
            return self.page(Some(horizon));
        }
        self.ask()
    }

    /// The lowest row that is held, if it is below the horizon.
    fn next_row(&self, horizon: Option<&Key>) -> Option<Row> {
        let (key, (_, found)) = self.held.first_key_value()?;
        let is_complete = horizon.is_none_or(|horizon| key < horizon);
        is_complete.then(|| Row { key: key.clone(), found: found.clone() })
    }

    fn is_full(&self) -> bool {
        self.rows.len() >= self.limit.rows as usize || self.row_bytes >= self.limit.bytes as usize
    }

    fn is_full_before(&self, row: &Row) -> bool {
        let bytes = self.row_bytes + size(row);
        self.is_full() || (!self.rows.is_empty() && bytes > self.limit.bytes as usize)
    }

    /// Moves the lowest row that is held into the page.
    fn push(&mut self, row: Row) {
        let shard = self.held.remove(&row.key).map(|(shard, _)| shard);
        if let Some(told) = shard.and_then(|shard| self.shards.get_mut(&shard)) {
            told.held_count -= 1;
        }
        self.row_bytes += size(&row);
        self.rows.push(row);
    }

    fn page(&mut self, next: Option<Key>) -> Turn {
        Turn::Page(Page { rows: core::mem::take(&mut self.rows), next })
    }

    /// Asks all shards that have run dry and have not told everything.
    fn ask(&mut self) -> Turn {
        let limit = self.share();
        let is_dry =
            |told: &Told| !told.is_asked && told.held_count == 0 && told.answer_count < ANSWERS_MAX;
        let mut asked = Vec::new();
        for (shard, told) in &mut self.shards {
            if let Some(start) = told.next.clone()
                && is_dry(told)
            {
                told.is_asked = true;
                asked.push((*shard, KeyRange { start, end: self.end.clone() }, limit));
            }
        }
        if asked.is_empty() { Turn::Wait } else { Turn::Ask(asked) }
    }

    /// How much to ask of a shard for the rest of the page. Of the rows it is the mean and two
    /// standard deviations, as keys are spread at random; sizes are not, so of the bytes it is twice
    /// the mean.
    fn share(&self) -> PageLimit {
        let open = self.shards.values().filter(|told| told.next.is_some()).count();
        let open = u32::try_from(open).unwrap_or(u32::MAX).max(1);
        let rows = u32::try_from(self.rows.len()).unwrap_or(u32::MAX);
        let rows_left = self.limit.rows.saturating_sub(rows).max(1);
        let mean = rows_left.div_ceil(open);
        let bytes = u32::try_from(self.row_bytes).unwrap_or(u32::MAX);
        let bytes_left = self.limit.bytes.saturating_sub(bytes).max(1);
        let bytes = (bytes_left / open).saturating_mul(2).max(SHARE_BYTES_MIN);
        PageLimit { rows: (mean + 2 * mean.isqrt()).min(rows_left), bytes: bytes.min(bytes_left) }
    }
}

/// The limit of a page, within what a page may have.
fn clamped(limit: PageLimit) -> PageLimit {
    PageLimit {
        rows: limit.rows.clamp(1, PAGE_ROWS_MAX),
        bytes: limit.bytes.clamp(1, PAGE_BYTES_MAX),
    }
}

/// Lays writes that are not committed over a page of `range`: rows are replaced, removed and put in
/// as far as the page goes. What is more than the limit then is left to the next page.
pub(super) fn overlay(
    page: Page,
    range: &KeyRange,
    limit: PageLimit,
    writes: &BTreeMap<Key, Option<Value>>,
) -> Page {
    let covered = KeyRange {
        start: range.start.clone(),
        end: page.next.clone().or_else(|| range.end.clone()),
    };
    let mut rows: BTreeMap<Key, Found> =
        page.rows.into_iter().map(|row| (row.key, row.found)).collect();
    let of_page = writes.range(covered.start.clone()..);
    for (key, value) in of_page.take_while(|(key, _)| covered.contains(key)) {
        match value.clone() {
            Some(value) => rows.insert(key.clone(), Found { version: VERSION_BUFFERED, value }),
            None => rows.remove(key),
        };
    }
    cut(rows.into_iter().map(|(key, found)| Row { key, found }), page.next, clamped(limit))
}

/// As many of the rows as the limit lets through; at least one.
fn cut(rows: impl Iterator<Item = Row>, next: Option<Key>, limit: PageLimit) -> Page {
    let mut page = Page { rows: Vec::new(), next };
    let mut bytes = 0;
    for row in rows {
        bytes += size(&row);
        let is_over = page.rows.len() >= limit.rows as usize || bytes > limit.bytes as usize;
        if is_over && !page.rows.is_empty() {
            page.next = Some(row.key);
            break;
        }
        page.rows.push(row);
    }
    page
}

/// Bytes of key and value.
fn size(row: &Row) -> usize {
    row.key.bytes.len() + row.found.value.size()
}
