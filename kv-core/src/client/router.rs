//! The router itself.

mod batch;
mod commit;
mod level;
mod outcome;
mod refusal;
mod scan;
mod scanning;
mod transaction;

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;

use self::level::{Seen, read_level};
pub use self::outcome::{UNKNOWN_AGE_MAX, UNKNOWN_MAX};
use self::scan::Scan;
use super::job::{Goal, Job, LATE_MAX, Stage};
use super::transaction::Transaction;
use super::{
    Answer, Call, CallError, CallId, Level, RouterConfig, RouterInput, RouterOutput, TxnHandle,
};
use crate::cluster::{ClusterMap, ShardEntry};
use crate::id::{Address, NodeId, SessionId, ShardId, Timestamp};
use crate::rng::Rng;
use crate::time::Instant;
use crate::wire::{
    AdminRequest, ClientReply, ClientRequest, MapView, ReplyFrame, RequestFrame, TxnReply,
};

/// A deadline that never comes: the router's own jobs end when nobody needs them.
const NEVER: Instant = Instant::from_nanos(u64::MAX);
/// After so many failed attempts of a call the map is fetched again: an address in it may be out of
/// date.
const FAILURES_BEFORE_MAP: u32 = 3;

/// The routing core of one client.
///
/// - Every job has exactly one wake-up filed, never behind its deadline.
/// - Every call ends with exactly one [`RouterOutput::Done`].
#[derive(Debug)]
pub struct Router {
    config: RouterConfig,
    rng: Rng,
    now: Instant,
    map: Option<ClusterMap>,
    /// Addresses of members of the last map that are no endpoints.
    members: Vec<Address>,
    leaders: BTreeMap<ShardId, NodeId>,
    session: Option<SessionId>,
    next_sequence: u64,
    /// Sequences of writes that have not ended.
    unfinished: BTreeSet<u64>,
    /// Sequences of commits of this session whose outcome is unknown, and may be asked for.
    unknown: BTreeSet<u64>,
    jobs: BTreeMap<CallId, Job>,
    last_call: u64,
    scans: BTreeMap<CallId, Scan>,
    /// What the session has seen.
    seen: Seen,
    txns: BTreeMap<TxnHandle, Transaction>,
    last_txn: u64,
    /// Number of the last transaction that was named.
    last_txn_number: u64,
    /// Which job a request that is out belongs to.
    correlations: BTreeMap<u64, CallId>,
    last_correlation: u64,
    wake_ups: BTreeSet<(Instant, CallId)>,
    outputs: VecDeque<RouterOutput>,
}

impl Router {
    /// A router that knows nothing but its endpoints. `seed` makes its session nonces and its
    /// jitter.
    ///
    /// # Panics
    /// If there is no endpoint.
    pub fn new(config: RouterConfig, seed: u64) -> Self {
        assert!(!config.endpoints.is_empty(), "a router needs at least one endpoint");
        Self {
            config,
            rng: Rng::fork(seed, "router"),
            now: Instant::ZERO,
            map: None,
            members: Vec::new(),
            leaders: BTreeMap::new(),
            session: None,
            next_sequence: 1,
            unfinished: BTreeSet::new(),
            unknown: BTreeSet::new(),
            jobs: BTreeMap::new(),
            last_call: 0,
            scans: BTreeMap::new(),
            seen: Seen::default(),
            txns: BTreeMap::new(),
            last_txn: 0,
            last_txn_number: 0,
            correlations: BTreeMap::new(),
            last_correlation: 0,
            wake_ups: BTreeSet::new(),
            outputs: VecDeque::new(),
        }
    }

    /// Starts a call. It ends at the latest at `deadline`. Drain [`Router::poll_output`]
    /// afterwards.
    pub fn call(&mut self, now: Instant, call: Call, deadline: Instant) -> CallId {
        self.now = self.now.max(now);
        let id = self.add_job(Goal::User(call), deadline);
        match self.step_of(id) {
            Some((txn, op)) => self.start_step(id, txn, &op),
            None => self.advance(id),
        }
        id
    }

    /// Takes one input. Total. Drain [`Router::poll_output`] afterwards.
    pub fn handle(&mut self, now: Instant, input: RouterInput) {
        self.now = self.now.max(now);
        match input {
            RouterInput::Timeout => self.on_timeout(),
            RouterInput::Receive { from, reply } => self.on_reply(&from, reply),
            RouterInput::Unreachable { to } => self.on_unreachable(&to),
        }
    }

