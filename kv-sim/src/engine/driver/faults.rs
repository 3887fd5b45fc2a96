//! How faults, and the end of them, are carried out.

use super::super::fault::{FaultEdge, FaultEvent, FaultKind, FaultSpec, Nemesis, Strike, View};
use super::*;

/// In a million: how many crashes end the connections of the process.
const CONNECTIONS_END_RATE: u32 = 750_000;

impl<S: System> Driver<'_, S> {
    pub(super) fn declare_faults(&mut self) {
        for spec in &self.config.faults {
            self.fault_counts.insert(spec.kind(), 0);
            let mut rng = Rng::fork(self.config.seed, "rates", spec.kind() as u64);
            let mut strike_at = |rate: u32, delay_max| MessageFault {
                rate: rng.between(u64::from(rate / 2), u64::from(rate)).max(1) as u32,
                delay_max,
                count: 0,
            };
            match *spec {
                FaultSpec::Loss { rate } => self.network.loss = strike_at(rate, 0),
                FaultSpec::Duplicate { rate, delay_max } => {
                    self.network.duplication = strike_at(rate, delay_max)
                }
                FaultSpec::Reorder { rate, delay_max } => {
                    self.network.reordering = strike_at(rate, delay_max)
                }
                _ => self.nemeses.extend(Nemesis::new(self.config.seed, spec)),
            }
        }
        for (index, nemesis) in self.nemeses.iter_mut().enumerate() {
            self.queue.push(self.now + nemesis.first(), Event::Wake(index));
        }
    }

    pub(super) fn wake_nemesis(&mut self, index: usize) {
        if self.healed {
            return;
        }
        let view = self.view();
        let nemesis = &mut self.nemeses[index];
        let kind = nemesis.kind();
        let (strike, pause) = nemesis.wake(&view);
        self.queue.push(self.now + pause, Event::Wake(index));
        let Some(strike) = strike else { return };
        self.strikes += 1;
        if self.config.probes.skip_strike != Some(self.strikes) {
            self.strike(kind, strike);
        }
    }

    fn strike(&mut self, kind: FaultKind, strike: Strike) {
        *self.fault_counts.entry(kind).or_default() += 1;
        self.lasting += u32::from(strike.lasts());
        self.tell_fault(&FaultEvent { kind, edge: FaultEdge::Begins, detail: strike.detail });
        self.pending.extend(strike.begin);
        for (delay, actions) in strike.later {
            self.queue.push(self.now + delay, Event::Act(actions));
        }
    }

    fn view(&self) -> View {
        let running: Vec<bool> =
            self.servers.iter().map(|server| server.up && !server.paused).collect();
        let leaders = self.system.as_ref().map(System::leaders).unwrap_or_default();
        let leaders = leaders.into_iter().filter_map(|leader| match leader {
            ProcessId::Server(index) if running[usize::from(index)] => Some(index),
            _ => None,
        });
        let leaders = leaders.collect();
        let is_member = |index| {
            let system = self.system.as_ref();
            system.is_none_or(|system| system.is_member(ProcessId::Server(index)))
        };
        let members = (0..self.config.servers).map(is_member).collect();
        let leader_crashed = self.fault_counts.contains_key(&FaultKind::LeaderCrash);
        View { running, members, leaders, clients: self.config.clients, leader_crashed }
    }

    fn tell_fault(&mut self, event: &FaultEvent) {
        self.lasting -= u32::from(event.edge == FaultEdge::Ends);
        let text = format!("{} {}: {}", event.kind, event.edge, event.detail);
        self.outbox
            .tracer
            .event(self.now, Who::WORLD, Kind::Fault, text.as_bytes(), || text.clone());
        if let Some(system) = &mut self.system {
            system.on_fault(self.now, event, self.lasting);
        }
    }

    pub(super) async fn act(&mut self, action: Action) {
        match action {
            Action::Crash(server) => self.crash(server).await,
            Action::Restart(server) => self.start(server).await,
            Action::Pause(server) => self.pause(server),
            Action::Resume(server) => self.resume(server),
            Action::Cut(links) => self.network.cut(&links),
            Action::Mend(links) => self.network.mend(&links),
            Action::Delay(links, extra) => self.network.delay(&links, extra),
            Action::Hasten(links, extra) => self.network.hasten(&links, extra),
            Action::Rot(server) => self.rot(server),
            Action::Fill(server) => self.set_full(server, true),
            Action::MakeRoom(server) => self.set_full(server, false),
            Action::Misapply(server) => self.misapply(server),
            Action::Slow(server, extra) => self.slow(server, extra, true),
            Action::Quicken(server, extra) => self.slow(server, extra, false),
            Action::Drift(server, ppm) => self.set_clock(server, |clock, now| {
                clock.set_drift(now, i64::from(ppm) * 1_000);
            }),
            Action::Freeze(server) => self.set_clock(server, Clock::freeze),
            Action::Thaw(server, catches_up) => {
                self.set_clock(server, |clock, now| clock.thaw(now, catches_up));
            }
            Action::Leap(server, ahead) => {
                self.set_clock(server, |clock, now| clock.leap(now, ahead));
            }
            Action::Tell(event) => self.tell_fault(&event),
        }
    }

    fn slow(&mut self, server: u16, extra: u64, is_slow: bool) {
        let disk = &mut self.servers[usize::from(server)].disk;
        if is_slow {
            disk.slow(extra)
        } else {
            disk.quicken(extra)
        }
        if let Some(system) = &mut self.system {
            system.set_slow(self.now, ProcessId::Server(server), is_slow);
        }
    }

    /// Changes a clock, and wakes its process when the changed clock says so.
    fn set_clock(&mut self, server: u16, change: impl FnOnce(&mut Clock, u64)) {
        let state = &mut self.servers[usize::from(server)];
        change(&mut state.process.clock, self.now);
        let process = ProcessId::Server(server);
        if state.up && !state.paused {
            self.arm(process, self.deadline(process));
        }
    }

    fn rot(&mut self, server: u16) {
        let process = ProcessId::Server(server);
        let Some(system) = &mut self.system else { return };
        let what = system.rot(process, &mut self.crash_rng).unwrap_or_else(|| "nothing".into());
        let text = format!("rotten: {what}");
        self.outbox
            .tracer
            .event(self.now, process.into(), Kind::Fault, text.as_bytes(), || text.clone());
    }

    fn misapply(&mut self, server: u16) {
        let mut slot = self.lifecycle.slot(server);
        if let (Some(system), Some(machine)) = (&mut self.system, slot.as_mut()) {
            system.misapply(machine);
        }
    }

    fn set_full(&mut self, server: u16, is_full: bool) {
        if let Some(system) = &mut self.system {
            system.set_full(ProcessId::Server(server), is_full, &mut self.crash_rng);
        }
    }

    async fn crash(&mut self, server: u16) {
        let process = ProcessId::Server(server);
        let state = &mut self.servers[usize::from(server)];
        if !state.up {
            return;
        }
        state.up = false;
        state.paused = false;
        state.deferred.clear();
        state.process.timer_at = u64::MAX;
        let in_flight = state.disk.crash(self.now);
        let Some(mut system) = self.system.take() else { return };
        if system.leaders().contains(&process) {
            *self.fault_counts.entry(FaultKind::LeaderCrash).or_default() += 1;
        }
        let rng = &mut self.crash_rng;
        let result = catch(|| {
            let mut slot = self.lifecycle.slot(server);
            if let Some(machine) = slot.as_mut() {
                system.crash(process, machine, &in_flight, rng);
            }
        });
        self.system = Some(system);
        if let Err(panic) = result {
            let detail = format!("{process} at its crash: {panic}");
            self.violation.get_or_insert(Violation { check: "panic", detail });
        }
        self.lifecycle.kill(server).await;
        // The operating system ends the connections of a process that dies, but not of one that
        // loses its power.
        if self.link_rng.chance(CONNECTIONS_END_RATE) {
            self.tell_link(process, false);
        }
    }

    /// Tells all others that their connections to `peer` broke off or stand again, after a latency.
    fn tell_link(&mut self, peer: ProcessId, is_up: bool) {
        let servers = (0..self.config.servers).map(ProcessId::Server);
        let clients = (0..self.config.clients).map(ProcessId::Client);
        for to in servers.chain(clients).filter(|to| *to != peer) {
            if let Fate::Arrives { at, .. } = self.network.send(self.now, peer, to) {
                self.queue.push(at, Event::Link { to, peer, is_up });
            }
        }
    }

    /// Starts a life of a server that is down.
    pub(super) async fn start(&mut self, server: u16) {
        let process = ProcessId::Server(server);
        let now = self.now;
        let state = &mut self.servers[usize::from(server)];
        let Some(system) = (!state.up).then(|| self.system.take()).flatten() else { return };
        let restart_count = state.life_count;
        let life = u64::from(server) << 32 | u64::from(restart_count);
        let seed = fork_seed(self.config.seed, "server", life);
        let boot = Boot { process, restart_count, seed, now: state.process.clock.local(now) };
        let (system, result) = self.lifecycle.start(server, system, boot).await;
        self.system = Some(system);
        if let Err(violation) = result {
            self.violation.get_or_insert(violation);
            return;
        }
        let state = &mut self.servers[usize::from(server)];
        state.up = true;
        state.life_count += 1;
        let life = restart_count.to_le_bytes();
        self.outbox.tracer.event(now, process.into(), Kind::Start, &life, || {
            format!("life {}", restart_count + 1)
        });
        self.step_server(server, Input::Start);
        if restart_count > 0 {
            self.tell_link(process, true);
        }
    }

    fn pause(&mut self, server: u16) {
        let state = &mut self.servers[usize::from(server)];
        if state.up && !state.paused {
            state.paused = true;
            self.lifecycle.pause(server);
        }
    }

    fn resume(&mut self, server: u16) {
        let state = &mut self.servers[usize::from(server)];
        if !state.paused {
            return;
        }
        state.paused = false;
        for event in state.deferred.drain(..) {
            self.queue.push(self.now, event);
        }
        self.lifecycle.resume(server);
        let process = ProcessId::Server(server);
        self.arm(process, self.deadline(process));
    }

    /// Ends all faults: links work, disks are fast, clocks are right, servers run.
    pub(super) async fn heal(&mut self) {
        self.healed = true;
        self.pending.clear();
        self.network.heal();
        for server in 0..self.config.servers {
            self.set_full(server, false);
            self.servers[usize::from(server)].disk.heal();
            self.set_clock(server, Clock::heal);
            self.resume(server);
            self.start(server).await;
        }
        self.outbox.tracer.event(self.now, Who::WORLD, Kind::Phase, &[], || {
            "liveness: all faults are healed".into()
        });
        for client in 0..self.config.clients {
            if self.violation.is_none() {
                self.step_client(client, Input::Phase(Phase::Liveness));
            }
        }
    }
}
