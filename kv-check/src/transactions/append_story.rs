//! Edges between appends and reads, as sentences.

use super::anomaly::name;
use super::appends::{Appends, NONE};
use super::graph::{Kind, Link};
use super::history::{KeyId, TxnOp, Version, index};

impl Appends<'_> {
    /// What an edge between transactions says.
    pub(crate) fn sentence(&self, link: &Link) -> String {
        let (from, to) = (name(link.from), name(link.to));
        let key = self.history.key_name(KeyId(link.key));
        match link.kind {
            Kind::Overwritten => {
                let (before, after) = self.overwritten(link);
                format!("{from} appended {before} to {key}, and {to} appended {after} after it")
            }
            Kind::Read => {
                let count = self.count_read(link.to, link.key);
                let last = count.checked_sub(1).map(|last| self.orders.kept(link.key)[last]);
                let value = last.map_or("nothing", |last| self.history.value_name(last));
                format!("{from} appended {value} to {key}, and {to} read it")
            }
            Kind::Against => {
                let count = self.count_read(link.from, link.key);
                let is_missed = |version: &Version| self.rank(*version) >= count;
                let next = self.appended_by(link.to, link.key).find(is_missed);
                let value = next.map_or("a value", |next| self.history.value_name(next));
                let read = self.history.list_text(&self.orders.kept(link.key)[..count]);
                format!("{from} read {key} as {read}, without {value}, which {to} appended")
            }
            Kind::Process => format!("{from} ran before {to} in the same process"),
            Kind::RealTime | Kind::Onward => format!("{from} completed before {to} was invoked"),
        }
    }

    /// What the appends of an edge between writers are called.
    fn overwritten(&self, link: &Link) -> (&str, &str) {
        let kept = self.orders.kept(link.key);
        let before = |version: Version| match self.rank(version) {
            usize::MAX => kept.last().copied(),
            rank => rank.checked_sub(1).map(|before| kept[before]),
        };
        let is_from = |version: &Version| self.writer(*version) == link.from;
        let pairs = self.appended_by(link.to, link.key).map(|after| (before(after), after));
        let mut pairs = pairs.filter(|(before, _)| before.as_ref().is_some_and(is_from));
        match pairs.next() {
            Some((Some(before), after)) => {
                (self.history.value_name(before), self.history.value_name(after))
            }
            _ => ("a value", "another"),
        }
    }

    /// How many versions that count a transaction saw when it first read a key.
    fn count_read(&self, txn: u32, key: u32) -> usize {
        let mut ops = self.history.ops(txn as usize).iter();
        let length = ops.find_map(|op| match op {
            TxnOp::ReadList(of, list) if of.0 == key => Some(list.len()),
            _ => None,
        });
        self.orders.count(key, length.map_or(0, index))
    }

    fn appended_by(&self, txn: u32, key: u32) -> impl Iterator<Item = Version> {
        let ops = self.history.ops(txn as usize).iter();
        ops.filter_map(|op| op.written()).filter(move |it| self.history.key_of(*it).0 == key)
    }

    /// The place of a version among those that count; the last one if nobody saw it.
    pub(super) fn rank(&self, version: Version) -> usize {
        match self.orders.ranks[version.0 as usize] {
            NONE => usize::MAX,
            rank => rank as usize,
        }
    }
}
