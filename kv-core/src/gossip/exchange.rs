//! Exchanges: comparing digests, and sending what the other side lacks.
//!
//! The answerer takes over from the digest whatever wins, replies with what it knows better, and
//! asks for the records that it lacks (scuttlebutt: van Renesse et al., "Efficient reconciliation
//! and flow control for anti-entropy protocols", LADIS 2008). An exchange keeps no state: a lost
//! message costs only time.
//!
//! When a message would be too long, what matters most goes first: what is said of the receiver
//! itself, so that it can refute it; then who is not alive, or is new to the receiver; then changed
//! records; then mere signs of life. Among equals what was heard last goes first.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::time::Duration;

use super::member::{Change, Member, Record};
use super::message::{
    Delta, Digest, Entry, GossipMessage, MESSAGE_BYTES_MAX, MemberState, Update, Want,
};
use super::{Gossip, MEMBERS_MAX, NEWS_PEERS, News, Output, To};
use crate::codec::encoded_bytes;
use crate::id::{Address, Generation, NodeId, RecordVersion};
use crate::time::Instant;

/// Room for tags and lengths around the parts of a message.
const ENVELOPE_BYTES: usize = 32;

/// How much of a reply may be wants: a cut off want is repeated in the next exchange.
const WANTS_BYTES_MAX: usize = MESSAGE_BYTES_MAX / 4;

/// Every so many digests of a node compare the records too. The others only level heartbeats, and
/// are shorter by a third.
const RECORDS_COMPARED_EVERY: u64 = 4;

/// How much a receiver needs to know something; the least goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Urgency {
    /// It is about the receiver itself.
    Refutable,
    /// Somebody is not alive, or new to the receiver.
    Membership,
    /// A record changed.
    Record,
    /// A sign of life.
    Heartbeat,
}

/// Something that a receiver lacks.
struct Lack {
    urgency: Urgency,
    /// When this node heard of the member last.
    heard_at: Instant,
    node: NodeId,
    /// The version of the record that the receiver has; none if it should get no values.
    base: Option<RecordVersion>,
}

impl Gossip {
    /// What this node knows, or a part of it that fits into a message.
    fn digest(&mut self) -> Digest {
        self.digest_count += 1;
        let is_comparing_records = self.digest_count.is_multiple_of(RECORDS_COMPARED_EVERY);
        let own = (self.own, self.record.version);
        let known = self.members.values().map(|member| (member.entry, member.record.version));
        let mut known: Vec<_> = known.chain([own]).collect();
        known.sort_unstable_by_key(|(entry, _)| entry.node);
        let entries: Vec<_> = known.iter().map(|(entry, _)| *entry).collect();
        let mut versions: Vec<_> = known.iter().map(|(_, version)| *version).collect();
        if !is_comparing_records {
            versions.clear();
        }
        let room =
            MESSAGE_BYTES_MAX - ENVELOPE_BYTES - encoded_bytes(&self.record.endpoint.value.address);
        let whole = Digest { first: NodeId(0), last: None, entries, versions };
        let whole_bytes = encoded_bytes(&whole);
        if whole_bytes <= room {
            return whole;
        }
        // A run of ids with a random beginning, so that every part has its turn. It may begin
        // before the first one: else the first ones would be rare.
        let count = whole.entries.len();
        let span = count * room / whole_bytes;
        let begin = (self.rng.below((count + span) as u64) as usize).saturating_sub(span);
        let mut bytes = 0;
        let run = whole.entries[begin..].iter().enumerate().take_while(|(at, entry)| {
            bytes += encoded_bytes(*entry) + encoded_bytes(&whole.versions.get(begin + at));
            bytes <= room
        });
        let end = begin + run.count();
        Digest {
            first: if begin == 0 { NodeId(0) } else { whole.entries[begin].node },
            last: whole.entries.get(end).map(|next| NodeId(next.node.0 - 1)),
            entries: whole.entries[begin..end].to_vec(),
            versions: whole.versions.get(begin..end).unwrap_or_default().to_vec(),
        }
    }

    /// Begins an exchange.
    pub(super) fn send_digest(&mut self, to: To) {
        let digest = self.digest();
        let address = self.record.endpoint.value.address.clone();
        self.send(to, GossipMessage::Digest { address, digest });
    }

    /// Asks a silent member for a sign of life: an exchange about nobody else.
    pub(super) fn send_probe(&mut self, to: To, entry: Entry) {
        let address = self.record.endpoint.value.address.clone();
        let (first, last) = (entry.node, Some(entry.node));
        let digest = Digest { first, last, entries: Vec::from([entry]), versions: Vec::new() };
        self.send(to, GossipMessage::Digest { address, digest });
    }

