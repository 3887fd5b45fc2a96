//! Damaged, foreign and hostile bytes.

use kv_core::rng::Rng;
use proptest::prelude::*;

use super::super::format::{BATCH_HEADER_BYTES, FORMAT_VERSION, GroupMark};
use super::*;

/// Builds a segment batch by batch, also such as a log would not write today.
struct Segment {
    number: u64,
    bytes: Vec<u8>,
    /// Stream offset at which the segment starts.
    start: u64,
    life: u32,
}

impl Segment {
    /// A segment of which only the start is there.
    fn new(number: u64, start: u64, marks: &[GroupMark]) -> Self {
        let mut segment = Self { number, bytes: Vec::new(), start, life: 1 };
        let mut builder = BatchBuilder::default();
        builder.start();
        builder.push_start(marks);
        segment.seal(&mut builder, start);
        segment
    }

    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// Adds a batch that states `durable`. Returns where it is in the segment.
    fn push(&mut self, durable: u64, writes: &[GroupWrite]) -> std::ops::Range<usize> {
        let mut builder = BatchBuilder::default();
        builder.start();
        writes.iter().for_each(|write| builder.push(write));
        self.seal(&mut builder, durable)
    }

    fn seal(&mut self, builder: &mut BatchBuilder, durable: u64) -> std::ops::Range<usize> {
        let bytes = builder.seal(&BatchInfo {
            file: FileId { incarnation: INCARNATION, segment: self.number },
            position: self.bytes.len() as u64,
            offset: self.end(),
            durable,
            life: self.life,
        });
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len()
    }

    fn mark(&mut self, durable: u64, index: u64) -> std::ops::Range<usize> {
        let term = u64::from(self.life);
        self.push(durable, &[group_write(1, entries(term, index..index + 1, b"some payload"))])
    }
}

/// Opens a disk and returns the indexes and terms of group 1.
fn recovered(disk: &SimDisk) -> Result<Vec<LogId>, RecoveryError> {
    let (_, groups) = open(disk, SEGMENT_BYTES)?;
    let entries = groups.get(&ShardId(1)).map(|group| &group.entries[..]).unwrap_or_default();
    Ok(entries.iter().map(|entry| entry.id).collect())
}

fn ids(term: u64, indexes: std::ops::Range<u64>) -> Vec<LogId> {
    indexes.map(|index| LogId::new(term, index)).collect()
}

#[track_caller]
fn check_damaged(disk: &SimDisk, file: &str, at: u64) -> DamageKind {
    let before = all_files(disk);
    let error = match recovered(disk) {
        Err(RecoveryError::Damaged(damage)) => damage,
        other => panic!("not damaged: {other:?}"),
    };
    assert_eq!((&error.file[..], error.position), (file, at));
    assert_eq!(before, all_files(disk), "a damaged log is left as it is");
    error.kind
}

#[track_caller]
fn check_corrupt(disk: &SimDisk, segment: u64, at: u64) {
    let kind = check_damaged(disk, &segment_name(segment), at);
    assert!(matches!(kind, DamageKind::Corrupt { .. }), "{kind:?}");
}

/// The content of the only segment, without the space behind the batches.
fn real_log(append_count: u64, ends_idle: bool) -> Vec<u8> {
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk, 10_000).unwrap();
    for index in 1..=append_count {
        let write = group_write(1, entries(1, index..index + 1, b"some payload"));
        log.append(&[append_of(index, vec![write])]).unwrap();
    }
    if ends_idle {
        log.write_idle_batch().unwrap();
    }
    let end = log.head.unwrap().position as usize;
    file_bytes(&disk, &segment_name(1))[..end].to_vec()
}

#[test]
fn flipped_bit_is_corruption_wherever_a_later_batch_states_it_durable() {
    for ends_idle in [false, true] {
        let bytes = real_log(4, ends_idle);
        let all = if ends_idle { 4 } else { 3 };
        let last = real_log(all, false).len();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            match recovered(&disk_with(&[(1, &damaged)])) {
                // The last batch is the window: nothing states it durable.
                Ok(found) => {
                    assert!(bit / 8 >= last, "bit {bit} went unnoticed");
                    assert_eq!(found, ids(1, 1..all + 1));
                }
                Err(RecoveryError::Damaged(damage)) => {
                    assert!(bit / 8 < last, "bit {bit} is in the last batch");
                    assert!(damage.position <= bit as u64 / 8);
                }
                Err(other) => panic!("bit {bit}: {other}"),
            }
        }
    }
}

