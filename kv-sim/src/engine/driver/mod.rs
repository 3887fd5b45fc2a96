//! The driver: one task that steps all processes.
//!
//! It takes the next event from the queue, moves madsim's clock to its time, lets the process that
//! it concerns take one step, turns what the step asks for into further events, and shows the step
//! to the system's checks. Nothing is awaited except where a node of madsim starts or dies: that is
//! what makes it fast.
//!
//! A paused server's inputs are kept and come, in order, when it goes on, as a stopped process
//! finds its sockets filled. A crashed server's are lost. What a crash finds in flight on the disk
//! is handed to the system, and the operation's end never comes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use madsim::time::TimeHandle;

use super::clock::Clock;
use super::disk_timing::DiskQueue;
use super::event::Queue;
use super::fault::{Action, FaultKind, Nemesis};
use super::lifecycle::Lifecycle;
use super::machine::{Input, IoToken, Machine, Outbox, Phase, ProcessId};
use super::network::{Fate, MessageFault, Network};
use super::panic::catch;
use super::rng::{Draw as _, Rng, fork_seed};
use super::run::RunConfig;
use super::system::{Boot, Check, Step, System, Violation, World};
use super::trace::{Kind, Tracer, Who};

/// Timers in a row after which a machine's deadline still does not lie ahead: time would stand
/// still.
const STUCK_MAX: u32 = 1_000;
/// How often the liveness phase asks whether the system has converged.
const PROBE_INTERVAL: u64 = 100_000_000;
/// Events from one sign of life to the watchdog to the next.
const PROGRESS_EVENTS: u64 = 1_024;

mod faults;

enum Event {
    Deliver { from: ProcessId, to: ProcessId, bytes: Bytes },
    Link { to: ProcessId, peer: ProcessId, is_up: bool },
    Timer(ProcessId),
    IoDone { server: u16, life: u32, token: IoToken },
    Wake(usize),
    Act(Vec<Action>),
}

struct ProcessState {
    clock: Clock,
    /// When the queue wakes the process next.
    timer_at: u64,
    stuck: u32,
}

struct ServerState {
    process: ProcessState,
    disk: DiskQueue,
    /// How many lives have begun.
    life_count: u32,
    up: bool,
    paused: bool,
    deferred: VecDeque<Event>,
}

pub(crate) struct Driver<'a, S: System> {
    config: &'a RunConfig,
    time: TimeHandle,
    pub(crate) now: u64,
    queue: Queue<Event>,
    pub(crate) network: Network,
    lifecycle: Lifecycle<S>,
    servers: Vec<ServerState>,
    clients: Vec<(ProcessState, S::Client)>,
    pub(crate) system: Option<S>,
    nemeses: Vec<Nemesis>,
    pending: VecDeque<Action>,
    crash_rng: Rng,
    /// Draws which crashes end connections.
    link_rng: Rng,
    healed: bool,
    /// Faults that have begun and have not ended, but for those that strike single messages.
    lasting: u32,
    pub(crate) outbox: Outbox<S::Note>,
    pub(crate) violation: Option<Violation>,
    pub(crate) convergence: Option<Check>,
    pub(crate) fault_counts: BTreeMap<FaultKind, u64>,
    pub(crate) messages: u64,
    pub(crate) events: u64,
    sent: u64,
    strikes: u64,
    progress: &'a AtomicU64,
}

