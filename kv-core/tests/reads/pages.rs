//! What pages hold, whatever the shards hold and however slowly they tell it.

use kv_core::client::{PAGE_BYTES_MAX, PAGE_ROWS_MAX};
use kv_core::id::ShardId;
use kv_core::op::{Found, Key, KeyRange, Page, PageLimit, Row, Value};
use kv_core::ring;
use kv_core::rng::Rng;
use kv_core::wire::ClientReply;

use crate::harness::*;

/// A page, by servers that answer in any order.
fn page(harness: &mut Harness, store: &mut Store, rng: &mut Rng, range: &KeyRange) -> Page {
    page_of(harness, store, rng, range, NO_LIMIT)
}

fn page_of(
    harness: &mut Harness,
    store: &mut Store,
    rng: &mut Rng,
    range: &KeyRange,
    limit: PageLimit,
) -> Page {
    let call = harness.call(scan_of_range(range, limit));
    while !harness.done.contains_key(&call) {
        let at = rng.below(harness.sent.len() as u64) as usize;
        let sent = harness.sent.remove(at).expect("something is asked as long as it goes on");
        let reply = store.answer(&sent, harness.shard_count);
        harness.reply(&sent, reply);
    }
    // Nobody waits for the rest.
    harness.sent.clear();
    harness.page(call)
}

fn scan_of_range(range: &KeyRange, limit: PageLimit) -> kv_core::client::Call {
    scan_of(range.clone(), limit)
}

/// All pages, one after the other, and how many there were.
fn walk(
    harness: &mut Harness,
    store: &mut Store,
    rng: &mut Rng,
    range: &KeyRange,
    limit: PageLimit,
) -> (Vec<Row>, usize) {
    let (mut rows, mut range, mut count) = (vec![], range.clone(), 0);
    loop {
        let page = page_of(harness, store, rng, &range, limit);
        count += 1;
        assert!(page.rows.len() <= limit.rows.min(PAGE_ROWS_MAX) as usize);
        let bytes = |row: &Row| row.key.bytes.len() + row.found.value.size();
        let size: usize = page.rows.iter().map(bytes).sum();
        assert!(page.rows.len() == 1 || size <= limit.bytes as usize, "{size} bytes");
        rows.extend(page.rows);
        let Some(next) = page.next else {
            return (rows, count);
        };
        assert!(next > range.start, "every page makes progress");
        range.start = next;
    }
}

fn random_store(rng: &mut Rng) -> Store {
    let mut store = Store::new();
    for _ in 0..rng.below(200) {
        let number = rng.below(1_000);
        let key = match rng.below(4) {
            0 => format!("{number:03}{{tag}}"),
            _ => format!("{number:03}"),
        };
        store.put(&key, rng.below(60) as usize);
        if rng.below(3) == 0 {
            store.rows.insert(Key::new(key), None);
        }
    }
    if rng.below(2) == 0 {
        store.walk_max = 1 + rng.below(5) as usize;
    }
    store
}

#[test]
fn pages_hold_every_row_of_the_range_once_and_in_order() {
    for seed in 0..400 {
        let mut rng = Rng::fork(seed, "pages");
        let mut harness = Harness::new([1, 3, 16][rng.below(3) as usize]);
        let mut store = random_store(&mut rng);
        let limit = PageLimit {
            rows: [1, 7, 40, u32::MAX][rng.below(4) as usize],
            bytes: [1, 300, u32::MAX][rng.below(3) as usize],
        };
        let [low, high] = [rng.below(1_000), rng.below(1_100)].map(|at| format!("{at:03}"));
        let range = if rng.below(3) == 0 { KeyRange::from(..) } else { KeyRange::from(low..high) };
        let (rows, _) = walk(&mut harness, &mut store, &mut rng, &range, limit);
        assert_eq!(rows, store.rows_of(&range), "seed {seed}");
        harness.assert_idle();
    }
}

#[test]
fn page_fetches_little_more_than_it_holds() {
    let mut store = Store::new();
    (0..20_000).for_each(|at| store.put(format!("{at:05}"), 10));
    for rows in [1, 10, 100, 1_000, 10_000_u32] {
        let mut harness = Harness::new(16);
        (store.row_count, store.answer_count) = (0, 0);
        let limit = PageLimit { rows, bytes: u32::MAX };
        let mut rng = Rng::fork(1, "page");
        let page = page_of(&mut harness, &mut store, &mut rng, &KeyRange::from(..), limit);
        assert_eq!(page.rows.len(), rows as usize);
        let most = rows as usize * 3 / 2 + 50;
        assert!(store.row_count <= most, "{} rows are fetched for {rows}", store.row_count);
        assert!(store.answer_count <= 3 * 16, "{} requests for {rows}", store.answer_count);
    }
}

#[test]
fn rows_that_all_are_on_one_shard_fill_a_page_in_two_rounds() {
    let mut store = Store::new();
    (0..20_000).for_each(|at| store.put(format!("{{tag}}{at:05}"), 10));
    let mut harness = Harness::new(16);
    let mut rng = Rng::fork(1, "page");
    let page = page(&mut harness, &mut store, &mut rng, &KeyRange::prefix("{tag}"));
    assert_eq!(page.rows.len(), PAGE_ROWS_MAX as usize, "the limit of the caller is narrowed");
    assert_eq!(store.answer_count, 16 + 1);
}

#[test]
fn page_is_narrowed_to_the_most_bytes_that_one_may_have() {
    let mut store = Store::new();
    (0..100).for_each(|at| store.put(format!("{at:02}"), 100_000));
    let mut harness = Harness::new(3);
    let mut rng = Rng::fork(1, "page");
    let page = page(&mut harness, &mut store, &mut rng, &KeyRange::from(..));
    assert_eq!(page.rows.len(), PAGE_BYTES_MAX as usize / 100_002);
    assert_eq!(page.next, Some(Key::new("41")));
}

