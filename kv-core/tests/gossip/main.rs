//! Gossip and failure detector: nodes on a simulated network, and single nodes.

mod cluster;
mod detector;
mod network;
mod single;
