//! What would go wrong: a crash while a shard is replaced or removed that leaves a mix of old and
//! new, touches another shard, or makes a node take a log for damaged that is merely behind; or a
//! replica that comes back and has forgotten its vote.

use kv_core::id::{LogIndex, RequestId, SessionId, Term, Timestamp};
use kv_core::machine::{Command, SnapshotChunk};
use kv_core::op::{Found, Key, Value, WriteOp};
use kv_core::storage::{HardState, InstalledState, SnapshotId};

use super::world::small_options;
use super::*;
use crate::log::LogGroup;
use crate::mutants::Mutants;
use crate::store::recovered::{Held, join};

const SHARD: ShardId = ShardId(1);
const OTHER: ShardId = ShardId(2);
/// The last entry of the snapshot.
const LAST: LogId = LogId::new(2, 60);

fn put(id: LogId, of: &str) -> Entry {
    // Large, so that the snapshot has more than one chunk of rows.
    let size = if of == "new" { 7_000 } else { 60 };
    let session = SessionId { opened_ts: Timestamp(1), nonce: 7 };
    let request = RequestId { session, sequence: id.index.0, acked_below: id.index.0 };
    let key = Key::new(format!("key{}", id.index.0 % 40));
    let value = Value::string(format!("{of}{}{}", id.index.0, "-".repeat(size)));
    let (op, commit_ts) = (WriteOp::Put { key, value }, Timestamp(id.index.0));
    let payload = Command::Write { request, op, commit_ts }.encode().into();
    Entry { id, payload }
}

/// The snapshot, and what the shard then holds.
struct Source {
    id: SnapshotId,
    chunks: Vec<SnapshotChunk>,
    state: State,
}

/// What an engine says of a shard.
type State = (LogId, u64, Vec<(Key, Found)>);

fn state_of(engine: &Engine, shard: ShardId) -> State {
    (engine.applied(shard), engine.state_hash(shard), engine.scan(shard).unwrap())
}

fn source() -> Source {
    let disk = SimDisk::new();
    let mut engine = Engine::open(Arc::new(disk), TreeOptions::new(3)).unwrap();
    let log: Vec<_> = (1..=LAST.index.0).map(|it| put(LogId::new(2, it), "new")).collect();
    engine.apply(SHARD, &log);
    let StorageReply::SnapshotOpened { id } = engine.open_snapshot(SHARD, 5) else { panic!() };
    let mut chunks: Vec<SnapshotChunk> = Vec::new();
    while chunks.last().is_none_or(|chunk| !chunk.is_last) {
        match engine.read_snapshot(id, chunks.len() as u64) {
            StorageReply::SnapshotRead { chunk, .. } => chunks.push(chunk.unwrap()),
            other => panic!("not read: {other:?}"),
        }
    }
    Source { id, chunks, state: state_of(&engine, SHARD) }
}

/// How the log of the receiver stands to the snapshot.
#[derive(Clone, Copy, Debug)]
enum Receiver {
    /// It ends before.
    Behind,
    /// It holds other entries there.
    Contradicts,
    /// It has nothing at all.
    Empty,
}

/// How far a run came.
#[derive(Debug, Default)]
struct Progress {
    is_prepared: bool,
    is_install_asked: bool,
    is_installed: bool,
    is_complete: bool,
}

const HARD_STATE: HardState = HardState {
    term: Term(7),
    vote: Some(NodeId(3)),
    commit: LogIndex(0),
    life: 0,
    quarantine: 0,
    forgotten: LogId { term: Term(0), index: LogIndex(0) },
};

fn open_with(disk: &SimDisk, mutants: Mutants) -> Option<Opened> {
    open(Arc::new(disk.clone()), small_options(mutants)).ok()
}

fn append_to(log: &mut Log, shard: ShardId, entries: &[Entry]) -> Option<()> {
    let write = GroupWrite { shard, hard_state: Some(HARD_STATE), entries: entries.to_vec() };
    log.append(&[Append { id: AppendId(1), writes: vec![write] }]).ok().map(drop)
}

