//! How the columns of a cache hang together: a text is a chain of tokens, and draft tokens branch off it as a tree.

use crate::kernels::VisibleSpan;

/// New tokens of one text, behind what its cache holds.
#[derive(Debug, Clone, Copy)]
pub struct Span<'a> {
    /// Their ids.
    pub tokens: &'a [u32],
    /// For each token the column that it follows (none: it begins the text), counted from the start of the text's cache,
    /// earlier tokens of this span included; where nothing is given, each follows the one before it.
    ///
    /// A token sees the column that it follows, all that that one sees, and itself; its position is their number.
    pub after: Option<&'a [Option<usize>]>,
}

impl<'a> Span<'a> {
    /// Tokens one after another.
    pub fn chain(tokens: &'a [u32]) -> Self {
        Self { tokens, after: None }
    }
}

/// The rows of a block that are run at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockRows {
    /// Their number.
    pub count: usize,
    /// Whether each sees the rows before it and itself, and not those behind it.
    pub causal: bool,
    /// Whether the first stands in the place of the column that the block is put behind, which it then does not see.
    pub in_place: bool,
}

/// The columns of one text.
///
/// Where every token of the text has two, columns are counted by tokens: a column of the text is then a pair of columns in the cache.
#[derive(Debug, Clone, Default)]
pub(super) struct Columns {
    /// The first columns: each follows the one before it.
    trunk: usize,
    /// How many of the cache's first columns nothing sees.
    hidden: usize,
    /// Whether every column of the trunk is a pair of columns in the cache.
    paired: bool,
    /// The others.
    branches: Vec<Branch>,
}

/// A column that follows another one than that before it: it sees columns of the trunk up to `prefix`, then `ancestors`.
#[derive(Debug, Clone)]
struct Branch {
    prefix: usize,
    ancestors: Vec<usize>,
}

/// A new token's place.
#[derive(Debug, Clone)]
pub(super) struct CacheSlot {
    /// Its column in the cache.
    pub column: usize,
    /// Its place in the text, or in the text that its path through the tree would be.
    pub position: usize,
    /// It sees no column before this one,
    first: usize,
    /// columns up to this one,
    prefix: usize,
    /// and these.
    others: Vec<usize>,
    /// The columns of each token of the text.
    of_token: usize,
}

impl Columns {
    /// Begins without columns. Nothing will see the first `hidden` of the cache. With `paired`, every token of the text takes two.
    pub fn new(hidden: usize, paired: bool) -> Self {
        Self { hidden, paired, ..Self::default() }
    }

    /// Returns the number of columns.
    pub(super) fn len(&self) -> usize {
        self.trunk + self.branches.len()
    }

    /// Returns the number of columns in the cache that `len` columns take.
    pub fn in_cache(&self, len: usize) -> usize {
        len + if self.paired { len.min(self.trunk) } else { 0 }
    }

    /// Places the tokens of a span.
    ///
    /// # Panics
    /// When a token follows a column that is not there yet.
    pub fn place(&mut self, span: &Span) -> Vec<CacheSlot> {
        assert!(span.after.is_none_or(|after| after.len() == span.tokens.len()), "every token follows one column");
        let after = |i: usize, len: usize| span.after.map_or(len.checked_sub(1), |after| after[i]);
        (0..span.tokens.len()).map(|i| self.push(after(i, self.len()))).collect()
    }

    /// Places `count` tokens one after another, in two columns each where they are paired.
    pub fn append(&mut self, count: usize) -> Vec<CacheSlot> {
        let mut placed = Vec::with_capacity(count);
        for _ in 0..count {
            let slot = self.push(self.len().checked_sub(1));
            let second =
                self.paired.then(|| CacheSlot { column: slot.column + 1, prefix: slot.prefix + 1, ..slot.clone() });
            placed.extend([slot].into_iter().chain(second));
        }
        placed
    }

    /// Places one row behind each of the columns `after`, beside the text. Where tokens of the text have two columns, rows have one.
    pub fn place_after(&mut self, after: &[usize]) -> Vec<CacheSlot> {
        after.iter().map(|&after| self.branch(Some(after))).collect()
    }

