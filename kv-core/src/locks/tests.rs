//! The rules one by one, and then all of them against a model that goes through lists.
//!
//! What would go wrong: two writers of one key, a phantom, a lost wakeup (a waiter that nothing
//! holds up waits for ever), a writer that readers starve, or a deadlock that the graph hides.

use alloc::vec;

use proptest::prelude::*;
use proptest::sample::Index;

use super::LockMode::{Exclusive, Shared};
use super::*;

/// The keys of all tests.
const KEYS: [char; 5] = ['a', 'b', 'c', 'd', 'e'];
/// The owners of the property test.
const OWNERS: u8 = 5;

fn key(name: char) -> Key {
    Key::new(vec![name as u8])
}

fn point(name: char) -> Target {
    Target::Key(key(name))
}

/// The range from `start` to before `end`; `~` is the end of everything.
fn range(start: char, end: char) -> Target {
    Target::Range(KeyRange { start: key(start), end: (end != '~').then(|| key(end)) })
}

#[track_caller]
fn check_waits(table: &LockTable<u8>, expected: &[(u8, u8)]) {
    assert_eq!(table.edges().collect::<Vec<_>>(), expected);
}

#[test]
fn readers_share_and_a_writer_waits_for_all_of_them() {
    let mut table = LockTable::default();
    assert_eq!(table.acquire(1, point('a'), Shared), Acquire::Granted);
    assert_eq!(table.acquire(2, point('a'), Shared), Acquire::Granted);
    assert_eq!(table.acquire(3, point('a'), Exclusive), Acquire::Waiting);
    check_waits(&table, &[(3, 1), (3, 2)]);
    table.release(1);
    assert_eq!(table.take_granted(), []);
    table.release(2);
    assert_eq!(table.take_granted(), [(3, point('a'))]);
    assert!(table.holds(3, &point('a'), Exclusive));
    assert!(!table.is_waiting(3));
}

#[test]
fn a_reader_does_not_overtake_a_writer_that_waits() {
    let mut table = LockTable::default();
    table.acquire(1, point('a'), Shared);
    table.acquire(2, point('a'), Exclusive);
    assert_eq!(table.acquire(3, point('a'), Shared), Acquire::Waiting);
    assert_eq!(table.acquire(4, range('a', 'c'), Shared), Acquire::Waiting);
    check_waits(&table, &[(2, 1), (3, 2), (4, 2)]);
    table.cancel_waiting(2);
    assert_eq!(table.take_granted(), [(3, point('a')), (4, range('a', 'c'))]);
    assert!(table.owners().eq([1, 3, 4]));
}

#[test]
fn a_range_keeps_others_from_writing_keys_that_do_not_exist() {
    let mut table = LockTable::default();
    assert_eq!(table.acquire(1, range('b', 'd'), Shared), Acquire::Granted);
    assert_eq!(table.acquire(2, point('a'), Exclusive), Acquire::Granted);
    assert_eq!(table.acquire(2, point('d'), Exclusive), Acquire::Granted, "the end is not in it");
    assert_eq!(table.acquire(2, point('c'), Shared), Acquire::Granted);
    assert_eq!(table.acquire(3, point('b'), Exclusive), Acquire::Waiting);
    assert!(!table.begin_write(&key('c')));
    assert!(table.begin_write(&key('e')));
    assert_eq!(table.acquire(4, range('e', '~'), Shared), Acquire::Waiting);
    check_waits(&table, &[(3, 1)]);
}

#[test]
fn an_upgrade_goes_before_those_who_queue() {
    let mut table = LockTable::default();
    table.acquire(1, point('a'), Shared);
    table.acquire(2, point('a'), Shared);
    table.acquire(3, point('a'), Exclusive);
    table.acquire(4, point('a'), Shared);
    assert_eq!(table.acquire(1, point('a'), Exclusive), Acquire::Waiting);
    check_waits(&table, &[(1, 2), (3, 1), (3, 2), (4, 1), (4, 3)]);
    table.release(2);
    assert_eq!(table.take_granted(), [(1, point('a'))]);
    table.release(1);
    assert_eq!(table.take_granted(), [(3, point('a'))]);
}

#[test]
fn two_upgrades_of_one_key_are_a_deadlock_that_the_graph_shows() {
    let mut table = LockTable::default();
    table.acquire(1, point('a'), Shared);
    table.acquire(2, point('a'), Shared);
    table.acquire(1, point('a'), Exclusive);
    table.acquire(2, point('a'), Exclusive);
    check_waits(&table, &[(1, 2), (2, 1)]);
    let cycles = crate::deadlock::find_victims(table.edges(), |owner| owner);
    assert_eq!(cycles.len(), 1);
    table.release(cycles[0].victim);
    assert_eq!(table.take_granted(), [(1, point('a'))]);
}

