//! Read-only transactions of the async handle.

use bytes::Bytes;
use kv_core::client::{Call, PAGE_BYTES_MAX, PAGE_ROWS_MAX};
use kv_core::id::Timestamp;
use kv_core::op::{Found, Key, KeyRange, Page, PageLimit, Row};

use crate::client::Client;
use crate::driver;
use crate::error::ClientError;

/// The largest page.
pub(crate) const PAGE_LIMIT_MAX: PageLimit =
    PageLimit { rows: PAGE_ROWS_MAX, bytes: PAGE_BYTES_MAX };

/// A read-only transaction: what all keys of all shards held at one moment.
///
/// It takes no locks: writers do not wait for it, and it is never aborted. Nodes keep nothing for it,
/// so there is nothing to end; clones read the same moment. What was overwritten is kept for ten
/// minutes unless the nodes are told otherwise. Once the moment is further back than that, reads fail
/// with [`Refusal::SnapshotTooOld`](kv_core::wire::Refusal::SnapshotTooOld), and
/// [`ClientError::is_snapshot_too_old`] tells so: begin another one.
///
/// ```no_run
/// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
/// # let client = kv_client::Client::connect(vec!["127.0.0.1:7101".into()])?;
/// use kv_core::op::KeyRange;
///
/// let snapshot = client.begin_read_only().await?;
/// let total = snapshot.get("total").await?;
/// let mut orders = snapshot.scan(KeyRange::prefix("order/"));
/// while let Some(rows) = orders.next_page().await? {
///     for row in rows {
///         println!("{:?}: {:?}", row.key.bytes, row.found.value);
///     }
/// }
/// # let _ = total;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Snapshot {
    client: Client,
    at: Timestamp,
}

impl Snapshot {
    /// What is read at this timestamp.
    pub(crate) fn new(client: Client, at: Timestamp) -> Self {
        Self { client, at }
    }

    /// The moment: everything with this version or a lower one is seen. To come back to it, also from
    /// elsewhere, is what [`Client::begin_read_only_at`] is for.
    pub fn timestamp(&self) -> Timestamp {
        self.at
    }

    /// The value of `key` at that moment, with its version; none if the key did not exist.
    ///
    /// # Errors
    /// [`ClientError`]. *Nothing was changed.*
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<Option<Found>, ClientError> {
        self.client.call(self.get_call(key)).await.map(driver::found)
    }

    /// One page of a range: the first keys of it, in the order of their bytes. To go on, ask for the
    /// range from [`Page::next`] on. A page without keys may have a next one, if many were deleted.
    ///
    /// It holds at most [`PAGE_ROWS_MAX`] keys and [`PAGE_BYTES_MAX`] bytes, or one larger key;
    /// `limit` narrows that.
    ///
    /// # Errors
    /// [`ClientError`]. *Nothing was changed.*
    pub async fn page(
        &self,
        range: impl Into<KeyRange>,
        limit: PageLimit,
    ) -> Result<Page, ClientError> {
        self.client.call(self.page_call(range, limit)).await.map(driver::page)
    }

    /// All keys of a range, page by page. Ranges of Rust stand for ranges of keys: `..` is all keys,
    /// `"a".."c"` those from `a` on and before `c`; [`KeyRange::prefix`] is all that begin so.
    pub fn scan(&self, range: impl Into<KeyRange>) -> Scan {
        Scan { snapshot: self.clone(), cursor: Cursor::new(range) }
    }

    fn get_call(&self, key: impl Into<Bytes>) -> Call {
        Call::GetAt { key: Key::new(key), at: self.at }
    }

    fn page_call(&self, range: impl Into<KeyRange>, limit: PageLimit) -> Call {
        Call::ScanAt { range: range.into(), at: self.at, limit }
    }

    /// A read for a thread without a runtime.
    pub(crate) fn get_blocking(&self, key: Bytes) -> Result<Option<Found>, ClientError> {
        self.client.call_blocking(self.get_call(key)).map(driver::found)
    }

