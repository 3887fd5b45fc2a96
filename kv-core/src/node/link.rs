//! What one node knows of another.
//!
//! Liveness and leadership are confirmed per pair of nodes. The sender of a
//! [`PeerMessage::Confirm`] leads the shards of a list that it has sent before; the answer names
//! the list's version and the shards on it that are *not* confirmed. So one small message confirms
//! any number of shards.
//!
//! An answer counts for a shard only if
//! - it answers this process (`boot`): after a restart rounds and versions begin anew;
//! - it names the version of the list that holds now: the shard, in this term, is on it;
//! - it does not except the shard: the answerer knew no newer term when it answered.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use crate::id::{Incarnation, Round, ShardId};
use crate::time::Instant;
use crate::wire::{Lead, PeerMessage};

/// What this node knows of one peer.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) incarnation: Incarnation,
    /// Whether the peer last said that its disk is full.
    pub(super) is_full: bool,
    /// Whether the peer last said that it should be given no leadership.
    pub(super) is_unfit: bool,
    /// When a frame of it last arrived; none since the process started.
    pub(super) heard_at: Option<Instant>,
    /// What this node leads and the peer has a replica of.
    leads: Vec<Lead>,
    /// Version of `leads`.
    version: u64,
    /// Whether the peer is known to hold that version.
    is_acknowledged: bool,
    /// The highest round that the peer confirmed for that version.
    confirmed: Round,
    /// Shards that the peer excepted when it did.
    excepted: BTreeSet<ShardId>,
    /// What the peer leads, by its own word.
    theirs: Option<TheirLeads>,
}

#[derive(Debug)]
struct TheirLeads {
    boot: u64,
    version: u64,
    leads: Vec<Lead>,
}

impl Link {
    pub(super) fn new(incarnation: Incarnation) -> Self {
        Self {
            incarnation,
            is_full: false,
            is_unfit: false,
            heard_at: None,
            leads: Vec::new(),
            version: 0,
            is_acknowledged: false,
            confirmed: Round(0),
            excepted: BTreeSet::new(),
            theirs: None,
        }
    }

    /// Takes the list of what this node leads. A changed list has a new version, which nobody has
    /// confirmed.
    pub(super) fn set_leads(&mut self, leads: Vec<Lead>) {
        if leads != self.leads {
            self.leads = leads;
            self.version += 1;
            self.is_acknowledged = false;
            self.confirmed = Round(0);
            self.excepted.clear();
        }
    }

    pub(super) fn leads(&self) -> &[Lead] {
        &self.leads
    }

    /// The message that asks the peer to confirm `round`; none if there is nothing to confirm.
    pub(super) fn confirm(&self, boot: u64, round: Round) -> Option<PeerMessage> {
        if self.leads.is_empty() {
            return None;
        }
        let leads = (!self.is_acknowledged).then(|| self.leads.clone());
        Some(PeerMessage::Confirm { boot, round, version: self.version, leads })
    }

    /// Takes an answer to this process. Says whether it is about the list that holds.
    pub(super) fn on_confirmed(
        &mut self,
        round: Round,
        version: u64,
        except: Vec<ShardId>,
    ) -> bool {
        if version != self.version {
            self.is_acknowledged &= version > self.version;
            return false;
        }
        self.is_acknowledged = true;
        if round >= self.confirmed {
            self.confirmed = round;
            self.excepted = except.into_iter().collect();
        }
        true
    }

    /// The highest round in which the peer confirmed `shard`.
    pub(super) fn confirmed(&self, shard: ShardId) -> Round {
        let is_listed = self.leads.iter().any(|lead| lead.shard == shard);
        if is_listed && !self.excepted.contains(&shard) { self.confirmed } else { Round(0) }
    }

    /// Takes the peer's list, unless it is older than the one at hand.
    pub(super) fn on_leads(&mut self, boot: u64, version: u64, leads: Vec<Lead>) {
        let is_old = |held: &TheirLeads| held.boot == boot && held.version > version;
        if !self.theirs.as_ref().is_some_and(is_old) {
            self.theirs = Some(TheirLeads { boot, version, leads });
        }
    }

    /// Whether the peer leads something, by its own word, and was not heard of since `oldest`.
    pub(super) fn is_missed(&self, oldest: Instant) -> bool {
        let leads = self.theirs.as_ref().is_some_and(|theirs| !theirs.leads.is_empty());
        leads && self.heard_at.is_none_or(|at| at < oldest)
    }

    /// What the peer leads, if this node holds that version of its list.
    pub(super) fn their_leads(&self, boot: u64, version: u64) -> Option<&[Lead]> {
        let held = self.theirs.as_ref()?;
        (held.boot == boot && held.version == version).then_some(&held.leads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Term;
    use alloc::vec;

    fn lead(shard: u32, term: u64) -> Lead {
        Lead { shard: ShardId(shard), term: Term(term) }
    }

    fn link() -> Link {
        let mut link = Link::new(Incarnation(1));
        link.set_leads(vec![lead(1, 5), lead(2, 5)]);
        link
    }

    #[test]
    fn rule_a13_answer_confirms_what_is_on_the_list_and_not_excepted() {
        let mut link = link();
        assert!(link.on_confirmed(Round(3), 1, vec![ShardId(2)]));
        assert_eq!(link.confirmed(ShardId(1)), Round(3));
        assert_eq!(link.confirmed(ShardId(2)), Round(0), "the answerer knows a newer term");
        assert_eq!(link.confirmed(ShardId(3)), Round(0), "not led");
    }

    #[test]
    fn rule_a13_answer_about_an_older_list_confirms_nothing() {
        let mut link = link();
        link.set_leads(vec![lead(1, 6)]);
        assert!(!link.on_confirmed(Round(9), 1, vec![]));
        assert_eq!(link.confirmed(ShardId(1)), Round(0));
    }

    #[test]
    fn rule_a13_changed_list_forgets_earlier_confirmations() {
        let mut link = link();
        link.on_confirmed(Round(3), 1, vec![]);
        link.set_leads(vec![lead(1, 6)]);
        assert_eq!(link.confirmed(ShardId(1)), Round(0));
    }

    #[test]
    fn older_answer_does_not_replace_a_newer_one() {
        let mut link = link();
        link.on_confirmed(Round(4), 1, vec![]);
        link.on_confirmed(Round(3), 1, vec![ShardId(1)]);
        assert_eq!(link.confirmed(ShardId(1)), Round(4));
    }

    #[test]
    fn list_is_sent_until_it_is_acknowledged_and_again_when_it_is_lost() {
        let mut link = link();
        let has_list = |link: &Link| match link.confirm(7, Round(1)) {
            Some(PeerMessage::Confirm { leads, .. }) => leads.is_some(),
            _ => panic!("there is something to confirm"),
        };
        assert!(has_list(&link));
        link.on_confirmed(Round(1), 1, vec![]);
        assert!(!has_list(&link));
        link.on_confirmed(Round(2), 0, vec![]); // The peer restarted and has no list.
        assert!(has_list(&link));
    }

    #[test]
    fn late_list_of_the_same_process_does_not_replace_a_newer_one() {
        let mut link = Link::new(Incarnation(1));
        link.on_leads(7, 2, vec![lead(1, 6)]);
        link.on_leads(7, 1, vec![lead(1, 5)]);
        assert_eq!(link.their_leads(7, 2), Some(&[lead(1, 6)][..]));
        assert_eq!(link.their_leads(7, 1), None);
        link.on_leads(8, 1, vec![lead(2, 9)]);
        assert_eq!(link.their_leads(8, 1), Some(&[lead(2, 9)][..]), "the peer restarted");
    }
}
