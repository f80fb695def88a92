//! How head scores and a rescorer's scores make the score of a path.

use serde::{Deserialize, Serialize};

/// The weights of a path's score: `sum over slots j (from 0) of decay^j * ((1 - scale) * b_j + scale * r_j)`, with b_j the
/// head's score of the token in slot j and r_j the rescorer's, usually a log-probability given the tokens before.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Weighting {
    /// a, the rescorer's weight (`lm_scale`); 0: it does not count at all.
    pub scale: f64,
    /// Below 1, earlier slots count for more, as a wrong token makes all behind it worthless; above 0.
    pub decay: f64,
}

impl From<f64> for Weighting {
    /// A scale alone: every slot counts alike.
    fn from(scale: f64) -> Self {
        Self { scale, decay: 1.0 }
    }
}

impl Weighting {
    /// What one candidate adds to the score of a path, in f64. At scale 0 not even as `0 * -inf` does the rescorer count.
    pub fn score(self, slot: usize, head: f32, rescorer: f64) -> f64 {
        let head = (1.0 - self.scale) * f64::from(head);
        let score = if self.scale == 0.0 { head } else { head + self.scale * rescorer };
        if self.decay == 1.0 { score } else { self.decay.powi(slot as i32) * score }
    }
}
