//! Issuing timestamps, as leader of the meta group.
//!
//! What may be issued is the business of the [`Issuer`]; when it may be is that of this module. A
//! request waits until a majority of the meta group's voters has confirmed this leadership after the
//! request was made: otherwise another leader may have issued, and others used, higher timestamps.
//!
//! Who asks and follows this leader confirms it by asking: a node says in which term its replica of
//! the meta group follows. Together with the leader that is a majority of three, so that an answer
//! usually takes one round trip. It also counts for the requests that this leader had got when it
//! sent what the asker has last heard of it ([`Receipt`]), for the asker followed after that, and for
//! no other: it may have asked long ago, and have voted for another leader since. Where it is not
//! enough, the next round of confirmation is waited for, like a read does
//! ([`confirm`](super::confirm)); and while other nodes ask all the time, this node waits a moment
//! for one of them before it begins a round for itself.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::mem;
use core::time::Duration;

use super::Node;
use crate::id::{LogIndex, NodeId, Round, ShardId, Term, Timestamp};
use crate::machine::Command;
use crate::mutants::{self, Mutant};
use crate::oracle::{COUNT_MAX, Issuer, Raise};
use crate::time::Instant;
use crate::wire::{Elsewhere, Issued, OracleMessage, PeerMessage, Receipt};

/// Requests that wait here: each node has one out at a time, or a few if it abandoned some.
const QUEUE_MAX: usize = 1_024;
/// How long this node's own request waits for others to confirm the leadership by asking, if one did
/// so in as short a time before.
const BUSY_PAUSE: Duration = Duration::from_millis(2);
/// Raises follow one another no faster, unless there is nothing left to issue.
const RAISE_PAUSE: Duration = Duration::from_millis(250);

/// Who wants timestamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Customer {
    /// This node.
    Own { number: u64 },
    /// Another one, whose request came from `via`.
    Peer { via: NodeId, asker: NodeId, boot: u64, number: u64 },
}

/// A request that waits for a confirmation or for a higher bound.
#[derive(Debug)]
struct Wanted {
    customer: Customer,
    count: u32,
    /// How many requests had come with it.
    number_here: u64,
    /// A round that began after the request came.
    round: Round,
    /// When that round is begun, if the request still waits for it.
    round_at: Instant,
    /// Who confirmed the leadership in this term by asking, with this request or since.
    confirmed_by: Vec<NodeId>,
}

/// A raise of the bound that was proposed and not applied yet.
#[derive(Debug)]
struct Raising {
    term: Term,
    index: LogIndex,
    raise: Raise,
}

/// The oracle at this node.
///
/// - `queue`, `issuer` and `raising` are empty unless the node leads the meta group.
#[derive(Debug, Default)]
pub(super) struct Oracle {
    issuer: Option<Issuer>,
    queue: VecDeque<Wanted>,
    /// Requests that have come in this term.
    count: u64,
    raising: Option<Raising>,
    /// When a raise was last applied here; at first the start of the process.
    raised_at: Instant,
    /// When a follower last confirmed the leadership by asking.
    vouched_at: Option<Instant>,
}

impl Oracle {
    pub(super) fn new(now: Instant) -> Self {
        Self { raised_at: now, ..Self::default() }
    }

    /// Whether requests wait.
    pub(super) fn is_busy(&self) -> bool {
        !self.queue.is_empty()
    }

    /// When the next round is begun for a request that waits, if that lies ahead of `now`.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        self.queue.iter().map(|wanted| wanted.round_at).filter(|at| *at > now).min()
    }
}

impl Node {
    /// This node, which leads the meta group, wants timestamps.
    pub(super) fn on_own_stamps_wanted(&mut self, number: u64, count: u32) {
        let is_busy = self.oracle.vouched_at.is_some_and(|at| self.now < at + BUSY_PAUSE);
        let pause = if is_busy { BUSY_PAUSE } else { Duration::ZERO };
        self.want(Customer::Own { number }, count, self.now + pause);
    }

