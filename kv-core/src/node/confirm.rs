//! Confirming liveness and leadership, once per pair of nodes.
//!
//! A node that leads something asks every peer to confirm it in numbered *rounds*: one at each
//! heartbeat, and one whenever reads wait. A read is good once a majority of its shard's voters
//! confirmed a round that began after the read arrived (ReadIndex, Raft thesis 6.4). Reads that
//! arrive while a round is out share the next one.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::mem;

use super::{LinkState, Node};
use crate::id::{NodeId, Round, ShardId};
use crate::mutants::{self, Mutant};
use crate::time::Instant;
use crate::wire::{Confirmation, Lead, PeerMessage};

/// A round that reads wait for is given up after this part of a heartbeat, so that one dead peer or
/// lost message delays the reads of no other shard for long.
const ROUNDS_PER_HEARTBEAT_MAX: u32 = 8;

/// Rounds whose begin is remembered: as many as can be out at a time. Who confirms an older one gives
/// no lease.
const HISTORY_MAX: usize = 64;

/// What a node says about a leadership that a peer claims.
#[derive(Clone, Copy, Debug)]
enum LeadAnswer {
    /// It follows, and will as long as nothing about its replica changes.
    Settled,
    /// It follows, but may not know what is committed since its process started.
    Unheard,
    /// It knows a newer term, or has no replica.
    Excepted,
    /// It follows, or would if it had a replica, but has lost what it had stored before this life.
    Suspect(u64),
}

/// The rounds of this process.
#[derive(Debug)]
pub(super) struct Rounds {
    /// Tells this process's rounds from those of an earlier one of the same node.
    pub(super) boot: u64,
    /// The last round that was begun.
    pub(super) begun: Round,
    begun_at: Instant,
    /// When the last rounds were begun, for leases, the oldest first.
    history: VecDeque<(Round, Instant)>,
    /// When the next sign of life is due; none while the node leads nothing.
    pub(super) heartbeat_at: Option<Instant>,
}

impl Rounds {
    pub(super) fn new(boot: u64) -> Self {
        Self {
            boot,
            begun: Round(0),
            begun_at: Instant::ZERO,
            history: VecDeque::new(),
            heartbeat_at: None,
        }
    }

    fn begin(&mut self, round: Round, now: Instant) {
        (self.begun, self.begun_at) = (round, now);
        self.history.push_back((round, now));
        if self.history.len() > HISTORY_MAX {
            self.history.pop_front();
        }
    }

    /// When `round` was begun, if that is not long ago.
    pub(super) fn begun_at(&self, round: Round) -> Option<Instant> {
        let at = self.history.binary_search_by_key(&round, |(round, _)| *round).ok()?;
        Some(self.history[at].1)
    }
}

impl Node {
    /// The first round that will begin from here on.
    pub(super) fn next_round(&self) -> Round {
        Round(self.rounds.begun.0 + 1)
    }

    /// The highest round in which a majority of the shard's voters confirmed this node's
    /// leadership.
    pub(super) fn confirmed_round(&self, shard: ShardId) -> Round {
        let always = Round(u64::MAX);
        if mutants::is_active(Mutant::UnconfirmedRead) {
            return always;
        }
        let Some(replica) = self.replicas.get(&shard) else {
            return Round(0);
        };
        let confirmed = |voter: NodeId| match self.links.get(&voter) {
            _ if voter == self.config.id => always,
            Some(link) => link.confirmed(shard),
            None => Round(0),
        };
        replica.group.configuration().reached(confirmed).unwrap_or_default()
    }

    /// A sign of life is due: asks all peers to confirm, and sends again what may have been lost.
    pub(super) fn on_heartbeat_timeout(&mut self) {
        if self.rounds.heartbeat_at.is_none_or(|at| self.now < at) {
            return;
        }
        self.rounds.heartbeat_at = Some(self.now + self.config.timings.heartbeat);
        self.begin_round();
        self.resend_chunks();
        self.tell_map_version();
        self.advance_moves();
        self.balance_leaders();
        let attention: Vec<_> = self.attention.iter().copied().collect();
        for shard in attention {
            if let Some(replica) = self.replicas.get_mut(&shard) {
                replica.group.on_heartbeat(self.now);
                self.touched.insert(shard);
            }
        }
    }

