//! An operator, who changes the members of the cluster while it serves.
//!
//! One change at a time: a spare server is ordered to join, a member is removed, or a server joins
//! and then replaces a member. Orders and requests are repeated until the map shows what came of
//! them, so that neither a lost message nor a leader that dies leaves anything undone. A change is
//! complete when the map has it and every shard is where it is to be; only then is it counted. A
//! request that the cluster refuses is given up, and counted as refused.
//!
//! Nobody else changes the members, so an operator that has seen one of its changes done knows a
//! map that is new enough to say who is no member. A server that is none may be emptied.

use std::time::Duration;

use kv_core::client::{Answer, Call, CallError, CallId, Router, RouterConfig, RouterInput};
use kv_core::cluster::ClusterMap;
use kv_core::codec;
use kv_core::id::{Incarnation, NodeId};
use kv_core::time::Instant;
use kv_core::wire::{self, AdminRequest, Frame, MapView, Refusal};

use super::caller::next_done;
use super::replica::{Note, address_of, server_at};
use super::server::Order;
use crate::engine::{
    Boot, Draw as _, Input, Kind, Machine, MemberChange, Membership, Outbox, Phase, ProcessId, Rng,
};
use crate::scenario::Scenario;

/// How often an order is repeated.
const ORDER_INTERVAL: Duration = Duration::from_millis(500);
/// How often the map is looked at while a change is under way.
const POLL_INTERVAL: Duration = Duration::from_millis(300);
/// How long a call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// What an operator tells the checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperatorEvent {
    /// A change is complete, with all that follows from it.
    Changed {
        /// Which.
        change: MemberChange,
        /// Whether the server that joined had been a member before.
        returned: bool,
    },
    /// The cluster refused a change.
    Refused,
}

/// An operator.
#[derive(Debug)]
pub struct Operator {
    plan: Membership,
    /// All servers, members or not.
    servers: Vec<ProcessId>,
    router: Router,
    rng: Rng,
    phase: Phase,
    /// The newest map that was seen.
    map: Option<ClusterMap>,
    /// Servers that were members once.
    former: Vec<ProcessId>,
    /// The call that is out.
    call: Option<(CallId, bool)>,
    task: Option<Task>,
    /// When the next task begins.
    next_at: Instant,
    /// When to look at the map, or to ask, again.
    poll_at: Instant,
    order_count: u32,
    /// Changes that are complete, in order.
    done: Vec<MemberChange>,
    scratch: Vec<u8>,
}

/// A change that is under way.
#[derive(Debug)]
struct Task {
    change: MemberChange,
    joining: Option<Joining>,
    leaving: Option<NodeId>,
    /// Whether the leave is decided.
    is_decided: bool,
    /// Whether a request for it had no answer.
    is_unsure: bool,
}

#[derive(Debug)]
struct Joining {
    server: ProcessId,
    order: Order,
    order_at: Instant,
    /// The id that the server was given.
    id: Option<NodeId>,
    returned: bool,
}