    /// Another node asks for timestamps, or passes an answer back.
    pub(super) fn on_oracle_message(&mut self, from: NodeId, message: OracleMessage) {
        match message {
            OracleMessage::Request { count, .. } if count == 0 || count > COUNT_MAX => {}
            OracleMessage::Request { asker, boot, number, count, follows, is_relayed } => {
                let customer = Customer::Peer { via: from, asker, boot, number };
                if self.is_meta_leader() {
                    let meta = &self.replicas[&ShardId::META].group;
                    let term = meta.term();
                    self.want(customer, count, self.now);
                    if let Some(receipt) = follows.filter(|it| from == asker && it.term == term) {
                        self.on_followed(from, customer, receipt.count);
                    }
                    return;
                }
                let leader = self.meta_leader().filter(|leader| ![from, asker].contains(leader));
                match leader.filter(|_| !is_relayed) {
                    None => self.answer(customer, Err(Elsewhere { leader })),
                    Some(leader) => {
                        let (follows, is_relayed) = (None, true);
                        let request = OracleMessage::Request {
                            asker,
                            boot,
                            number,
                            count,
                            follows,
                            is_relayed,
                        };
                        self.outbox.send(leader, PeerMessage::Oracle(request));
                    }
                }
            }
            OracleMessage::Reply { asker, boot, number, result } => {
                if asker != self.config.id && self.links.contains_key(&asker) {
                    let reply = OracleMessage::Reply { asker, boot, number, result };
                    self.outbox.send(asker, PeerMessage::Oracle(reply));
                } else if boot == self.rounds.boot {
                    self.on_stamps(Some(from), number, result);
                }
            }
        }
    }

    fn want(&mut self, customer: Customer, count: u32, round_at: Instant) {
        self.touched.insert(ShardId::META);
        let is_copy = self.oracle.queue.iter().any(|wanted| wanted.customer == customer);
        if is_copy || self.oracle.queue.len() >= QUEUE_MAX {
            return;
        }
        self.oracle.count += 1;
        let (number_here, round) = (self.oracle.count, self.next_round());
        let confirmed_by = Vec::new();
        self.oracle.queue.push_back(Wanted {
            customer,
            count,
            number_here,
            round,
            round_at,
            confirmed_by,
        });
    }

    /// A follower has asked in this term: that confirms the leadership for its request, and for those
    /// that had come by the time of what it had heard.
    fn on_followed(&mut self, follower: NodeId, customer: Customer, heard: u64) {
        self.oracle.vouched_at = Some(self.now);
        for wanted in &mut self.oracle.queue {
            let is_covered = wanted.customer == customer || wanted.number_here <= heard;
            if is_covered && !wanted.confirmed_by.contains(&follower) {
                wanted.confirmed_by.push(follower);
            }
        }
        self.touched.insert(ShardId::META);
    }

    fn answer(&mut self, customer: Customer, result: Result<Issued, Elsewhere>) {
        match customer {
            Customer::Own { number } => self.on_stamps(None, number, result),
            Customer::Peer { via, asker, boot, number } => {
                let reply = OracleMessage::Reply { asker, boot, number, result };
                self.outbox.send(via, PeerMessage::Oracle(reply));
            }
        }
    }

    /// Issues what may be issued, and raises the bound if it is near.
    pub(super) fn serve_oracle(&mut self) {
        let unix_ms = self.unix_ms();
        let Some(meta) = self.replicas.get(&ShardId::META).filter(|meta| meta.knows_its_past())
        else {
            return;
        };
        let term = meta.group.term();
        // The bound is part of the state that differs.
        if self.oracle.queue.is_empty() || self.check_states(ShardId::META).is_err() {
            return;
        }
        let mut waiting = VecDeque::new();
        let mut is_exhausted = false;
        for wanted in mem::take(&mut self.oracle.queue) {
            let is_confirmed = !self.waits_for_round(&wanted);
            let issuer = self.oracle.issuer.as_mut().filter(|issuer| issuer.term() == term);
            let first = match issuer {
                Some(issuer) if is_confirmed => issuer.issue(unix_ms, wanted.count),
                Some(_) | None => None,
            };
            is_exhausted |= is_confirmed && first.is_none();
            match first {
                Some(first) => {
                    let receipt = Receipt { term, count: self.oracle.count };
                    self.answer(wanted.customer, Ok(Issued { first, receipt }));
                }
                None => waiting.push_back(wanted),
            }
        }
        self.oracle.queue = waiting;
        let issuer = self.oracle.issuer.as_ref();
        let is_low = issuer.is_none_or(|issuer| issuer.is_low(unix_ms));
        let pause = if is_exhausted { Duration::ZERO } else { RAISE_PAUSE };
        if is_exhausted || (is_low && self.now >= self.oracle.raised_at + pause) {
            self.raise_bound(term);
        }
    }