    /// Begins a round if reads or requests for timestamps wait for one and none is out, or the one that
    /// is out takes too long.
    pub(super) fn begin_round_for_waiting(&mut self) {
        if self.reading.is_empty() && !self.oracle.is_busy() {
            return;
        }
        let begun = self.rounds.begun;
        let waited_for = self.reading.iter().filter_map(|shard| {
            let confirmed = self.confirmed_round(*shard);
            let replica = self.replicas.get(shard)?;
            let mut reads = replica.reads.iter().map(|read| read.round);
            let questions = replica.questions.iter().map(|question| question.round);
            let is_open = |round: &Round| *round > confirmed;
            reads.find(is_open).into_iter().chain(questions.filter(is_open)).min()
        });
        let rounds = waited_for.chain(self.rounds_of_oracle());
        let (mut is_needed, mut is_out) = (false, false);
        for round in rounds {
            (is_needed, is_out) = (true, is_out || round <= begun);
        }
        let patience = self.config.timings.heartbeat / ROUNDS_PER_HEARTBEAT_MAX;
        if is_needed && (!is_out || self.now >= self.rounds.begun_at + patience) {
            self.begin_round();
        }
    }

    /// The connection to `peer` broke off, or stands. Who follows the peer need not wait until it was
    /// silent for an election timeout; whom the peer follows shows that it is alive before the peer
    /// campaigns for nothing.
    pub(super) fn on_link(&mut self, peer: NodeId, state: LinkState) {
        match state {
            LinkState::Down => {
                for (shard, replica) in &mut self.replicas {
                    if replica.group.on_leader_lost(self.now, peer) {
                        self.touched.insert(*shard);
                    }
                }
            }
            LinkState::Up => {
                let (boot, round) = (self.rounds.boot, self.rounds.begun);
                let confirm = self.links.get(&peer).and_then(|link| link.confirm(boot, round));
                if let Some(confirm) = confirm {
                    self.outbox.send(peer, confirm);
                }
            }
        }
    }

    fn begin_round(&mut self) {
        self.rounds.begin(self.next_round(), self.now);
        for (peer, link) in &self.links {
            if let Some(confirm) = link.confirm(self.rounds.boot, self.rounds.begun) {
                self.outbox.send(*peer, confirm);
            }
        }
    }

    /// A peer says that it is alive and what it leads.
    pub(super) fn on_confirm(
        &mut self,
        from: NodeId,
        boot: u64,
        round: Round,
        version: u64,
        leads: Option<Vec<Lead>>,
    ) {
        if let Some(leads) = leads {
            self.on_leads(from, boot, version, &leads);
        }
        let patience = self.signs_patience();
        let Some(link) = self.links.get_mut(&from) else {
            return;
        };
        let Some(looked_at) = link.on_confirm(self.now, boot, version, &self.touched) else {
            let unknown = Confirmation::unknown_list(boot, round);
            return self.send_confirmation(from, unknown);
        };
        link.signs.on_sign(self.now, patience);
        let states = mem::take(&mut link.untold).into_iter().collect();
        let mut confirmation =
            Confirmation { version, states, ..Confirmation::unknown_list(boot, round) };
        let Confirmation { except, unheard, suspect, .. } = &mut confirmation;
        for lead in looked_at {
            let answer = self.answer_lead(from, lead);
            match answer {
                LeadAnswer::Settled => {}
                LeadAnswer::Unheard => unheard.push(lead.shard),
                LeadAnswer::Excepted => except.push(lead.shard),
                LeadAnswer::Suspect(life) => {
                    except.push(lead.shard);
                    suspect.push((lead.shard, life));
                }
            }
            if let Some(link) = self.links.get_mut(&from) {
                match answer {
                    LeadAnswer::Settled => link.settle(lead.shard),
                    LeadAnswer::Unheard | LeadAnswer::Excepted | LeadAnswer::Suspect(_) => {
                        link.unsettle(lead.shard);
                    }
                }
            }
        }
        self.send_confirmation(from, confirmation);
    }

    /// Takes a peer's list of what it leads. Who followed it and is not on the list has to look for a
    /// leader itself.
    fn on_leads(&mut self, from: NodeId, boot: u64, version: u64, leads: &[Lead]) {
        let Some(link) = self.links.get_mut(&from) else {
            return;
        };
        for (shard, term, at) in link.on_leads(self.now, boot, version, leads) {
            if let Some(replica) = self.replicas.get_mut(&shard) {
                replica.group.heard_leader(at, from, term);
                self.touched.insert(shard);
            }
        }
    }

