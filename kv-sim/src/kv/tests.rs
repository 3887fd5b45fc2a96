//! One server's lives, step by step.

use kv_core::id::{NodeId, ShardId};

use super::replica::Replica;
use super::server::{Order, Server};
use super::{KvProtocol, KvSystem};
use crate::engine::{Boot, Input, Machine, Outbox, ProcessId, Rng, System, Tracer};
use crate::protocol::Protocol;
use crate::scenario::Scenario;

const SERVER: ProcessId = ProcessId::Server(0);

struct Life {
    server: Server,
    out: Outbox<super::Note>,
    now: u64,
}

impl Life {
    fn boot(system: &mut KvSystem, restart_count: u32, now: u64) -> Self {
        let mut life = Self::off(system, SERVER, restart_count, now);
        assert_eq!(life.applied(), 0, "memory starts empty");
        life.step(Input::Start);
        life
    }

    fn boot_on(system: &mut KvSystem, process: ProcessId, restart_count: u32, now: u64) -> Self {
        let mut life = Self::off(system, process, restart_count, now);
        life.step(Input::Start);
        life
    }

    /// A server before its first step.
    fn off(system: &mut KvSystem, process: ProcessId, restart_count: u32, now: u64) -> Self {
        let boot = Boot { process, restart_count, seed: 7 + u64::from(restart_count), now };
        let server = system.boot(boot).unwrap();
        let mut life = Self { server, out: Outbox::new(Tracer::new(None)), now };
        life.out.process = process;
        life
    }

    fn step(&mut self, input: Input) {
        self.server.handle(self.now, input, &mut self.out);
    }

    /// Ends all storage operations at once, and lets the next deadline come.
    fn advance(&mut self) {
        match self.out.ios.pop() {
            Some(io) => self.step(Input::IoDone(io.token)),
            None => {
                self.now = self.server.deadline().unwrap().max(self.now);
                self.step(Input::Timer);
            }
        }
    }

    fn replica(&self) -> &Replica {
        self.server.replica().unwrap()
    }

    fn applied(&self) -> u64 {
        self.replica().engine().applied(ShardId::META).index.0
    }

    fn last(&self) -> u64 {
        let shards = self.replica().node().status().shards;
        shards.first().map_or(0, |meta| meta.last.index.0)
    }
}

fn system() -> KvSystem {
    let scenario = Scenario::parse("[cluster]\nnodes = 1\nshards = 1", "one").unwrap();
    KvProtocol.system(&scenario, 1, None).unwrap()
}

#[test]
fn restarted_replica_holds_what_its_disk_held_and_nothing_else() {
    let mut system = system();
    let mut first = Life::boot(&mut system, 0, 0);
    assert_eq!(first.last(), 0, "an empty disk has no log");
    while first.applied() < 3 {
        first.advance();
    }
    let (applied, last) = (first.applied(), first.last());
    system.crash(SERVER, &mut first.server, &[], &mut Rng::fork(1, "crash", 0));
    let now = first.now;
    drop(first);

    let mut second = Life::boot(&mut system, 1, now);
    assert_eq!(second.last(), last, "the log came from the disk");
    while second.applied() < applied {
        second.advance();
    }
}

#[test]
fn append_whose_time_is_not_over_may_be_lost_and_was_told_to_nobody() {
    let mut lost = 0;
    for seed in 0..32 {
        let mut system = system();
        let mut life = Life::boot(&mut system, 0, 0);
        while life.last() == 0 {
            life.advance();
        }
        let io = life.out.ios[0];
        assert_eq!(life.applied(), 0, "the append of the first entry is on its way");
        let mut rng = Rng::fork(seed, "crash", 0);
        system.crash(SERVER, &mut life.server, &[io.token], &mut rng);
        lost += u32::from(Life::boot(&mut system, 1, life.now).last() == 0);
    }
    assert!((4..32).contains(&lost), "{lost} of 32 crashes lost the append");
}

/// The server that joins.
const SPARE: ProcessId = ProcessId::Server(1);

