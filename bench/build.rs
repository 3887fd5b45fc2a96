//! Finds out whether the system's RocksDB can be linked. It is never compiled.

use std::path::PathBuf;

/// Where a system puts the library.
const FOLDERS: [&str; 6] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/lib",
    "/opt/homebrew/lib",
];

fn main() {
    println!("cargo::rustc-check-cfg=cfg(has_rocksdb)");
    if std::env::var_os("CARGO_FEATURE_STORAGE_PEERS").is_none() {
        return;
    }
    let candidates = FOLDERS.iter().flat_map(|folder| {
        ["librocksdb.so", "librocksdb.dylib"].map(|name| PathBuf::from(folder).join(name))
    });
    for library in candidates {
        // A path that does not exist makes cargo run this again at the next build.
        println!("cargo::rerun-if-changed={}", library.display());
        if library.exists() {
            println!("cargo::rerun-if-changed=build.rs");
            println!("cargo::rustc-cfg=has_rocksdb");
            if let Some(folder) = library.parent() {
                println!("cargo::rustc-link-search=native={}", folder.display());
            }
            println!("cargo::rustc-link-lib=dylib=rocksdb");
            return;
        }
    }
}
