//! Gossip and failure detector: nodes on a simulated network, and single nodes.

mod measure;
mod network;