impl<'a, S: System> Driver<'a, S> {
    pub(crate) fn new(
        config: &'a RunConfig,
        mut system: S,
        tracer: Tracer,
        progress: &'a AtomicU64,
    ) -> Self {
        let seed = config.seed;
        let state = |process: ProcessId| {
            let mut rng = Rng::fork(seed, "clock", u64::from(process.code()));
            ProcessState {
                clock: Clock::draw(config.clocks, &mut rng),
                timer_at: u64::MAX,
                stuck: 0,
            }
        };
        let servers = (0..config.servers).map(|index| ServerState {
            process: state(ProcessId::Server(index)),
            disk: DiskQueue::new(seed, u64::from(index)),
            life_count: 0,
            up: false,
            paused: false,
            deferred: VecDeque::new(),
        });
        let servers = servers.collect();
        let clients = (0..config.clients).map(|index| {
            let process = ProcessId::Client(index);
            let state = state(process);
            let now = state.clock.local(0);
            let seed = fork_seed(seed, "client", u64::from(index));
            (state, system.client(Boot { process, restart_count: 0, seed, now }))
        });
        let clients = clients.collect();
        Self {
            config,
            time: TimeHandle::current(),
            now: 0,
            queue: Queue::new(),
            network: Network::new(
                seed,
                usize::from(config.servers),
                usize::from(config.clients),
                &config.network,
            ),
            lifecycle: Lifecycle::new(config.servers),
            servers,
            clients,
            system: Some(system),
            nemeses: Vec::new(),
            pending: VecDeque::new(),
            crash_rng: Rng::fork(seed, "disk-crash", 0),
            link_rng: Rng::fork(seed, "link", 0),
            healed: false,
            lasting: 0,
            outbox: Outbox::new(tracer),
            violation: None,
            convergence: None,
            fault_counts: BTreeMap::new(),
            messages: 0,
            events: 0,
            sent: 0,
            strikes: 0,
            progress,
        }
    }

    /// The whole run: safety phase, healing, liveness phase. Ends early with the first violation.
    pub(crate) async fn run(&mut self) {
        for index in 0..self.config.servers {
            self.start(index).await;
        }
        for index in 0..self.config.clients {
            self.step_client(index, Input::Start);
        }
        self.declare_faults();
        self.run_until(self.config.safety).await;
        if self.violation.is_none() {
            self.heal().await;
            self.liveness().await;
        }
    }

    async fn run_until(&mut self, limit: u64) {
        while self.violation.is_none() {
            if let Some(action) = self.pending.pop_front() {
                self.act(action).await;
                continue;
            }
            let Some((time, event)) = self.queue.pop_until(limit) else {
                self.advance_to(limit);
                return;
            };
            self.advance_to(time);
            self.events += 1;
            if self.events.is_multiple_of(PROGRESS_EVENTS) {
                self.progress.store(self.events, Ordering::Relaxed);
            }
            self.dispatch(event);
        }
    }

    /// Moves madsim's clock along. madsim itself moves it by some nanoseconds for each task that it
    /// runs, so it may be slightly ahead; the time of an event is the engine's own.
    #[inline]
    fn advance_to(&mut self, time: u64) {
        self.now = time;
        let ahead = Duration::from_nanos(time).saturating_sub(self.time.elapsed());
        if !ahead.is_zero() {
            self.time.advance(ahead);
        }
    }

    fn dispatch(&mut self, event: Event) {
        match event {
            Event::Deliver { from, to, bytes } => self.deliver(from, to, bytes),
            Event::Link { to, peer, is_up } => self.on_link(to, peer, is_up),
            Event::Timer(process) => self.on_timer(process),
            Event::IoDone { server, life, token } => self.on_io_done(server, life, token),
            Event::Wake(index) => self.wake_nemesis(index),
            // What a fault left to be done was done by the healing.
            Event::Act(actions) if !self.healed => self.pending.extend(actions),
            Event::Act(_) => {}
        }
    }

    fn deliver(&mut self, from: ProcessId, to: ProcessId, bytes: Bytes) {
        let who = Who { process: Some(to), peer: Some(from) };
        if !self.network.is_open(from, to) || !self.is_up(to) {
            self.outbox
                .tracer
                .event(self.now, who, Kind::Lose, &[], || format!("from {from}: cut off or down"));
            return;
        }
        if self.defers(to) {
            self.defer(to, Event::Deliver { from, to, bytes });
            return;
        }
        self.messages += 1;
        self.outbox
            .tracer
            .event(self.now, who, Kind::Deliver, &bytes, || S::describe(from, to, &bytes));
        self.step(to, Input::Deliver { from, bytes });
    }

    /// The end of a connection travels like a message: who is cut off does not hear of it.
    fn on_link(&mut self, to: ProcessId, peer: ProcessId, is_up: bool) {
        if !self.network.is_open(peer, to) || !self.is_up(to) {
            return;
        }
        if self.defers(to) {
            return self.defer(to, Event::Link { to, peer, is_up });
        }
        let who = Who { process: Some(to), peer: Some(peer) };
        let state = if is_up { "stands" } else { "broke off" };
        self.outbox.tracer.event(self.now, who, Kind::Link, &[u8::from(is_up)], || {
            format!("the connection to {peer} {state}")
        });
        self.step(to, Input::Link { peer, is_up });
    }

