//! Scans of read-write transactions, of the blocking handle.

use kv_core::op::{KeyRange, Page, PageLimit, Row};

use super::Transaction;
use crate::driver;
use crate::error::ClientError;
use crate::snapshot::Cursor;
use crate::transaction_scan::scan_op;

impl Transaction {
    /// As [`crate::Transaction::page`].
    ///
    /// # Errors
    /// [`ClientError`]. *Nothing was changed.*
    pub fn page(
        &mut self,
        range: impl Into<KeyRange>,
        limit: PageLimit,
    ) -> Result<Page, ClientError> {
        self.call(scan_op(range.into(), limit)).map(driver::page)
    }

    /// As [`crate::Transaction::scan`].
    pub fn scan(&mut self, range: impl Into<KeyRange>) -> TransactionScan<'_> {
        TransactionScan { txn: self, cursor: Cursor::new(range) }
    }
}

/// As [`crate::TransactionScan`], for code without a runtime.
#[derive(Debug)]
pub struct TransactionScan<'a> {
    txn: &'a mut Transaction,
    cursor: Cursor,
}

impl TransactionScan<'_> {
    /// As [`crate::TransactionScan::with_limit`].
    #[must_use]
    pub fn with_limit(mut self, limit: PageLimit) -> Self {
        self.cursor.limit = limit;
        self
    }

    /// As [`crate::TransactionScan::next_page`].
    ///
    /// # Errors
    /// [`ClientError`]; then the transaction is over. *Nothing was changed.*
    pub fn next_page(&mut self) -> Result<Option<Vec<Row>>, ClientError> {
        let Some(range) = self.cursor.rest.clone() else {
            return Ok(None);
        };
        let page = self.txn.page(range, self.cursor.limit)?;
        Ok(Some(self.cursor.take(page)))
    }
}