    /// The next output, none when drained.
    pub fn poll_output(&mut self) -> Option<RouterOutput> {
        self.outputs.pop_front()
    }

    /// When to call again with [`RouterInput::Timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.wake_ups.first().map(|(at, _)| *at).filter(|at| *at < NEVER)
    }

    fn add_job(&mut self, goal: Goal, deadline: Instant) -> CallId {
        self.last_call += 1;
        let id = CallId(self.last_call);
        let job = Job::new(goal, deadline);
        self.wake_ups.insert((job.filed, id));
        self.jobs.insert(id, job);
        id
    }

    fn set_stage(&mut self, id: CallId, stage: Stage) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        if let Stage::Sent { correlation, to, .. } = &job.stage {
            if job.step().is_some() {
                job.late.push_back((*correlation, to.clone()));
            } else {
                self.correlations.remove(correlation);
            }
        }
        if job.late.len() > LATE_MAX
            && let Some((correlation, _)) = job.late.pop_front()
        {
            self.correlations.remove(&correlation);
        }
        job.stage = stage;
        let wake_at = job.wake_at();
        self.wake_ups.remove(&(job.filed, id));
        self.wake_ups.insert((wake_at, id));
        job.filed = wake_at;
    }

    fn remove_job(&mut self, id: CallId) -> Option<Job> {
        self.set_stage(id, Stage::Parked);
        let job = self.jobs.remove(&id)?;
        self.wake_ups.remove(&(job.filed, id));
        for (correlation, _) in &job.late {
            self.correlations.remove(correlation);
        }
        if let Some(request) = job.request {
            self.unfinished.remove(&request.sequence);
        }
        Some(job)
    }

    fn finish(&mut self, id: CallId, result: Result<Answer, CallError>) {
        if let Some(job) = self.remove_job(id) {
            self.note_seen(&job.goal, &result);
            self.outputs.push_back(RouterOutput::Done { call: id, result });
        }
    }

    fn on_timeout(&mut self) {
        while let Some((at, id)) = self.wake_ups.first().copied()
            && at <= self.now
        {
            let Some(job) = self.jobs.get_mut(&id) else {
                return;
            };
            if job.deadline <= self.now {
                self.give_up(id);
            } else if matches!(job.stage, Stage::Sent { .. }) {
                self.on_attempt_failed(id);
            } else {
                self.advance(id);
            }
        }
    }

    /// Ends the job without an answer. One that waited for the router's own map or session says what
    /// those were told.
    fn give_up(&mut self, id: CallId) {
        let own = self.jobs.values().filter(|job| job.is_own());
        let own_refusal = own.filter_map(|job| job.last_refusal.clone()).next();
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        if job.stage == Stage::Parked {
            job.last_refusal = job.last_refusal.take().or(own_refusal);
        }
        let (error, last) = (job.give_up(), job.last_refusal.clone());
        let is_scan = job.is_scan();
        if job.step().is_some() {
            self.drop_step(id);
        } else if let Some((txn, _)) = self.step_of(id) {
            self.on_step_deadline(txn, last);
        } else if is_scan {
            self.on_scan_deadline(id, last);
        } else {
            self.finish(id, Err(error));
        }
    }

    /// No answer came, or none can come, or the node knows nothing: whoever was asked is no longer
    /// taken for the leader.
    fn on_attempt_failed(&mut self, id: CallId) {
        let shard_count = self.map.as_ref().map_or(1, ClusterMap::shard_count);
        if self.jobs.get(&id).is_some_and(Job::asks_any_replica) {
            self.avoid_asked(id);
        } else if let Some(shard) = self.jobs.get(&id).and_then(|job| job.shard(shard_count)) {
            self.leaders.remove(&shard);
        }
        if !self.may_retry(id) {
            return self.drop_step(id);
        }
        self.pause(id);
        let failure_count = self.jobs.get(&id).map_or(0, |job| job.failure_count);
        if failure_count >= FAILURES_BEFORE_MAP && self.map.is_some() {
            self.ensure_own_job(&|goal| matches!(goal, Goal::FetchMap), |_| Goal::FetchMap);
        }
    }

    fn on_unreachable(&mut self, to: &Address) {
        let waits = |job: &Job| matches!(&job.stage, Stage::Sent { to: asked, .. } if asked == to);
        let ids: Vec<_> =
            self.jobs.iter().filter(|(_, job)| waits(job)).map(|(id, _)| *id).collect();
        for id in ids {
            self.on_attempt_failed(id);
        }
    }

    /// Pauses before the next attempt: exponential, with half of it jittered.
    fn pause(&mut self, id: CallId) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        let doublings = job.failure_count.min(16);
        job.failure_count += 1;
        let longest = (self.config.backoff_min * (1 << doublings)).min(self.config.backoff_max);
        let until = self.now + self.rng.duration(longest / 2, longest);
        self.set_stage(id, Stage::Pausing { until });
    }

    /// Does what the job needs next: fetch a map, open a session, or send.
    fn advance(&mut self, id: CallId) {
        let Some(job) = self.jobs.get(&id) else {
            return;
        };
        if job.is_own() && !self.jobs.values().any(Job::needs_own) {
            self.remove_job(id);
            return;
        }
        if let Goal::Watch(txn) = job.goal {
            return self.on_watch(txn);
        }
        if job.is_scan() {
            return self.advance_scan(id);
        }
        if let Some((txn, op)) = self.step_of(id) {
            return self.advance_step(txn, op);
        }
        if job.is_batch() {
            return self.advance_batch(id);
        }
        let is_for_shard = matches!(
            job.goal,
            Goal::OpenSession { .. }
                | Goal::Step(_)
                | Goal::Part(_)
                | Goal::User(Call::Admin(_) | Call::Outcome { .. })
        );
        let needs_map = job.key().is_some() || is_for_shard;
        let needs_session = job.is_write() && job.request.is_none();
        let needs_token = job.level() == Some(Level::Sequential) && self.seen.has_gap();
        if needs_map && self.map.is_none() {
            self.set_stage(id, Stage::Parked);
            self.ensure_own_job(&|goal| matches!(goal, Goal::FetchMap), |_| Goal::FetchMap);
        } else if needs_session && !self.assign_request(id) {
            self.set_stage(id, Stage::Parked);
            let open = |rng: &mut Rng| Goal::OpenSession { nonce: rng.next_u64() };
            self.ensure_own_job(&|goal| matches!(goal, Goal::OpenSession { .. }), open);
        } else if let Some(Err(error)) = self.outcome_of(id).map(|id| self.check_outcome(id)) {
            self.finish(id, Err(error));
        } else if needs_token {
            self.set_stage(id, Stage::Parked);
            let gap_count = self.seen.gap_count();
            let is_it = |goal: &Goal| matches!(goal, Goal::CloseGap { .. });
            self.ensure_own_job(&is_it, |_| Goal::CloseGap { gap_count });
        } else {
            self.send(id);
        }
    }

    fn ensure_own_job(
        &mut self,
        is_it: &dyn Fn(&Goal) -> bool,
        make: impl FnOnce(&mut Rng) -> Goal,
    ) {
        if !self.jobs.values().any(|job| is_it(&job.goal)) {
            let goal = make(&mut self.rng);
            let id = self.add_job(goal, NEVER);
            self.advance(id);
        }
    }

    /// Gives a write its identity, if there is a session.
    fn assign_request(&mut self, id: CallId) -> bool {
        let Some(session) = self.session else {
            return false;
        };
        let request = self.new_request(session);
        if let Some(job) = self.jobs.get_mut(&id) {
            job.request = Some(request);
        }
        true
    }

    fn send(&mut self, id: CallId) {
        let Some(job) = self.jobs.get(&id) else {
            return;
        };
        let Some(body) = request_body(job, self.map.as_ref(), self.seen.at()) else {
            return self.pause(id);
        };
        let to = self.target(id);
        self.last_correlation += 1;
        let correlation = self.last_correlation;
        self.correlations.insert(correlation, id);
        let until = self.now + self.config.attempt_timeout;
        self.set_stage(id, Stage::Sent { correlation, to: to.clone(), until });
        if let Some(job) = self.jobs.get_mut(&id) {
            job.sent_count += 1;
        }
        self.outputs
            .push_back(RouterOutput::Send { to, request: RequestFrame { correlation, body } });
    }

    /// Whom to ask: the node that the call names, the shard's leader, any of its replicas, or any
    /// endpoint.
    fn target(&mut self, id: CallId) -> Address {
        let job = self.jobs.get(&id);
        let call = job.map(|job| &job.goal);
        if let Some(Goal::User(Call::Status { address } | Call::Join { address, .. })) = call {
            return address.clone();
        }
        let Some(map) = &self.map else {
            return self.any_endpoint();
        };
        let entry = job.and_then(|job| map.entry(job.shard(map.shard_count())?));
        let Some(ShardEntry { shard, voters, .. }) = entry else {
            return self.any_endpoint();
        };
        let asks_any = job.is_some_and(Job::asks_any_replica);
        let leader = self.leaders.get(shard).copied().filter(|_| !asks_any);
        let node = leader.or_else(|| {
            let avoided = job.and_then(|job| job.avoided);
            let others: Vec<_> = voters.iter().filter(|voter| Some(**voter) != avoided).collect();
            let at = self.rng.below(others.len().max(1) as u64);
            others
                .get(usize::try_from(at).unwrap_or(0))
                .copied()
                .or_else(|| voters.first())
                .copied()
        });
        let member = node.and_then(|node| map.member(node));
        match member {
            Some(member) => member.address.clone(),
            None => self.any_endpoint(),
        }
    }

    /// An address from the configuration, or of a member of the last map.
    fn any_endpoint(&mut self) -> Address {
        let count = self.config.endpoints.len() + self.members.len();
        let at = usize::try_from(self.rng.below(count as u64)).unwrap_or(0);
        let mut known = self.config.endpoints.iter().chain(&self.members);
        known.nth(at).unwrap_or(&self.config.endpoints[0]).clone()
    }

    fn on_reply(&mut self, from: &Address, reply: ReplyFrame) {
        let Some(id) = self.correlations.get(&reply.correlation).copied() else {
            return;
        };
        let correlation = reply.correlation;
        let is_asked = |job: &Job| {
            matches!(&job.stage, Stage::Sent { to, correlation: last, .. }
                if to == from && *last == correlation)
        };
        let is_late = |job: &Job| {
            let mut late = job.late.iter();
            matches!(reply.body, ClientReply::Txn(_))
                && late.any(|(asked, to)| *asked == correlation && to == from)
        };
        if !self.jobs.get(&id).is_some_and(|job| is_asked(job) || is_late(job)) {
            return;
        }
        if matches!(reply.body, ClientReply::Txn(TxnReply::Waiting { .. }))
            && !self.jobs.get(&id).is_some_and(is_asked)
        {
            // Where an earlier attempt waits says nothing about the last one.
            return;
        }
        if !self.jobs.get(&id).is_some_and(|job| is_in_kind(&job.goal, &reply.body)) {
            return;
        }
        match reply.body {
            ClientReply::Refused(refusal) => self.on_refused(id, refusal),
            ClientReply::Txn(reply) => match self.outcome_of(id) {
                Some(asked) => self.on_outcome(id, asked, reply),
                None => self.on_step_reply(id, reply),
            },
            ClientReply::Map(view) => self.on_map(id, view),
            ClientReply::SessionOpened(session) => self.on_session(id, session),
            ClientReply::Read(found) => self.finish(id, Ok(Answer::Got(found))),
            ClientReply::ReplicaRead { found, at } => {
                self.finish(id, Ok(Answer::GotReplica { found, at }));
            }
            ClientReply::Timestamp(at) => self.on_timestamp(id, at),
            ClientReply::Page(page) => self.on_page(id, page),
            ClientReply::Written(result) => self.finish(id, Ok(Answer::Written(result))),
            ClientReply::Status(status) => self.finish(id, Ok(Answer::Status(status))),
            ClientReply::Admin(reply) => self.finish(id, Ok(Answer::Admin(reply))),
        }
    }

    fn on_map(&mut self, id: CallId, view: MapView) {
        if self.map.as_ref().is_some_and(|map| map.cluster != view.map.cluster) {
            // Another cluster answers at the old addresses; it knows none of the old sessions, and
            // has not issued what they have seen.
            self.leaders.clear();
            self.forget_seen();
            if let Some(session) = self.session.take() {
                self.on_session_lost(session);
            }
        }
        self.map = Some(view.map.clone());
        let addresses = view.map.members.iter().map(|member| &member.address);
        let endpoints = &self.config.endpoints;
        let others = addresses.filter(|address| !endpoints.contains(address));
        self.members = others.cloned().collect();
        self.leaders.extend(view.leaders.iter().copied());
        if self.jobs.get(&id).is_some_and(|job| job.goal == Goal::FetchMap) {
            self.remove_job(id);
        } else {
            self.finish(id, Ok(Answer::Map(view)));
        }
        self.advance_parked();
    }

    fn on_session(&mut self, id: CallId, session: SessionId) {
        self.remove_job(id);
        self.unknown.clear();
        self.session = Some(session);
        self.advance_parked();
    }

    fn advance_parked(&mut self) {
        let parked = |job: &Job| job.stage == Stage::Parked;
        let ids: Vec<_> =
            self.jobs.iter().filter(|(_, job)| parked(job)).map(|(id, _)| *id).collect();
        for id in ids {
            self.advance(id);
        }
    }
}

