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
//!
//! Neither side looks at every shard of the list for every message. The asker keeps when it was
//! answered, and the answerer when it was asked, once for the whole list; a shard's contact is
//! computed from that when somebody wants to know ([`contact`](super::contact)). And the answerer
//! knows which shards are *settled*: it follows the asker in the listed term and has heard an append
//! of it. Only the others can be an exception, so only those are looked at.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::mem;
use core::time::Duration;

use crate::id::{Address, Incarnation, Round, ShardId, Term};
use crate::mutants::{self, Mutant};
use crate::storage::StateHash;
use crate::time::Instant;
use crate::wire::{Lead, PeerMessage};

/// What this node knows of one peer.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) incarnation: Incarnation,
    /// Where the peer is reached, by what gossip says; none if it has said nothing.
    pub(super) address: Option<Address>,
    /// Whether the peer last said that its disk is full.
    pub(super) is_full: bool,
    /// Whether the peer last said that it should be given no leadership.
    pub(super) is_unfit: bool,
    /// When a frame of it last arrived; none since the process started.
    pub(super) heard_at: Option<Instant>,
    /// What this node leads and the peer has a replica of, by shard.
    leads: Vec<Lead>,
    /// Version of `leads`.
    version: u64,
    /// Whether the peer is known to hold that version.
    is_acknowledged: bool,
    /// The highest round that the peer confirmed for that version.
    confirmed: Round,
    /// Shards of the list that the peer excepted when it did.
    excepted: BTreeSet<ShardId>,
    /// When the peer last answered about that version; none since it changed.
    answered_at: Option<Instant>,
    /// Notices when answers stay out, about whichever list.
    pub(super) answers: Watch,
    /// What the peer leads, by its own word.
    theirs: Option<TheirLeads>,
    /// Notices when the peer does not confirm its list any more.
    pub(super) signs: Watch,
    /// What replicas came to that follow the peer, to be told with the next confirmation.
    pub(super) untold: BTreeMap<ShardId, StateHash>,
}

/// Notices silence. Signs do not move its timer, which would cost an operation for each: when the
/// timer fires, it is set anew behind the last sign, or there was none for too long.
#[derive(Debug, Default)]
pub(super) struct Watch {
    last: Instant,
    /// When to look again; none while it is silent.
    pub(super) due: Option<Instant>,
}

impl Watch {
    /// A sign of life just now.
    pub(super) fn on_sign(&mut self, now: Instant, patience: Duration) {
        self.last = now;
        self.due.get_or_insert(now + patience);
    }

    /// Looks, if it is time to. Whether silence has begun just now.
    pub(super) fn has_fallen_silent(&mut self, now: Instant, patience: Duration) -> bool {
        if self.due.is_none_or(|due| now < due) {
            return false;
        }
        let due = self.last + patience;
        self.due = (due > now).then_some(due);
        self.due.is_none()
    }

    fn is_silent(&self) -> bool {
        self.due.is_none()
    }
}

#[derive(Debug)]
struct TheirLeads {
    boot: u64,
    version: u64,
    leads: BTreeMap<ShardId, Term>,
    /// Shards of the list that may be an exception. All others have a replica here that follows the
    /// peer in the listed term and has heard an append of it.
    unsettled: BTreeSet<ShardId>,
    /// When the peer last confirmed this list.
    confirmed_at: Instant,
}

/// An answer changed what is excepted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Exceptions {
    /// Shards that the answer excepts and the one before did not.
    pub(super) begun: Vec<ShardId>,
    /// Shards that the answer before excepted.
    pub(super) ended: Vec<ShardId>,
    /// When the peer had last confirmed the former.
    pub(super) confirmed_until: Option<Instant>,
}

impl Link {
    pub(super) fn new(incarnation: Incarnation) -> Self {
        Self {
            incarnation,
            address: None,
            is_full: false,
            is_unfit: false,
            heard_at: None,
            leads: Vec::new(),
            version: 0,
            is_acknowledged: false,
            confirmed: Round(0),
            excepted: BTreeSet::new(),
            answered_at: None,
            answers: Watch::default(),
            theirs: None,
            signs: Watch::default(),
            untold: BTreeMap::new(),
        }
    }