    fn on_timer(&mut self, process: ProcessId) {
        let now = self.now;
        let state = self.process(process);
        if state.timer_at != now {
            return;
        }
        state.timer_at = u64::MAX;
        if self.defers(process) || !self.is_up(process) {
            return;
        }
        let clock = self.process(process).clock;
        let deadline = self.deadline(process);
        if deadline.is_none_or(|deadline| clock.true_time(deadline) > now) {
            self.arm(process, deadline);
            return;
        }
        self.outbox.tracer.event(self.now, process.into(), Kind::Timer, &[], String::new);
        self.step(process, Input::Timer);
        self.check_time_passes(process);
    }

    fn check_time_passes(&mut self, process: ProcessId) {
        let now = self.now;
        let state = self.process(process);
        state.stuck = if state.timer_at > now { 0 } else { state.stuck + 1 };
        if state.stuck > STUCK_MAX {
            let detail =
                format!("{process} sets its deadline to a time that has come, again and again");
            self.violation.get_or_insert(Violation { check: "progress", detail });
        }
    }

    fn on_io_done(&mut self, server: u16, life: u32, token: IoToken) {
        let state = &mut self.servers[usize::from(server)];
        if state.life_count != life || !state.up {
            return;
        }
        if state.paused {
            state.deferred.push_back(Event::IoDone { server, life, token });
            return;
        }
        state.disk.end(token);
        let process = ProcessId::Server(server);
        self.outbox.tracer.event(
            self.now,
            process.into(),
            Kind::IoDone,
            &token.0.to_le_bytes(),
            || token.0.to_string(),
        );
        self.step(process, Input::IoDone(token));
    }

    fn is_up(&self, process: ProcessId) -> bool {
        match process {
            ProcessId::Server(index) => self.servers[usize::from(index)].up,
            ProcessId::Client(_) => true,
        }
    }

    fn defers(&self, process: ProcessId) -> bool {
        matches!(process, ProcessId::Server(index) if self.servers[usize::from(index)].paused)
    }

    fn defer(&mut self, process: ProcessId, event: Event) {
        if let ProcessId::Server(index) = process {
            self.servers[usize::from(index)].deferred.push_back(event);
        }
    }

    fn process(&mut self, process: ProcessId) -> &mut ProcessState {
        match process {
            ProcessId::Server(index) => &mut self.servers[usize::from(index)].process,
            ProcessId::Client(index) => &mut self.clients[usize::from(index)].0,
        }
    }

    fn deadline(&self, process: ProcessId) -> Option<u64> {
        match process {
            ProcessId::Server(index) => {
                self.lifecycle.slot(index).as_ref().and_then(Machine::deadline)
            }
            ProcessId::Client(index) => self.clients[usize::from(index)].1.deadline(),
        }
    }

    fn step(&mut self, process: ProcessId, input: Input) {
        match process {
            ProcessId::Server(index) => self.step_server(index, input),
            ProcessId::Client(index) => self.step_client(index, input),
        }
    }

    fn step_server(&mut self, index: u16, input: Input) {
        let process = ProcessId::Server(index);
        let local = self.servers[usize::from(index)].process.clock.local(self.now);
        (self.outbox.now, self.outbox.process) = (self.now, process);
        let mut slot = self.lifecycle.slot(index);
        let (Some(machine), Some(system)) = (slot.as_mut(), self.system.as_mut()) else { return };
        let outbox = &mut self.outbox;
        let step = Step { process, now: self.now };
        let result = catch(|| {
            machine.handle(local, input, outbox);
            (system.after_server_step(step, machine, &mut outbox.notes), machine.deadline())
        });
        drop(slot);
        self.after_step(process, result);
    }

    fn step_client(&mut self, index: u16, input: Input) {
        let process = ProcessId::Client(index);
        (self.outbox.now, self.outbox.process) = (self.now, process);
        let (state, machine) = &mut self.clients[usize::from(index)];
        let local = state.clock.local(self.now);
        let Some(system) = self.system.as_mut() else { return };
        let outbox = &mut self.outbox;
        let step = Step { process, now: self.now };
        let result = catch(|| {
            machine.handle(local, input, outbox);
            (system.after_client_step(step, machine, &mut outbox.notes), machine.deadline())
        });
        self.after_step(process, result);
    }

