//! Changing the configuration of a group.
//!
//! One change at a time: a change is proposed only when the configuration before it is committed
//! (with several on their way, a new leader could take one for in effect that another one has
//! undone), and only once something of the leader's own term is (Ongaro 2015, "bug in single-server
//! membership changes"). A change of voters is two entries: the joint configuration, and when that
//! is committed, by the same leader or by another one, the end of it, which nobody asks for.
//!
//! A node becomes a voter only when it has nearly all of the log, so that the group does not wait
//! for it to catch up. A leader that the new configuration leaves out commits it without counting
//! itself, hands the leadership over and steps down (thesis 4.2.2).

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use super::progress::{Mode, Progress};
use super::{ChangeError, Configuration, Group, State};
use crate::id::{LogIndex, NodeId};
use crate::machine::{self, Command};
use crate::mutants::{self, Mutant};
use crate::storage::Entry;
use crate::time::Instant;

/// How many entries a node may lack that becomes a voter: what it gets within a round trip or two.
const CAUGHT_UP_LAG_MAX: u64 = 1_024;

/// The configurations in a log: that at its applied state, then those of later entries.
#[derive(Debug)]
pub(super) struct Configurations {
    /// What holds before all of `appended`.
    base: Configuration,
    /// Each with the index of its entry, in order.
    appended: Vec<(LogIndex, Configuration)>,
}

impl Configurations {
    /// Those of a log whose entries behind the applied state are these.
    pub(super) fn recovered<'a>(
        base: Configuration,
        entries: impl Iterator<Item = &'a Entry>,
    ) -> Self {
        let configuration =
            |entry: &Entry| Some((entry.id.index, machine::configuration_in(&entry.payload)?));
        Self { base, appended: entries.filter_map(configuration).collect() }
    }

    pub(super) fn current(&self) -> &Configuration {
        self.appended.last().map_or(&self.base, |(_, configuration)| configuration)
    }

    /// Index of the entry that holds the current one; 0 if it is not in the log any more.
    fn current_index(&self) -> LogIndex {
        self.appended.last().map(|(index, _)| *index).unwrap_or_default()
    }

    fn push(&mut self, index: LogIndex, configuration: Configuration) {
        self.appended.push((index, configuration));
    }

    /// The entries from `index` on are gone. Whether the current configuration changed.
    fn truncate_from(&mut self, index: LogIndex) -> bool {
        if mutants::is_active(Mutant::TruncatedConfigurationKept) {
            return false;
        }
        let before = self.appended.len();
        self.appended.retain(|(at, _)| *at < index);
        self.appended.len() < before
    }

    /// The entries up to `index` stay as they are.
    pub(super) fn forget_before(&mut self, index: LogIndex) {
        let count = self.appended.iter().take_while(|(at, _)| *at <= index).count();
        if let Some((_, last)) = self.appended.drain(..count).next_back() {
            self.base = last;
        }
    }
}