#[test]
fn nobody_queues_behind_one_that_waits_for_it() {
    let mut table = LockTable::default();
    table.acquire(1, point('a'), Shared);
    table.acquire(2, range('a', 'c'), Exclusive);
    assert_eq!(table.acquire(1, range('a', '~'), Shared), Acquire::Granted);
    assert_eq!(table.acquire(3, point('b'), Shared), Acquire::Waiting, "it has no such reason");
    check_waits(&table, &[(2, 1), (3, 2)]);
}

#[test]
fn an_owner_does_not_wait_for_itself() {
    let mut table = LockTable::default();
    table.acquire(1, range('a', 'c'), Exclusive);
    assert_eq!(table.acquire(1, point('b'), Shared), Acquire::Granted);
    assert_eq!(table.acquire(1, range('b', 'd'), Exclusive), Acquire::Granted);
    table.acquire(2, point('d'), Exclusive);
    assert_eq!(table.acquire(1, point('d'), Shared), Acquire::Waiting);
    assert_eq!(table.acquire(1, point('d'), Exclusive), Acquire::Waiting);
    assert_eq!(table.acquire(1, point('d'), Exclusive), Acquire::Waiting, "asked for again");
    check_waits(&table, &[(1, 2)]);
    table.release(2);
    assert_eq!(table.take_granted(), [(1, point('d')), (1, point('d'))]);
}

#[test]
fn a_lock_waits_for_writes_in_flight_and_bars_later_ones() {
    let mut table = LockTable::default();
    assert!(table.begin_write(&key('a')));
    assert!(table.begin_write(&key('a')), "they do not wait for one another");
    assert_eq!(table.acquire(1, range('a', 'b'), Shared), Acquire::Waiting);
    check_waits(&table, &[]);
    assert!(!table.begin_write(&key('a')));
    table.end_write(&key('a'));
    assert_eq!(table.take_granted(), []);
    table.end_write(&key('a'));
    assert_eq!(table.take_granted(), [(1, range('a', 'b'))]);
}

#[test]
fn who_lets_go_before_it_is_told_is_not_told() {
    let mut table = LockTable::default();
    table.acquire(1, point('a'), Exclusive);
    table.acquire(2, point('a'), Exclusive);
    table.release(1);
    table.release(2);
    assert_eq!(table.take_granted(), []);
    assert!(table.is_free(&key('a')));
}

#[test]
fn an_empty_range_needs_no_lock() {
    let mut table = LockTable::default();
    table.acquire(1, range('a', '~'), Exclusive);
    assert_eq!(table.acquire(2, range('b', 'b'), Exclusive), Acquire::Granted);
    assert_eq!(table.acquire(2, range('c', 'b'), Exclusive), Acquire::Granted);
    assert!(table.owners().eq([1]));
}

#[test]
fn too_many_claims_are_refused() {
    let mut table = LockTable::default();
    let waiters = u32::try_from(WAITERS_PER_KEY_MAX).unwrap();
    for owner in 0..=waiters {
        let expected = if owner == 0 { Acquire::Granted } else { Acquire::Waiting };
        assert_eq!(table.acquire(owner, point('a'), Exclusive), expected);
    }
    assert_eq!(table.acquire(waiters + 1, point('a'), Exclusive), Acquire::Full);
    assert!(!table.is_waiting(waiters + 1));
    table.release(1);
    assert_eq!(table.acquire(waiters + 1, point('a'), Exclusive), Acquire::Waiting);

    let mut table = LockTable::default();
    for owner in 0..RANGES_MAX {
        assert_eq!(table.acquire(owner, range('a', 'b'), Shared), Acquire::Granted);
    }
    assert_eq!(table.acquire(RANGES_MAX, range('a', 'b'), Shared), Acquire::Full);
    table.release(0);
    assert_eq!(table.acquire(RANGES_MAX, range('a', 'b'), Shared), Acquire::Granted);
}

/// A claim of the model.
#[derive(Clone, Debug)]
struct Wish {
    owner: u8,
    target: Target,
    mode: LockMode,
    is_ahead: bool,
}

