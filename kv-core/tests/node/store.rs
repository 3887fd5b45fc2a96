//! The stores of nodes in memory: vectors and maps, which keep what a restart keeps.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::collections::BTreeMap;
use std::convert::Infallible;

use kv_core::cluster::Identity;
use kv_core::id::{LogId, LogIndex, ShardId, Timestamp};
use kv_core::machine::{self, Command, Machine, Newest, ReadView};
use kv_core::op::{Key, Page, Row, Value, WriteOp};
use kv_core::storage::{
    Append, Entry, HardState, LogCounters, ReadError, Recovered, RecoveredGroup, Scan,
    StorageDamage, StorageReply, StorageRequest,
};

/// Every version of every key; none is a deletion.
#[derive(Clone, Default)]
pub(crate) struct View(BTreeMap<Key, BTreeMap<Timestamp, Option<Value>>>);

impl ReadView for View {
    type Error = Infallible;

    fn newest(&self, key: &Key, at: Timestamp) -> Result<Option<Newest>, Infallible> {
        let versions = self.0.get(key);
        let newest = versions.and_then(|versions| versions.range(..=at).next_back());
        Ok(newest.map(|(version, value)| (*version, value.clone())))
    }
}

impl View {
    fn page(&self, scan: &Scan) -> Page {
        let mut page = Page::default();
        let mut bytes = 0;
        let keys = self.0.range(scan.range.start.clone()..).map(|(key, _)| key);
        for key in keys.take_while(|key| scan.range.contains(key)) {
            let Ok(found) = machine::read(self, key, scan.timestamp);
            let Some(found) = found else { continue };
            bytes += key.bytes.len() + found.value.size();
            let is_full =
                page.rows.len() >= scan.limit.rows as usize || bytes > scan.limit.bytes as usize;
            if is_full && !page.rows.is_empty() {
                page.next = Some(key.clone());
                break;
            }
            page.rows.push(Row { key: key.clone(), found });
        }
        page
    }
}

/// What survives a restart, and the applied state, which does not until it is flushed.
pub(crate) struct Store {
    pub(crate) identity: Identity,
    pub(crate) groups: BTreeMap<ShardId, RecoveredGroup>,
    pub(crate) applied: BTreeMap<ShardId, (Machine, View)>,
    /// The applied state that is durable without the log, the machine as a store keeps it.
    pub(crate) flushed: BTreeMap<ShardId, (Vec<u8>, View)>,
    /// What the store finds damaged when it is opened next.
    pub(crate) damage: Option<StorageDamage>,
    /// The next put to this shard is applied as if it were of this value.
    pub(crate) lie: Option<(ShardId, Value)>,
}

/// A put, as it is not in the log.
fn lie_about(entry: &Entry, lie: &Value) -> Option<Entry> {
    match Command::decode(&entry.payload) {
        Ok(Command::Write { request, op: WriteOp::Put { key, .. }, commit_ts }) => {
            let op = WriteOp::Put { key, value: lie.clone() };
            let payload = Command::Write { request, op, commit_ts }.encode().into();
            Some(Entry { payload, ..entry.clone() })
        }
        _ => None,
    }
}

impl Store {
    /// One that holds nothing.
    pub(crate) fn new(identity: Identity) -> Self {
        let (groups, applied, flushed) = Default::default();
        Self { identity, groups, applied, flushed, damage: None, lie: None }
    }

    pub(crate) fn open(&mut self) -> Recovered {
        let decode = |(machine, view): &(Vec<u8>, View)| {
            (Machine::decode(machine).expect("it was encoded"), view.clone())
        };
        self.applied = self.flushed.iter().map(|(shard, state)| (*shard, decode(state))).collect();
        let (identity, groups) = (self.identity.clone(), self.groups.clone());
        Recovered { identity, groups, damage: self.damage.clone() }
    }

    /// Makes the applied state durable without the log.
    pub(crate) fn flush(&mut self) -> StorageReply {
        let mut applied = BTreeMap::new();
        for (shard, (machine, view)) in &self.applied {
            self.flushed.insert(*shard, (machine.encode(), view.clone()));
            let group = self.groups.entry(*shard).or_default();
            group.applied = machine.applied();
            group.transactions = machine.transactions().clone();
            applied.insert(*shard, machine.applied());
        }
        StorageReply::Flushed { applied }
    }

