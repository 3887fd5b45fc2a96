//! Whole nodes and a client, in memory.

mod cluster;
mod frames;
mod support;
