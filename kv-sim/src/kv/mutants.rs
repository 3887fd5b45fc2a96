//! Where each mutant is to be found, and by which check.
//!
//! Mutants of the storage that are not here are found by its own tests.

use kv_core::mutants::Mutant as Core;
use kv_storage::mutants::Mutant as Storage;

use crate::protocol::Mutant;

/// All that the simulator must find.
pub(super) const ALL: &[Mutant] = &[
    Mutant {
        id: Core::VoteNotPersisted.id(),
        summary: "a vote is told before it is durable, and forgotten by a restart",
        scenario: "sim-scenarios/zoo/lost-votes.toml",
        check: "one-leader-per-term",
    },
    Mutant {
        id: Core::TwoVotesInATerm.id(),
        summary: "a voter forgets its vote",
        scenario: "sim-scenarios/zoo/elections.toml",
        check: "one-leader-per-term",
    },
    Mutant {
        id: Core::StaleVoteCounted.id(),
        summary: "votes of an earlier term count",
        scenario: "sim-scenarios/zoo/elections.toml",
        check: "one-leader-per-term",
    },
    Mutant {
        id: Core::PreVotesKept.id(),
        summary: "pre-votes count as votes",
        scenario: "sim-scenarios/zoo/elections.toml",
        check: "one-leader-per-term",
    },
    Mutant {
        id: Core::VoteByLength.id(),
        summary: "the longer log wins, whatever its terms",
        scenario: "sim-scenarios/zoo/elections.toml",
        check: "contradiction",
    },
    Mutant {
        id: Core::TermLowered.id(),
        summary: "an old append takes the term back",
        scenario: "sim-scenarios/zoo/elections.toml",
        check: "panic",
    },
    Mutant {
        id: Core::PreVoteSkipped.id(),
        summary: "candidates begin a term without asking first",
        scenario: "sim-scenarios/raft/asymmetric.toml",
        check: "one-way-partition",
    },
    Mutant {
        id: Core::LeaderNotStuckTo.id(),
        summary: "voters help to depose a leader that they hear",
        scenario: "sim-scenarios/raft/bridge.toml",
        check: "bridge",
    },
    Mutant {
        id: Core::ElectionTimeoutFixed.id(),
        summary: "all wait equally long for a leader",
        scenario: "sim-scenarios/zoo/lockstep.toml",
        check: "convergence",
    },
    Mutant {
        id: Core::QuorumNotChecked.id(),
        summary: "a leader that reaches nobody goes on",
        scenario: "sim-scenarios/raft/asymmetric.toml",
        check: "one-way-partition",
    },
    Mutant {
        id: Core::AcknowledgedBeforeSync.id(),
        summary: "an append is acknowledged before it is durable",
        scenario: "sim-scenarios/zoo/lost-votes.toml",
        check: "same-entries",
    },
    Mutant {
        id: Core::LeaderCountsUnsynced.id(),
        summary: "a leader counts itself before its log is durable",
        scenario: "sim-scenarios/zoo/lost-votes.toml",
        check: "same-entries",
    },
    Mutant {
        id: Core::OldTermCommitted.id(),
        summary: "an entry of an older term is committed by counting replicas",
        scenario: "sim-scenarios/zoo/elections.toml",
        check: "commit-rule",
    },
    Mutant {
        id: Core::CommitStopsAtOldTerm.id(),
        summary: "nothing is committed behind an entry of an older term",
        scenario: "sim-scenarios/zoo/elections.toml",
        check: "convergence",
    },
    Mutant {
        id: Core::CommitBeyondMatch.id(),
        summary: "a follower commits what it need not have from the leader",
        scenario: "sim-scenarios/zoo/elections.toml",
        check: "same-entries",
    },
    Mutant {
        id: Core::PreviousTermIgnored.id(),
        summary: "logs are taken for equal at entries of different terms",
        scenario: "sim-scenarios/zoo/elections.toml",
        check: "same-entries",
    },
    Mutant {
        id: Core::ConflictKept.id(),
        summary: "an entry that conflicts with the leader's stays",
        scenario: "sim-scenarios/zoo/elections.toml",
        check: "same-entries",
    },
    Mutant {
        id: Core::ShortAppendTruncates.id(),
        summary: "an old, short append truncates the log",
        scenario: "sim-scenarios/zoo/elections.toml",
        check: "contradiction",
    },
    Mutant {
        id: Core::ReleasedAppendedAgain.id(),
        summary: "an old append is appended again above what was released",
        scenario: "sim-scenarios/zoo/snapshots.toml",
        check: "same-entries",
    },
    Mutant {
        id: Core::NextNotRaised.id(),
        summary: "what a follower has is sent again",
        scenario: "sim-scenarios/zoo/elections.toml",
        check: "panic",
    },
    Mutant {
        id: Core::ProbeNotRepeated.id(),
        summary: "a probe that was lost is not repeated",
        scenario: "sim-scenarios/zoo/elections.toml",
        check: "convergence",
    },
    Mutant {
        id: Core::SnapshotTermUnguarded.id(),
        summary: "an old offer of a snapshot takes the term back",
        scenario: "sim-scenarios/zoo/snapshots.toml",
        check: "panic",
    },
    Mutant {
        id: Core::DivergentSuffixKept.id(),
        summary: "another history stays behind an installed snapshot",
        scenario: "sim-scenarios/zoo/snapshots.toml",
        check: "panic",
    },
    Mutant {
        id: Core::RepairFromStalePeer.id(),
        summary: "a replica that lost its data counts before it is repaired",
        scenario: "sim-scenarios/storage/repair-under-crashes.toml",
        check: "same-entries",
    },
    Mutant {
        id: Core::AnyoneCampaigns.id(),
        summary: "a learner, or who was removed, campaigns",
        scenario: "sim-scenarios/zoo/moves.toml",
        check: "members-lead",
    },
    Mutant {
        id: Core::JointSkipped.id(),
        summary: "the voters change at once",
        scenario: "sim-scenarios/zoo/moves.toml",
        check: "quorums-overlap",
    },
    Mutant {
        id: Core::JointLeftEarly.id(),
        summary: "a joint configuration is left before it is committed",
        scenario: "sim-scenarios/zoo/moves.toml",
        check: "members-lead",
    },
    Mutant {
        id: Core::JointElectionByNew.id(),
        summary: "the new voters alone elect while both must",
        scenario: "sim-scenarios/zoo/moves.toml",
        check: "one-leader-per-term",
    },
    Mutant {
        id: Core::JointCommitByNew.id(),
        summary: "the new voters alone commit while both must",
        scenario: "sim-scenarios/zoo/moves.toml",
        check: "members-lead",
    },
    Mutant {
        id: Core::TruncatedConfigurationKept.id(),
        summary: "a truncated configuration stays in force",
        scenario: "sim-scenarios/zoo/moves.toml",
        check: "quorums-overlap",
    },
    Mutant {
        id: Core::RemovedLeaderStays.id(),
        summary: "a leader that is no voter any more goes on",
        scenario: "sim-scenarios/zoo/moves.toml",
        check: "convergence",
    },
    Mutant {
        id: Core::GossipDecidesPlacement.id(),
        summary: "whom gossip calls down is no voter any more",
        scenario: "sim-scenarios/zoo/long-partition.toml",
        check: "same-entries",
    },
    Mutant {
        id: Core::DivergenceIgnored.id(),
        summary: "a replica whose state is not that of the majority goes on with it",
        scenario: "sim-scenarios/storage/state-divergence.toml",
        check: "convergence",
    },
    Mutant {
        id: Core::SessionTableIgnored.id(),
        summary: "a retried request runs again",
        scenario: "sim-scenarios/smoke/lossy-network.toml",
        check: "linearizability",
    },
    Mutant {
        id: Core::UnconfirmedRead.id(),
        summary: "a linearizable read is served without confirming leadership",
        scenario: "sim-scenarios/zoo/frozen-leader.toml",
        check: "linearizability",
    },
    Mutant {
        id: Core::RoundBegunBefore.id(),
        summary: "a round that began before a read confirms it",
        scenario: "sim-scenarios/zoo/frozen-leader.toml",
        check: "linearizability",
    },
    Mutant {
        id: Core::ExceptionIgnored.id(),
        summary: "a confirmation counts for what it excepts",
        scenario: "sim-scenarios/zoo/frozen-leader.toml",
        check: "linearizability",
    },
    Mutant {
        id: Core::ReadBeforeOwnTerm.id(),
        summary: "a new leader reads before it knows what is committed",
        scenario: "sim-scenarios/zoo/elections.toml",
        check: "linearizability",
    },
    Mutant {
        id: Core::ReadBeforeApplied.id(),
        summary: "a read does not wait for what it must see",
        scenario: "sim-scenarios/zoo/elections.toml",
        check: "linearizability",
    },
    Mutant {
        id: Core::OracleUnconfirmed.id(),
        summary: "timestamps are issued without asking for another leader",
        scenario: "sim-scenarios/zoo/frozen-leader.toml",
        check: "version-order",
    },
    Mutant {
        id: Core::OracleStartsBelow.id(),
        summary: "a new leader's timestamps start at its clock",
        scenario: "sim-scenarios/zoo/elections.toml",
        check: "version-order",
    },
    Mutant {
        id: Core::AbandonedAnswerUsed.id(),
        summary: "a late answer of the oracle is used for later work",
        scenario: "sim-scenarios/zoo/elections.toml",
        check: "version-order",
    },
    Mutant {
        id: Core::LeaseIgnoresDrift.id(),
        summary: "clocks are worse than leases allow for",
        scenario: "sim-scenarios/raft/lease.toml",
        check: "linearizability",
    },
    Mutant {
        id: Storage::DirectorySyncSkipped.id(),
        summary: "tables are listed before their names are durable",
        scenario: "sim-scenarios/storage/torn-writes.toml",
        check: "false-damage",
    },
    Mutant {
        id: Storage::FlushWithoutApplied.id(),
        summary: "a flush does not say what is applied with it",
        scenario: "sim-scenarios/storage/torn-writes.toml",
        check: "false-damage",
    },
    Mutant {
        id: Storage::TombstoneDroppedEarly.id(),
        summary: "a compaction drops tombstones above older versions",
        scenario: "sim-scenarios/storage/torn-writes.toml",
        check: "same-states",
    },
    Mutant {
        id: Storage::BloomFalseNegative.id(),
        summary: "a bloom filter lacks a key of its table",
        scenario: "sim-scenarios/storage/torn-writes.toml",
        check: "same-states",
    },
    Mutant {
        id: Storage::ChecksumIgnoredInCompaction.id(),
        summary: "a compaction gives damage a valid checksum",
        scenario: "sim-scenarios/storage/bit-rot-minority.toml",
        check: "panic",
    },
];