    /// Places blocks of rows, one block behind each of the columns `after`, or in its place. The rows of a block stand at
    /// consecutive positions, and see what comes before the block and one another.
    pub fn place_blocks(&mut self, after: &[usize], rows: BlockRows) -> Vec<CacheSlot> {
        let BlockRows { count, causal, in_place } = rows;
        let mut placed = Vec::with_capacity(after.len() * count);
        for &after in after {
            assert!(after < self.trunk, "a block follows the text");
            let (begin, prefix) = (self.len(), after + usize::from(!in_place));
            for row in 0..count {
                let seen = if causal { row + 1 } else { count };
                placed.push(self.row(begin + row, prefix + row, prefix, begin..begin + seen));
                self.branches.push(Branch { prefix, ancestors: Vec::new() });
            }
        }
        placed
    }

    fn push(&mut self, after: Option<usize>) -> CacheSlot {
        let column = self.len();
        assert!(after.is_none_or(|after| after < column), "a token follows an earlier column");
        if self.branches.is_empty() && after == column.checked_sub(1) {
            let first_of_token = self.in_cache(column);
            self.trunk += 1;
            return CacheSlot {
                column: first_of_token,
                position: column,
                first: self.hidden,
                prefix: first_of_token + 1,
                others: Vec::new(),
                of_token: self.of_token(),
            };
        }
        self.branch(after)
    }

    /// Places a row beside the trunk.
    fn branch(&mut self, after: Option<usize>) -> CacheSlot {
        let column = self.len();
        let (prefix, ancestors) = match after {
            None => (0, Vec::new()),
            Some(parent) if parent < self.trunk => (parent + 1, Vec::new()),
            Some(parent) => {
                let Branch { prefix, ancestors } = &self.branches[parent - self.trunk];
                (*prefix, ancestors.iter().copied().chain([parent]).collect())
            }
        };
        let position = prefix + ancestors.len();
        let slot = self.row(column, position, prefix, ancestors.iter().copied().chain([column]));
        self.branches.push(Branch { prefix, ancestors });
        slot
    }

    fn of_token(&self) -> usize {
        1 + usize::from(self.paired)
    }

    /// Returns the place of a row behind the trunk, which sees the trunk's columns up to `prefix`, then `others`.
    fn row(&self, column: usize, position: usize, prefix: usize, others: impl Iterator<Item = usize>) -> CacheSlot {
        // Behind the trunk, the cache has one column for each.
        let in_cache = |column: usize| column + self.trunk * (self.of_token() - 1);
        CacheSlot {
            column: in_cache(column),
            position,
            first: self.hidden,
            prefix: prefix * self.of_token(),
            others: others.map(in_cache).collect(),
            of_token: self.of_token(),
        }
    }

    /// Forgets every column from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.branches.truncate(len.saturating_sub(self.trunk));
        self.trunk = self.trunk.min(len);
    }

    /// After this the columns are one chain of `len`.
    pub fn straighten(&mut self, len: usize) {
        self.trunk = len;
        self.branches.clear();
    }
}

impl CacheSlot {
    /// Whether the token sees the columns before it and itself, and nothing else.
    pub fn is_on_trunk(&self) -> bool {
        self.others.is_empty()
    }

    /// What the token sees, at most `window` tokens, itself included.
    pub fn visible(&self, window: Option<usize>) -> VisibleSpan {
        let in_window = window.map_or(0, |window| (self.position + 1).saturating_sub(window));
        let first = (in_window * self.of_token).max(self.first);
        // Ancestors stand at consecutive positions from the prefix on.
        let hidden = (first.saturating_sub(self.prefix) / self.of_token).min(self.others.len());
        VisibleSpan { first, prefix: self.prefix, others: self.others[hidden..].to_vec() }
    }

