//! Confirming liveness and leadership, once per pair of nodes.
//!
//! A node that leads something asks every peer to confirm it in numbered *rounds*: one at each
//! heartbeat, and one whenever reads wait. A read is good once a majority of its shard's voters
//! confirmed a round that began after the read arrived (ReadIndex, Raft thesis 6.4). Reads that
//! arrive while a round is out share the next one.

use alloc::vec::Vec;

use super::Node;
use crate::id::{NodeId, Round, ShardId};
use crate::mutants::{self, Mutant};
use crate::time::Instant;
use crate::wire::{Confirmation, Lead, PeerMessage};

/// A round that reads wait for is given up after this part of a heartbeat, so that one dead peer or
/// lost message delays the reads of no other shard for long.
const ROUNDS_PER_HEARTBEAT_MAX: u32 = 8;

/// The rounds of this process.
#[derive(Debug)]
pub(super) struct Rounds {
    /// Tells this process's rounds from those of an earlier one of the same node.
    pub(super) boot: u64,
    /// The last round that was begun.
    pub(super) begun: Round,
    begun_at: Instant,
    /// When the next sign of life is due; none while the node leads nothing.
    pub(super) heartbeat_at: Option<Instant>,
}

impl Rounds {
    pub(super) fn new(boot: u64) -> Self {
        Self { boot, begun: Round(0), begun_at: Instant::ZERO, heartbeat_at: None }
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

    /// Begins a round if reads wait for one and none is out, or the one that is out takes too long.
    pub(super) fn begin_round_for_reads(&mut self) {
        if self.reading.is_empty() {
            return;
        }
        let begun = self.rounds.begun;
        let mut fronts =
            self.reading.iter().filter_map(|shard| self.replicas.get(shard)?.reads.front());
        let patience = self.config.timings.heartbeat / ROUNDS_PER_HEARTBEAT_MAX;
        let is_out = fronts.any(|read| read.round <= begun);
        if !is_out || self.now >= self.rounds.begun_at + patience {
            self.begin_round();
        }
    }

    fn begin_round(&mut self) {
        self.rounds.begun = self.next_round();
        self.rounds.begun_at = self.now;
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
        let Some(link) = self.links.get_mut(&from) else {
            return;
        };
        if let Some(leads) = leads {
            link.on_leads(boot, version, leads);
        }
        let Some(leads) = link.their_leads(boot, version) else {
            let unknown = Confirmation::unknown_list(boot, round);
            return self.send_confirmation(from, unknown);
        };
        let (mut except, mut unheard) = (Vec::new(), Vec::new());
        for lead in leads {
            let Some(replica) = self.replicas.get_mut(&lead.shard) else {
                except.push(lead.shard);
                continue;
            };
            self.touched.insert(lead.shard);
            if replica.group.on_leader_alive(self.now, from, lead.term) {
                if !replica.group.has_heard_append() {
                    unheard.push(lead.shard);
                }
                continue;
            }
            except.push(lead.shard);
            if replica.group.term() > lead.term {
                // Without this an idle leader would never learn of the newer term.
                replica.group.tell_term(from);
            }
        }
        let (is_full, is_unfit) = (false, false);
        let confirmation =
            Confirmation { boot, round, version, except, unheard, is_full, is_unfit };
        self.send_confirmation(from, confirmation);
    }

    fn send_confirmation(&mut self, to: NodeId, confirmation: Confirmation) {
        let (is_full, is_unfit) = (self.is_full, self.is_unfit());
        let confirmation = Confirmation { is_full, is_unfit, ..confirmation };
        self.outbox.send(to, PeerMessage::Confirmed(confirmation));
    }

    /// A peer answers whether it takes this node for the leader of what it leads.
    pub(super) fn on_confirmed(&mut self, from: NodeId, confirmation: Confirmation) {
        let Confirmation { boot, round, version, except, unheard, is_full, is_unfit } =
            confirmation;
        let Some(link) = self.links.get_mut(&from) else {
            return;
        };
        (link.is_full, link.is_unfit) = (is_full, is_unfit);
        if boot != self.rounds.boot
            || round > self.rounds.begun
            || !link.on_confirmed(round, version, except)
        {
            return;
        }
        for lead in link.leads() {
            if link.confirmed(lead.shard) > Round(0)
                && let Some(replica) = self.replicas.get_mut(&lead.shard)
            {
                replica.group.on_follower_alive(self.now, from);
            }
        }
        for shard in unheard {
            if let Some(replica) = self.replicas.get_mut(&shard) {
                replica.group.on_follower_forgot(from);
                self.touched.insert(shard);
            }
        }
        self.touched.extend(self.reading.iter().copied());
    }

    /// Tells each link what this node leads, after a role changed.
    pub(super) fn update_leads(&mut self) {
        for (peer, link) in &mut self.links {
            let leads = self.replicas.iter().filter(|(_, replica)| {
                replica.is_leader() && replica.group.configuration().is_member(*peer)
            });
            let leads =
                leads.map(|(shard, replica)| Lead { shard: *shard, term: replica.group.term() });
            link.set_leads(leads.collect());
        }
        let leads_any = self.replicas.values().any(super::Replica::is_leader);
        if !leads_any {
            self.rounds.heartbeat_at = None;
        } else if self.rounds.heartbeat_at.is_none() {
            self.rounds.heartbeat_at = Some(self.now);
        }
    }
}
