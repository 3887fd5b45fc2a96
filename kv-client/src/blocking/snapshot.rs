//! Read-only transactions of the blocking handle.

use bytes::Bytes;
use kv_core::client::Call;
use kv_core::id::Timestamp;
use kv_core::op::{Found, KeyRange, Page, PageLimit, Row};

use super::Client;
use crate::driver;
use crate::error::ClientError;
use crate::snapshot::Cursor;

/// As [`crate::Snapshot`], for code without a runtime.
///
/// ```no_run
/// # fn demo() -> Result<(), Box<dyn std::error::Error>> {
/// let client = kv_client::blocking::Client::connect(vec!["127.0.0.1:7101".into()])?;
/// let snapshot = client.begin_read_only()?;
/// let mut scan = snapshot.scan("a".."c");
/// while let Some(rows) = scan.next_page()? {
///     println!("{} keys", rows.len());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Snapshot(crate::Snapshot);

impl Snapshot {
    /// As [`crate::Snapshot::timestamp`].
    pub fn timestamp(&self) -> Timestamp {
        self.0.timestamp()
    }

    /// As [`crate::Snapshot::get`].
    ///
    /// # Errors
    /// [`ClientError`]. *Nothing was changed.*
    pub fn get(&self, key: impl Into<Bytes>) -> Result<Option<Found>, ClientError> {
        self.0.get_blocking(key.into())
    }

    /// As [`crate::Snapshot::page`].
    ///
    /// # Errors
    /// [`ClientError`]. *Nothing was changed.*
    pub fn page(&self, range: impl Into<KeyRange>, limit: PageLimit) -> Result<Page, ClientError> {
        self.0.page_blocking(range.into(), limit)
    }

    /// As [`crate::Snapshot::scan`].
    pub fn scan(&self, range: impl Into<KeyRange>) -> Scan {
        Scan { snapshot: self.0.clone(), cursor: Cursor::new(range) }
    }
}

/// As [`crate::Scan`], for code without a runtime.
#[derive(Clone, Debug)]
pub struct Scan {
    snapshot: crate::Snapshot,
    cursor: Cursor,
}

impl Scan {
    /// As [`crate::Scan::with_limit`].
    #[must_use]
    pub fn with_limit(mut self, limit: PageLimit) -> Self {
        self.cursor.limit = limit;
        self
    }

    /// As [`crate::Scan::next_page`].
    ///
    /// # Errors
    /// [`ClientError`]. *Nothing was changed.*
    pub fn next_page(&mut self) -> Result<Option<Vec<Row>>, ClientError> {
        let Some(range) = self.cursor.rest.clone() else {
            return Ok(None);
        };
        let page = self.snapshot.page_blocking(range, self.cursor.limit)?;
        Ok(Some(self.cursor.take(page)))
    }
}

impl Client {
    /// As [`crate::Client::begin_read_only`].
    ///
    /// # Errors
    /// [`ClientError`]. *Nothing was changed.*
    pub fn begin_read_only(&self) -> Result<Snapshot, ClientError> {
        let at = self.0.call_blocking(Call::Timestamp).map(driver::timestamp)?;
        Ok(self.begin_read_only_at(at))
    }

    /// As [`crate::Client::begin_read_only_at`].
    pub fn begin_read_only_at(&self, at: Timestamp) -> Snapshot {
        Snapshot(self.0.begin_read_only_at(at))
    }
}