/// The entries that a receiver has of the shard, and how many are applied.
fn old_log(receiver: Receiver) -> (Vec<Entry>, usize) {
    let log = |count| (1..=count).map(|index| put(LogId::new(1, index), "old")).collect();
    match receiver {
        Receiver::Behind => (log(30), 20),
        Receiver::Contradicts => (log(80), 20),
        Receiver::Empty => (Vec::new(), 0),
    }
}

fn other_log() -> Vec<Entry> {
    (1..=40).map(|index| put(LogId::new(1, index), "other")).collect()
}

fn new_entries() -> Vec<Entry> {
    (LAST.index.0 + 1..=LAST.index.0 + 3).map(|index| put(LogId::new(2, index), "next")).collect()
}

fn flush(engine: &mut Engine) -> Option<()> {
    engine.flush().ok()?;
    engine.damage().is_none().then_some(())
}

/// Works until a reply comes.
fn work_until(engine: &mut Engine, reply: &StorageReply) -> Option<()> {
    for _ in 0..10_000 {
        if engine.work().ok()?.contains(reply) {
            return Some(());
        }
        engine.damage().is_none().then_some(())?;
    }
    panic!("{reply:?} does not come");
}

/// Stages, installs and releases, while another shard goes on, until the disk fails.
fn run(
    disk: &SimDisk,
    source: &Source,
    receiver: Receiver,
    mutants: Mutants,
    progress: &mut Progress,
) -> Option<()> {
    let Opened { mut log, mut engine, .. } = open_with(disk, mutants)?;
    let (old, applied_count) = old_log(receiver);
    let other = other_log();
    append_to(&mut log, SHARD, &old)?;
    append_to(&mut log, OTHER, &other)?;
    engine.apply(SHARD, &old[..applied_count]);
    engine.apply(OTHER, &other[..10]);
    flush(&mut engine)?;
    progress.is_prepared = true;
    let mut rest = other[10..].chunks(4);
    for (sequence, chunk) in (0..).zip(&source.chunks) {
        let id = source.id;
        let staged = StorageReply::ChunkStaged { id, sequence, result: Ok(()) };
        let reply = engine.stage_chunk(id, sequence, chunk);
        // A disk without power seems damaged.
        engine.damage().is_none().then_some(())?;
        assert_eq!(reply, staged);
        engine.apply(OTHER, rest.next().unwrap());
        for _ in 0..3 {
            engine.work().ok()?;
        }
    }
    progress.is_install_asked = true;
    if engine.install_snapshot(source.id).is_some() {
        return None;
    }
    engine.apply(OTHER, rest.next().unwrap());
    work_until(
        &mut engine,
        &StorageReply::SnapshotInstalled { id: source.id, state: InstalledState::default() },
    )?;
    progress.is_installed = true;
    engine.apply(OTHER, rest.next().unwrap());
    log.release(&[(SHARD, LAST)].into()).ok()?;
    let new = new_entries();
    append_to(&mut log, SHARD, &new)?;
    engine.apply(SHARD, &new);
    flush(&mut engine)?;
    progress.is_complete = true;
    Some(())
}

/// The state of a shard that has applied the first entries of a log.
fn state_at(shard: ShardId, log: &[Entry], index: LogIndex) -> State {
    let mut engine = Engine::open(Arc::new(SimDisk::new()), TreeOptions::new(3)).unwrap();
    if index > LogIndex::default() {
        engine.apply(shard, &log[..index.0 as usize]);
    }
    state_of(&engine, shard)
}

