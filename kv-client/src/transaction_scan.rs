//! Scans of read-write transactions, of both handles.

use kv_core::client::TxnOp;
use kv_core::op::{KeyRange, Page, PageLimit, Row};

use crate::driver;
use crate::error::ClientError;
use crate::snapshot::Cursor;
use crate::transaction::Transaction;

/// A step that scans.
pub(crate) fn scan_op(range: KeyRange, limit: PageLimit) -> TxnOp {
    TxnOp::Scan { range, limit }
}

impl Transaction {
    /// One page of a range: the first keys of it, in the order of their bytes, with what the
    /// transaction itself wrote. To go on, ask for the range from [`Page::next`] on. A page without
    /// keys may have a next one.
    ///
    /// All keys up to there are locked as by [`Transaction::get`], and those that do not exist too:
    /// until the end of the transaction nobody else puts any into that part of the range, or takes
    /// any out. Of keys behind it some may be locked.
    ///
    /// It holds at most [`PAGE_ROWS_MAX`](kv_core::client::PAGE_ROWS_MAX) keys and
    /// [`PAGE_BYTES_MAX`](kv_core::client::PAGE_BYTES_MAX) bytes, or one larger key; `limit`
    /// narrows that.
    ///
    /// # Errors
    /// [`ClientError`]. *Nothing was changed.*
    pub async fn page(
        &mut self,
        range: impl Into<KeyRange>,
        limit: PageLimit,
    ) -> Result<Page, ClientError> {
        self.call(scan_op(range.into(), limit)).await.map(driver::page)
    }

    /// All keys of a range, page by page, each locked as by [`Transaction::page`]. Ranges are those
    /// of [`Snapshot::scan`](crate::Snapshot::scan), which locks nothing.
    ///
    /// ```no_run
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = kv_client::Client::connect(vec!["127.0.0.1:7101".into()])?;
    /// use kv_core::op::KeyRange;
    ///
    /// let mut txn = client.begin().await?;
    /// let mut guests = txn.scan(KeyRange::prefix("guest/"));
    /// let mut count = 0;
    /// while let Some(rows) = guests.next_page().await? {
    ///     count += rows.len();
    /// }
    /// if count < 10 {
    ///     txn.put("guest/ann", "table 3").await?;
    /// }
    /// txn.commit().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn scan(&mut self, range: impl Into<KeyRange>) -> TransactionScan<'_> {
        TransactionScan { txn: self, cursor: Cursor::new(range) }
    }
}

/// A walk over a range of keys that locks it. Made by [`Transaction::scan`].
#[derive(Debug)]
pub struct TransactionScan<'a> {
    txn: &'a mut Transaction,
    cursor: Cursor,
}

impl TransactionScan<'_> {
    /// The same walk with smaller pages.
    #[must_use]
    pub fn with_limit(mut self, limit: PageLimit) -> Self {
        self.cursor.limit = limit;
        self
    }

    /// The next keys with what they hold; none at the end. A page may be empty before the end.
    ///
    /// # Errors
    /// [`ClientError`]; then the transaction is over. *Nothing was changed.*
    pub async fn next_page(&mut self) -> Result<Option<Vec<Row>>, ClientError> {
        let Some(range) = self.cursor.rest.clone() else {
            return Ok(None);
        };
        let page = self.txn.page(range, self.cursor.limit).await?;
        Ok(Some(self.cursor.take(page)))
    }
}