    /// A peer begins an exchange.
    pub(super) fn on_digest(
        &mut self,
        now: Instant,
        from: NodeId,
        address: Address,
        digest: &Digest,
    ) {
        let (mut lacks, mut wants) = (Vec::new(), Vec::new());
        for (at, told) in digest.entries.iter().enumerate() {
            let version = digest.versions.get(at).copied();
            self.merge(now, told);
            wants.extend(self.want(told, version));
            lacks.extend(self.lack(now, from, told, version));
        }
        let is_listed =
            |node| digest.entries.binary_search_by_key(&node, |entry| entry.node).is_ok();
        let own = core::iter::once((&self.own.node, now));
        let known = self.members.iter().map(|(node, member)| (node, member.detector.heard_at()));
        for (node, heard_at) in own.chain(known) {
            if digest.covers(*node) && !is_listed(*node) {
                let base = Some(RecordVersion(0));
                lacks.push(Lack { urgency: Urgency::Membership, heard_at, node: *node, base });
            }
        }
        let mut bytes = 0;
        wants.retain(|want| {
            bytes += encoded_bytes(want);
            bytes <= WANTS_BYTES_MAX
        });
        let update = self.fit(lacks, MESSAGE_BYTES_MAX - bytes.min(WANTS_BYTES_MAX));
        if !update.is_empty() || !wants.is_empty() {
            let to = To { node: Some(from), address };
            self.send(to, GossipMessage::Reply { update, wants });
        }
    }

    /// What this node lacks of a node in a digest.
    fn want(&self, told: &Entry, told_version: Option<RecordVersion>) -> Option<Want> {
        let node = told.node;
        let want = |generation, version| Some(Want { node, generation, version });
        match self.members.get(&node) {
            _ if node == self.own.node || self.tombstones.contains_key(&node) => None,
            None => want(Generation(0), RecordVersion(0)),
            Some(member) => {
                let generation = member.entry.generation;
                let version = member.record.version;
                let is_behind = generation == told.generation && Some(version) < told_version;
                if is_behind { want(generation, version) } else { None }
            }
        }
    }

    /// What the sender of a digest lacks of a node in it.
    fn lack(
        &self,
        now: Instant,
        asker: NodeId,
        told: &Entry,
        told_version: Option<RecordVersion>,
    ) -> Option<Lack> {
        let (entry, record, heard_at) = self.known(now, told.node)?;
        let is_same_life = entry.generation == told.generation;
        let held = if is_same_life { told_version } else { Some(RecordVersion(0)) };
        let base = held.filter(|held| *held < record.version);
        if base.is_none() && !entry.wins_over(told) {
            return None;
        }
        let urgency = match entry.state {
            _ if told.node == asker => Urgency::Refutable,
            MemberState::Suspect | MemberState::Down | MemberState::Left => Urgency::Membership,
            MemberState::Alive if !is_same_life => Urgency::Membership,
            MemberState::Alive if base.is_some() => Urgency::Record,
            MemberState::Alive => Urgency::Heartbeat,
        };
        Some(Lack { urgency, heard_at, node: told.node, base })
    }

    /// As much of what is lacking as fits into `bytes_max`.
    fn fit(&self, mut lacks: Vec<Lack>, bytes_max: usize) -> Update {
        lacks.sort_by_key(|lack| (lack.urgency, Reverse(lack.heard_at), lack.node));
        let mut update = Update::default();
        let mut bytes = ENVELOPE_BYTES;
        for lack in lacks {
            let Some((entry, record, _)) = self.known(Instant::ZERO, lack.node) else {
                continue;
            };
            if let Some(base) = lack.base {
                let (version, values) = (record.version, record.values_after(base));
                let delta = Delta { entry: *entry, version, base, values };
                bytes += encoded_bytes(&delta);
                if bytes > bytes_max {
                    break;
                }
                update.deltas.push(delta);
            } else {
                bytes += encoded_bytes(entry);
                if bytes > bytes_max {
                    break;
                }
                update.entries.push(*entry);
            }
        }
        update
    }

    /// What is known of a node, this one included, and when it was heard last.
    fn known(&self, now: Instant, node: NodeId) -> Option<(&Entry, &Record, Instant)> {
        if node == self.own.node {
            return Some((&self.own, &self.record, now));
        }
        let member = self.members.get(&node)?;
        Some((&member.entry, &member.record, member.detector.heard_at()))
    }

