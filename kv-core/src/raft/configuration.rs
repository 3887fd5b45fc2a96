//! Who takes part in a group, and how that changes (Raft thesis, section 4.3).
//!
//! A [`Configuration`] names the *voters*, whose majority decides, and the *learners*, which get the
//! log and decide nothing. A change of voters goes through a *joint* configuration in which both the
//! new and the old voters must agree, each by a majority of their own, so that at no moment two
//! disjoint majorities exist, however many voters change at once.
//!
//! A configuration is an entry of the log, and holds from the moment at which it is *appended*
//! (thesis 4.1), on each replica for itself; if the entry is truncated, the one before it holds
//! again. Every change raises the epoch by one, so that of two configurations of a group the later
//! one is known.
//!
//! **What this leaves out:** when a change may be proposed; that is the leader's business.

use alloc::collections::BTreeSet;
use core::fmt;

use serde::{Deserialize, Serialize};

use super::quorum;
use crate::id::{Epoch, NodeId};
use crate::mutants::{self, Mutant};

/// Who takes part in a group.
///
/// - No node is both voter and learner.
/// - `outgoing` is empty unless the configuration is joint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// Grows by one with each change. 0 is that of a replica that has not been told any.
    pub epoch: Epoch,
    /// Whose majority decides.
    pub voters: BTreeSet<NodeId>,
    /// While joint: the voters before the change, whose majority must agree, too.
    pub outgoing: BTreeSet<NodeId>,
    /// Who gets the log and decides nothing.
    pub learners: BTreeSet<NodeId>,
}

/// What votes have come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoteResult {
    /// A quorum has granted.
    Won,
    /// No quorum can be reached any more.
    Lost,
    /// Those who have not answered decide.
    Pending,
}

impl Configuration {
    /// The configuration that a group begins with.
    pub fn initial(voters: impl IntoIterator<Item = NodeId>) -> Self {
        Self { epoch: Epoch(1), voters: voters.into_iter().collect(), ..Self::default() }
    }

    /// Whether a change of voters is halfway.
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether the node takes part in decisions.
    pub fn is_voter(&self, node: NodeId) -> bool {
        self.voters.contains(&node) || self.outgoing.contains(&node)
    }

    /// Whether the node takes part at all.
    pub fn is_member(&self, node: NodeId) -> bool {
        self.is_voter(node) || self.learners.contains(&node)
    }

    /// Who takes part in decisions, each once, in order.
    pub fn all_voters(&self) -> impl Iterator<Item = NodeId> {
        self.voters.union(&self.outgoing).copied()
    }

    /// Who takes part at all, each once: voters, then learners.
    pub fn members(&self) -> impl Iterator<Item = NodeId> {
        self.all_voters().chain(self.learners.iter().copied())
    }

    /// Whether the nodes of which `agrees` says so can decide.
    pub fn is_quorum(&self, agrees: impl Fn(NodeId) -> bool) -> bool {
        self.vote_result(|node| Some(agrees(node))) == VoteResult::Won
    }

    /// What votes have come to: `vote` says what a node has answered, if it has.
    pub fn vote_result(&self, vote: impl Fn(NodeId) -> Option<bool>) -> VoteResult {
        let incoming = quorum::vote_result(self.voters.iter().map(|node| vote(*node)));
        if !self.is_joint() || mutants::is_active(Mutant::JointElectionByNew) {
            return incoming;
        }
        match (incoming, quorum::vote_result(self.outgoing.iter().map(|node| vote(*node)))) {
            (VoteResult::Won, VoteResult::Won) => VoteResult::Won,
            (VoteResult::Lost, _) | (_, VoteResult::Lost) => VoteResult::Lost,
            _ => VoteResult::Pending,
        }
    }

    /// The largest value that a quorum has reached, given what each voter has; none without voters.
    pub fn reached<T: Ord + Copy>(&self, reached: impl Fn(NodeId) -> T) -> Option<T> {
        let by = |nodes: &BTreeSet<NodeId>| {
            quorum::reached_by_majority(nodes.iter().map(|node| reached(*node)))
        };
        let incoming = by(&self.voters)?;
        if mutants::is_active(Mutant::JointCommitByNew) {
            return Some(incoming);
        }
        Some(by(&self.outgoing).map_or(incoming, |outgoing| outgoing.min(incoming)))
    }

    /// The configuration that makes `voters` and `learners` take part: at once if only learners
    /// change, else a joint one, to be left by [`Configuration::left`].
    ///
    /// # Errors
    /// [`ChangeError`]. *Nothing was changed.*
    pub fn changed(
        &self,
        voters: BTreeSet<NodeId>,
        learners: BTreeSet<NodeId>,
    ) -> Result<Self, ChangeError> {
        if self.is_joint() {
            return Err(ChangeError::Joint);
        }
        if voters.is_empty() {
            return Err(ChangeError::NoVoters);
        }
        if let Some(node) = voters.intersection(&learners).next() {
            return Err(ChangeError::Both { node: *node });
        }
        if (&voters, &learners) == (&self.voters, &self.learners) {
            return Err(ChangeError::Unchanged);
        }
        let at_once = voters == self.voters || mutants::is_active(Mutant::JointSkipped);
        let outgoing = if at_once { BTreeSet::new() } else { self.voters.clone() };
        Ok(Self { epoch: Epoch(self.epoch.0 + 1), voters, outgoing, learners })
    }

    /// The same under the next epoch.
    ///
    /// # Errors
    /// [`ChangeError::Joint`]. *Nothing was changed.*
    pub fn again(&self) -> Result<Self, ChangeError> {
        if self.is_joint() {
            return Err(ChangeError::Joint);
        }
        Ok(Self { epoch: Epoch(self.epoch.0 + 1), ..self.clone() })
    }

    /// The configuration that ends a joint one.
    ///
    /// # Errors
    /// [`ChangeError::NotJoint`]. *Nothing was changed.*
    pub fn left(&self) -> Result<Self, ChangeError> {
        if !self.is_joint() {
            return Err(ChangeError::NotJoint);
        }
        let epoch = Epoch(self.epoch.0 + 1);
        Ok(Self { epoch, outgoing: BTreeSet::new(), ..self.clone() })
    }
}

impl fmt::Display for Configuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, nodes: &BTreeSet<NodeId>| {
            nodes
                .iter()
                .enumerate()
                .try_for_each(|(at, node)| write!(f, "{}{node}", if at == 0 { "" } else { " " }))
        };
        write!(f, "{}(", self.epoch)?;
        list(f, &self.voters)?;
        write!(f, ")")?;
        if self.is_joint() {
            write!(f, "&(")?;
            list(f, &self.outgoing)?;
            write!(f, ")")?;
        }
        if !self.learners.is_empty() {
            write!(f, " learners(")?;
            list(f, &self.learners)?;
            write!(f, ")")?;
        }
        Ok(())
    }
}

/// Why a configuration cannot follow another. *Nothing was changed.*
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// A change is halfway.
    #[error("the voters are being changed; wait for that to end")]
    Joint,
    /// There is nothing to leave.
    #[error("the configuration is not joint")]
    NotJoint,
    /// Nobody could decide anything, not even the next change.
    #[error("a group needs a voter")]
    NoVoters,
    /// One node in two roles.
    #[error("{node} cannot be voter and learner")]
    Both {
        /// The node.
        node: NodeId,
    },
    /// It holds already.
    #[error("that is the configuration already")]
    Unchanged,
}
