//! Bringing what is in memory to the disk, and the disk in shape, in bounded steps.

use kv_core::storage::StorageReply;

use super::{Engine, Sealed, damage_of};
use crate::lsm::{Tree, TreeError};

/// Work of a step when nothing was written since the last one.
const IDLE_STEP_BYTES: u64 = 256 * 1024;

impl Engine {
    /// Whether [`Engine::work`] has anything to do.
    pub fn is_work_due(&self) -> bool {
        self.damage.is_none()
            && self.tree.as_ref().is_some_and(|tree| {
                self.is_seal_due(tree) || tree.sealed_count() > 0 || tree.is_compaction_due()
            })
    }

    fn is_seal_due(&self, tree: &Tree) -> bool {
        tree.should_seal()
            || self.unsealed_log_bytes >= self.seal_log_bytes
            || !self.unsealed_replies.is_empty()
            || self.has_leftovers
    }

    /// Whether the last step found no room on the disk. The next one tries again.
    pub fn is_full(&self) -> bool {
        self.is_full
    }

    /// Does a step of what is due: as much as what was applied since the last step makes due, and
    /// when nothing was applied a little. A driver that calls this after every apply, and from time
    /// to time while [`Engine::is_work_due`], never has to wait long.
    ///
    /// Returns [`StorageReply::Flushed`] when more became durable, and before it what was installed
    /// or removed; [`StorageReply::Damaged`] when stored bytes turned out to be damaged. On a full
    /// disk nothing is done.
    ///
    /// # Errors
    /// [`TreeError::Write`] if the disk failed to write or to sync. *The node must stop.*
    pub fn work(&mut self) -> Result<Vec<StorageReply>, TreeError> {
        if self.damage.is_some() {
            return Ok(Vec::new());
        }
        let seals = |tree: &Tree| self.is_seal_due(tree) && tree.sealed_count() == 0;
        if self.tree.as_ref().is_some_and(seals) {
            self.seal();
        }
        let Some(tree) = &mut self.tree else { return Ok(Vec::new()) };
        let applied_bytes = std::mem::take(&mut self.unpaid_bytes);
        let result = match applied_bytes {
            0 => idle_step(tree),
            bytes => tree.pay(bytes).map(|_| ()),
        };
        match self.answer(result) {
            Err(TreeError::NoSpace(_)) => Ok(self.take_flushed()),
            answer => answer,
        }
    }

    /// What a step comes to, and what the engine makes of its failure.
    fn answer(&mut self, result: Result<(), TreeError>) -> Result<Vec<StorageReply>, TreeError> {
        self.is_full = matches!(result, Err(TreeError::NoSpace(_)));
        match result {
            Ok(()) => Ok(self.take_flushed()),
            Err(error @ (TreeError::Corruption(_) | TreeError::Read { .. })) => {
                self.damage = Some(damage_of(error));
                Ok(vec![self.damage_reply()])
            }
            Err(error) => Err(error),
        }
    }

    /// Ends the memtable: what was applied so far becomes durable as a whole.
    pub(super) fn seal(&mut self) {
        let staged: Vec<_> = self.staged.values().map(|staged| staged.local_id).collect();
        let metadata = self.state.encode(&staged);
        let watermarks = self.state.watermarks(self.staged.values(), self.mutants);
        let applied = self.all_applied();
        if let Some(tree) = &mut self.tree {
            tree.seal(metadata.into(), watermarks);
            (self.unsealed_log_bytes, self.has_leftovers) = (0, false);
            let replies = std::mem::take(&mut self.unsealed_replies);
            self.sealed.push_back(Sealed { applied, replies });
        }
    }

    /// What became durable since the last call.
    fn take_flushed(&mut self) -> Vec<StorageReply> {
        let waiting = self.tree.as_ref().map_or(0, Tree::sealed_count);
        let mut replies = Vec::new();
        let mut flushed = None;
        while self.sealed.len() > waiting {
            let Some(sealed) = self.sealed.pop_front() else { break };
            replies.extend(sealed.replies);
            flushed = Some(sealed.applied);
        }
        replies.extend(flushed.map(|applied| StorageReply::Flushed { applied }));
        replies
    }

    /// Makes everything that was applied durable, at once. Returns what [`Engine::work`] returns.
    ///
    /// # Errors
    /// [`TreeError::NoSpace`]: the call can be repeated. [`TreeError::Write`]: *the node must stop.*
    pub fn flush(&mut self) -> Result<Vec<StorageReply>, TreeError> {
        // After damage the machines may say more than the memtable holds.
        if self.damage.is_some() {
            return Ok(Vec::new());
        }
        // A flush that found no room has sealed before.
        let sealed = self.sealed.back().map(|sealed| &sealed.applied);
        if sealed != Some(&self.all_applied()) || !self.unsealed_replies.is_empty() {
            self.seal();
        }
        let Some(tree) = &mut self.tree else { return Ok(Vec::new()) };
        let result = flush_all(tree);
        self.answer(result)
    }
}

fn flush_all(tree: &mut Tree) -> Result<(), TreeError> {
    while tree.sealed_count() > 0 {
        tree.flush_step(u64::MAX)?;
    }
    Ok(())
}

fn idle_step(tree: &mut Tree) -> Result<(), TreeError> {
    if tree.sealed_count() > 0 {
        tree.flush_step(IDLE_STEP_BYTES)?;
    } else if tree.is_compaction_due() {
        tree.compact_step(IDLE_STEP_BYTES)?;
    }
    Ok(())
}