#[test]
fn cut_short_log_holds_whole_batches_only() {
    let bytes = real_log(4, false);
    let start = real_log(0, false).len();
    for size in 0..=bytes.len() {
        let disk = disk_with(&[(1, &bytes[..size])]);
        if size < start {
            check_corrupt(&disk, 1, 0);
            continue;
        }
        let whole = (0..=4).rev().find(|count| real_log(*count, false).len() <= size).unwrap();
        assert_eq!(recovered(&disk).unwrap(), ids(1, 1..whole + 1), "at size {size}");
    }
}

#[test]
fn tail_of_zeros_or_garbage_is_no_batch() {
    let bytes = real_log(3, false);
    for tail in [vec![0; 1], vec![0; 64], vec![0; 5000], vec![0xab; 5000], b"KVWB".repeat(100)] {
        let disk = disk_with(&[(1, &[&bytes[..], &tail].concat())]);
        assert_eq!(recovered(&disk).unwrap(), ids(1, 1..4));
    }
}

/// A log that writes a batch while the one before it is being synced states a smaller offset.
#[test]
fn damage_above_the_highest_stated_offset_is_a_torn_tail() {
    let mut segment = Segment::new(1, 0, &[]);
    segment.mark(0, 1);
    let torn = segment.mark(0, 2);
    segment.mark(torn.start as u64, 3);
    segment.bytes[torn.start + 70] ^= 1;
    let disk = disk_with(&[(1, &segment.bytes)]);
    assert_eq!(recovered(&disk).unwrap(), ids(1, 1..2));
    disk.crash(&mut Rng::fork(1, "crash"));
    let mut expected = segment.bytes.clone();
    let later = torn.end..torn.end + BATCH_HEADER_BYTES;
    expected[later].fill(0);
    assert_eq!(file_bytes(&disk, &segment_name(1)), expected, "unreadable, durably");
    assert_eq!(recovered(&disk).unwrap(), ids(1, 1..2));
}

#[test]
fn damage_below_an_offset_stated_behind_it_is_corruption() {
    for damaged_too in [false, true] {
        let mut segment = Segment::new(1, 0, &[]);
        segment.mark(0, 1);
        let damaged = segment.mark(0, 2);
        let between = segment.mark(0, 3);
        segment.push(damaged.end as u64, &[]);
        // A length that leads astray, so that the reader must find the next batch by itself.
        segment.bytes[damaged.start + 8] ^= 0x50;
        if damaged_too {
            segment.bytes[between.start..between.end].fill(0);
        }
        check_corrupt(&disk_with(&[(1, &segment.bytes)]), 1, damaged.start as u64);
    }
}

#[test]
fn discarded_batch_that_comes_back_is_no_part_of_the_log() {
    let mut segment = Segment::new(1, 0, &[]);
    segment.mark(0, 1);
    let discarded = segment.mark(0, 2);
    segment.mark(0, 3);
    let (kept, old) = segment.bytes.split_at(discarded.end);
    let old = old.to_vec();
    segment.bytes = kept[..discarded.start].to_vec();
    segment.life = 2;
    segment.mark(0, 2);
    assert_eq!(segment.bytes.len(), discarded.end, "the old batch fits behind the new one");
    segment.bytes.extend(old);
    let expected = [LogId::new(1, 1), LogId::new(2, 2)];
    assert_eq!(recovered(&disk_with(&[(1, &segment.bytes)])).unwrap(), expected);
}

#[test]
fn opening_writes_under_a_life_above_the_discarded_ones() {
    let mut segment = Segment::new(1, 0, &[]);
    segment.mark(0, 1);
    let torn = segment.mark(0, 2);
    segment.life = 7;
    segment.mark(0, 3);
    segment.bytes[torn.start] ^= 1;
    let (log, _) = open(&disk_with(&[(1, &segment.bytes)]), SEGMENT_BYTES).unwrap();
    assert_eq!(log.life, 8);
}

fn mark(last: u64) -> [GroupMark; 1] {
    let (shard, hard_state) = (ShardId(1), HardState::default());
    [GroupMark { shard, hard_state, floor: LogId::default(), last: LogId::new(1, last) }]
}

fn two_segments() -> (Segment, Segment) {
    let mut first = Segment::new(1, 0, &[]);
    first.mark(0, 1);
    first.mark(first.end(), 2);
    let mut second = Segment::new(2, first.end(), &mark(2));
    second.mark(second.end(), 3);
    (first, second)
}