/// Why a change of the configuration is not proposed. *Nothing was changed.*
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeChangeError {
    /// Not the leader.
    #[error("not the leader")]
    NotLeader,
    /// The configuration that holds, or the term, is not committed yet, or the leadership is being
    /// handed over. Try again.
    #[error("the change before is not finished")]
    Unfinished,
    /// A node that should become a voter lacks too much. Try again.
    #[error("{node} has not caught up")]
    Behind {
        /// The node.
        node: NodeId,
    },
    /// The configuration cannot follow the one that holds.
    #[error(transparent)]
    Change(#[from] ChangeError),
}

impl Group {
    /// As leader: begins to make `voters` and `learners` take part. Learners alone change with one
    /// entry, voters in two steps; the second one follows by itself.
    ///
    /// # Errors
    /// [`ProposeChangeError`]. *Nothing was changed.*
    pub fn propose_change(
        &mut self,
        now: Instant,
        voters: BTreeSet<NodeId>,
        learners: BTreeSet<NodeId>,
    ) -> Result<Configuration, ProposeChangeError> {
        self.check_change(now)?;
        let next = self.configuration().changed(voters, learners)?;
        if let Some(node) = next.voters.iter().find(|node| !self.is_caught_up(**node)) {
            return Err(ProposeChangeError::Behind { node: *node });
        }
        self.append_configuration(now, &next);
        Ok(next)
    }

    /// As leader: appends the configuration that holds once more, under the next epoch. So it is
    /// known that no change follows any more that was begun under this one.
    ///
    /// # Errors
    /// [`ProposeChangeError`]. *Nothing was changed.*
    pub fn propose_same(&mut self, now: Instant) -> Result<Configuration, ProposeChangeError> {
        self.check_change(now)?;
        let next = self.configuration().again()?;
        self.append_configuration(now, &next);
        Ok(next)
    }

    /// As leader: whether the node has nearly all of the log, or is a voter already.
    pub fn is_caught_up(&self, node: NodeId) -> bool {
        if node == self.config.me || self.configuration().is_voter(node) {
            return true;
        }
        self.lacks_little(node)
    }

    /// As leader: whether what a follower is known to lack is little, and on its way.
    pub(super) fn lacks_little(&self, node: NodeId) -> bool {
        let last = self.log.last().index.0;
        self.progress(node).is_some_and(|progress| {
            progress.mode == Mode::Replicate
                && progress.counted() > LogIndex(0)
                && progress.counted().0 + CAUGHT_UP_LAG_MAX >= last
        })
    }

    /// Whether the configuration that holds is committed.
    pub fn is_configuration_committed(&self) -> bool {
        self.configurations.current_index() <= self.hard_state.commit
    }

    /// Whether the leader may change the configuration now.
    fn check_change(&mut self, now: Instant) -> Result<(), ProposeChangeError> {
        self.end_late_transfer(now);
        let State::Leader(leadership) = &self.state else {
            return Err(ProposeChangeError::NotLeader);
        };
        let commit = self.hard_state.commit;
        if commit < leadership.term_start
            || self.configurations.current_index() > commit
            || leadership.transfer.is_some()
        {
            return Err(ProposeChangeError::Unfinished);
        }
        Ok(())
    }

    fn append_configuration(&mut self, now: Instant, configuration: &Configuration) {
        let command = Command::Configuration(configuration.clone());
        self.append_as_leader(now, command.encode().into());
    }

    /// The entry at `index` was appended: if it is a configuration, it holds from here on.
    pub(super) fn note_configuration(&mut self, now: Instant, index: LogIndex) {
        let configuration =
            self.log.payload_at(index).and_then(|payload| machine::configuration_in(payload));
        if let Some(configuration) = configuration {
            self.configurations.push(index, configuration);
            self.follow_configuration(now);
        }
    }

    /// Removes the log's entries from `index` on, and with them what they configured.
    pub(super) fn truncate_from(&mut self, now: Instant, index: LogIndex) {
        self.log.truncate_from(index);
        if self.configurations.truncate_from(index) {
            self.follow_configuration(now);
        }
    }

    /// The planted bug [`Mutant::GossipDecidesPlacement`]: `node` is no voter any more.
    pub(crate) fn leave_out(&mut self, node: NodeId) {
        let Configurations { base, appended } = &mut self.configurations;
        let current = appended.last_mut().map_or(base, |(_, configuration)| configuration);
        current.voters.remove(&node);
        current.outgoing.remove(&node);
    }

    /// A snapshot replaced the log: forgets what its entries configured.
    pub(super) fn restore_configuration(&mut self, now: Instant, base: Configuration) {
        self.configurations = Configurations { base, appended: Vec::new() };
        self.follow_configuration(now);
    }

    /// As leader: sends to all members and to nobody else.
    fn follow_configuration(&mut self, now: Instant) {
        let peers: BTreeSet<NodeId> = self.peers().into_iter().collect();
        let next = self.log.last().index;
        if let State::Leader(leadership) = &mut self.state {
            leadership.followers.retain(|node, _| peers.contains(node));
            for peer in peers {
                leadership.followers.entry(peer).or_insert_with(|| Progress::new(next, now));
            }
        }
    }

    /// As leader: goes on with the configuration once it is committed.
    pub(super) fn advance_configuration(&mut self, now: Instant) {
        let State::Leader(leadership) = &self.state else {
            return;
        };
        let is_early =
            self.configuration().is_joint() && mutants::is_active(Mutant::JointLeftEarly);
        let is_next_due = self.is_configuration_committed() || is_early;
        if !is_next_due || self.hard_state.commit < leadership.term_start {
            return;
        }
        let stays = mutants::is_active(Mutant::RemovedLeaderStays);
        if let Ok(next) = self.configuration().left() {
            self.append_configuration(now, &next);
        } else if !self.configuration().is_voter(self.config.me) && !stays {
            self.abdicate(now);
        }
    }
}