impl Wish {
    fn conflicts_with(&self, other: &Self) -> bool {
        let keys = keys_of(&self.target);
        let is_common = keys_of(&other.target).iter().any(|key| keys.contains(key));
        self.owner != other.owner && is_common && (self.mode, other.mode) != (Shared, Shared)
    }

    /// Whether who has this needs no lock of that mode on the target.
    fn covers(&self, target: &Target, mode: LockMode) -> bool {
        let own = keys_of(&self.target);
        let is_finer = matches!((&self.target, target), (Target::Key(_), Target::Range(_)));
        !is_finer && self.mode >= mode && keys_of(target).iter().all(|key| own.contains(key))
    }
}

/// Which of the tests' keys are in it. Since ranges begin and end at such keys, they have a key in
/// common if and only if they have one of these.
fn keys_of(target: &Target) -> Vec<char> {
    let is_in = |name: &char| match target {
        Target::Key(own) => *own == key(*name),
        Target::Range(range) => {
            range.start <= key(*name) && range.end.as_ref().is_none_or(|end| key(*name) < *end)
        }
    };
    KEYS.into_iter().filter(is_in).collect()
}

/// The lock table as lists: slow, and so simple that one sees what it does.
#[derive(Default)]
struct Model {
    held: Vec<Wish>,
    waiting: Vec<Wish>,
    in_flight: Vec<char>,
    granted: Vec<(u8, Target)>,
}

impl Model {
    fn acquire(&mut self, owner: u8, target: Target, mode: LockMode) -> Acquire {
        if self.holds(owner, &target, mode) {
            return Acquire::Granted;
        }
        let repeats = |wish: &Wish| wish.target == target && wish.mode >= mode;
        if self.waiting.iter().any(|wish| wish.owner == owner && repeats(wish)) {
            return Acquire::Waiting;
        }
        let mut wish = Wish { owner, target, mode, is_ahead: false };
        let mut waits =
            (0..self.waiting.len()).filter(|at| self.waiting[*at].conflicts_with(&wish));
        wish.is_ahead = self.holds(owner, &wish.target, Shared)
            || waits.any(|at| self.blockers(at).contains(&owner));
        let ahead = self.waiting.iter().filter(|other| other.is_ahead).count();
        let at = if wish.is_ahead { ahead } else { self.waiting.len() };
        self.waiting.insert(at, wish);
        if self.is_blocked(at) {
            return Acquire::Waiting;
        }
        let wish = self.waiting.remove(at);
        self.held.push(wish);
        Acquire::Granted
    }

    fn holds(&self, owner: u8, target: &Target, mode: LockMode) -> bool {
        let is_empty = keys_of(target).is_empty();
        is_empty || self.held.iter().any(|wish| wish.owner == owner && wish.covers(target, mode))
    }

    /// For whom the waiter at a place of the queue waits.
    fn blockers(&self, at: usize) -> BTreeSet<u8> {
        let before = self.held.iter().chain(&self.waiting[..at]);
        before
            .filter(|wish| wish.conflicts_with(&self.waiting[at]))
            .map(|wish| wish.owner)
            .collect()
    }

    fn is_blocked(&self, at: usize) -> bool {
        let keys = keys_of(&self.waiting[at].target);
        self.in_flight.iter().any(|key| keys.contains(key)) || !self.blockers(at).is_empty()
    }

    /// Grants the first that can be granted, again and again.
    fn settle(&mut self) {
        while let Some(at) = (0..self.waiting.len()).find(|at| !self.is_blocked(*at)) {
            let wish = self.waiting.remove(at);
            self.granted.push((wish.owner, wish.target.clone()));
            self.held.push(wish);
        }
    }

    fn release(&mut self, owner: u8) {
        self.held.retain(|wish| wish.owner != owner);
        self.cancel_waiting(owner);
    }

    fn cancel_waiting(&mut self, owner: u8) {
        self.waiting.retain(|wish| wish.owner != owner);
        self.settle();
    }

    fn is_free(&self, name: char) -> bool {
        let mut all = self.held.iter().chain(&self.waiting);
        !all.any(|wish| keys_of(&wish.target).contains(&name))
    }