    /// The answer to a digest of this node.
    pub(super) fn on_reply(&mut self, now: Instant, from: NodeId, update: Update, wants: &[Want]) {
        // The partner knows these members already, and it is they who spread that they are new.
        self.on_update(now, update, News::State);
        let Some(partner) = self.members.get(&from) else {
            return;
        };
        let to = To { node: Some(from), address: partner.record.endpoint.value.address.clone() };
        let lacks = wants.iter().filter_map(|want| {
            let (entry, record, heard_at) = self.known(now, want.node)?;
            let is_same_life = entry.generation == want.generation;
            let held = if is_same_life { want.version } else { RecordVersion(0) };
            let base = (record.version > held).then_some(held);
            Some(Lack { urgency: Urgency::Record, heard_at, node: want.node, base })
        });
        let update = self.fit(lacks.collect(), MESSAGE_BYTES_MAX);
        if !update.is_empty() {
            self.send(to, GossipMessage::Update(update));
        }
    }

    /// Takes over what wins. `news` says whether members that are new here are news to others.
    pub(super) fn on_update(&mut self, now: Instant, update: Update, news: News) {
        for told in &update.entries {
            self.merge(now, told);
        }
        for delta in update.deltas {
            let node = delta.entry.node;
            self.merge(now, &delta.entry);
            if let Some(member) = self.members.get_mut(&node) {
                let before = member.to().address;
                member.apply(delta);
                let address = member.to().address;
                if address != before {
                    self.outputs.push_back(Output::Moved { node, address });
                }
            } else if let Some(endpoint) = delta.endpoint() {
                self.admit(now, Member::new(&self.criteria, now, delta.entry, endpoint.clone()));
                if let Some(member) = self.members.get_mut(&node) {
                    member.apply(delta);
                    if news == News::Joined {
                        self.news.insert(node, news);
                    }
                }
            }
        }
    }

    /// Takes in a member that was unknown, unless it was forgotten or there are too many.
    fn admit(&mut self, now: Instant, member: Member) {
        let Entry { node, state, .. } = member.entry;
        let is_own = node == self.own.node;
        if is_own || self.tombstones.contains_key(&node) || self.members.len() >= MEMBERS_MAX {
            return;
        }
        if self.members.is_empty() {
            // From here on the heartbeats of the nodes should not fall together: news would move
            // by one hop with each interval only.
            self.next_tick = now + self.rng.duration(Duration::ZERO, self.config.interval);
        }
        let address = member.to().address;
        self.members.insert(node, member);
        self.outputs.push_back(Output::Changed { node, state });
        self.outputs.push_back(Output::Moved { node, address });
    }

    /// Takes over what is told of a known node, if it wins.
    fn merge(&mut self, now: Instant, told: &Entry) {
        if told.node == self.own.node {
            self.refute(told);
        } else if let Some(member) = self.members.get_mut(&told.node)
            && member.merge(&self.criteria, now, told) == Change::News
        {
            self.news.entry(told.node).or_insert(News::State);
            self.outputs.push_back(Output::Changed { node: told.node, state: told.state });
        }
    }

    /// Begins a new generation if others believe of this node what is not so: that it is not alive,
    /// or what an earlier process of it told them.
    fn refute(&mut self, told: &Entry) {
        let is_foreign = told.state != MemberState::Alive || told.heartbeat > self.own.heartbeat;
        if told.generation > self.own.generation
            || (told.generation == self.own.generation && is_foreign)
        {
            self.own.generation = Generation(told.generation.0 + 1);
            self.news.insert(self.own.node, News::State);
        }
    }

    /// Tells some peers the news, at once and without being asked.
    pub(super) fn send_news(&mut self) {
        let lacks = self.news.iter().filter_map(|(node, news)| {
            let (_, _, heard_at) = self.known(self.news_at, *node)?;
            let base = (*news == News::Joined).then_some(RecordVersion(0));
            Some(Lack { urgency: Urgency::Membership, heard_at, node: *node, base })
        });
        let update = self.fit(lacks.collect(), MESSAGE_BYTES_MAX);
        let told = update.entries.iter().chain(update.deltas.iter().map(|delta| &delta.entry));
        let told: BTreeSet<_> = told.map(|entry| entry.node).collect();
        self.news.retain(|node, _| !told.contains(node) && !update.is_empty());
        if update.is_empty() {
            return;
        }
        for to in self.choose_live(NEWS_PEERS) {
            self.send(to, GossipMessage::Update(update.clone()));
        }
    }
}
