//! One server's lives, step by step.

use kv_core::id::ShardId;

use super::server::Server;
use super::{KvProtocol, KvSystem};
use crate::engine::{Boot, Input, Machine, Outbox, ProcessId, Rng, System, Tracer};
use crate::protocol::Protocol;
use crate::scenario::Scenario;

const SERVER: ProcessId = ProcessId::Server(0);

struct Life {
    replica: Server,
    out: Outbox<super::Note>,
    now: u64,
}

impl Life {
    fn boot(system: &mut KvSystem, restart_count: u32, now: u64) -> Self {
        let boot = Boot { process: SERVER, restart_count, seed: 7 + u64::from(restart_count), now };
        let replica = system.boot(boot).unwrap();
        assert_eq!(replica.engine().applied(ShardId::META).index.0, 0, "memory starts empty");
        let mut life = Self { replica, out: Outbox::new(Tracer::new(None)), now };
        life.step(Input::Start);
        life
    }

    fn step(&mut self, input: Input) {
        self.replica.handle(self.now, input, &mut self.out);
    }

    /// Ends all storage operations at once, and lets the next deadline come.
    fn advance(&mut self) {
        match self.out.ios.pop() {
            Some(io) => self.step(Input::IoDone(io.token)),
            None => {
                self.now = self.replica.deadline().unwrap().max(self.now);
                self.step(Input::Timer);
            }
        }
    }

    fn applied(&self) -> u64 {
        self.replica.engine().applied(ShardId::META).index.0
    }

    fn last(&self) -> u64 {
        let shards = self.replica.node().status().shards;
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
    while first.applied() < 2 {
        first.advance();
    }
    let (applied, last) = (first.applied(), first.last());
    system.crash(SERVER, &mut first.replica, &[], &mut Rng::fork(1, "crash", 0));
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
        system.crash(SERVER, &mut life.replica, &[io.token], &mut rng);
        lost += u32::from(Life::boot(&mut system, 1, life.now).last() == 0);
    }
    assert!((4..32).contains(&lost), "{lost} of 32 crashes lost the append");
}
