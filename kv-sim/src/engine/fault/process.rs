//! Faults that strike processes.

use super::{Action, FaultKind, Nemesis, Strike, Target, View};
use crate::engine::machine::ProcessId;
use crate::engine::rng::Draw as _;

/// How soon after its restart a server crashes again in a restart storm, at most.
const STORM_PAUSE_MAX: u64 = 500_000_000;

impl Nemesis {
    /// A server whose loss leaves a majority of the members running.
    fn victim(&mut self, view: &View, target: Target) -> Option<u16> {
        let members = view.members.iter().filter(|member| **member).count();
        let is_down = |(running, member): &(&bool, &bool)| **member && !**running;
        let down = view.running.iter().zip(&view.members).filter(is_down).count();
        if (down + 1) * 2 >= members && members > 1 {
            return None;
        }
        let leader_wanted = target == Target::Leader || self.rng.chance(500_000);
        if leader_wanted || !view.leader_crashed {
            if view.leaders.is_empty() {
                return None;
            }
            return Some(view.leaders[self.rng.index(view.leaders.len())]);
        }
        let running: Vec<u16> = (0..view.running.len() as u16)
            .filter(|index| view.running[usize::from(*index)])
            .collect();
        Some(running[self.rng.index(running.len())])
    }

    pub(super) fn crash(
        &mut self,
        view: &View,
        downtime: u64,
        target: Target,
        storm: u32,
    ) -> Option<Strike> {
        let victim = self.victim(view, target)?;
        let mut at = self.rng.around(downtime);
        let mut later = vec![(at, vec![Action::Restart(victim)])];
        while self.rng.chance(storm) && later.len() < 16 {
            at += self.rng.between(0, STORM_PAUSE_MAX);
            later.push((at, vec![Action::Crash(victim)]));
            at += self.rng.around(downtime) / 4;
            later.push((at, vec![Action::Restart(victim)]));
        }
        let detail = ProcessId::Server(victim).to_string();
        let strike = Strike { detail, begin: vec![Action::Crash(victim)], later };
        Some(strike.ending(FaultKind::Crash))
    }

    pub(super) fn power_loss(&mut self, view: &View, downtime: u64) -> Strike {
        let servers = 0..view.running.len() as u16;
        let begin = servers.clone().map(Action::Crash).collect();
        let mut later: Vec<_> = servers
            .map(|index| (self.rng.around(downtime), vec![Action::Restart(index)]))
            .collect();
        later.sort_by_key(|(at, _)| *at);
        Strike { detail: "all servers".into(), begin, later }.ending(FaultKind::PowerLoss)
    }

    pub(super) fn pause(&mut self, view: &View, duration: u64, target: Target) -> Option<Strike> {
        let victim = self.victim(view, target)?;
        let later = vec![(self.rng.around(duration), vec![Action::Resume(victim)])];
        let detail = ProcessId::Server(victim).to_string();
        Some(Strike { detail, begin: vec![Action::Pause(victim)], later }.ending(FaultKind::Pause))
    }
}
