//! Strings that show the order of their writes: decided without a search.
//!
//! Call what a `put` or an `append` writes its *piece*. If no piece begins with another one, a
//! string is read as at most one sequence of pieces: where two pieces could come next, one would
//! begin with the other. Such pieces also differ from each other and from nothing, so each stands
//! for one operation, and what a `get` found says which writes came before it, in which order,
//! since the last `put`.
//!
//! # Chains
//!
//! A *chain* is a `put`, or the beginning, with the appends up to the next `put`. In every order
//! that explains the results:
//!
//! - What was found is a chain from its start on. It belongs to the `put` whose piece it begins
//!   with, else to the beginning. A `put` is nowhere else in it, and an append in one chain.
//! - What was found of one chain are beginnings of the longest.
//! - The longest one says in which order the appends come of which something was found, with the
//!   gets between them. Nothing else comes between, since the next `get` would have shown it.
//!
//! So the operations of a chain of which something was found are a *block* without a choice, but
//! for the order of gets that found the same, which is that of their invocations. A completed write
//! of which nothing was found is a block of its own: it may stand between any two blocks, since no
//! `get` comes between it and the next `put`, or the end; behind a `put` it changes nothing that is
//! found. A pending one took no effect or might as well have. The block of the beginning comes
//! first, if there is one.
//!
//! # The order of blocks
//!
//! This is what clusters and zones are for registers (Gibbons and Korach, "Testing shared
//! memories", SIAM J. Comput. 1997, section 4). Let f be the first completion in a block and s
//! the last invocation. Block A has to come before block B exactly if f(A) < s(B). If these demands
//! have a cycle, take its block with the smallest f: its predecessor P has f(P) < s(A); P itself has
//! a predecessor Q with f(A) <= f(Q) < s(P); so A and P demand to be before each other. Without
//! such pairs, f(A) < s(B) implies s(A) <= f(B), thus f(A) + s(A) < f(B) + s(B): sorted by f + s,
//! the blocks are in order. The operations have an order exactly if this one respects real time,
//! which one look at each decides: none may be completed before one that stands earlier is invoked.
//!
//! O(n log n), and one look at every byte that was found.
//!
//! # What this leaves out
//!
//! Pieces that begin with one another, and results that nobody knows: those are for the search.

use super::{Call, PENDING, StringAction, respects_real_time};
use crate::decision::Decision;

/// Where an operation stands in its chain: chain, number of the write before it there, and whether
/// it is a `get`. The chain of the beginning is 0, that of the write at place i is i + 1.
type Station = (u32, u32, bool);

/// Decides whether the calls have an order; nothing if the pieces are ambiguous.
pub(crate) fn decide(calls: &[Call<StringAction>]) -> Option<Decision> {
    let pieces = Pieces::new(calls)?;
    let Some(stations) = pieces.stations(calls) else { return Some(Decision::Violated(())) };
    let order = order(calls, stations);
    let decision = match respects_real_time(calls, &order) {
        true => Decision::Holds(Some(order)),
        false => Decision::Violated(()),
    };
    Some(decision)
}

/// What is written, in the order of bytes: each with the place of its call.
struct Pieces<'a>(Vec<(&'a [u8], u32)>);

impl<'a> Pieces<'a> {
    /// Nothing if one begins with another one, or a result is not known.
    fn new(calls: &'a [Call<StringAction>]) -> Option<Self> {
        let mut pieces = Vec::new();
        for (place, call) in (0..).zip(calls) {
            match &call.action {
                StringAction::Get(None) if call.completed != PENDING => return None,
                StringAction::Get(_) => {}
                StringAction::Put(piece) | StringAction::Append(piece) => {
                    pieces.push((piece.as_bytes(), place));
                }
            }
        }
        pieces.sort_unstable();
        let is_clear = pieces.first().is_none_or(|(piece, _)| !piece.is_empty())
            && pieces.windows(2).all(|pair| !pair[1].0.starts_with(pair[0].0));
        is_clear.then_some(Self(pieces))
    }

