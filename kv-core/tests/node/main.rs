//! Whole nodes and a client, in memory.

mod cluster;
mod damage;
mod frames;
mod space;
mod support;
