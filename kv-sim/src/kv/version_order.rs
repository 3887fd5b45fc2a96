//! Versions, compared over all keys.
//!
//! A version is a timestamp of the oracle, so the order of versions is one order of all writes of
//! all shards, and it agrees with real time: a write that began when another's version had been
//! heard, be it by who wrote it or by who read it, has a higher one. Linearizability looks at each
//! key by itself and does not need that; whatever reads at a timestamp does.

use std::collections::BTreeMap;
use std::fmt::Debug;

use kv_check::{Event, EventKind, History, MicroOp, Process};

use crate::engine::Check;

const NAME: &str = "version-order";

/// The version that an answer told, and whether the operation made it.
fn told(event: &Event) -> Option<(u64, bool)> {
    match event.ops.first()? {
        MicroOp::Get { version, .. } => version.map(|version| (version, false)),
        MicroOp::Put { version, .. } => version.map(|version| (version, true)),
        MicroOp::Cas { version, applied, .. } => {
            version.map(|version| (version, *applied == Some(true)))
        }
        MicroOp::Delete { .. } => None,
    }
}

/// What was heard of versions so far, and by whom.
#[derive(Debug)]
pub(super) struct VersionOrder<P> {
    /// The highest version that anybody has heard of.
    heard: u64,
    /// The same when the operation of a process began.
    heard_before: BTreeMap<P, u64>,
    writers: BTreeMap<u64, P>,
    /// The first thing that is wrong.
    broken: Option<String>,
}

impl<P> Default for VersionOrder<P> {
    fn default() -> Self {
        let (heard_before, writers) = (BTreeMap::new(), BTreeMap::new());
        Self { heard: 0, heard_before, writers, broken: None }
    }
}

impl<P: Copy + Debug + Ord> VersionOrder<P> {
    /// An operation begins.
    pub(super) fn on_invoke(&mut self, process: P) {
        self.heard_before.insert(process, self.heard);
    }

    /// A client has heard of a timestamp.
    pub(super) fn on_heard(&mut self, timestamp: u64) {
        self.heard = self.heard.max(timestamp);
    }

    /// The highest version that anybody had heard of when the operation of a process began.
    pub(super) fn heard_before(&self, process: P) -> u64 {
        self.heard_before.get(&process).copied().unwrap_or(0)
    }

    /// The operation of a process was answered with a version, which it made itself or has read.
    pub(super) fn on_told(&mut self, process: P, version: u64, is_own: bool) {
        let before = self.heard_before.get(&process).copied().unwrap_or(0);
        self.heard = self.heard.max(version);
        if !is_own {
            return;
        }
        let broken = match self.writers.insert(version, process) {
            _ if version <= before => {
                format!("{process:?} wrote version {version} when {before} had been heard")
            }
            Some(other) => format!("{process:?} and {other:?} wrote version {version}"),
            None => return,
        };
        self.broken.get_or_insert(broken);
    }

    /// Every write has a higher version than all that was heard of before it began, and no two have
    /// the same.
    pub(super) fn judge(&self) -> Check {
        match &self.broken {
            Some(broken) => Check::fail(NAME, broken.as_str()),
            None => {
                Check::pass(NAME, format!("{} versions agree with real time", self.writers.len()))
            }
        }
    }
}

/// The versions of single keys.
pub(super) fn judge(history: &History) -> Check {
    let mut order = VersionOrder::<Process>::default();
    for event in &history.events {
        if event.kind == EventKind::Invoke {
            order.on_invoke(event.process);
        }
        if let (EventKind::Ok, Some((version, is_own))) = (event.kind, told(event)) {
            order.on_told(event.process, version, is_own);
        }
    }
    order.judge()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::CheckVerdict;
    use kv_check::Model;

    fn put(version: Option<u64>) -> Vec<MicroOp> {
        vec![MicroOp::Put { key: format!("k{version:?}"), value: "v".into(), version }]
    }

    /// Puts to different keys, as (process, version when it ended).
    fn history(events: &[(u64, Option<u64>)]) -> History {
        let mut history = History::new(Model::Kv);
        for (time, (process, version)) in (0..).zip(events) {
            let kind = if version.is_some() { EventKind::Ok } else { EventKind::Invoke };
            history.push(time, Process::Client(*process), kind, put(*version));
        }
        history
    }

    #[track_caller]
    fn check(events: &[(u64, Option<u64>)], is_good: bool) {
        let verdict = judge(&history(events));
        let expected = if is_good { CheckVerdict::Pass } else { CheckVerdict::Fail };
        assert_eq!(verdict.verdict, expected, "{events:?}");
    }

    #[test]
    fn writes_one_after_the_other_have_growing_versions() {
        check(&[(1, None), (1, Some(5)), (2, None), (2, Some(6))], true);
        check(&[(1, None), (1, Some(5)), (2, None), (2, Some(4))], false);
    }

    #[test]
    fn concurrent_writes_may_have_any_versions_but_not_the_same() {
        check(&[(1, None), (2, None), (1, Some(5)), (2, Some(4))], true);
        check(&[(1, None), (2, None), (1, Some(5)), (2, Some(5))], false);
    }

    #[test]
    fn what_was_read_counts_as_heard() {
        let mut history = history(&[(1, None)]);
        let get = |version| MicroOp::Get { key: "k".into(), value: Default::default(), version };
        history.push(2, Process::Client(2), EventKind::Invoke, vec![get(None)]);
        history.push(3, Process::Client(2), EventKind::Ok, vec![get(Some(9))]);
        history.push(4, Process::Client(3), EventKind::Invoke, put(None));
        history.push(5, Process::Client(3), EventKind::Ok, put(Some(8)));
        assert_eq!(judge(&history).verdict, CheckVerdict::Fail);
    }
}
