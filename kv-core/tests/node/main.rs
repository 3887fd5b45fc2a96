//! Whole nodes and a client, in memory.

mod anomalies;
mod cluster;
mod crash;
mod damage;
mod divergence;
mod forward;
mod frames;
mod hints;
mod idle;
mod lease;
mod levels;
mod membership;
mod message_counts;
mod oracle;
mod outcomes;
mod reads;
mod repair;
mod scans;
mod space;
mod store;
mod support;
mod transactions;
mod two_phase_commit;