    /// A page for a thread without a runtime.
    pub(crate) fn page_blocking(
        &self,
        range: KeyRange,
        limit: PageLimit,
    ) -> Result<Page, ClientError> {
        self.client.call_blocking(self.page_call(range, limit)).map(driver::page)
    }
}

/// A walk over a range of keys. Made by [`Snapshot::scan`].
#[derive(Clone, Debug)]
pub struct Scan {
    snapshot: Snapshot,
    cursor: Cursor,
}

impl Scan {
    /// The same walk with smaller pages.
    #[must_use]
    pub fn with_limit(mut self, limit: PageLimit) -> Self {
        self.cursor.limit = limit;
        self
    }

    /// The next keys with what they hold; none at the end. A page may be empty before the end.
    ///
    /// After an error it may be asked again, and goes on where it was.
    ///
    /// # Errors
    /// [`ClientError`]. *Nothing was changed.*
    pub async fn next_page(&mut self) -> Result<Option<Vec<Row>>, ClientError> {
        let Some(range) = self.cursor.rest.clone() else {
            return Ok(None);
        };
        let page = self.snapshot.page(range, self.cursor.limit).await?;
        Ok(Some(self.cursor.take(page)))
    }
}

/// How far a walk has come.
#[derive(Clone, Debug)]
pub(crate) struct Cursor {
    /// What is left of the range; none at the end.
    pub(crate) rest: Option<KeyRange>,
    /// How large pages are.
    pub(crate) limit: PageLimit,
}

impl Cursor {
    /// At the beginning of a range.
    pub(crate) fn new(range: impl Into<KeyRange>) -> Self {
        Self { rest: Some(range.into()), limit: PAGE_LIMIT_MAX }
    }

    /// Goes behind a page.
    pub(crate) fn take(&mut self, page: Page) -> Vec<Row> {
        let end = self.rest.take().and_then(|range| range.end);
        self.rest = page.next.map(|start| KeyRange { start, end });
        page.rows
    }
}

impl Client {
    /// Begins a read-only transaction of this moment: it sees every write that was acknowledged
    /// before. Any node gives the timestamp.
    ///
    /// # Errors
    /// [`ClientError`]. *Nothing was changed.*
    pub async fn begin_read_only(&self) -> Result<Snapshot, ClientError> {
        let at = self.call(Call::Timestamp).await.map(driver::timestamp)?;
        Ok(self.begin_read_only_at(at))
    }

    /// A read-only transaction of an earlier moment: at the timestamp of another one, or at the
    /// version of something that was read or written. No node is asked before the first read.
    ///
    /// A read of it fails with [`Refusal::SnapshotTooOld`](kv_core::wire::Refusal::SnapshotTooOld) if
    /// that is too long ago, with
    /// [`Refusal::FutureTimestamp`](kv_core::wire::Refusal::FutureTimestamp) if the timestamp was not
    /// issued yet: then take one from the cluster, by [`Client::begin_read_only`].
    ///
    /// ```no_run
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = kv_client::Client::connect(vec!["127.0.0.1:7101".into()])?;
    /// let version = client.put("price", "7").await?;
    /// client.put("price", "8").await?;
    /// let before = client.begin_read_only_at(version).get("price").await?;
    /// # let _ = before;
    /// # Ok(())
    /// # }
    /// ```
    pub fn begin_read_only_at(&self, at: Timestamp) -> Snapshot {
        Snapshot::new(self.clone(), at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walk_goes_on_behind_each_page_up_to_the_end_of_its_range() {
        let mut cursor = Cursor::new("a".."m");
        let next = Key::new("f");
        assert!(cursor.take(Page { rows: vec![], next: Some(next) }).is_empty());
        assert_eq!(cursor.rest, Some(KeyRange::from("f".."m")));
        cursor.take(Page::default());
        assert_eq!(cursor.rest, None);
    }
}
