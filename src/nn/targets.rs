//! What rows of logits are to predict.

/// The token of a row that takes no part.
pub const IGNORE: u32 = u32::MAX;

/// For every row, the distribution over tokens that it is to predict: tokens with their shares, and perhaps a share of a
/// distribution over the whole vocabulary that a teacher gives. A row without either takes no part. Also the token that
/// the text has there, for the accuracy.
#[derive(Debug, Clone, Default)]
pub struct Targets {
    tokens: Vec<u32>,
    /// Where each row's entries end.
    ends: Vec<usize>,
    entries: Vec<(u32, f32)>,
    /// The teacher's share of each row.
    taught: Vec<f32>,
}

impl Targets {
    /// Makes targets of one token for each row; [`IGNORE`] is a row that takes no part.
    pub fn of_tokens(tokens: &[u32]) -> Self {
        let mut targets = Self::default();
        for &token in tokens {
            match token {
                IGNORE => targets.push(token, []),
                _ => targets.push(token, [(token, 1.0)]),
            }
        }
        targets
    }

    /// Adds a row: the text's token, and tokens with shares that sum to 1. A row without shares takes no part.
    pub fn push(&mut self, token: u32, distribution: impl IntoIterator<Item = (u32, f32)>) {
        self.push_taught(token, distribution, 0.0);
    }

    /// Adds a row like [`Targets::push`], where the share `taught` belongs to a teacher's distribution: it and the other
    /// shares sum to 1.
    pub fn push_taught(&mut self, token: u32, distribution: impl IntoIterator<Item = (u32, f32)>, taught: f32) {
        self.tokens.push(token);
        self.entries.extend(distribution);
        self.ends.push(self.entries.len());
        self.taught.push(taught);
    }

    /// Returns the number of rows.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Returns whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Returns the number of rows that take part.
    pub fn counted(&self) -> usize {
        (0..self.len()).filter(|&row| self.takes_part(row)).count()
    }

    /// Returns whether a row takes part.
    pub fn takes_part(&self, row: usize) -> bool {
        !self.distribution(row).is_empty() || self.taught[row] > 0.0
    }

    /// Returns the teacher's share of a row.
    pub fn taught(&self, row: usize) -> f32 {
        self.taught[row]
    }

    /// Returns the text's token at a row.
    pub fn token(&self, row: usize) -> u32 {
        self.tokens[row]
    }

    /// Returns whether the token chosen at each row is the text's.
    pub fn right(&self, choices: &[u32]) -> Vec<bool> {
        self.tokens.iter().zip(choices).map(|(token, choice)| token == choice).collect()
    }

    /// Returns the tokens of a row with their shares.
    pub fn distribution(&self, row: usize) -> &[(u32, f32)] {
        let first = row.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.entries[first..self.ends[row]]
    }

    /// Returns the number of entries of the longest distribution among `rows`, at least 1.
    pub(super) fn width(&self, rows: std::ops::Range<usize>) -> usize {
        rows.map(|row| self.distribution(row).len()).max().unwrap_or(0).max(1)
    }
}