/// What a crash left must be the shard as it was, or as it is after the installation.
fn check_crashed(
    disk: &SimDisk,
    source: &Source,
    receiver: Receiver,
    mutants: Mutants,
    progress: &Progress,
) {
    let mut opened = open_with(disk, mutants).expect("what a crash leaves can be opened");
    assert_eq!(opened.recovered.damage, None);
    let other = state_of(&opened.engine, OTHER);
    assert_eq!(other, state_at(OTHER, &other_log(), other.0.index), "another shard is whole");
    assert!(!progress.is_prepared || other.0.index >= LogIndex(10));
    let found = state_of(&opened.engine, SHARD);
    let (old, applied_count) = old_log(receiver);
    let group = opened.recovered.groups.get(&SHARD).cloned().unwrap_or_default();
    if progress.is_prepared {
        let HardState { term, vote, .. } = group.hard_state;
        assert_eq!((term, vote), (HARD_STATE.term, HARD_STATE.vote), "votes are kept");
    }
    if found.0.term == LAST.term {
        assert!(progress.is_install_asked);
        let is_first = found == source.state;
        assert!(is_first || found.0.index == LogIndex(LAST.index.0 + 3), "at {}", found.0);
        assert_eq!(group.floor, LAST);
        assert!(group.entries.iter().eq(&new_entries()[..group.entries.len()]));
    } else {
        assert!(!progress.is_installed, "what was answered is durable");
        let is_whole = !progress.is_prepared || found.0.index.0 as usize == applied_count;
        assert!(is_whole, "neither old nor new, but {}", found.0);
        assert_eq!(found, state_at(SHARD, &old, found.0.index));
        assert!(!progress.is_prepared || group.entries == old);
    }
    go_on(&mut opened, &group);
    drop(opened);
    let opened = open_with(disk, mutants).unwrap();
    assert_eq!(opened.recovered.damage, None);
    assert_eq!(opened.recovered.groups[&SHARD].floor, group.floor);
}

/// The next entry can be appended, and everything comes to rest.
fn go_on(opened: &mut Opened, group: &kv_core::storage::RecoveredGroup) {
    let last = group.entries.last().map_or(group.floor, |entry| entry.id);
    let next = put(LogId { term: Term(9), index: last.index.next() }, "more");
    append_to(&mut opened.log, SHARD, &[next]).unwrap();
    for _ in 0..10_000 {
        opened.engine.work().unwrap();
    }
    assert!(!opened.engine.is_work_due());
}

/// Crashes before and after every call. Returns how often, and how often the new state was found
/// though it was not answered.
fn crash_everywhere(receiver: Receiver, outcomes: u64, mutants: Mutants) -> u64 {
    let source = source();
    assert!(source.chunks.len() > 2, "{} chunks", source.chunks.len());
    let disk = SimDisk::new();
    let mut progress = Progress::default();
    run(&disk, &source, receiver, mutants, &mut progress).unwrap();
    let calls = disk.counters().calls;
    let mut points = 0;
    for succeed in 0..=calls {
        for outcome in 0..outcomes {
            let disk = SimDisk::new();
            let mut progress = Progress::default();
            disk.fail_from_call(succeed);
            run(&disk, &source, receiver, mutants, &mut progress);
            assert_eq!(progress.is_complete, succeed == calls);
            disk.crash(&mut Rng::fork(outcome, "crash"));
            check_crashed(&disk, &source, receiver, mutants, &progress);
            points += 1;
        }
    }
    points
}

#[test]
fn rule_b37_crash_at_every_call_leaves_the_old_or_the_new_state() {
    let mut points = 0;
    for receiver in [Receiver::Behind, Receiver::Contradicts, Receiver::Empty] {
        points += crash_everywhere(receiver, scaled(4, 16), Mutants::NONE);
    }
    println!("{points} crashes");
    assert!(points > 2_000, "only {points} crashes");
}

/// The check that finds an installation in two steps.
pub(super) fn install_check(mutants: Mutants) {
    crash_everywhere(Receiver::Behind, 1, mutants);
}