#[test]
fn large_row_stands_alone_and_a_limit_of_nothing_still_gives_one() {
    let mut store = Store::new();
    ["a", "b", "c"].iter().for_each(|key| store.put(key, 8 << 20));
    let mut harness = Harness::new(3);
    let mut rng = Rng::fork(1, "page");
    let limit = PageLimit { rows: 0, bytes: 0 };
    for (limit, pages) in [(NO_LIMIT, 3), (limit, 3)] {
        let limit = PageLimit { rows: limit.rows.max(1), ..limit };
        let (rows, count) = walk(&mut harness, &mut store, &mut rng, &(..).into(), limit);
        assert_eq!((rows.len(), count), (3, pages));
    }
    let call = harness.call(scan_of(.., limit));
    for sent in harness.take_sent() {
        let reply = store.answer(&sent, 3);
        harness.reply(&sent, reply);
    }
    assert_eq!(harness.page(call).rows.len(), 1);
}

#[test]
fn page_ends_without_a_row_if_a_shard_walks_over_many_deleted_keys() {
    let mut store = Store::new();
    store.walk_max = 1;
    let keys: Vec<_> = (0..40).map(|at| Key::new(format!("{at:02}{{tag}}"))).collect();
    store.rows.extend(keys.iter().map(|key| (key.clone(), None)));
    store.put("99", 1);
    let mut harness = Harness::new(16);
    let mut rng = Rng::fork(1, "page");
    let page = page(&mut harness, &mut store, &mut rng, &KeyRange::from(..));
    assert_eq!(page, Page { rows: vec![], next: Some(keys[8].clone()) });
    store.answer_count = 0;
    let (rows, count) = walk(&mut harness, &mut store, &mut rng, &KeyRange::from(..), NO_LIMIT);
    assert_eq!((rows.len(), count), (1, 5), "eight keys each");
}

#[test]
fn empty_range_asks_nobody() {
    let mut harness = Harness::new(16);
    let call = harness.call(scan_of("b".."a", NO_LIMIT));
    assert_eq!(harness.page(call), Page::default());
    harness.assert_idle();
}

/// The `at`-th key of a shard among three.
fn key_of(shard: ShardId, at: usize) -> Key {
    let keys = (0..).map(|number| Key::new(format!("{number:06}")));
    keys.filter(|key| ring::shard_of(key, 3) == shard).nth(at).expect("there are endlessly many")
}

#[test]
fn row_waits_for_every_shard_that_may_have_a_lower_one() {
    let mut harness = Harness::new(3);
    let call = harness.call(scan_of(.., NO_LIMIT));
    let sent = harness.take_sent();
    let row = |shard, at| Row {
        key: key_of(ShardId(shard), at),
        found: Found { version: AT, value: Value::string("v") },
    };
    let told =
        |rows: &[Row], next: Option<Key>| ClientReply::Page(Page { rows: rows.to_vec(), next });
    // The first shard has told all of its rows, the second only its lowest one, the third none.
    harness.reply(&sent[0], told(&[row(1, 0), row(1, 50)], None));
    harness.reply(&sent[1], told(&[row(2, 0)], Some(key_of(ShardId(2), 1))));
    assert!(!harness.done.contains_key(&call));
    harness.reply(&sent[2], told(&[], None));
    let again = harness.only();
    let (shard, range, _) = again.part();
    assert_eq!(
        (shard, &range.start),
        (ShardId(2), &key_of(ShardId(2), 1)),
        "from where it goes on"
    );
    harness.reply(&again, told(&[row(2, 1)], None));
    let mut rows = vec![row(1, 0), row(1, 50), row(2, 0), row(2, 1)];
    rows.sort_by(|one, other| one.key.cmp(&other.key));
    assert_eq!(harness.page(call), Page { rows, next: None });
    harness.assert_idle();
}

#[test]
fn page_that_answers_something_else_counts_for_nothing() {
    let row = |key: Key| Row { key, found: Found { version: AT, value: Value::string("v") } };
    let one = ShardId(1);
    let (low, high) = (key_of(one, 0), key_of(one, 1));
    let page = |rows: &[&Key], next: Option<&Key>| Page {
        rows: rows.iter().map(|key| row((*key).clone())).collect(),
        next: next.cloned(),
    };
    let foreign = key_of(ShardId(2), 0);
    let wrong = [
        page(&[&high, &low], None),
        page(&[&low, &low], None),
        page(&[&high], Some(&low)),
        page(&[&high], Some(&high)),
        page(&[&foreign], None),
        page(&[&Key::new("")], None),
        page(&[], Some(&Key::new("0"))),
        page(&[], Some(&Key::new(""))),
        page(&[&key_of(one, 9)], None),
    ];
    for wrong in wrong {
        let mut harness = Harness::new(3);
        let end = key_of(one, 9);
        let range = KeyRange { start: Key::new("0"), end: Some(end) };
        let call = harness.call(scan_of(range, NO_LIMIT));
        let sent = harness.take_sent();
        harness.reply(&sent[1], ClientReply::Page(Page::default()));
        harness.reply(&sent[2], ClientReply::Page(Page::default()));
        harness.reply(&sent[0], ClientReply::Page(wrong.clone()));
        assert!(!harness.done.contains_key(&call), "{wrong:?}");
        harness.reply(&sent[0], ClientReply::Page(page(&[&low, &high], None)));
        assert_eq!(harness.page(call).rows.len(), 2);
    }
}