    fn after_step(
        &mut self,
        process: ProcessId,
        result: Result<(Result<(), Violation>, Option<u64>), String>,
    ) {
        self.outbox.notes.clear();
        match result {
            Ok((Ok(()), deadline)) => {
                self.flush(process);
                self.arm(process, deadline);
            }
            Ok((Err(violation), _)) => _ = self.violation.get_or_insert(violation),
            Err(panic) => {
                let detail = format!("{process}: {panic}");
                self.violation.get_or_insert(Violation { check: "panic", detail });
            }
        }
    }

    /// Turns what a step asks for into events.
    fn flush(&mut self, process: ProcessId) {
        let mut sends = std::mem::take(&mut self.outbox.sends);
        for (to, bytes) in sends.drain(..) {
            self.send(process, to, bytes);
        }
        self.outbox.sends = sends;
        if self.outbox.ios.is_empty() {
            return;
        }
        let ProcessId::Server(server) = process else { panic!("{process} has no disk") };
        let state = &mut self.servers[usize::from(server)];
        for io in self.outbox.ios.drain(..) {
            let at = state.disk.start(self.now, io, &self.config.disk);
            self.queue.push(at, Event::IoDone { server, life: state.life_count, token: io.token });
        }
    }

    fn send(&mut self, from: ProcessId, to: ProcessId, mut bytes: Bytes) {
        self.sent += 1;
        if self.config.probes.corrupt_message == Some(self.sent) {
            bytes = corrupted(&bytes);
        }
        match self.network.send(self.now, from, to) {
            Fate::Lost => {
                let who = Who { process: Some(to), peer: Some(from) };
                self.outbox
                    .tracer
                    .event(self.now, who, Kind::Lose, &[], || format!("from {from}: lost"));
            }
            Fate::Arrives { at, copy } => {
                if let Some(copy) = copy {
                    self.queue.push(copy, Event::Deliver { from, to, bytes: bytes.clone() });
                }
                self.queue.push(at, Event::Deliver { from, to, bytes });
            }
        }
    }

    /// Makes sure that the queue wakes the process no later than its deadline.
    #[inline]
    fn arm(&mut self, process: ProcessId, deadline: Option<u64>) {
        let Some(deadline) = deadline else { return };
        let now = self.now;
        let state = self.process(process);
        let at = state.clock.true_time(deadline).max(now);
        if at < state.timer_at {
            state.timer_at = at;
            self.queue.push(at, Event::Timer(process));
        }
    }

    async fn liveness(&mut self) {
        let begin = self.now;
        let limit = begin + self.config.liveness;
        while self.violation.is_none() {
            self.run_until((self.now + PROBE_INTERVAL).min(limit)).await;
            let took = (self.now - begin) / 1_000_000;
            match self.probe() {
                Ok(()) => {
                    let detail = format!("{took} ms after all faults were healed");
                    self.convergence = Some(Check::pass("convergence", detail));
                    return;
                }
                Err(missing) if self.now >= limit => {
                    let detail =
                        format!("not within {took} ms after all faults were healed: {missing}");
                    self.convergence = Some(Check::fail("convergence", detail));
                    return;
                }
                Err(_) => {}
            }
        }
    }

    /// Kills all servers: madsim does not drop the tasks of its nodes by itself.
    pub(crate) async fn shut_down(&self) {
        for server in 0..self.config.servers {
            self.lifecycle.kill(server).await;
        }
    }

    fn probe(&self) -> Result<(), String> {
        match &self.system {
            Some(system) => catch(|| system.converged(&self.world()))?,
            None => Err("the system is lent out".into()),
        }
    }

    /// All processes as they are.
    pub(crate) fn world(&self) -> World<'_, S> {
        World {
            now: self.now,
            is_complete: self.convergence.is_some(),
            servers: (0..self.config.servers).map(|index| self.lifecycle.slot(index)).collect(),
            clients: self.clients.iter().map(|(_, client)| client).collect(),
        }
    }
}

fn corrupted(bytes: &Bytes) -> Bytes {
    let mut bytes = bytes.to_vec();
    if let Some(first) = bytes.first_mut() {
        *first ^= 1;
    }
    bytes.into()
}
