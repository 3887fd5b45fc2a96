//! Known bugs, planted on purpose, that the simulator must find.
//!
//! A testbed that finds nothing proves nothing until it is shown that it *would* have found
//! something. Each mutant is one classic mistake, compiled in only with feature `mutants` (which
//! only kv-sim's own feature turns on) and even then off until one is chosen. Without the feature
//! [`is_active`] is a constant `false` and costs nothing.

/// A planted bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mutant {
    /// A vote is answered before it is durable: after a crash the voter may vote again in the same
    /// term (Raft paper, figure 2).
    VoteNotPersisted = 1,
    /// An entry of an older term is committed by counting replicas (Raft paper, section 5.4.2 and
    /// figure 8).
    OldTermCommitted,
    /// A linearizable read is served without confirming leadership (Raft thesis, section 6.4).
    UnconfirmedRead,
    /// An append is acknowledged before it is durable.
    AcknowledgedBeforeSync,
    /// A retried request runs again (Raft thesis, section 6.3).
    SessionTableIgnored,
    /// A leader changes the configuration before anything of its own term is committed (Ongaro 2015,
    /// the bug in single-server changes).
    ChangeBeforeOwnTerm,
    /// A node becomes a voter that lacks most of the log.
    VoterNotCaughtUp,
    /// A leader that reaches nobody goes on (CheckQuorum: thesis 6.2).
    QuorumNotChecked,
    /// A learner, or who was removed, campaigns (thesis 4.2.3).
    AnyoneCampaigns,
    /// A replica that lost its data counts as soon as it is back, with whatever any peer makes of it.
    RepairFromStalePeer,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::VoteNotPersisted,
        Self::OldTermCommitted,
        Self::UnconfirmedRead,
        Self::AcknowledgedBeforeSync,
        Self::SessionTableIgnored,
        Self::ChangeBeforeOwnTerm,
        Self::VoterNotCaughtUp,
        Self::QuorumNotChecked,
        Self::AnyoneCampaigns,
        Self::RepairFromStalePeer,
    ];

    /// The name by which it is chosen on the command line.
    pub const fn id(self) -> &'static str {
        match self {
            Self::VoteNotPersisted => "vote-not-persisted",
            Self::OldTermCommitted => "old-term-committed",
            Self::UnconfirmedRead => "unconfirmed-read",
            Self::AcknowledgedBeforeSync => "acknowledged-before-sync",
            Self::SessionTableIgnored => "session-table-ignored",
            Self::ChangeBeforeOwnTerm => "change-before-own-term",
            Self::VoterNotCaughtUp => "voter-not-caught-up",
            Self::QuorumNotChecked => "quorum-not-checked",
            Self::AnyoneCampaigns => "anyone-campaigns",
            Self::RepairFromStalePeer => "repair-from-stale-peer",
        }
    }

    /// The mutant named `id`.
    pub fn from_id(id: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mutant| mutant.id() == id)
    }
}

#[cfg(feature = "mutants")]
static ACTIVE: core::sync::atomic::AtomicU8 = core::sync::atomic::AtomicU8::new(0);

/// Chooses the mutant of this process; none turns all off. Every run of a process has the same one.
#[cfg(feature = "mutants")]
pub fn activate(mutant: Option<Mutant>) {
    let number = mutant.map_or(0, |mutant| mutant as u8);
    ACTIVE.store(number, core::sync::atomic::Ordering::SeqCst);
}

/// Whether `mutant` was chosen.
#[cfg(feature = "mutants")]
pub fn is_active(mutant: Mutant) -> bool {
    ACTIVE.load(core::sync::atomic::Ordering::Relaxed) == mutant as u8
}

/// Whether `mutant` was chosen: never, in a build without the feature.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub const fn is_active(_mutant: Mutant) -> bool {
    false
}

/// Whether this build holds the mutants. A production process refuses to start if it does.
pub const fn compiled_in() -> bool {
    cfg!(feature = "mutants")
}