impl Operator {
    pub(super) fn new(scenario: &Scenario, plan: &Membership, boot: Boot) -> Self {
        let count = scenario.cluster.nodes + scenario.cluster.spares;
        let servers: Vec<_> = (0..count).map(ProcessId::Server).collect();
        let config = RouterConfig {
            attempt_timeout: Duration::from_millis(500),
            ..RouterConfig::new(servers.iter().copied().map(address_of).collect())
        };
        let mut rng = Rng::fork(boot.seed, "operator", 0);
        let first = rng.around(plan.interval);
        Self {
            plan: plan.clone(),
            servers,
            router: Router::new(config, boot.seed),
            rng,
            phase: Phase::Safety,
            map: None,
            former: Vec::new(),
            call: None,
            task: None,
            next_at: Instant::from_nanos(boot.now + first),
            poll_at: Instant::ZERO,
            order_count: 0,
            done: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// Whether nothing is under way any more.
    pub(super) fn is_done(&self) -> bool {
        self.phase == Phase::Liveness && self.task.is_none()
    }

    /// Whether another change is to be made.
    fn wants_more(&self) -> bool {
        let is_enough = self.plan.changes.is_some_and(|most| self.done.len() >= most as usize);
        self.phase == Phase::Safety && !is_enough
    }

    /// Does what is due.
    fn advance(&mut self, now: Instant, out: &mut Outbox<Note>) {
        if self.call.is_some() {
            return;
        }
        let Some(task) = &mut self.task else {
            if self.wants_more() && self.next_at <= now {
                self.ask(now, Call::Map, out);
            }
            return;
        };
        if let Some(Joining { server, order, order_at, id: None, .. }) = &mut task.joining
            && *order_at <= now
        {
            out.send(*server, order.encode());
            *order_at = now + ORDER_INTERVAL;
        }
        if self.poll_at > now {
            return;
        }
        self.poll_at = now + POLL_INTERVAL;
        let call = task.request().map_or(Call::Map, Call::Admin);
        self.ask(now, call, out);
    }

    fn ask(&mut self, now: Instant, call: Call, out: &mut Outbox<Note>) {
        let is_request = matches!(call, Call::Admin(_));
        if let Call::Admin(request) = &call {
            self.scratch.clear();
            codec::encode_into(request, &mut self.scratch);
            out.record(Kind::Call, &self.scratch, || format!("{request:?}"));
        }
        let id = self.router.call(now, call, now + CALL_TIMEOUT);
        self.call = Some((id, is_request));
    }

    fn drain(&mut self, now: Instant, out: &mut Outbox<Note>) {
        while let Some((_, result)) = next_done(&mut self.router, out) {
            let is_request = self.call.take().is_some_and(|(_, is_request)| is_request);
            match result {
                Ok(Answer::Map(view)) => self.on_map(now, view, out),
                result if is_request => self.on_answer(&result, out),
                _ => {}
            }
        }
    }

    /// What a request to remove or to replace a member came to.
    fn on_answer(&mut self, result: &Result<Answer, CallError>, out: &mut Outbox<Note>) {
        let words = format!("{result:?}");
        out.record(Kind::Reply, words.as_bytes(), || words.clone());
        let Some(task) = &mut self.task else { return };
        match result {
            Ok(_) => task.is_decided = true,
            // What an earlier attempt has decided shows in the map.
            Err(CallError::Refused(Refusal::Meta(_))) if task.is_unsure => task.is_decided = true,
            Err(CallError::Refused(_)) if !task.is_unsure => {
                out.note(Note::Operator(OperatorEvent::Refused));
                task.leaving = None;
                match task.change {
                    MemberChange::Replace => task.change = MemberChange::Add,
                    MemberChange::Add | MemberChange::Remove => self.task = None,
                }
            }
            Err(CallError::Refused(_) | CallError::Unavailable { .. }) => {}
            Err(CallError::AdminUnknown | CallError::UnknownOutcome { .. }) => {
                task.is_unsure = true;
            }
            Err(
                CallError::Aborted(_)
                | CallError::OutcomeForgotten { .. }
                | CallError::NoTransaction
                | CallError::TxnTooLarge { .. }
                | CallError::WrongOutcomeId { .. },
            ) => unreachable!("an operator asks for no transactions"),
        }
    }

    fn on_map(&mut self, now: Instant, view: MapView, out: &mut Outbox<Note>) {
        if self.map.as_ref().is_none_or(|map| map.version < view.map.version) {
            self.map = Some(view.map);
        }
        let Some(map) = &self.map else { return };
        for member in &map.members {
            let server = server_at(&member.address);
            if !self.former.contains(&server) {
                self.former.push(server);
            }
        }
        let Some(task) = &mut self.task else {
            if self.wants_more() && self.next_at <= now {
                self.task = self.choose(now);
                self.next_at = now + self.pause();
            }
            return;
        };
        task.look_for(map);
        if task.is_complete(map) {
            let returned = task.joining.as_ref().is_some_and(|joining| joining.returned);
            let change = task.change;
            out.note(Note::Operator(OperatorEvent::Changed { change, returned }));
            self.done.push(change);
            self.task = None;
            self.next_at = now + self.pause();
        }
    }

    fn pause(&mut self) -> Duration {
        Duration::from_nanos(self.rng.around(self.plan.interval))
    }

    /// Draws a change that can be made: first what was never done, then anything.
    fn choose(&mut self, now: Instant) -> Option<Task> {
        let map = self.map.as_ref()?;
        let is_free =
            |server: &&ProcessId| !map.members.iter().any(|it| server_at(&it.address) == **server);
        let free: Vec<ProcessId> = self.servers.iter().filter(is_free).copied().collect();
        let active: Vec<NodeId> = map.active().collect();
        let (nodes_min, nodes_max) = (self.plan.nodes_min.into(), self.plan.nodes_max.into());
        let can_be = |change: &MemberChange| match change {
            MemberChange::Add => active.len() < nodes_max && !free.is_empty(),
            MemberChange::Remove => active.len() > nodes_min,
            MemberChange::Replace => !free.is_empty(),
        };
        let possible: Vec<_> = self.plan.kinds.iter().copied().filter(can_be).collect();
        let is_new = |change: &MemberChange| !self.done.contains(change);
        let new: Vec<_> = possible.iter().copied().filter(is_new).collect();
        let choices = if new.is_empty() { possible } else { new };
        if choices.is_empty() {
            return None;
        }
        let change = choices[self.rng.index(choices.len())];
        let joins = change != MemberChange::Remove;
        let leaves = change != MemberChange::Add;
        let server = joins.then(|| free[self.rng.index(free.len())]);
        let leaving = leaves.then(|| active[self.rng.index(active.len())]);
        let joining = server.map(|server| self.joining(now, server));
        Some(Task { change, joining, leaving, is_decided: false, is_unsure: false })
    }

    fn joining(&mut self, now: Instant, server: ProcessId) -> Joining {
        self.order_count += 1;
        let order = Order::new(self.order_count, self.rng.next_u64() as u32);
        let returned = self.former.contains(&server);
        Joining { server, order, order_at: now, id: None, returned }
    }
}

impl Task {
    /// What is to be asked of the cluster next; nothing if only the map can tell how it goes on.
    fn request(&self) -> Option<AdminRequest> {
        let leaving = self.leaving.filter(|_| !self.is_decided)?;
        match &self.joining {
            None => Some(AdminRequest::RemoveNode { id: leaving, force: false }),
            Some(Joining { id: Some(new), .. }) => {
                Some(AdminRequest::ReplaceNode { old: leaving, new: *new, force: false })
            }
            Some(Joining { id: None, .. }) => None,
        }
    }

    /// Looks whether the server that joins has its id.
    fn look_for(&mut self, map: &ClusterMap) {
        if let Some(joining) = &mut self.joining {
            let Order { incarnation } = joining.order;
            let is_it = |it: Incarnation| it == incarnation;
            let member = map.members.iter().find(|member| is_it(member.incarnation));
            joining.id = member.map(|member| member.id).or(joining.id);
        }
    }

    fn is_complete(&self, map: &ClusterMap) -> bool {
        let has_joined = self.joining.as_ref().is_none_or(|joining| joining.id.is_some());
        let has_left = self.leaving.is_none_or(|id| map.member(id).is_none());
        has_joined && has_left && !map.is_moving()
    }
}

impl Machine for Operator {
    type Note = Note;

    fn handle(&mut self, now: u64, input: Input, out: &mut Outbox<Note>) {
        let now = Instant::from_nanos(now);
        match input {
            Input::Start | Input::IoDone(_) | Input::Link { .. } => {}
            Input::Phase(phase) => self.phase = phase,
            Input::Deliver { from, bytes } => {
                if let Ok(Frame::Reply(reply)) = wire::decode(&bytes) {
                    let from = address_of(from);
                    self.router.handle(now, RouterInput::Receive { from, reply });
                }
            }
            Input::Timer => self.router.handle(now, RouterInput::Timeout),
        }
        self.drain(now, out);
        self.advance(now, out);
        self.drain(now, out);
    }

    fn deadline(&self) -> Option<u64> {
        let due = match &self.task {
            _ if self.call.is_some() => None,
            None => self.wants_more().then_some(self.next_at),
            Some(Task { joining: Some(Joining { order_at, id: None, .. }), .. }) => {
                Some(self.poll_at.min(*order_at))
            }
            Some(_) => Some(self.poll_at),
        };
        self.router.poll_timeout().into_iter().chain(due).min().map(Instant::as_nanos)
    }
}