    /// Takes the list of what this node leads, by shard. A changed list has a new version, which
    /// nobody has confirmed. Returns the shards of the list before with the time until which they
    /// were confirmed.
    pub(super) fn set_leads(&mut self, leads: Vec<Lead>) -> Vec<(ShardId, Instant)> {
        if leads == self.leads {
            return Vec::new();
        }
        let answered = |lead: &Lead| Some((lead.shard, self.answered_at(lead.shard)?));
        let contacts = self.leads.iter().filter_map(answered).collect();
        self.leads = leads;
        self.version += 1;
        self.is_acknowledged = false;
        self.confirmed = Round(0);
        self.excepted.clear();
        self.answered_at = None;
        contacts
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

    /// Takes an answer to this process. Returns what it excepts otherwise than the one before; none
    /// if it is not about the list that holds.
    pub(super) fn on_confirmed(
        &mut self,
        now: Instant,
        round: Round,
        version: u64,
        except: Vec<ShardId>,
    ) -> Option<Exceptions> {
        if version != self.version {
            self.is_acknowledged &= version > self.version;
            return None;
        }
        self.is_acknowledged = true;
        let confirmed_until = self.answered_at.replace(now);
        if round < self.confirmed {
            return Some(Exceptions::default());
        }
        self.confirmed = round;
        let except = except.into_iter().filter(|shard| self.term_of(*shard).is_some()).collect();
        let before = mem::replace(&mut self.excepted, except);
        let begun = self.excepted.difference(&before).copied().collect();
        let ended = before.difference(&self.excepted).copied().collect();
        Some(Exceptions { begun, ended, confirmed_until })
    }

    /// The highest round in which the peer confirmed `shard`.
    pub(super) fn confirmed(&self, shard: ShardId) -> Round {
        if self.is_confirmable(shard) { self.confirmed } else { Round(0) }
    }

    /// When the peer last confirmed `shard`, as far as the list that holds says.
    pub(super) fn answered_at(&self, shard: ShardId) -> Option<Instant> {
        self.answered_at.filter(|_| self.is_confirmable(shard))
    }

    /// Whether silence of the peer, or an exception, would be noticed for the leadership of `shard`
    /// in `term`, and there is neither.
    pub(super) fn is_answering(&self, shard: ShardId, term: Term) -> bool {
        let is_listed = self.term_of(shard) == Some(term);
        is_listed && !self.excepted.contains(&shard) && !self.answers.is_silent()
    }

    fn is_confirmable(&self, shard: ShardId) -> bool {
        let is_excepted =
            self.excepted.contains(&shard) && !mutants::is_active(Mutant::ExceptionIgnored);
        self.term_of(shard).is_some() && !is_excepted
    }

    /// The term in which this node leads `shard`, if the list has it.
    fn term_of(&self, shard: ShardId) -> Option<Term> {
        let at = self.leads.binary_search_by_key(&shard, |lead| lead.shard).ok()?;
        Some(self.leads[at].term)
    }

    /// Takes the peer's list, unless it is older than the one at hand. Returns the shards of the list
    /// before that are not led in the same term any more, with that term, and until when the peer
    /// confirmed them.
    pub(super) fn on_leads(
        &mut self,
        now: Instant,
        boot: u64,
        version: u64,
        leads: &[Lead],
    ) -> Vec<(ShardId, Term, Instant)> {
        let is_held = |held: &TheirLeads| held.boot == boot && held.version >= version;
        if self.theirs.as_ref().is_some_and(is_held) {
            return Vec::new();
        }
        let leads: BTreeMap<_, _> = leads.iter().map(|lead| (lead.shard, lead.term)).collect();
        let before = self.theirs.take();
        let mut unsettled: BTreeSet<_> = leads.keys().copied().collect();
        let mut left = Vec::new();
        if let Some(before) = before {
            for (shard, term) in before.leads {
                if before.boot != boot || leads.get(&shard) != Some(&term) {
                    left.push((shard, term, before.confirmed_at));
                } else if !before.unsettled.contains(&shard) {
                    unsettled.remove(&shard);
                }
            }
        }
        self.theirs = Some(TheirLeads { boot, version, leads, unsettled, confirmed_at: now });
        left
    }

    /// The peer confirms its list of that version, just now. Returns what of it may be an exception,
    /// also because it is among `touched`; none if this node does not hold that version.
    pub(super) fn on_confirm(
        &mut self,
        now: Instant,
        boot: u64,
        version: u64,
        touched: &BTreeSet<ShardId>,
    ) -> Option<Vec<Lead>> {
        let held = |held: &&mut TheirLeads| held.boot == boot && held.version == version;
        let theirs = self.theirs.as_mut().filter(held)?;
        theirs.confirmed_at = now;
        let lead = |shard: &ShardId| Some(Lead { shard: *shard, term: *theirs.leads.get(shard)? });
        Some(theirs.unsettled.union(touched).filter_map(lead).collect())
    }

    /// `shard` can be no exception until something about its replica changes.
    pub(super) fn settle(&mut self, shard: ShardId) {
        if let Some(theirs) = &mut self.theirs {
            theirs.unsettled.remove(&shard);
        }
    }

    /// Something about the replica of `shard` changed.
    pub(super) fn unsettle(&mut self, shard: ShardId) {
        if let Some(theirs) = &mut self.theirs
            && theirs.leads.contains_key(&shard)
        {
            theirs.unsettled.insert(shard);
        }
    }

    /// When the peer last confirmed that it leads `shard` in `term`.
    pub(super) fn confirmed_at(&self, shard: ShardId, term: Term) -> Option<Instant> {
        let theirs = self.theirs.as_ref()?;
        (theirs.leads.get(&shard) == Some(&term)).then_some(theirs.confirmed_at)
    }

    /// Whether silence of the peer would be noticed for its leadership of `shard` in `term`, and
    /// there is none.
    pub(super) fn is_leading(&self, shard: ShardId, term: Term) -> bool {
        self.confirmed_at(shard, term).is_some() && !self.signs.is_silent()
    }

    /// What the peer leads, by its own word.
    pub(super) fn their_shards(&self) -> impl Iterator<Item = ShardId> {
        self.theirs.iter().flat_map(|theirs| theirs.leads.keys().copied())
    }

    /// Whether the peer leads something, by its own word, and was not heard of since `oldest`.
    pub(super) fn is_missed(&self, oldest: Instant) -> bool {
        let leads = self.theirs.as_ref().is_some_and(|theirs| !theirs.leads.is_empty());
        leads && self.heard_at.is_none_or(|at| at < oldest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Term;
    use alloc::vec;

    const NOW: Instant = Instant::from_nanos(1_000);

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
        let exceptions = link.on_confirmed(NOW, Round(3), 1, vec![ShardId(2)]).unwrap();
        assert_eq!(exceptions.begun, [ShardId(2)]);
        assert_eq!(link.confirmed(ShardId(1)), Round(3));
        assert_eq!(link.confirmed(ShardId(2)), Round(0), "the answerer knows a newer term");
        assert_eq!(link.confirmed(ShardId(3)), Round(0), "not led");
    }

    #[test]
    fn rule_a13_answer_about_an_older_list_confirms_nothing() {
        let mut link = link();
        link.set_leads(vec![lead(1, 6)]);
        assert_eq!(link.on_confirmed(NOW, Round(9), 1, vec![]), None);
        assert_eq!(link.confirmed(ShardId(1)), Round(0));
    }

    #[test]
    fn rule_a13_changed_list_forgets_earlier_confirmations() {
        let mut link = link();
        link.on_confirmed(NOW, Round(3), 1, vec![]);
        link.set_leads(vec![lead(1, 6)]);
        assert_eq!(link.confirmed(ShardId(1)), Round(0));
    }

    #[test]
    fn older_answer_does_not_replace_a_newer_one() {
        let mut link = link();
        link.on_confirmed(NOW, Round(4), 1, vec![]);
        link.on_confirmed(NOW, Round(3), 1, vec![ShardId(1)]);
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
        link.on_confirmed(NOW, Round(1), 1, vec![]);
        assert!(!has_list(&link));
        link.on_confirmed(NOW, Round(2), 0, vec![]); // The peer restarted and has no list.
        assert!(has_list(&link));
    }

    #[test]
    fn late_list_of_the_same_process_does_not_replace_a_newer_one() {
        let mut link = Link::new(Incarnation(1));
        let holds = |link: &mut Link, boot, version| {
            link.on_confirm(NOW, boot, version, &BTreeSet::new()).is_some()
        };
        link.on_leads(NOW, 7, 2, &[lead(1, 6)]);
        link.on_leads(NOW, 7, 1, &[lead(1, 5)]);
        assert!(holds(&mut link, 7, 2));
        assert!(!holds(&mut link, 7, 1));
        link.on_leads(NOW, 8, 1, &[lead(2, 9)]);
        assert!(holds(&mut link, 8, 1), "the peer restarted");
    }

    #[test]
    fn only_what_may_be_an_exception_is_looked_at() {
        let mut link = Link::new(Incarnation(1));
        let (none, touched) = (BTreeSet::new(), BTreeSet::from([ShardId(2), ShardId(9)]));
        link.on_leads(NOW, 7, 1, &[lead(1, 5), lead(2, 5)]);
        assert_eq!(link.on_confirm(NOW, 7, 1, &none), Some(vec![lead(1, 5), lead(2, 5)]));
        link.settle(ShardId(1));
        link.settle(ShardId(2));
        assert_eq!(link.on_confirm(NOW, 7, 1, &none), Some(vec![]));
        assert_eq!(link.on_confirm(NOW, 7, 1, &touched), Some(vec![lead(2, 5)]));
        link.unsettle(ShardId(1));
        link.unsettle(ShardId(9));
        assert_eq!(link.on_confirm(NOW, 7, 1, &none), Some(vec![lead(1, 5)]));
    }

    #[test]
    fn changed_list_unsettles_what_changed() {
        let mut link = Link::new(Incarnation(1));
        link.on_leads(NOW, 7, 1, &[lead(1, 5), lead(2, 5), lead(3, 5)]);
        (1..=3).for_each(|shard| link.settle(ShardId(shard)));
        let left = link.on_leads(NOW, 7, 2, &[lead(1, 5), lead(2, 6)]);
        assert_eq!(left, [(ShardId(2), Term(5), NOW), (ShardId(3), Term(5), NOW)]);
        assert_eq!(link.on_confirm(NOW, 7, 2, &BTreeSet::new()), Some(vec![lead(2, 6)]));
        link.settle(ShardId(2));
        link.on_leads(NOW, 8, 1, &[lead(1, 5)]);
        let looked_at = link.on_confirm(NOW, 8, 1, &BTreeSet::new());
        assert_eq!(looked_at, Some(vec![lead(1, 5)]), "the peer restarted");
    }

    #[test]
    fn contact_that_a_changed_list_forgets_is_handed_over() {
        let mut link = link();
        link.on_confirmed(NOW, Round(3), 1, vec![ShardId(2)]);
        assert_eq!(link.set_leads(vec![lead(1, 5)]), [(ShardId(1), NOW)]);
        assert_eq!(link.answered_at(ShardId(1)), None);
    }

    #[test]
    fn watch_fires_once_when_the_last_sign_is_too_old() {
        let patience = Duration::from_nanos(10);
        let at = Instant::from_nanos;
        let mut watch = Watch::default();
        assert!(watch.is_silent());
        watch.on_sign(at(1), patience);
        watch.on_sign(at(5), patience);
        assert_eq!(watch.due, Some(at(11)));
        assert!(!watch.has_fallen_silent(at(11), patience));
        assert_eq!(watch.due, Some(at(15)));
        assert!(watch.has_fallen_silent(at(15), patience));
        assert!(watch.is_silent());
        assert!(!watch.has_fallen_silent(at(16), patience));
    }
}