/// Lets two servers talk until something is so.
fn run(lives: &mut [Life; 2], until: impl Fn(&[Life; 2]) -> bool) {
    for _ in 0..10_000 {
        if until(lives) {
            return;
        }
        let mut sends = Vec::new();
        for (from, life) in lives.iter_mut().enumerate() {
            sends.extend(life.out.sends.drain(..).map(|(to, bytes)| (from as u16, to, bytes)));
        }
        let is_quiet = sends.is_empty();
        for (from, to, bytes) in sends {
            let ProcessId::Server(to) = to else { continue };
            let from = ProcessId::Server(from);
            lives[usize::from(to)].step(Input::Deliver { from, bytes });
        }
        if is_quiet {
            let due = |life: &&mut Life| match life.out.ios.is_empty() {
                true => life.server.deadline().unwrap_or(u64::MAX),
                false => 0,
            };
            lives.iter_mut().min_by_key(due).unwrap().advance();
        }
    }
    panic!("it never came to that");
}

#[test]
fn a_server_that_crashes_while_it_joins_gets_the_same_id_when_it_asks_again() {
    let scenario = "[cluster]\nnodes = 1\nspares = 1\nshards = 1";
    let scenario = Scenario::parse(scenario, "join").unwrap();
    let (mut stored, mut lost) = (0, 0);
    for seed in 0..32 {
        let mut system = KvProtocol.system(&scenario, 1, None).unwrap();
        let first = Life::boot(&mut system, 0, 0);
        let mut lives = [first, Life::boot_on(&mut system, SPARE, 0, 0)];
        assert!(lives[1].server.replica().is_none(), "a spare server runs no node");
        run(&mut lives, |lives| lives[0].applied() > 1);
        let order = Order::new(1, 7);
        lives[1].step(Input::Deliver { from: ProcessId::Client(0), bytes: order.encode() });
        system.after_server_step(step(SPARE), &lives[1].server, &mut lives[1].out.notes).unwrap();
        run(&mut lives, |lives| !lives[1].out.ios.is_empty());

        let tokens: Vec<_> = lives[1].out.ios.iter().map(|io| io.token).collect();
        let mut rng = Rng::fork(seed, "crash", 0);
        system.crash(SPARE, &mut lives[1].server, &tokens, &mut rng);
        let now = lives[1].now;
        let [first, crashed] = lives;
        drop(crashed);
        let mut lives = [first, Life::boot_on(&mut system, SPARE, 1, now)];
        let is_stored = lives[1].server.replica().is_some();
        (stored, lost) = (stored + u32::from(is_stored), lost + u32::from(!is_stored));
        run(&mut lives, |lives| lives[1].server.replica().is_some());
        let identity = lives[1].replica().node().identity();
        assert_eq!((identity.node, identity.incarnation), (NodeId(2), order.incarnation));
        assert_eq!(lives[0].replica().node().map().unwrap().members.len(), 2);
    }
    assert!(stored > 0 && lost > 0, "{stored} crashes came too late, {lost} in time");
}

#[test]
fn a_late_copy_of_an_order_costs_nobody_a_disk() {
    let scenario = "[cluster]\nnodes = 1\nspares = 1\nshards = 1";
    let scenario = Scenario::parse(scenario, "join").unwrap();
    let mut system = KvProtocol.system(&scenario, 1, None).unwrap();
    let first = Life::boot(&mut system, 0, 0);
    let mut lives = [first, Life::boot_on(&mut system, SPARE, 0, 0)];
    let order = |number| Input::Deliver {
        from: ProcessId::Client(0),
        bytes: Order::new(number, 7).encode(),
    };
    lives[1].step(order(2));
    run(&mut lives, |lives| lives[1].server.replica().is_some());
    for number in [1, 2] {
        lives[1].step(order(number));
        assert!(lives[1].server.replica().is_some(), "order {number} is an old one");
    }
    lives[1].step(order(3));
    assert!(lives[1].server.replica().is_none(), "a new order begins a new life");
    run(&mut lives, |lives| lives[1].server.replica().is_some());
    assert_eq!(lives[1].replica().node().identity().node, NodeId(3), "under an id of its own");
}

fn step(process: ProcessId) -> crate::engine::Step {
    crate::engine::Step { process, now: 0 }
}