/// Whether a reply is of the kind that answers the job, which a node that is in order sends. Any
/// other counts as none.
fn is_in_kind(goal: &Goal, reply: &ClientReply) -> bool {
    match reply {
        ClientReply::Refused(_) => true,
        ClientReply::Map(_) => matches!(goal, Goal::FetchMap | Goal::User(Call::Map)),
        ClientReply::SessionOpened(_) => matches!(goal, Goal::OpenSession { .. }),
        ClientReply::Read(_) => {
            matches!(goal, Goal::User(Call::Get { .. } | Call::GetAt { .. }))
        }
        ClientReply::ReplicaRead { .. } => matches!(goal, Goal::User(Call::GetReplica { .. })),
        ClientReply::Timestamp(_) => {
            matches!(goal, Goal::User(Call::Timestamp) | Goal::CloseGap { .. })
        }
        ClientReply::Page(_) => matches!(goal, Goal::Part(_)),
        ClientReply::Written(_) => matches!(goal, Goal::User(Call::Write(_))),
        ClientReply::Status(_) => matches!(goal, Goal::User(Call::Status { .. })),
        ClientReply::Admin(_) => {
            matches!(goal, Goal::User(Call::Admin(_) | Call::Join { .. }))
        }
        ClientReply::Txn(_) => {
            matches!(goal, Goal::Step(_) | Goal::User(Call::Outcome { .. }))
        }
    }
}