    fn edges(&self) -> BTreeSet<(u8, u8)> {
        let edges_of = |at: usize| {
            let waiter = self.waiting[at].owner;
            self.blockers(at).into_iter().map(move |holder| (waiter, holder))
        };
        (0..self.waiting.len()).flat_map(edges_of).collect()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Acquire(u8, Target, LockMode),
    Release(u8),
    CancelWaiting(u8),
    BeginWrite(char),
    EndWrite(Index),
}

fn any_target() -> impl Strategy<Value = Target> {
    let name = || prop::sample::select(&KEYS[..]);
    let end = prop::sample::select(&['b', 'c', 'd', 'e', '~'][..]);
    prop_oneof![
        2 => name().prop_map(point),
        1 => (name(), end).prop_map(|(start, end)| range(start, end)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let mode = prop::sample::select(&[Shared, Exclusive][..]);
    let name = prop::sample::select(&KEYS[..]);
    prop_oneof![
        8 => (0..OWNERS, any_target(), mode).prop_map(|(o, t, m)| Step::Acquire(o, t, m)),
        2 => (0..OWNERS).prop_map(Step::Release),
        1 => (0..OWNERS).prop_map(Step::CancelWaiting),
        3 => name.prop_map(Step::BeginWrite),
        2 => any::<Index>().prop_map(Step::EndWrite),
    ]
}

/// Does the same to both, and compares what they answer.
fn take(step: Step, table: &mut LockTable<u8>, model: &mut Model) {
    match step {
        Step::Acquire(owner, target, mode) => {
            let expected = model.acquire(owner, target.clone(), mode);
            assert_eq!(table.acquire(owner, target, mode), expected);
        }
        Step::Release(owner) => {
            table.release(owner);
            model.release(owner);
        }
        Step::CancelWaiting(owner) => {
            table.cancel_waiting(owner);
            model.cancel_waiting(owner);
        }
        Step::BeginWrite(name) => {
            let is_free = model.is_free(name);
            assert_eq!(table.begin_write(&key(name)), is_free);
            model.in_flight.extend(is_free.then_some(name));
        }
        Step::EndWrite(index) if !model.in_flight.is_empty() => {
            let name = model.in_flight.remove(index.index(model.in_flight.len()));
            table.end_write(&key(name));
            model.settle();
        }
        Step::EndWrite(_) => {}
    }
    assert_eq!(table.take_granted(), core::mem::take(&mut model.granted));
}

/// Compares all that one can ask.
fn compare(table: &LockTable<u8>, model: &Model) {
    let edges: Vec<_> = table.edges().collect();
    assert!(edges.iter().copied().eq(model.edges()), "{edges:?}, not {:?}", model.edges());
    let of_all: BTreeSet<u8> = model.held.iter().chain(&model.waiting).map(|w| w.owner).collect();
    assert!(table.owners().eq(of_all));
    let ranges = KEYS.iter().flat_map(|start| ['c', 'e', '~'].map(|end| range(*start, end)));
    let targets: Vec<_> = KEYS.into_iter().map(point).chain(ranges).collect();
    for owner in 0..OWNERS {
        let waits = model.waiting.iter().any(|wish| wish.owner == owner);
        assert_eq!(table.is_waiting(owner), waits);
        for target in &targets {
            for mode in [Shared, Exclusive] {
                assert_eq!(table.holds(owner, target, mode), model.holds(owner, target, mode));
            }
        }
    }
    KEYS.into_iter().for_each(|name| check_key(table, model, name));
}

/// What must hold for a key whatever the model says, and that the model says so too.
fn check_key(table: &LockTable<u8>, model: &Model, name: char) {
    let mut holders: Vec<_> = table.holders(&key(name)).collect();
    let writer = holders.iter().find(|(_, mode)| *mode == Exclusive);
    if let Some((writer, _)) = writer {
        assert!(holders.iter().all(|(owner, _)| owner == writer), "{name}: {holders:?}");
    }
    assert!(holders.is_empty() || !model.in_flight.contains(&name), "{name} is in flight");
    let held = model.held.iter().filter(|wish| keys_of(&wish.target).contains(&name));
    let mut expected: Vec<_> = held.map(|wish| (wish.owner, wish.mode)).collect();
    holders.sort_unstable();
    expected.sort_unstable();
    assert_eq!(holders, expected);
    assert_eq!(table.is_free(&key(name)), model.is_free(name));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn the_table_does_what_lists_do(steps in prop::collection::vec(step(), 0..60)) {
        let mut table = LockTable::default();
        let mut model = Model::default();
        for step in steps {
            take(step, &mut table, &mut model);
            compare(&table, &model);
        }
        (0..OWNERS).for_each(|owner| table.release(owner));
        model.in_flight.iter().for_each(|name| table.end_write(&key(*name)));
        prop_assert!(table.keys.is_empty() && table.ranges.is_empty(), "{table:?}");
        prop_assert!(table.owners.is_empty() && table.in_flight.is_empty(), "{table:?}");
    }
}
