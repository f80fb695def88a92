//! The walk over a text block by block, written once: replay, the oracle, the curve of p-best paths and dev during the heads'
//! training are all walks.

use std::convert::Infallible;

/// Walks over a text of `length` tokens and returns what `block` keeps of every block, in order.
///
/// `block` is called with the start of each block, the number of tokens before it, from 0 on. It returns how many tokens
/// the block accepts and what to keep of it. The next block starts behind the accepted tokens, and the walk ends with the
/// text. Every block accepts its pinned token, so 0 counts as 1.
///
/// # Errors
/// The first that `block` returns.
pub fn try_walk<T, E>(length: usize, mut block: impl FnMut(usize) -> Result<(usize, T), E>) -> Result<Vec<T>, E> {
    let (mut blocks, mut start) = (Vec::new(), 0);
    while start < length {
        let (accepted, kept) = block(start)?;
        blocks.push(kept);
        start += accepted.max(1);
    }
    Ok(blocks)
}

/// Walks as [`try_walk`] does, with a `block` that cannot fail.
pub fn walk<T>(length: usize, mut block: impl FnMut(usize) -> (usize, T)) -> Vec<T> {
    let Ok(blocks) = try_walk::<T, Infallible>(length, |start| Ok(block(start)));
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Every token belongs to one block, and the starts are the sums of what was accepted before.
        #[test]
        fn blocks_follow_one_another_to_the_end(lengths in prop::collection::vec(0usize..5, 0..40)) {
            let blocks = walk(lengths.len(), |start| (lengths[start], (start, lengths[start].max(1))));
            let mut next = 0;
            for (start, accepted) in blocks {
                prop_assert_eq!(start, next);
                next += accepted;
            }
            prop_assert!(next >= lengths.len() && next < lengths.len() + 5);
        }
    }

    #[test]
    fn the_first_error_ends_the_walk() {
        let mut starts = Vec::new();
        let outcome = try_walk(9, |start| {
            starts.push(start);
            if start < 4 { Ok((2, ())) } else { Err(start) }
        });
        assert_eq!((outcome, starts), (Err(4), vec![0, 2, 4]));
    }
}