#[test]
fn segment_before_the_last_is_whole_or_corrupt() {
    let (first, second) = two_segments();
    let (one, two) = (&first.bytes[..], &second.bytes[..]);
    let start = Segment::new(1, 0, &[]).bytes.len();
    let batch = (one.len() - start) / 2;
    assert_eq!(recovered(&disk_with(&[(1, one), (2, two)])).unwrap(), ids(1, 1..4));
    let with_space = [one, &[0; 800]].concat();
    assert_eq!(recovered(&disk_with(&[(1, &with_space), (2, two)])).unwrap(), ids(1, 1..4));
    let begun = &two[..two.len() - batch];
    assert_eq!(recovered(&disk_with(&[(1, one), (2, begun)])).unwrap(), ids(1, 1..3));
    assert_eq!(
        recovered(&disk_with(&[(1, one), (2, &two[..two.len() - 1])])).unwrap(),
        ids(1, 1..3)
    );
    let half = start + batch;
    check_corrupt(&disk_with(&[(1, &one[..half]), (2, two)]), 1, half as u64);
    check_corrupt(&disk_with(&[(1, &one[..half + 8]), (2, two)]), 1, half as u64);
    check_corrupt(&disk_with(&[(1, one), (2, b"")]), 2, 0);
    check_corrupt(&disk_with(&[(1, one), (2, &two[..40])]), 2, 0);
    check_corrupt(&disk_with(&[(1, b""), (2, two)]), 1, 0);
}

#[test]
fn start_that_contradicts_the_log_before_it_is_refused() {
    let (first, _) = two_segments();
    for marks in [&mark(1)[..], &mark(3), &[]] {
        let second = Segment::new(2, first.end(), marks);
        match recovered(&disk_with(&[(1, &first.bytes), (2, &second.bytes)])) {
            Err(RecoveryError::Record { file, position: 0, source }) => {
                assert_eq!((file, source), (segment_name(2), RecordError::Contradiction));
            }
            other => panic!("not refused: {other:?}"),
        }
    }
}

#[test]
fn segment_without_a_start_is_refused() {
    let mut segment = Segment { number: 1, bytes: Vec::new(), start: 0, life: 1 };
    segment.mark(0, 1);
    let result = recovered(&disk_with(&[(1, &segment.bytes)]));
    assert!(matches!(result, Err(RecoveryError::Record { position: 0, .. })), "{result:?}");
}

#[test]
fn missing_segment_is_named() {
    let (first, second) = two_segments();
    let third = Segment::new(3, second.end(), &mark(3));
    let (one, two, three) = (&first.bytes[..], &second.bytes[..], &third.bytes[..]);
    let kind = check_damaged(&disk_with(&[(1, one), (3, three)]), &segment_name(2), 0);
    assert!(matches!(kind, DamageKind::Missing), "{kind:?}");
    for segments in [vec![(2, two)], vec![(2, two), (3, three)]] {
        let kind = check_damaged(&disk_with(&segments), &segment_name(1), 0);
        let (shard, index) = (ShardId(1), LogIndex(1));
        let expected = DamageKind::Incomplete { shard, index };
        assert_eq!(format!("{kind:?}"), format!("{expected:?}"));
    }
}

#[test]
fn segment_from_elsewhere_is_refused_and_not_cut() {
    let (first, second) = two_segments();
    let disk = disk_with(&[(1, &first.bytes)]);
    let other = LogOptions { incarnation: Incarnation(1), ..options(SEGMENT_BYTES) };
    let result = open_as(&disk, other);
    assert!(matches!(result, Err(RecoveryError::Foreign { position: 0, .. })), "{result:?}");
    assert_eq!(file_bytes(&disk, &segment_name(1)), first.bytes);
    let kind = check_damaged(&disk_with(&[(1, &second.bytes)]), &segment_name(1), 0);
    assert!(matches!(kind, DamageKind::Misplaced { found: 2 }), "{kind:?}");
    let twice = disk_with(&[(1, &first.bytes), (2, &first.bytes)]);
    let kind = check_damaged(&twice, &segment_name(2), 0);
    assert!(matches!(kind, DamageKind::Misplaced { found: 1 }), "{kind:?}");
}

/// The batches of an older segment stand where the file was not overwritten yet, also at the very
/// place at which the next batch is due.
#[test]
fn older_batches_of_the_same_directory_are_no_part_of_a_segment() {
    let (first, second) = two_segments();
    let begun = Segment::new(2, first.end(), &mark(2));
    let rest_of = |old: &[u8]| [&begun.bytes, &old[begun.bytes.len().min(old.len())..]].concat();
    let mut old = Segment { number: 1, bytes: begun.bytes.clone(), start: 0, life: 1 };
    old.mark(0, 1);
    let bytes = rest_of(&old.bytes);
    let disk = disk_with(&[(1, &first.bytes), (2, &bytes)]);
    assert_eq!(recovered(&disk).unwrap(), ids(1, 1..3));
    let mut foreign = second.bytes;
    foreign[begun.bytes.len() + 16] ^= 1;
    let at = begun.bytes.len();
    reseal(&mut foreign[at..]);
    let disk = disk_with(&[(1, &first.bytes), (2, &foreign)]);
    let result = recovered(&disk);
    assert!(matches!(result, Err(RecoveryError::Foreign { .. })), "{result:?}");
}