    pub(crate) fn execute(&mut self, request: StorageRequest) -> Option<StorageReply> {
        Some(match request {
            StorageRequest::Append(append) => self.append(append),
            StorageRequest::StoreIdentity(identity) => {
                self.identity = identity;
                StorageReply::IdentityStored
            }
            StorageRequest::Apply { shard, entries } => {
                let (machine, view) = self.applied.entry(shard).or_default();
                let (mut outcomes, mut states) = (Vec::new(), Vec::new());
                for entry in &entries {
                    let lie = self.lie.take_if(|(of, _)| *of == shard);
                    let lie = lie.and_then(|(_, lie)| lie_about(entry, &lie));
                    let Ok((batch, outcome)) = machine.apply(view, lie.as_ref().unwrap_or(entry));
                    for write in batch.writes {
                        view.0.entry(write.key).or_default().insert(write.version, write.value);
                    }
                    outcomes.push((entry.id.index, outcome));
                    states.extend(machine.checkpoint());
                }
                StorageReply::Applied { shard, applied: machine.applied(), outcomes, states }
            }
            StorageRequest::Read(read) => {
                let view = self.view_at(read.shard, read.at_least, read.timestamp);
                let result = view.map(|view| {
                    let Ok(found) = machine::read(view, &read.key, read.timestamp);
                    found
                });
                StorageReply::Read { handle: read.handle, result }
            }
            StorageRequest::Scan(scan) => {
                let view = self.view_at(scan.shard, scan.at_least, scan.timestamp);
                let result = view.map(|view| view.page(&scan));
                StorageReply::Scanned { handle: scan.handle, result }
            }
            StorageRequest::Release { shard, floor } => {
                self.release(shard, floor);
                return None;
            }
            StorageRequest::RemoveShard { shard } => {
                self.applied.remove(&shard);
                self.flushed.remove(&shard);
                StorageReply::ShardRemoved { shard }
            }
            request => panic!("no node asks for this: {request:?}"),
        })
    }

    /// What a read of a shard sees, if it may.
    fn view_at(
        &mut self,
        shard: ShardId,
        at_least: LogIndex,
        timestamp: Timestamp,
    ) -> Result<&View, ReadError> {
        let (machine, view) = self.applied.entry(shard).or_default();
        let (applied, oldest) = (machine.applied().index, machine.watermark());
        if applied < at_least {
            return Err(ReadError::NotApplied { at_least, applied });
        }
        if timestamp < oldest {
            return Err(ReadError::TooOld { oldest });
        }
        Ok(view)
    }

    fn release(&mut self, shard: ShardId, floor: LogId) {
        let group = self.groups.get_mut(&shard).unwrap();
        if floor == LogId::default() {
            let hard_state = HardState { commit: LogIndex(0), ..group.hard_state };
            *group = RecoveredGroup { hard_state, is_removed: true, ..RecoveredGroup::default() };
            return;
        }
        assert!(floor.index <= group.applied.index, "what is released is durable without the log");
        let count = usize::try_from(floor.index.0 - group.floor.index.0).unwrap();
        assert_eq!(group.entries[count - 1].id, floor, "what is released is there");
        group.entries.drain(..count);
        group.floor = floor;
    }

    fn append(&mut self, append: Append) -> StorageReply {
        let mut written = Vec::new();
        for write in append.writes {
            let group = self.groups.entry(write.shard).or_default();
            if let Some(first) = write.entries.first() {
                let keep = usize::try_from(first.id.index.0 - 1 - group.floor.index.0).unwrap();
                assert!(keep <= group.entries.len(), "an append leaves no gap");
                group.entries.truncate(keep);
                written.push((write.shard, write.entries[write.entries.len() - 1].id));
                group.entries.extend(write.entries);
            }
            group.hard_state = write.hard_state.unwrap_or(group.hard_state);
        }
        StorageReply::Appended { id: append.id, written, counters: LogCounters::default() }
    }
}