    /// What this node says about one leadership of `from`.
    fn answer_lead(&mut self, from: NodeId, lead: Lead) -> LeadAnswer {
        let Some(replica) = self.replicas.get_mut(&lead.shard) else {
            let hard_state = self.removed.get(&lead.shard).copied().unwrap_or_default();
            let first = self.identity.replica_life();
            return match hard_state.is_suspect(first) {
                true => LeadAnswer::Suspect(hard_state.present_life(first)),
                false => LeadAnswer::Excepted,
            };
        };
        self.touched.insert(lead.shard);
        if replica.group.on_leader_alive(self.now, from, lead.term) {
            if replica.group.is_suspect() {
                return LeadAnswer::Suspect(replica.group.life());
            }
            let is_heard = replica.group.has_heard_append();
            return if is_heard { LeadAnswer::Settled } else { LeadAnswer::Unheard };
        }
        if replica.group.term() > lead.term {
            // Without this an idle leader would never learn of the newer term.
            replica.group.tell_term(from);
        }
        LeadAnswer::Excepted
    }

    fn send_confirmation(&mut self, to: NodeId, confirmation: Confirmation) {
        let (is_full, is_unfit) = (self.is_full, self.is_unfit());
        let confirmation = Confirmation { is_full, is_unfit, ..confirmation };
        self.outbox.send(to, PeerMessage::Confirmed(confirmation));
    }

    /// A peer answers whether it takes this node for the leader of what it leads.
    pub(super) fn on_confirmed(&mut self, from: NodeId, confirmation: Confirmation) {
        let Confirmation { boot, round, version, is_full, is_unfit, .. } = confirmation;
        let Confirmation { except, unheard, suspect, states, .. } = confirmation;
        let patience = self.answers_patience();
        let Some(link) = self.links.get_mut(&from) else {
            return;
        };
        (link.is_full, link.is_unfit) = (is_full, is_unfit);
        if boot != self.rounds.boot || round > self.rounds.begun {
            return;
        }
        let Some(exceptions) = link.on_confirmed(self.now, round, version, except) else {
            return;
        };
        link.answers.on_sign(self.now, patience);
        for shard in &exceptions.begun {
            if let Some(replica) = self.replicas.get_mut(shard)
                && let Some(at) = exceptions.confirmed_until
            {
                replica.group.on_follower_alive(at, from);
            }
        }
        self.touched.extend(exceptions.begun);
        self.touched.extend(exceptions.ended);
        for shard in unheard {
            if let Some(replica) = self.replicas.get_mut(&shard) {
                replica.group.on_follower_forgot(from);
                self.touched.insert(shard);
            }
        }
        for (shard, life) in suspect {
            if let Some(replica) = self.replicas.get_mut(&shard) {
                replica.group.on_follower_suspect(self.now, from, life);
                self.touched.insert(shard);
            }
        }
        for (shard, state) in states {
            self.on_peer_state(from, shard, state);
        }
        self.touched.extend(self.reading.iter().copied());
        if self.oracle.is_busy() {
            self.touched.insert(ShardId::META);
        }
    }

    /// Tells each link what this node leads, if that changed in this step: once for all shards, for
    /// an election seldom comes alone.
    pub(super) fn update_leads(&mut self) {
        if !mem::take(&mut self.is_leads_stale) {
            return;
        }
        for (peer, link) in &mut self.links {
            let leads = self.replicas.iter().filter(|(_, replica)| {
                replica.is_leader() && replica.group.configuration().is_member(*peer)
            });
            let leads =
                leads.map(|(shard, replica)| Lead { shard: *shard, term: replica.group.term() });
            for (shard, at) in link.set_leads(leads.collect()) {
                if let Some(replica) = self.replicas.get_mut(&shard) {
                    replica.group.on_follower_alive(at, *peer);
                }
            }
        }
        let leads_any = self.replicas.values().any(super::Replica::is_leader);
        if !leads_any {
            self.rounds.heartbeat_at = None;
        } else if self.rounds.heartbeat_at.is_none() {
            self.rounds.heartbeat_at = Some(self.now);
        }
        self.on_heartbeat_timeout();
    }
}