    /// The piece that a text begins with, as its length and the place of its call.
    fn first(&self, text: &[u8]) -> Option<(usize, u32)> {
        // Whatever lies between a piece and a text that begins with it begins with it as well.
        let next = self.0.partition_point(|(piece, _)| *piece <= text);
        let (piece, place) = *self.0.get(next.checked_sub(1)?)?;
        text.starts_with(piece).then_some((piece.len(), place))
    }

    /// Where each call stands; none for what is left out. Nothing if a result has no explanation
    /// whatever the order.
    fn stations(&self, calls: &[Call<StringAction>]) -> Option<Vec<Option<Station>>> {
        let mut found = Vec::new();
        for (place, call) in calls.iter().enumerate() {
            if let StringAction::Get(Some(text)) = &call.action {
                found.push((self.chain_of(text.as_bytes(), calls)?, text.as_bytes(), place));
            }
        }
        // By chain, the longest first.
        found.sort_unstable_by_key(|(chain, text, _)| (*chain, std::cmp::Reverse(text.len())));
        let mut stations = vec![None; calls.len()];
        let mut ends = Vec::new();
        for gets in found.chunk_by(|one, next| one.0 == next.0) {
            let (chain, longest, _) = gets[0];
            self.walk(chain, longest, calls, &mut stations, &mut ends)?;
            for (_, text, place) in gets {
                let number = ends.binary_search(&text.len()).ok()?;
                let number = u32::try_from(number).expect("fewer writes than calls");
                if !longest.starts_with(text) {
                    return None;
                }
                stations[*place] = Some((chain, number, true));
            }
        }
        for (chain, (call, station)) in (1..).zip(calls.iter().zip(&mut stations)) {
            let is_write = !matches!(call.action, StringAction::Get(_));
            if is_write && station.is_none() && call.completed != PENDING {
                *station = Some((chain, 0, false));
            }
        }
        Some(stations)
    }

    /// Which chain a `get` found; nothing if it begins with no piece.
    fn chain_of(&self, text: &[u8], calls: &[Call<StringAction>]) -> Option<u32> {
        if text.is_empty() {
            return Some(0);
        }
        let (_, place) = self.first(text)?;
        let is_put = matches!(calls[place as usize].action, StringAction::Put(_));
        Some(if is_put { place + 1 } else { 0 })
    }

    /// Gives the writes of a chain their stations, and says where in the text each of them ends, the
    /// beginning included. Nothing if these are not writes that can make a chain.
    fn walk(
        &self,
        chain: u32,
        text: &[u8],
        calls: &[Call<StringAction>],
        stations: &mut [Option<Station>],
        ends: &mut Vec<usize>,
    ) -> Option<()> {
        ends.clear();
        ends.push(0);
        let mut at = 0;
        while at < text.len() {
            let (length, place) = self.first(&text[at..])?;
            let is_put = matches!(calls[place as usize].action, StringAction::Put(_));
            let station = &mut stations[place as usize];
            if station.is_some() || (is_put && at > 0) {
                return None;
            }
            let number = u32::try_from(ends.len()).expect("fewer writes than calls");
            *station = Some((chain, number, false));
            at += length;
            ends.push(at);
        }
        Some(())
    }
}

/// The calls that have a station, block by block.
fn order(calls: &[Call<StringAction>], stations: Vec<Option<Station>>) -> Vec<usize> {
    let mut line: Vec<_> = stations
        .into_iter()
        .enumerate()
        .filter_map(|(place, station)| Some((station?, calls[place].invoked, place)))
        .collect();
    line.sort_unstable();
    let mut blocks: Vec<(u64, usize, usize)> = Vec::new();
    let mut begin = 0;
    for block in line.chunk_by(|one, next| one.0.0 == next.0.0) {
        let completed = block.iter().map(|(_, _, place)| calls[*place].completed).min();
        let invoked = block.iter().map(|(_, invoked, _)| *invoked).max();
        let is_beginning = block[0].0.0 == 0;
        let sum = u64::from(completed.unwrap_or(0)) + u64::from(invoked.unwrap_or(0));
        blocks.push((if is_beginning { 0 } else { sum }, begin, begin + block.len()));
        begin += block.len();
    }
    blocks.sort_unstable();
    let places = blocks.into_iter().flat_map(|(_, begin, end)| &line[begin..end]);
    places.map(|(_, _, place)| *place).collect()
}