/// The request that gets the job done, of a session that has seen what is up to `seen`; none while the
/// map lacks the shard.
fn request_body(job: &Job, map: Option<&ClusterMap>, seen: Timestamp) -> Option<ClientRequest> {
    let placement = || {
        let map = map?;
        let shard = job.shard(map.shard_count())?;
        Some((shard, map.entry(shard)?.epoch))
    };
    Some(match &job.goal {
        Goal::FetchMap | Goal::User(Call::Map) => ClientRequest::Map,
        Goal::User(Call::Status { .. }) => ClientRequest::Status,
        Goal::User(Call::Admin(request)) => ClientRequest::Admin(request.clone()),
        Goal::User(Call::Join { seeds, .. }) => {
            ClientRequest::Admin(AdminRequest::Join { seeds: seeds.clone() })
        }
        Goal::OpenSession { nonce } => ClientRequest::OpenSession { nonce: *nonce },
        Goal::User(Call::Get { key }) => {
            let (shard, epoch) = placement()?;
            ClientRequest::Read { shard, epoch, key: key.clone() }
        }
        Goal::Step(step) => {
            let (shard, epoch) = placement()?;
            let (txn, age, grant) = (step.txn, step.age, step.grant);
            ClientRequest::Txn { shard, epoch, txn, age, grant, step: step.request.clone() }
        }
        Goal::User(Call::Outcome { id }) => {
            let (_, epoch) = placement()?;
            ClientRequest::Outcome { epoch, anchor: id.anchor, txn: id.txn, sequence: id.sequence }
        }
        Goal::User(Call::GetReplica { key, level }) => {
            let (shard, epoch) = placement()?;
            let level = read_level(*level, seen);
            ClientRequest::ReadReplica { shard, epoch, key: key.clone(), level }
        }
        Goal::User(Call::Timestamp) | Goal::CloseGap { .. } => ClientRequest::Timestamp,
        Goal::User(Call::GetAt { key, at }) => {
            let (shard, epoch) = placement()?;
            ClientRequest::ReadAt { shard, epoch, at: *at, key: key.clone() }
        }
        Goal::Part(part) => {
            let (shard, epoch) = placement()?;
            let (at, range, limit) = (part.at, part.range.clone(), part.limit);
            ClientRequest::ScanAt { shard, epoch, at, range, limit }
        }
        Goal::Watch(_)
        | Goal::User(Call::Txn { .. } | Call::WriteBatch { .. } | Call::ScanAt { .. }) => {
            return None;
        }
        Goal::User(Call::Write(op)) => {
            let (shard, epoch) = placement()?;
            ClientRequest::Write { shard, epoch, request: job.request?, op: op.clone() }
        }
    })
}
