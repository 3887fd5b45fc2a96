//! RocksDB, by its C interface, which is stable from version to version.
//!
//! A crate that binds RocksDB either compiles it or wants one version of its headers. This needs
//! about forty functions, so it declares them itself (see `rocksdb/c.h`).

#![allow(unsafe_code, reason = "a C library")]

use std::ffi::{CStr, CString, c_char, c_double, c_int, c_uchar, c_void};
use std::path::Path;
use std::ptr::{null, null_mut};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::{Engine, Key, Sizes};

/// A pointer to something of the library's.
type Handle = *mut c_void;

unsafe extern "C" {
    fn rocksdb_options_create() -> Handle;
    fn rocksdb_options_set_create_if_missing(options: Handle, is_on: c_uchar);
    fn rocksdb_options_set_compression(options: Handle, kind: c_int);
    fn rocksdb_options_increase_parallelism(options: Handle, threads: c_int);
    fn rocksdb_options_set_bytes_per_sync(options: Handle, bytes: u64);
    fn rocksdb_options_set_write_buffer_size(options: Handle, bytes: usize);
    fn rocksdb_options_set_max_bytes_for_level_base(options: Handle, bytes: u64);
    fn rocksdb_options_set_level_compaction_dynamic_level_bytes(options: Handle, is_on: c_uchar);
    fn rocksdb_options_set_block_based_table_factory(options: Handle, blocks: Handle);
    fn rocksdb_options_destroy(options: Handle);
    fn rocksdb_block_based_options_create() -> Handle;
    fn rocksdb_block_based_options_set_filter_policy(blocks: Handle, policy: Handle);
    fn rocksdb_block_based_options_set_format_version(blocks: Handle, version: c_int);
    fn rocksdb_block_based_options_set_block_cache(blocks: Handle, cache: Handle);
    fn rocksdb_block_based_options_destroy(blocks: Handle);
    fn rocksdb_filterpolicy_create_bloom_full(bits_per_key: c_double) -> Handle;
    fn rocksdb_cache_create_lru(bytes: usize) -> Handle;
    fn rocksdb_cache_destroy(cache: Handle);
    fn rocksdb_open(options: Handle, name: *const c_char, error: *mut *mut c_char) -> Handle;
    fn rocksdb_close(database: Handle);
    fn rocksdb_free(memory: *mut c_void);
    fn rocksdb_writebatch_create() -> Handle;
    fn rocksdb_writebatch_clear(batch: Handle);
    fn rocksdb_writebatch_destroy(batch: Handle);
    fn rocksdb_writebatch_put(
        batch: Handle,
        key: *const u8,
        key_bytes: usize,
        value: *const u8,
        value_bytes: usize,
    );
    fn rocksdb_writeoptions_create() -> Handle;
    fn rocksdb_writeoptions_set_sync(options: Handle, is_on: c_uchar);
    fn rocksdb_writeoptions_destroy(options: Handle);
    fn rocksdb_write(database: Handle, options: Handle, batch: Handle, error: *mut *mut c_char);
    fn rocksdb_readoptions_create() -> Handle;
    fn rocksdb_readoptions_destroy(options: Handle);
    fn rocksdb_get_pinned(
        database: Handle,
        options: Handle,
        key: *const u8,
        key_bytes: usize,
        error: *mut *mut c_char,
    ) -> Handle;
    fn rocksdb_pinnableslice_value(slice: Handle, bytes: *mut usize) -> *const u8;
    fn rocksdb_pinnableslice_destroy(slice: Handle);
    fn rocksdb_create_iterator(database: Handle, options: Handle) -> Handle;
    fn rocksdb_iter_seek(rows: Handle, key: *const u8, key_bytes: usize);
    fn rocksdb_iter_valid(rows: Handle) -> c_uchar;
    fn rocksdb_iter_next(rows: Handle);
    fn rocksdb_iter_value(rows: Handle, bytes: *mut usize) -> *const u8;
    fn rocksdb_iter_get_error(rows: Handle, error: *mut *mut c_char);
    fn rocksdb_iter_destroy(rows: Handle);
    fn rocksdb_flushoptions_create() -> Handle;
    fn rocksdb_flushoptions_set_wait(options: Handle, is_on: c_uchar);
    fn rocksdb_flushoptions_destroy(options: Handle);
    fn rocksdb_flush(database: Handle, options: Handle, error: *mut *mut c_char);
    fn rocksdb_property_int(database: Handle, name: *const c_char, value: *mut u64) -> c_int;
    fn rocksdb_compact_range(
        database: Handle,
        from: *const u8,
        from_bytes: usize,
        to: *const u8,
        to_bytes: usize,
    );
}

/// Calls a function that reports errors through its last argument.
fn checked<T>(call: impl FnOnce(*mut *mut c_char) -> T) -> Result<T> {
    let mut error: *mut c_char = null_mut();
    let result = call(&mut error);
    if error.is_null() {
        return Ok(result);
    }
    // SAFETY: the library returns a string with a terminating zero that it has allocated.
    let text = unsafe {
        let text = CStr::from_ptr(error).to_string_lossy().into_owned();
        rocksdb_free(error.cast());
        text
    };
    bail!("RocksDB: {text}");
}

/// A database. All handles are the library's, made in `open` and freed once, by `drop`.
pub struct Rocks {
    database: Handle,
    batch: Handle,
    reads: Handle,
    synced: Handle,
    unsynced: Handle,
    flush: Handle,
}