    /// Returns what a row beside the text sees of the text, without the rows before it and itself.
    pub fn visible_text(&self) -> VisibleSpan {
        VisibleSpan { first: self.first, prefix: self.prefix, others: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visible(placed: &CacheSlot, window: Option<usize>) -> Vec<usize> {
        let seen = placed.visible(window);
        (seen.first..seen.prefix).chain(seen.others).collect()
    }

    #[test]
    fn a_token_sees_its_own_path() {
        let mut columns = Columns::default();
        columns.place(&Span::chain(&[1, 2, 3]));
        // 3 and 4 follow the text; 5 follows 3, 6 follows 4, 7 follows 6, 8 follows column 1.
        let after = [Some(2), Some(2), Some(3), Some(4), Some(6), Some(1)];
        let placed = columns.place(&Span { tokens: &[0; 6], after: Some(&after) });
        let paths: [&[usize]; 6] =
            [&[0, 1, 2, 3], &[0, 1, 2, 4], &[0, 1, 2, 3, 5], &[0, 1, 2, 4, 6], &[0, 1, 2, 4, 6, 7], &[0, 1, 8]];
        for (placed, path) in placed.iter().zip(paths) {
            assert_eq!(visible(placed, None), path);
            assert_eq!(placed.position, path.len() - 1);
            for window in 1..7 {
                assert_eq!(visible(placed, Some(window)), path[path.len().saturating_sub(window)..]);
            }
        }
        columns.truncate(7);
        let next = columns.place(&Span { tokens: &[0], after: Some(&[Some(6)]) });
        assert_eq!(visible(&next[0], None), [0, 1, 2, 4, 6, 7]);
        columns.straighten(5);
        assert_eq!(visible(&columns.place(&Span::chain(&[0]))[0], None), [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn nothing_sees_hidden_columns() {
        let mut columns = Columns::new(1, false);
        columns.append(3);
        let placed = columns.place_after(&[2, 0, 4]);
        for (placed, path) in placed.iter().zip([&[1, 2, 3][..], &[4], &[4, 5]]) {
            assert_eq!(visible(placed, None), path);
        }
        assert_eq!((placed[0].position, placed[1].position, placed[2].position), (3, 1, 2));
        // Of the text, a row sees what lies before its block, and never a row.
        for (placed, text) in placed.iter().zip([1..3, 1..1, 1..1]) {
            let seen = placed.visible_text();
            assert_eq!((seen.first..seen.prefix, seen.others), (text, Vec::new()));
        }
        assert_eq!(visible(&placed[0], Some(2)), [2, 3]);
        columns.truncate(1);
        assert_eq!(
            visible(&columns.place_blocks(&[0], BlockRows { count: 1, causal: true, in_place: false })[0], None),
            [1]
        );
    }

    #[test]
    fn pairs_are_counted_as_one_and_seen_as_two() {
        let mut columns = Columns::new(1, true);
        let text = columns.append(3);
        let of_token = |slot: &CacheSlot| (slot.column, slot.position);
        assert!(text.iter().map(of_token).eq([(0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (5, 2)]));
        let placed = columns.place_after(&[2, 0, 3, 5]);
        for (placed, (column, position, path)) in placed.iter().zip([
            (6, 3, &[1, 2, 3, 4, 5, 6][..]),
            (7, 1, &[1, 7]),
            (8, 4, &[1, 2, 3, 4, 5, 6, 8]),
            (9, 5, &[1, 2, 3, 4, 5, 6, 8, 9]),
        ]) {
            assert_eq!((of_token(placed), &visible(placed, None)[..]), ((column, position), path));
        }
        assert_eq!(visible(&placed[3], Some(4)), [4, 5, 6, 8, 9]);
        assert_eq!(visible(&placed[3], Some(2)), [8, 9]);
        assert_eq!((columns.len(), columns.in_cache(7), columns.in_cache(3), columns.in_cache(2)), (7, 10, 6, 4));
        columns.truncate(2);
        assert_eq!(of_token(&columns.append(1)[1]), (5, 2));
    }

    #[test]
    fn the_rows_of_a_block_see_one_another() {
        let mut columns = Columns::default();
        columns.place(&Span::chain(&[1, 2, 3]));
        let block = BlockRows { count: 2, causal: false, in_place: false };
        let placed = columns.place_blocks(&[2, 0], block);
        let seen: [&[usize]; 4] = [&[0, 1, 2, 3, 4], &[0, 1, 2, 3, 4], &[0, 5, 6], &[0, 5, 6]];
        for (i, (placed, seen)) in placed.iter().zip(seen).enumerate() {
            assert_eq!((placed.column, placed.position), (3 + i, [3, 4, 1, 2][i]));
            assert_eq!(visible(placed, None), seen);
        }
        assert_eq!(visible(&placed[1], Some(3)), [2, 3, 4]);
        columns.truncate(3);
        let causal = columns.place_blocks(&[1], BlockRows { count: 3, causal: true, in_place: false });
        for (placed, seen) in causal.iter().zip([&[0, 1, 3][..], &[0, 1, 3, 4], &[0, 1, 3, 4, 5]]) {
            assert_eq!(visible(placed, None), seen);
        }
        columns.truncate(3);
        let in_place = columns.place_blocks(&[2, 0], BlockRows { count: 1, in_place: true, ..block });
        for (placed, (position, seen)) in in_place.iter().zip([(2, &[0, 1, 3][..]), (0, &[4])]) {
            assert_eq!((placed.position, &visible(placed, None)[..]), (position, seen));
        }
        columns.truncate(3);
        assert_eq!(visible(&columns.place(&Span::chain(&[0]))[0], None), [0, 1, 2, 3]);
    }
}
