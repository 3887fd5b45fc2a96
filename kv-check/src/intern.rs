//! Texts as small numbers.

use xxhash_rust::xxh3::xxh3_64;

/// How many places the least table has.
const TABLE_MIN: usize = 16;

/// An empty place of the table.
const FREE: u32 = u32::MAX;

/// Numbers for texts, in the order in which they come.
///
/// An open-addressing table that keeps 32 bits of each hash beside the number: to grow it, or to
/// pass a place that another text holds, no text is touched, and those lie all over the memory.
/// The hash has no key, so equal inputs take equal steps.
#[derive(Debug, Default)]
pub(crate) struct Interner<'t> {
    /// Hash and number. Its length is a power of two, and at most half of it is in use.
    table: Vec<(u32, u32)>,
    texts: Vec<&'t str>,
}

impl<'t> Interner<'t> {
    /// The number of `text`; the next free one if it is new.
    pub(crate) fn number(&mut self, text: &'t str) -> u32 {
        if self.texts.len() * 2 >= self.table.len() {
            self.grow();
        }
        let hash = hash(text);
        let mask = self.table.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            match self.table[at] {
                (_, FREE) => break,
                (other, number) if other == hash && self.texts[number as usize] == text => {
                    return number;
                }
                _ => at = (at + 1) & mask,
            }
        }
        let number = u32::try_from(self.texts.len()).ok().filter(|number| *number != FREE);
        let number = number.expect("a history has fewer than 2^32 - 1 texts");
        self.table[at] = (hash, number);
        self.texts.push(text);
        number
    }

    fn grow(&mut self) {
        let mut table = vec![(0, FREE); TABLE_MIN.max(self.table.len() * 2)];
        let mask = table.len() - 1;
        for entry in self.table.iter().filter(|entry| entry.1 != FREE) {
            let mut at = entry.0 as usize & mask;
            while table[at].1 != FREE {
                at = (at + 1) & mask;
            }
            table[at] = *entry;
        }
        self.table = table;
    }
}

/// Values are mostly counted, and come in about that order. So texts that differ in the last byte
/// only have places near each other, most of which are in the cache when the next one comes.
fn hash(text: &str) -> u32 {
    let Some((last, rest)) = text.as_bytes().split_last() else { return 0 };
    let hash = u32::try_from(xxh3_64(rest) >> 32).expect("32 bits are left");
    hash.wrapping_add(u32::from(*last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_have_equal_numbers() {
        let texts: Vec<String> =
            (0..5_000).map(|number| format!("text {}", number % 3_000)).collect();
        let mut interner = Interner::default();
        for (at, text) in texts.iter().enumerate() {
            assert_eq!(interner.number(text) as usize, at % 3_000);
        }
        assert_eq!(interner.texts[2_999], "text 2999");
        assert_eq!(interner.texts.len(), 3_000);
    }
}