/// Repairs the checksum of a batch that a test has changed.
fn reseal(batch: &mut [u8]) {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&batch[..60]), &batch[BATCH_HEADER_BYTES..]);
    batch[60..64].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn unknown_version_is_told_from_damage() {
    let mut segment = Segment::new(1, 0, &[]);
    segment.mark(0, 1);
    let newer = segment.mark(0, 2);
    segment.bytes[newer.start + 4] = FORMAT_VERSION as u8 + 1;
    reseal(&mut segment.bytes[newer.clone()]);
    for damage_before in [false, true] {
        if damage_before {
            let first = Segment::new(1, 0, &[]).bytes.len();
            segment.bytes[first] ^= 1;
        }
        match recovered(&disk_with(&[(1, &segment.bytes)])) {
            Err(RecoveryError::UnknownVersion { version, position, .. }) => {
                assert_eq!(version, FORMAT_VERSION + 1);
                assert_eq!(position, newer.start as u64);
            }
            other => panic!("not a newer version: {other:?}"),
        }
    }
}

#[test]
fn whole_batch_with_an_unreadable_record_is_refused() {
    let start = Segment::new(1, 0, &[]).bytes.len();
    let check = |change: &dyn Fn(&mut [u8]), expected: &str| {
        let mut segment = Segment::new(1, 0, &[]);
        segment.mark(0, 1);
        change(&mut segment.bytes[start..]);
        reseal(&mut segment.bytes[start..]);
        match recovered(&disk_with(&[(1, &segment.bytes)])) {
            Err(RecoveryError::Record { position, source, .. }) => {
                assert_eq!(position, start as u64);
                assert!(format!("{source:?}").starts_with(expected), "{source:?}");
            }
            other => panic!("not refused: {other:?}"),
        }
    };
    let reseal_record = |bytes: &mut [u8]| {
        let length = u32::from_le_bytes(*bytes[64..].first_chunk().unwrap()) as usize;
        let mut covered = bytes[64..76].to_vec();
        covered.extend(&bytes[16..32]);
        covered.extend((start as u64 + 64).to_le_bytes());
        covered.extend(&bytes[80..80 + length]);
        bytes[76..80].copy_from_slice(&crc32c::crc32c(&covered).to_le_bytes());
    };
    check(&|bytes| bytes[84] ^= 1, "Damaged");
    check(&|bytes| bytes[12] = 0, "Damaged");
    check(&|bytes| bytes[12] = 2, "Damaged");
    check(&|bytes| bytes[64] ^= 0x80, "Damaged");
    check(
        &|bytes| {
            bytes[68] = 9;
            reseal_record(bytes);
        },
        "UnknownType(9)",
    );
    check(
        &|bytes| {
            bytes[72] = 9;
            reseal_record(bytes);
        },
        "Damaged",
    );
    check(
        &|bytes| {
            bytes[80] = 9;
            reseal_record(bytes);
        },
        "Content",
    );
}

#[test]
fn gap_in_a_group_is_refused() {
    for first in [0, 3] {
        let mut segment = Segment::new(1, 0, &[]);
        segment.mark(0, 1);
        segment.push(0, &[group_write(1, entries(1, first..first + 1, b""))]);
        let result = recovered(&disk_with(&[(1, &segment.bytes)]));
        let gap = matches!(&result, Err(RecoveryError::Record { source: RecordError::Gap, .. }));
        assert!(gap, "{result:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(300)
    })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let start = real_log(0, false);
        recovered(&disk_with(&[(1, &[&start[..], &bytes].concat())])).unwrap();
        recovered(&disk_with(&[(1, &bytes)])).unwrap_err();
    }

    /// Overwrites part of a log and repairs the checksum of the first batch, so that what is behind
    /// the checksum meets arbitrary bytes too.
    #[test]
    fn arbitrary_bytes_behind_a_right_checksum_never_panic(
        at in 0_usize..400,
        patch in prop::collection::vec(any::<u8>(), 1..40),
    ) {
        let mut bytes = real_log(4, false);
        let (start, first) = (real_log(0, false).len(), real_log(1, false).len());
        let end = bytes.len().min(at + patch.len());
        bytes[at.min(end)..end].copy_from_slice(&patch[..end - at.min(end)]);
        reseal(&mut bytes[..start]);
        reseal(&mut bytes[start..first]);
        if let Ok(found) = recovered(&disk_with(&[(1, &bytes)])) {
            prop_assert_eq!(&found[..], &ids(1, 1..5)[..found.len()]);
        }
    }
}
