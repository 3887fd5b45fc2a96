//! Golden scripts: whole Raft groups, step by step.
//!
//! Each file in `scripts/raft` is a list of commands; its snapshot shows every command and, below
//! it, one line per effect. A script reads alone: its first lines say what would go wrong without
//! the rule that it shows.
//!
//! Commands (`n` stands for a node number):
//! - `group N` starts a group of voters 1 to N. Writes wait for `persist`, messages for `deliver`.
//! - `timeout n` lets so much time pass that `n` campaigns, or as leader checks its quorum. `tick
//!   MS` lets time pass for all.
//! - `propose n TEXT` appends an entry at leader `n`, `propose-bytes n COUNT` one of so many bytes.
//!   `uncommitted BYTES` and `slack BYTES`, before `group`, limit what a leader proposes beyond what
//!   is committed, and what is kept for who is behind.
//! - `persist n...` makes all writes of the nodes durable; `persist-one n` only the oldest.
//! - `deliver [from n] [to n] [last]` delivers what is on its way now, in order; `last` only the
//!   newest message.
//! - `drop [from n] [to n]` loses what is on its way. `hold [from n] [to n]` sets it aside,
//!   `release` brings it back.
//! - `duplicate` delivers a copy of everything on its way, and leaves it there.
//! - `settle` persists and delivers until nothing is left; `cut n...` and `heal` isolate nodes from
//!   the others.
//! - `alive n` lets the others hear that `n` leads, and `n` hear them. `heartbeat n` lets leader
//!   `n` repair what was lost.
//! - `leases`, before `group`, lets leaders read by leases; `lease n` prints whether `n` may hold
//!   one as far as the group can tell. `lost n m` ends the connection of `n` to its leader `m`.
//! - `read-index n` prints from which index on `n` may serve a read that arrives now.
//! - `crash n` loses what is not durable, `restart n` comes back with what is.
//! - `lose n` empties the disk of a crashed node, which starts suspect then.
//! - `flush n...` makes what the nodes have applied durable without the log, and lets them release
//!   what nobody needs.
//! - `snapshot n m` brings what `n` has applied to `m`, `install m` makes it durable there. It has
//!   three steps: `take n` sets it aside, `offer n m` tells `m` of it, `arrive m` is when all of it
//!   is there. `needs-snapshot n` prints who lacks entries that leader `n` has released. `pin n
//!   INDEX` keeps the entries behind `INDEX`, `pin n` no more.
//! - `node n` adds a replica that knows nothing. `change n voters n... learners n...` proposes a
//!   configuration, `transfer n m` hands the leadership over, `configuration` prints what holds.
//! - `log n TERM ENTRY...` lets `n` come back in `TERM` with a log of these entries and nothing
//!   else: each is a term, or `TERM=VOTERS` or `TERM=VOTERS&OUTGOING` for a configuration. `wipe n`
//!   takes the disk of a replica that is down, `give-up n` removes a running one, of which only the
//!   hard state stays, and makes it anew.
//! - `forge-append n m TERM BASE COMMIT ENTRY...` forges an append of `n` to `m`. `claim-lack n m
//!   INDEX` forges a rejection: `n` tells leader `m` that it holds nothing up to `INDEX`.
//! - `status` prints every node.

mod script;

#[test]
fn raft_scripts() {
    insta::glob!("scripts/raft/*.txt", |path| {
        println!("{}", path.display());
        let script = std::fs::read_to_string(path).expect("the script can be read");
        insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
            insta::assert_snapshot!(script::run(&script));
        });
    });
}

/// At every step of every schedule each disk holds what any replica takes for held by all, and
/// whatever happened, the replicas agree in the end and release everything.
#[test]
fn random_schedules_release_only_what_all_hold_and_all_of_it_in_the_end() {
    for seed in 0..1_000 {
        println!("seed {seed}");
        script::run_random(seed, 600);
    }
}

/// How many rules the scripts show, at least.
const SCRIPT_COUNT_MIN: usize = 60;

#[test]
fn every_snapshot_has_a_script_and_every_script_says_what_it_is_for() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/");
    let names = |path: &str, cut: &dyn Fn(&str) -> Option<String>| -> Vec<String> {
        let entries = std::fs::read_dir(format!("{folder}{path}")).expect("the folder exists");
        let names = entries.map(|entry| entry.expect("readable").file_name());
        names.filter_map(|name| cut(&name.to_string_lossy())).collect()
    };
    let scripts = names("scripts/raft", &|name| name.strip_suffix(".txt").map(String::from));
    let snapshots = names("snapshots", &|name| {
        Some(name.strip_prefix("raft_scripts@")?.strip_suffix(".txt.snap")?.to_string())
    });
    for snapshot in snapshots {
        assert!(scripts.contains(&snapshot), "{snapshot} has a snapshot but no script");
    }
    for script in &scripts {
        let path = format!("{folder}scripts/raft/{script}.txt");
        let text = std::fs::read_to_string(path).expect("the script can be read");
        assert!(text.starts_with("# "), "{script} says first what would go wrong without its rule");
    }
    assert!(scripts.len() >= SCRIPT_COUNT_MIN, "there are only {} scripts", scripts.len());
}
