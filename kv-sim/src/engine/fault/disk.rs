//! Faults that strike what is on the disks, or what is made of it.

use super::{Action, FaultKind, Nemesis, Strike, Target, Victims, View, names};
use crate::engine::rng::Draw as _;

impl Nemesis {
    /// Rot strikes a server that runs or, half of the time, one that is down meanwhile: what is
    /// read at a start is found then, everything else when it is read.
    pub(super) fn bit_rot(&mut self, view: &View, downtime: u64, victims: Victims) -> Strike {
        let victim = self.one_of_chosen(view, victims);
        let detail = names(&[victim]);
        if self.rng.chance(500_000) {
            return Strike { detail, begin: vec![Action::Rot(victim)], later: Vec::new() };
        }
        let later = vec![(self.rng.around(downtime), vec![Action::Restart(victim)])];
        let begin = vec![Action::Crash(victim), Action::Rot(victim)];
        Strike { detail, begin, later }.ending(FaultKind::BitRot)
    }

    /// A minority of the servers comes to other states than the others.
    pub(super) fn misapply(&mut self, view: &View) -> Strike {
        let victim = self.one_of_chosen(view, Victims::Minority);
        let begin = vec![Action::Misapply(victim)];
        Strike { detail: names(&[victim]), begin, later: Vec::new() }
    }

    /// A server among those that are struck in this run.
    fn one_of_chosen(&mut self, view: &View, victims: Victims) -> u16 {
        let count = view.running.len();
        if self.chosen.is_empty() {
            self.chosen = (0..count as u16).collect();
            self.rng.shuffle_front(&mut self.chosen, count);
            if victims == Victims::Minority {
                self.chosen.truncate((count.saturating_sub(1) / 2).max(1));
            }
        }
        self.chosen[self.rng.index(self.chosen.len())]
    }

    /// One disk is full or, half of the time, all are.
    pub(super) fn disk_full(&mut self, view: &View, duration: u64) -> Strike {
        let count = view.running.len();
        let one = self.rng.index(count) as u16;
        let struck = if self.rng.chance(500_000) { vec![one] } else { (0..count as u16).collect() };
        let begin = struck.iter().copied().map(Action::Fill).collect();
        let end = struck.iter().copied().map(Action::MakeRoom).collect();
        let later = vec![(self.rng.around(duration), end)];
        Strike { detail: names(&struck), begin, later }.ending(FaultKind::DiskFull)
    }

    pub(super) fn slow_disk(
        &mut self,
        view: &View,
        duration: u64,
        delay: u64,
        target: Target,
    ) -> Option<Strike> {
        let victim = self.one_of(view, target)?;
        let extra = self.rng.around(delay);
        let later = vec![(self.rng.around(duration), vec![Action::Quicken(victim, extra)])];
        let detail = format!("{} by {} ms", names(&[victim]), extra / 1_000_000);
        let strike = Strike { detail, begin: vec![Action::Slow(victim, extra)], later };
        Some(strike.ending(FaultKind::SlowDisk))
    }
}
