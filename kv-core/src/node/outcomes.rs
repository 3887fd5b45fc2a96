//! How a transaction ended, for whoever has its name.
//!
//! Nothing is said here because something is not known: a leader may be deposed, and the commit may
//! be on its way. So the question itself goes into the log of the anchor, as a decision to abort. If
//! the commit was first, its entry says how it ended; if not, no copy of the commit counts any more.
//! What was decided and is forgotten is told as forgotten.

use super::Node;
use crate::id::{Epoch, RequestHandle, RequestId, ShardId};
use crate::mutants::{self, Mutant};
use crate::txn::{AbortReason, TxnId};
use crate::wire::Refusal;

impl Node {
    /// Somebody asks how a transaction ended. Who asks does not know what the client of the transaction
    /// has heard meanwhile, so the question acknowledges nothing.
    pub(super) fn settle_outcome(
        &mut self,
        handle: RequestHandle,
        anchor: ShardId,
        epoch: Epoch,
        txn: TxnId,
        sequence: u64,
    ) -> Result<(), Refusal> {
        let request = RequestId { session: txn.session, sequence, acked_below: 0 };
        let count = self.map.as_ref().ok_or(Refusal::NotReady)?.shard_count();
        if anchor == ShardId::META || anchor.0 > count {
            let reason = alloc::format!("{anchor} decides about no transactions");
            return Err(Refusal::InvalidStep { reason });
        }
        self.check_epoch(anchor, epoch)?;
        self.check_session(txn.session)?;
        let Some(replica) = self.replicas.get(&anchor).filter(|replica| replica.is_leader()) else {
            return Err(self.refusal(anchor));
        };
        let is_known = replica.locking.transactions.decided.contains_key(&txn);
        if mutants::is_active(Mutant::OutcomeWithoutFence) && !is_known {
            self.reply(handle, super::transactions::aborted(AbortReason::GivenUp));
            return Ok(());
        }
        self.decide_to_abort(anchor, txn, request, handle, AbortReason::GivenUp)
    }
}