/// Removes a shard, and goes as far as the disk lets it. Returns whether that was answered.
fn remove(disk: &SimDisk) -> Option<bool> {
    let Opened { mut log, mut engine, .. } = open_with(disk, Mutants::NONE)?;
    let (old, _) = old_log(Receiver::Behind);
    append_to(&mut log, SHARD, &old)?;
    engine.apply(SHARD, &old);
    flush(&mut engine)?;
    log.release(&[(SHARD, old[9].id)].into()).ok()?;
    engine.remove_shard(SHARD);
    work_until(&mut engine, &StorageReply::ShardRemoved { shard: SHARD })?;
    if log.release(&[(SHARD, LogId::default())].into()).is_err() {
        return Some(false);
    }
    append_to(&mut log, SHARD, &[put(LogId::new(8, 1), "anew")]).map(|()| true)
}

#[test]
fn removed_shard_keeps_its_hard_state_over_a_crash_at_every_call() {
    let disk = SimDisk::new();
    assert_eq!(remove(&disk), Some(true));
    let mut met = [0; 3];
    for succeed in 0..=disk.counters().calls {
        for outcome in 0..scaled(4, 16) {
            let disk = SimDisk::new();
            disk.fail_from_call(succeed);
            let answered = remove(&disk);
            disk.crash(&mut Rng::fork(outcome, "crash"));
            let opened = open_with(&disk, Mutants::NONE).unwrap();
            assert_eq!(opened.recovered.damage, None);
            let Some(group) = opened.recovered.groups.get(&SHARD) else {
                assert_eq!(answered, None);
                continue;
            };
            assert_eq!(group.hard_state.vote, HARD_STATE.vote, "after {succeed} calls");
            assert_eq!(group.hard_state.term, HARD_STATE.term);
            let applied = opened.engine.applied(SHARD);
            let kind = match (applied.index.0, group.floor.index.0, group.entries.len()) {
                (_, _, 30 | 20) => 0,
                (0, 0, 0) => 1,
                (0, 0, 1) => 2,
                other => panic!("{other:?} after {succeed} calls"),
            };
            assert!(answered.is_none() || kind > 0);
            assert!(answered != Some(true) || kind == 2, "what was appended anew is there");
            met[kind] += 1;
        }
    }
    assert!(met.iter().all(|count| *count > 0), "{met:?}");
}

/// A directory in which the tree was told, and the log was not.
fn untold(is_removed: bool) -> SimDisk {
    let disk = SimDisk::new();
    let Opened { mut log, mut engine, .. } = open_with(&disk, Mutants::NONE).unwrap();
    let (old, _) = old_log(Receiver::Behind);
    append_to(&mut log, SHARD, &old).unwrap();
    engine.apply(SHARD, &old);
    engine.flush().unwrap();
    log.release(&[(SHARD, old[9].id)].into()).unwrap();
    if is_removed {
        engine.remove_shard(SHARD);
    } else {
        let source = source();
        for (sequence, chunk) in (0..).zip(&source.chunks) {
            engine.stage_chunk(source.id, sequence, chunk);
        }
        engine.install_snapshot(source.id);
    }
    engine.flush().unwrap();
    disk
}

/// It is no damage, and the doctor says what the next start does.
#[test]
fn doctor_understands_what_the_log_was_not_told() {
    for (is_removed, what) in [
        (false, "the log of s1 does not hold the entries that were applied"),
        (true, "the log of s1 holds entries, but its applied state was removed"),
    ] {
        let disk = untold(is_removed);
        let report = crate::doctor::check(Arc::new(disk.clone())).unwrap();
        let found: Vec<_> = report.findings.iter().map(|finding| &finding.what[..]).collect();
        assert_eq!(found, [what]);
        let applied = if is_removed { LogId::default() } else { LAST };
        assert_eq!(report.groups[&SHARD].applied, Some(applied));
        drop(open_with(&disk, Mutants::NONE).unwrap());
        let report = crate::doctor::check(Arc::new(disk)).unwrap();
        assert_eq!((report.findings, report.groups[&SHARD].floor), (Vec::new(), applied));
    }
}

