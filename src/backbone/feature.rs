//! Names for the backbone's states that something above it reads.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;

use crate::error::{Error, Result, bail};
use crate::files::serde_as_text;

/// A state of the backbone at a token, `d` numbers. Features are ordered by depth, so that a sorted list of them is the same
/// whoever asked for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, JsonSchema)]
#[schemars(with = "String")]
pub enum Feature {
    /// `layer-N`: the residual stream after N decoder layers, before any norm. 0 is the embedding, with the learned position
    /// where the model adds one.
    Layer(usize),
    /// `last`: the last hidden state, after the final norm, which the unembedding turns into logits.
    Last,
}

impl Feature {
    /// Returns an error unless a backbone of `layers` layers has this feature.
    ///
    /// # Errors
    /// A layer beyond the last one.
    pub fn validate(self, layers: usize) -> Result<()> {
        match self {
            Self::Layer(layer) if layer > layers => bail!(
                "there is no `{self}`: the backbone has {layers} layers, so its features are \"last\" and \"layer-0\" to \"layer-{layers}\"."
            ),
            _ => Ok(()),
        }
    }
}

/// Returns how many decoder layers a forward to `features` goes through, of a model of `layers` layers.
pub(super) fn depth(features: &[Feature], layers: usize) -> usize {
    let of = |feature: &Feature| match feature {
        Feature::Layer(layer) => *layer,
        Feature::Last => layers,
    };
    features.iter().map(of).max().unwrap_or(0)
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layer(layer) => write!(f, "layer-{layer}"),
            Self::Last => f.write_str("last"),
        }
    }
}

impl FromStr for Feature {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let layer = || text.strip_prefix("layer-")?.parse().ok().map(Self::Layer);
        let found = if text == "last" { Some(Self::Last) } else { layer() };
        // A name is the feature's only one: `layer-07` and `layer-+7` are not.
        found.filter(|feature| feature.to_string() == text).ok_or_else(|| {
            Error::new(format!(
                "`{text}` is no feature of the backbone; write \"last\" or \"layer-N\", such as \"layer-15\"."
            ))
        })
    }
}

serde_as_text!(Feature);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_feature_has_one_name() {
        for feature in [Feature::Layer(0), Feature::Layer(15), Feature::Last] {
            assert_eq!(feature.to_string().parse::<Feature>().unwrap(), feature);
            let json = serde_json::to_string(&feature).unwrap();
            assert_eq!(json, format!("\"{feature}\""));
            assert_eq!(serde_json::from_str::<Feature>(&json).unwrap(), feature);
        }
        for wrong in ["", "Last", "layer", "layer-", "layer-07", "layer-+7", "layer--1", "layer-x", "first"] {
            let error = wrong.parse::<Feature>().unwrap_err().to_string();
            assert!(error.contains("write \"last\" or \"layer-N\""), "{error}");
        }
    }

    #[test]
    fn features_are_ordered_by_depth() {
        let mut features = [Feature::Last, Feature::Layer(10), Feature::Layer(9), Feature::Layer(0)];
        features.sort();
        assert_eq!(features.map(|feature| feature.to_string()), ["layer-0", "layer-9", "layer-10", "last"]);
    }

    #[test]
    fn layers_end_with_the_last_one() {
        assert!(Feature::Layer(30).validate(30).is_ok() && Feature::Last.validate(1).is_ok());
        let error = Feature::Layer(31).validate(30).unwrap_err().to_string();
        assert!(error.contains("no `layer-31`") && error.contains("\"layer-0\" to \"layer-30\""), "{error}");
    }
}
