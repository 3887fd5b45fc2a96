//! Chunks of snapshots: what is sent comes back, and what was never sent does no harm.

use bytes::Bytes;
use kv_core::codec;
use kv_core::id::{LogId, ShardId, Timestamp};
use kv_core::machine::{
    CHUNK_BYTES_MAX, ChunkContent, ChunkRefusal, HISTORY_BYTES_MAX, History, Machine, RowsBuilder,
    SnapshotChunk,
};
use kv_core::storage::SnapshotId;
use proptest::prelude::*;

const ID: SnapshotId = SnapshotId { shard: ShardId(3), last: LogId::new(4, 9), nonce: 77 };

fn machine() -> SnapshotChunk {
    SnapshotChunk::of_machine(&Machine::new().encode(), &ID, 0).0
}

fn rows() -> SnapshotChunk {
    let mut rows = RowsBuilder::new(Timestamp(5));
    let mut one = History::default();
    assert!(one.push(b"key one, 9", b"\x01value", Timestamp(9)));
    assert!(one.push(b"key one, 7", b"\0", Timestamp(7)));
    assert!(rows.push(&one) && rows.push(&history(b"key two", b"\x01")));
    rows.seal(&ID, 1, true)
}

/// One version of a key.
fn history(key: &[u8], value: &[u8]) -> History {
    let mut history = History::default();
    assert!(history.push(key, value, Timestamp(8)));
    history
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn golden_bytes_of_chunks() {
    let empty = RowsBuilder::new(Timestamp(0)).seal(&ID, 2, false);
    let lines = [("machine", machine()), ("rows", rows()), ("no rows", empty)].map(|(name, it)| {
        let SnapshotChunk { bytes, checksum, .. } = &it;
        format!("{name}: {} {checksum:016x} sent {}", hex(bytes), hex(&codec::encode(&it)))
    });
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn content_comes_back() {
    let encoded = Machine::new().encode();
    assert_eq!(machine().open(&ID, 0), Ok(ChunkContent::Machine(encoded.into())));
    let Ok(ChunkContent::Rows { readable_from, rows }) = rows().open(&ID, 1) else {
        panic!("no rows")
    };
    let rows: Vec<_> = rows.iter().map(|row| (&row.key[..], &row.value[..])).collect();
    let newest = (&b"key one, 9"[..], &b"\x01value"[..]);
    assert_eq!(rows, [newest, (b"key one, 7", b"\0"), (b"key two", b"\x01")]);
    assert_eq!(readable_from, Timestamp(5));
    let sent: SnapshotChunk = codec::decode(&codec::encode(&machine())).unwrap();
    assert_eq!(sent, machine());
}

/// The versions of a key that do not fit are left out, and the chunk says so; all versions of a key
/// stay together.
#[test]
fn history_is_bounded_and_never_parted() {
    let value = vec![1; HISTORY_BYTES_MAX / 4];
    let mut history = History::default();
    let pushed = (90..=99_u64)
        .rev()
        .take_while(|version| history.push(&version.to_be_bytes(), &value, Timestamp(*version)));
    assert_eq!(pushed.count(), 3);
    let mut rows = RowsBuilder::new(Timestamp(5));
    assert!(rows.push(&self::history(b"small", b"\x01")), "there is always room for one");
    assert!(!rows.push(&history), "not beside another");
    assert_eq!(readable_from(rows), Timestamp(5), "of what it brings itself");
    let mut rows = RowsBuilder::new(Timestamp(5));
    assert!(rows.push(&history), "there is always room for one");
    assert!(!rows.push(&self::history(b"small", b"\x01")), "it is full");
    assert_eq!(readable_from(rows), Timestamp(97));
}

fn readable_from(rows: RowsBuilder) -> Timestamp {
    match rows.seal(&ID, 1, true).open(&ID, 1) {
        Ok(ChunkContent::Rows { readable_from, .. }) => readable_from,
        other => panic!("no rows: {other:?}"),
    }
}

#[test]
fn large_machine_is_cut_into_pieces() {
    let whole: Vec<u8> = (0..3 * CHUNK_BYTES_MAX).map(|at| (at / 7) as u8).collect();
    let (mut rest, mut pieces, mut sequence) = (&whole[..], Vec::new(), 0);
    while !rest.is_empty() {
        let chunk;
        (chunk, rest) = SnapshotChunk::of_machine(rest, &ID, sequence);
        assert!(chunk.bytes.len() <= CHUNK_BYTES_MAX);
        let Ok(ChunkContent::Machine(piece)) = chunk.open(&ID, sequence) else {
            panic!("no piece")
        };
        pieces.extend_from_slice(&piece);
        sequence += 1;
    }
    assert_eq!(sequence, 4);
    assert!(pieces == whole);
}

#[test]
fn any_changed_bit_and_any_other_place_is_noticed() {
    let chunk = rows();
    let wrong = Err(ChunkRefusal::WrongChecksum);
    for bit in 0..chunk.bytes.len() * 8 {
        let mut bytes = chunk.bytes.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let damaged = SnapshotChunk { bytes: bytes.into(), ..chunk.clone() };
        assert_eq!(damaged.open(&ID, 1), wrong, "bit {bit}");
    }
    assert_eq!(SnapshotChunk { is_last: false, ..chunk.clone() }.open(&ID, 1), wrong);
    assert_eq!(chunk.open(&ID, 2), wrong);
    assert_eq!(chunk.open(&SnapshotId { shard: ShardId(4), ..ID }, 1), wrong);
    assert_eq!(chunk.open(&SnapshotId { last: LogId::new(5, 9), ..ID }, 1), wrong);
    assert_eq!(chunk.open(&SnapshotId { last: LogId::new(4, 8), ..ID }, 1), wrong);
    assert_eq!(chunk.open(&SnapshotId { nonce: 78, ..ID }, 1), wrong);
}

/// A chunk with a right checksum over any content.
fn sealed(bytes: &[u8]) -> SnapshotChunk {
    let mut place = [0; 37];
    place[..4].copy_from_slice(&3_u32.to_le_bytes());
    place[4..12].copy_from_slice(&4_u64.to_le_bytes());
    place[12..20].copy_from_slice(&9_u64.to_le_bytes());
    place[20..28].copy_from_slice(&77_u64.to_le_bytes());
    let seed = xxhash_rust::xxh3::xxh3_64(&place);
    let checksum = xxhash_rust::xxh3::xxh3_64_with_seed(bytes, seed);
    SnapshotChunk { bytes: Bytes::copy_from_slice(bytes), checksum, is_last: false }
}

#[test]
fn unknown_version_is_told_from_damage() {
    assert_eq!(sealed(&[2, 0]).open(&ID, 0), Err(ChunkRefusal::UnknownVersion(2)));
    assert!(matches!(sealed(&[3, 2]).open(&ID, 0), Err(ChunkRefusal::Malformed(_))));
    assert!(matches!(sealed(&[3]).open(&ID, 0), Err(ChunkRefusal::Malformed(_))));
    assert!(matches!(
        sealed(&[3, 1, 0, 0, 0, 0, 0, 0, 0]).open(&ID, 0),
        Err(ChunkRefusal::Malformed(_))
    ));
    let from = [3, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    let row = [&from[..], &[3, 0, 0, 0, 0, 0, 0, 0, b'k', b'e']].concat();
    assert!(matches!(sealed(&row).open(&ID, 0), Err(ChunkRefusal::Malformed(_))));
    let row = [&from[..], &[0xff; 20]].concat();
    assert!(matches!(sealed(&row).open(&ID, 0), Err(ChunkRefusal::Malformed(_))));
}

proptest! {
    #[test]
    fn arbitrary_bytes_behind_a_right_checksum_never_panic(
        kind in 0_u8..3,
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let _ = sealed(&bytes).open(&ID, 0);
        let _ = sealed(&[&[3, kind][..], &bytes].concat()).open(&ID, 0);
        let _ = codec::decode::<SnapshotChunk>(&bytes);
        let _ = codec::decode::<SnapshotId>(&bytes);
        let _ = Machine::decode(&bytes);
    }
}