/// `7@3` is index 7 of term 3.
fn id(text: &str) -> LogId {
    let (index, term) = text.split_once('@').unwrap();
    LogId::new(term.parse().unwrap(), index.parse().unwrap())
}

/// What a log with these entries behind `floor` comes to: `floor: last`, or none if it is damage.
fn joined(log: (&str, &[&str]), held: Held) -> Option<String> {
    let entry = |text: &&str| Entry { id: id(text), payload: Command::Noop.encode().into() };
    let entries = log.1.iter().map(entry).collect();
    let log = LogGroup { hard_state: HARD_STATE, floor: id(log.0), entries };
    let joined = join([(SHARD, log)].into(), &[(SHARD, held)].into(), Mutants::NONE).ok()?;
    let group = &joined.groups[&SHARD];
    assert_eq!(group.hard_state.vote, HARD_STATE.vote);
    let last = group.entries.last().map_or(group.floor, |entry| entry.id);
    let is_reset = joined.resets.get(&SHARD).map(|floor| {
        assert_eq!(*floor, group.floor);
        "reset to "
    });
    Some(format!("{}{}: {last}", is_reset.unwrap_or_default(), group.floor))
}

#[track_caller]
fn installed(log: (&str, &[&str]), installed: &str, applied: &str, expected: Option<&str>) {
    let held = Held { applied: id(applied), installed: id(installed), is_removed: false };
    assert_eq!(joined(log, held).as_deref(), expected);
}

#[test]
fn log_that_was_not_told_of_an_installed_state_is_reset() {
    let reset = Some("reset to 5@2: 5@2");
    installed(("0@0", &[]), "5@2", "5@2", reset);
    installed(("0@0", &["1@1", "2@1"]), "5@2", "5@2", reset);
    installed(("3@1", &["4@1"]), "5@2", "5@2", reset);
    installed(("3@1", &["4@1", "5@1", "6@1"]), "5@2", "5@2", reset);
}

#[test]
fn log_that_was_told_of_an_installed_state_or_holds_it_is_kept() {
    installed(("5@2", &[]), "5@2", "5@2", Some("5@2: 5@2"));
    installed(("5@2", &["6@2"]), "5@2", "6@2", Some("5@2: 6@2"));
    installed(("3@2", &["4@2", "5@2", "6@2"]), "5@2", "5@2", Some("3@2: 6@2"));
    installed(("3@2", &["4@2", "5@2", "6@2"]), "5@2", "6@2", Some("3@2: 6@2"));
}

#[test]
fn log_that_lost_its_end_behind_an_installed_state_is_damage() {
    installed(("5@2", &[]), "5@2", "6@2", None);
    installed(("5@2", &["6@2"]), "5@2", "8@2", None);
    installed(("3@2", &["4@2", "5@2"]), "5@2", "6@2", None);
    // Nothing behind the installed state was applied before the log was told.
    installed(("3@1", &["4@1"]), "5@2", "6@2", None);
    installed(("3@1", &["4@1", "5@1", "6@1"]), "5@2", "6@2", None);
    installed(("6@2", &[]), "5@2", "5@2", None);
}

#[test]
fn log_of_a_removed_shard_is_reset_if_it_has_a_floor() {
    let held = Held { is_removed: true, ..Held::default() };
    assert_eq!(joined(("3@1", &["4@1"]), held).as_deref(), Some("reset to 0@0: 0@0"));
    assert_eq!(joined(("3@1", &[]), held).as_deref(), Some("reset to 0@0: 0@0"));
    assert_eq!(joined(("0@0", &["1@1"]), held).as_deref(), Some("0@0: 1@1"));
    assert_eq!(joined(("0@0", &[]), held).as_deref(), Some("0@0: 0@0"));
    assert_eq!(joined(("3@1", &["4@1"]), Held::default()), None, "nobody removed it");
}
