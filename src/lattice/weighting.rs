//! How head scores and a rescorer's scores are combined into the score of a path.

use serde::{Deserialize, Serialize};

/// The weights of a path's score: `sum over slots j (from 0) of decay^j * ((1 - scale) * b_j + scale * r_j)`. Here b_j
/// is the head's score of the token in slot j, and r_j is the rescorer's, usually a log-probability given the tokens
/// before.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Weighting {
    /// The rescorer's weight (`lm_scale`); at 0 the rescorer does not count at all.
    pub scale: f64,
    /// The factor from one slot to the next, above 0. Below 1, earlier slots count for more, because a wrong token
    /// makes all tokens after it worthless.
    pub decay: f64,
}

impl From<f64> for Weighting {
    /// Makes the weighting of a scale alone, in which every slot counts alike.
    fn from(scale: f64) -> Self {
        Self { scale, decay: 1.0 }
    }
}

impl Weighting {
    /// Returns what one candidate adds to the score of a path, in f64. At scale 0 the rescorer does not count, not even
    /// if its score is minus infinity.
    #[inline]
    pub fn score(self, slot: usize, head: f32, rescorer: f64) -> f64 {
        let head = (1.0 - self.scale) * f64::from(head);
        let score = if self.scale == 0.0 { head } else { head + self.scale * rescorer };
        if self.decay == 1.0 { score } else { self.decay.powi(slot as i32) * score }
    }
}
