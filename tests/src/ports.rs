//! Free ports on this machine.
//!
//! They are taken from below the range from which the operating system gives ports to outgoing
//! connections. Otherwise, a node that is restarted could find its port taken by somebody's
//! connection, and a peer that keeps connecting to a port nobody listens on could end up connected
//! to itself.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

const FIRST: u32 = 10_000;
const COUNT: u32 = 20_000;

/// `count` ports in a row that nobody uses.
///
/// # Panics
/// If there are none.
pub fn free(count: u16) -> Vec<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Test processes that run at the same time start at different places.
    let offset = std::process::id().wrapping_mul(97);
    for _ in 0..COUNT {
        let at = NEXT.fetch_add(u32::from(count), Ordering::Relaxed).wrapping_add(offset);
        let first = u16::try_from(FIRST + at % COUNT).expect("the range ends below 65,536");
        let ports: Vec<_> = (first..first + count).collect();
        let held: Vec<_> =
            ports.iter().map_while(|port| TcpListener::bind(("127.0.0.1", *port)).ok()).collect();
        if held.len() == ports.len() {
            return ports;
        }
    }
    panic!("this machine has no {count} free ports in a row");
}