    fn waits_for_round(&self, wanted: &Wanted) -> bool {
        if mutants::is_active(Mutant::OracleUnconfirmed) {
            return false;
        }
        let by_asking = self.replicas.get(&ShardId::META).is_some_and(|meta| {
            let confirms = |voter| voter == self.config.id || wanted.confirmed_by.contains(&voter);
            meta.group.configuration().is_quorum(confirms)
        });
        !by_asking && self.confirmed_round(ShardId::META) < wanted.round
    }

    /// The rounds that requests for timestamps wait for.
    pub(super) fn rounds_of_oracle(&self) -> impl Iterator<Item = Round> {
        let waits = |wanted: &&Wanted| wanted.round_at <= self.now && self.waits_for_round(wanted);
        self.oracle.queue.iter().filter(waits).map(|wanted| wanted.round)
    }

    /// This node leads the meta group from here on: raises the bound together with the no-op of its
    /// term, so that nobody waits for it afterwards.
    pub(super) fn open_oracle(&mut self) {
        if let Some(meta) = self.replicas.get(&ShardId::META) {
            self.raise_bound(meta.group.term());
        }
    }

    fn raise_bound(&mut self, term: Term) {
        if self.oracle.raising.as_ref().is_some_and(|raising| raising.term == term) {
            return;
        }
        let raise = Raise::new(self.unix_ms(), self.now.saturating_since(self.oracle.raised_at));
        let payload = Command::RaiseBound(raise).encode();
        let meta = self.replicas.get_mut(&ShardId::META).expect("a leader has a replica");
        if let Ok(id) = meta.group.propose(self.now, payload.into()) {
            self.oracle.raising = Some(Raising { term, index: id.index, raise });
            self.touched.insert(ShardId::META);
        }
    }

    /// An entry that raises the bound was applied.
    pub(super) fn on_bound_raised(&mut self, index: LogIndex, before: Timestamp, bound: Timestamp) {
        self.oracle.raised_at = self.now;
        let is_it = |raising: &mut Raising| raising.index == index;
        let Some(Raising { term, raise, .. }) = self.oracle.raising.take_if(is_it) else {
            return;
        };
        let meta = self.replicas.get(&ShardId::META);
        if !meta.is_some_and(|meta| meta.is_leader() && meta.group.term() == term) {
            return;
        }
        match self.oracle.issuer.as_mut().filter(|issuer| issuer.term() == term) {
            Some(issuer) => issuer.on_raised(raise, bound),
            None => self.oracle.issuer = Some(Issuer::new(term, raise, before, bound)),
        }
    }

    /// The leadership of the meta group is over.
    pub(super) fn close_oracle(&mut self) {
        (self.oracle.issuer, self.oracle.raising) = (None, None);
        (self.oracle.vouched_at, self.oracle.count) = (None, 0);
        let leader = self.meta_leader();
        for wanted in mem::take(&mut self.oracle.queue) {
            self.answer(wanted.customer, Err(Elsewhere { leader }));
        }
    }

    /// What the wall clock shows, as far as it did not jump since the process started.
    fn unix_ms(&self) -> u64 {
        let elapsed = self.now.saturating_since(self.start.now);
        let unix_time = self.start.unix_time.saturating_add(elapsed);
        u64::try_from(unix_time.as_millis()).unwrap_or(u64::MAX)
    }
}