impl Rocks {
    pub fn open(dir: &Path, sizes: Sizes) -> Result<Self> {
        let path = CString::new(dir.to_str().context("a path in UTF-8")?)?;
        // SAFETY: every handle comes from its `create` and is used before its `destroy`; the
        // database keeps what it needs of options and cache, and the options own the policy.
        unsafe {
            let blocks = rocksdb_block_based_options_create();
            let policy = rocksdb_filterpolicy_create_bloom_full(10.0);
            rocksdb_block_based_options_set_filter_policy(blocks, policy);
            rocksdb_block_based_options_set_format_version(blocks, 5);
            let cache = rocksdb_cache_create_lru(sizes.cache_bytes as usize);
            rocksdb_block_based_options_set_block_cache(blocks, cache);
            let options = rocksdb_options_create();
            rocksdb_options_set_create_if_missing(options, 1);
            rocksdb_options_set_compression(options, 0);
            rocksdb_options_increase_parallelism(options, 2);
            rocksdb_options_set_bytes_per_sync(options, 1 << 20);
            rocksdb_options_set_write_buffer_size(options, sizes.memtable_bytes as usize);
            rocksdb_options_set_max_bytes_for_level_base(options, 4 * sizes.memtable_bytes);
            rocksdb_options_set_level_compaction_dynamic_level_bytes(options, 1);
            rocksdb_options_set_block_based_table_factory(options, blocks);
            let opened = checked(|error| rocksdb_open(options, path.as_ptr(), error));
            rocksdb_options_destroy(options);
            rocksdb_block_based_options_destroy(blocks);
            rocksdb_cache_destroy(cache);
            let (synced, unsynced) = (rocksdb_writeoptions_create(), rocksdb_writeoptions_create());
            rocksdb_writeoptions_set_sync(synced, 1);
            let flush = rocksdb_flushoptions_create();
            rocksdb_flushoptions_set_wait(flush, 1);
            let (batch, reads) = (rocksdb_writebatch_create(), rocksdb_readoptions_create());
            Ok(Self { database: opened?, batch, reads, synced, unsynced, flush })
        }
    }

    fn property(&self, name: &CStr) -> u64 {
        let mut value = 0;
        // SAFETY: the database is open, and the name ends with a zero.
        match unsafe { rocksdb_property_int(self.database, name.as_ptr(), &mut value) } {
            0 => value,
            _ => 0,
        }
    }
}

impl Drop for Rocks {
    fn drop(&mut self) {
        // SAFETY: nobody else has the handles.
        unsafe {
            rocksdb_close(self.database);
            rocksdb_writebatch_destroy(self.batch);
            rocksdb_readoptions_destroy(self.reads);
            rocksdb_writeoptions_destroy(self.synced);
            rocksdb_writeoptions_destroy(self.unsynced);
            rocksdb_flushoptions_destroy(self.flush);
        }
    }
}

impl Engine for Rocks {
    fn put(&mut self, batch: &[(Key, &[u8])], sync: bool) -> Result<()> {
        let options = if sync { self.synced } else { self.unsynced };
        // SAFETY: the batch copies what it is given, and each pointer has its length beside it.
        unsafe {
            rocksdb_writebatch_clear(self.batch);
            for (key, value) in batch {
                rocksdb_writebatch_put(
                    self.batch,
                    key.as_ptr(),
                    key.len(),
                    value.as_ptr(),
                    value.len(),
                );
            }
            checked(|error| rocksdb_write(self.database, options, self.batch, error))
        }
    }

    fn get(&mut self, key: &Key) -> Result<Option<usize>> {
        // SAFETY: the slice is freed after its last use; null means that there is none.
        unsafe {
            let slice = checked(|error| {
                rocksdb_get_pinned(self.database, self.reads, key.as_ptr(), key.len(), error)
            })?;
            if slice.is_null() {
                return Ok(None);
            }
            let mut bytes = 0;
            rocksdb_pinnableslice_value(slice, &mut bytes);
            rocksdb_pinnableslice_destroy(slice);
            Ok(Some(bytes))
        }
    }

    fn scan(&mut self, from: &Key, count: usize) -> Result<usize> {
        let (mut done, mut sum) = (0, 0_usize);
        // SAFETY: values are read only while the iterator stands on their row.
        unsafe {
            let rows = rocksdb_create_iterator(self.database, self.reads);
            rocksdb_iter_seek(rows, from.as_ptr(), from.len());
            while done < count && rocksdb_iter_valid(rows) != 0 {
                let mut bytes = 0;
                let value = rocksdb_iter_value(rows, &mut bytes);
                sum += if bytes > 0 { usize::from(*value) } else { 0 };
                done += 1;
                rocksdb_iter_next(rows);
            }
            let result = checked(|error| rocksdb_iter_get_error(rows, error));
            rocksdb_iter_destroy(rows);
            result?;
        }
        std::hint::black_box(sum);
        Ok(done)
    }

    fn settle(&mut self) -> Result<()> {
        // SAFETY: the database is open.
        checked(|error| unsafe { rocksdb_flush(self.database, self.flush, error) })?;
        loop {
            let busy = self.property(c"rocksdb.num-running-compactions")
                + self.property(c"rocksdb.compaction-pending")
                + self.property(c"rocksdb.num-running-flushes");
            if busy == 0 {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn compact(&mut self) -> Result<()> {
        // SAFETY: the database is open, and no bounds mean everything.
        unsafe { rocksdb_compact_range(self.database, null(), 0, null(), 0) };
        self.settle()
    }

    fn is_log(&self, name: &str) -> bool {
        name.ends_with(".log")
    }
}
