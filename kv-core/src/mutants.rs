//! Known bugs, planted on purpose, that the simulator must find.
//!
//! A testbed that finds nothing proves nothing until it is shown that it *would* have found
//! something. Each mutant is one classic mistake, compiled in only with feature `mutants` (which
//! only kv-sim's own feature turns on) and even then off until one is chosen. Without the feature
//! [`is_active`] is a constant `false` and costs nothing.

/// Declares [`Mutant`] with the name of each variant on the command line.
macro_rules! mutants {
    ($($(#[$doc:meta])* $variant:ident = $id:literal,)*) => {
        /// A planted bug.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Mutant {
            $($(#[$doc])* $variant,)*
        }

        impl Mutant {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name by which it is chosen on the command line.
            pub const fn id(self) -> &'static str {
                match self {
                    $(Self::$variant => $id,)*
                }
            }
        }
    };
}

mutants! {
    // Elections, terms, votes.
    /// A vote is answered before it is durable: after a crash the voter may vote again in the same
    /// term (Raft paper, figure 2).
    VoteNotPersisted = "vote-not-persisted",
    /// A voter forgets in the next request whom it voted for in its term (paper 5.2).
    TwoVotesInATerm = "two-votes-in-a-term",
    /// A candidate counts votes that were given to it in an earlier term.
    StaleVoteCounted = "stale-vote-counted",
    /// A pre-candidate that becomes a candidate keeps the pre-votes as votes (thesis 9.6).
    PreVotesKept = "pre-votes-kept",
    /// Of two logs the longer one is taken for more up to date, whatever their terms (paper 5.4.1).
    VoteByLength = "vote-by-length",
    /// An append of an older term is obeyed, and the term goes back.
    TermLowered = "term-lowered",
    /// Candidates begin a term without asking first whether they could win it (thesis 9.6).
    PreVoteSkipped = "pre-vote-skipped",
    /// Voters help to depose a leader that they hear (thesis 4.2.3).
    LeaderNotStuckTo = "leader-not-stuck-to",
    /// All wait equally long for a leader, so that all campaign at once (paper 5.2).
    ElectionTimeoutFixed = "election-timeout-fixed",
    /// A leader that reaches nobody goes on (CheckQuorum: thesis 6.2).
    QuorumNotChecked = "quorum-not-checked",
    /// A learner, or who was removed, campaigns (thesis 4.2.3).
    AnyoneCampaigns = "anyone-campaigns",

    // Replication and commit.
    /// An append is acknowledged before it is durable.
    AcknowledgedBeforeSync = "acknowledged-before-sync",
    /// A leader counts itself before its own log is durable.
    LeaderCountsUnsynced = "leader-counts-unsynced",
    /// An entry of an older term is committed by counting replicas (paper 5.4.2 and figure 8).
    OldTermCommitted = "old-term-committed",
    /// A leader stops committing at an entry of an older term instead of looking beyond it.
    CommitStopsAtOldTerm = "commit-stops-at-old-term",
    /// A follower takes the commit index for its own log though it may differ from the leader's
    /// (paper, figure 2: "index of last new entry").
    CommitBeyondMatch = "commit-beyond-match",
    /// An append is accepted wherever there is an entry before it, whatever its term (paper 5.3).
    PreviousTermIgnored = "previous-term-ignored",
    /// An entry that conflicts with the leader's stays (paper 5.3).
    ConflictKept = "conflict-kept",
    /// An append truncates what follows it, though it may be an old, short one.
    ShortAppendTruncates = "short-append-truncates",
    /// An old append that reaches below what was released is appended again.
    ReleasedAppendedAgain = "released-appended-again",
    /// An answer raises what the follower has, and not what it is sent next.
    NextNotRaised = "next-not-raised",
    /// A probe that was lost is not repeated.
    ProbeNotRepeated = "probe-not-repeated",

    // Snapshots.
    /// The offer of a snapshot from an older term is obeyed, and the term goes back.
    SnapshotTermUnguarded = "snapshot-term-unguarded",
    /// Entries behind an installed snapshot stay though they belong to another history.
    DivergentSuffixKept = "divergent-suffix-kept",

    // Members.
    /// The voters change at once instead of by a joint configuration (thesis 4.3).
    JointSkipped = "joint-skipped",
    /// A joint configuration is left before it is committed (thesis 4.3).
    JointLeftEarly = "joint-left-early",
    /// While a configuration is joint, the new voters alone elect (thesis 4.3).
    JointElectionByNew = "joint-election-by-new",
    /// While a configuration is joint, the new voters alone commit (thesis 4.3).
    JointCommitByNew = "joint-commit-by-new",
    /// A configuration stays in force though its entry was truncated (thesis 4.1).
    TruncatedConfigurationKept = "truncated-configuration-kept",
    /// A leader that is no voter any more goes on, and keeps its replica (thesis 4.2.2).
    RemovedLeaderStays = "removed-leader-stays",
    /// Whom gossip calls down is no voter any more, though no log says so.
    GossipDecidesPlacement = "gossip-decides-placement",
    /// A replica that lost its data counts as soon as it is back, with whatever any peer makes of it.
    RepairFromStalePeer = "repair-from-stale-peer",
    /// A replica whose state is not that of the majority goes on with it.
    DivergenceIgnored = "divergence-ignored",

    // Requests.
    /// A retried request runs again (thesis 6.3).
    SessionTableIgnored = "session-table-ignored",
    /// A session that was forgotten is taken for a new one, and its requests run again (thesis 6.3). So
    /// that runs get there, only a few sessions are remembered.
    ForgottenSessionRunsAgain = "forgotten-session-runs-again",
    /// A linearizable read is served without confirming leadership (thesis 6.4).
    UnconfirmedRead = "unconfirmed-read",
    /// A read waits for a round of confirmation that began before it arrived.
    RoundBegunBefore = "round-begun-before",
    /// A confirmation counts for shards that it excepts.
    ExceptionIgnored = "exception-ignored",
    /// A new leader reads at what it knows to be committed, which may be less than what is (thesis
    /// 6.4, step 1).
    ReadBeforeOwnTerm = "read-before-own-term",
    /// A read does not wait until what it must see is applied (thesis 6.4, step 4).
    ReadBeforeApplied = "read-before-applied",

    // Timestamps.
    /// A timestamp is issued without asking whether another leader was elected.
    OracleUnconfirmed = "oracle-unconfirmed",
    /// A new leader's timestamps start at its clock, not above what the leaders before it issued.
    OracleStartsBelow = "oracle-starts-below",
    /// A late answer to a request that was given up is used for work that came after it.
    AbandonedAnswerUsed = "abandoned-answer-used",

    // Transactions.
    /// A participant that asks about a transaction which is not decided is told that it was aborted,
    /// and no entry of the anchor makes that true.
    FenceSkipped = "fence-skipped",
    /// Whoever asks how a transaction ended is told that it was aborted if the leader of its anchor
    /// knows of no decision, and no entry makes that true.
    OutcomeWithoutFence = "outcome-without-fence",
    /// A key is locked though a write of it is on its way.
    LockOverInFlightPut = "lock-over-in-flight-put",
    /// A new leader does not lock what is prepared.
    PreparedLocksForgotten = "prepared-locks-forgotten",
    /// A read does not wait for the decision about the key that it reads.
    ReaderPassesPrepared = "reader-passes-prepared",
    /// A read at a timestamp does not wait for timestamps that may be on their way to earlier work.
    ReadAheadOfStamps = "read-ahead-of-stamps",
    /// A read at a timestamp does not wait for what is proposed.
    ReadPassesProposed = "read-passes-proposed",
    /// A read of what is newest does not wait for writes of its key that are on their way.
    ReadPassesInFlight = "read-passes-in-flight",
    /// The anchor forgets a decision as soon as it has told of it once.
    DecisionForgottenEarly = "decision-forgotten-early",
    /// A participant that only reads drops its locks as soon as it has prepared.
    ReadLocksDroppedAtPrepare = "read-locks-dropped-at-prepare",
    /// A scan locks the keys that it finds, and not those between them.
    ScanLocksRowsOnly = "scan-locks-rows-only",
    /// A new leader does not lock the ranges of what is prepared.
    PreparedRangesForgotten = "prepared-ranges-forgotten",
    /// A commit does not ask whether what was read is still locked, and in which term.
    CommitWithoutReadLocks = "commit-without-read-locks",
    /// A coordinator has the anchor commit before the participants have prepared.
    AnchorBeforeParticipants = "anchor-before-participants",
    /// A participant says that it has prepared before that is committed.
    PreparedBeforeApplied = "prepared-before-applied",
    /// A client is told that its transaction is committed before the log says so.
    DecisionBeforeApplied = "decision-before-applied",
    /// A participant that hears nothing aborts what it has prepared, and asks nobody.
    AbortsAlone = "aborts-alone",
    /// A participant that hears nothing waits for ever.
    NeverAsks = "never-asks",
    /// The locks of a coordinator that is silent never fall.
    LocksOutliveCoordinator = "locks-outlive-coordinator",
    /// Waits that were reported once count for a deadlock although they are over.
    StaleWaitCounts = "stale-wait-counts",
    /// Who was polled once waits to be polled again, also by a detector that is none any more.
    DeposedDetectorTrusted = "deposed-detector-trusted",
    /// All who are in a deadlock give way, not one of them.
    EverybodyGivesWay = "everybody-gives-way",

    // Reads at replicas.
    /// A replica answers a session with less than the session has seen.
    SessionTokenIgnored = "session-token-ignored",
    /// A safe time is given out above what a prepared transaction may commit at.
    SafeTimePassesPrepared = "safe-time-passes-prepared",
    /// A safe time is given out before what is proposed is applied, with too low an index.
    SafeTimeBeforeProposed = "safe-time-before-proposed",
    /// A replica is read at a safe time before it has applied what belongs to it.
    ReplicaServesBeforeApplied = "replica-serves-before-applied",

    // Leases.
    /// A lease is as long as the time for which voters refuse others, as if all clocks ran equally
    /// fast.
    LeaseIgnoresDrift = "lease-ignores-drift",
}

impl Mutant {
    /// The mutant named `id`.
    pub fn from_id(id: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|mutant| mutant.id() == id)
    }
}

#[cfg(feature = "mutants")]
static ACTIVE: core::sync::atomic::AtomicU8 = core::sync::atomic::AtomicU8::new(0);

/// What [`ACTIVE`] holds if `mutant` was chosen.
#[cfg(feature = "mutants")]
fn number(mutant: Mutant) -> u8 {
    mutant as u8 + 1
}

/// Chooses the mutant of this process; none turns all off. Every run of a process has the same one.
#[cfg(feature = "mutants")]
pub fn activate(mutant: Option<Mutant>) {
    let number = mutant.map_or(0, number);
    ACTIVE.store(number, core::sync::atomic::Ordering::SeqCst);
}

/// Whether `mutant` was chosen.
#[cfg(feature = "mutants")]
pub fn is_active(mutant: Mutant) -> bool {
    ACTIVE.load(core::sync::atomic::Ordering::Relaxed) == number(mutant)
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
