//! Checks of the configured heads, made of random numbers: nothing is trained.

use super::{Finding, finding};
use crate::backbone::{FeatureTensors, Span};
use crate::error::Result;
use crate::heads::{BlockStarts, Candidates, Context, FrozenHeads, HeadShape, Wanted};
use crate::stages::Workspace;

/// Checks that the heads can be made, and that their candidates depend on nothing behind the block.
///
/// # Errors
/// Returns an error if the backbone does not suit the heads, or their numbers are not finite.
pub(super) fn checks(workspace: &Workspace, prompts: &[Vec<u32>], written: &[Vec<u32>]) -> Result<Vec<Finding>> {
    let (config, backbone) = (&workspace.config.heads, workspace.backbone());
    let kind = config.architecture.kind();
    let model = &backbone.model;
    let shape = HeadShape::new(config.block_size - 1, model);
    let heads = kind.untrained(shape, config.bias, backbone)?;
    let features: Vec<String> = heads.features().iter().map(ToString::to_string).collect();
    let made = format!(
        "{} of kind \"{}\", {} parameters, read {}",
        heads.count(),
        kind.name(),
        heads.parameters(),
        features.join(", ")
    );
    let text = [&prompts[0][..], &written[0]].concat();
    let mut findings = vec![finding("heads", true, made)];
    if text.len() > 3 {
        findings.push(leak(&heads, workspace, &text)?);
    }
    Ok(findings)
}

/// Candidates in the middle of a text, whose states behind the block are changed.
fn leak(heads: &FrozenHeads, workspace: &Workspace, text: &[u32]) -> Result<Finding> {
    let middle = text.len() / 2;
    let [plain, changed] = [1.0, -3.0].map(|factor| candidates(heads, workspace, text, middle, factor));
    let (plain, changed) = (plain?, changed?);
    let passed = plain.ids == changed.ids && plain.scores == changed.scores;
    let words = if passed {
        "what lies behind a block changes none of its candidates, to the bit".to_owned()
    } else {
        "candidates of a block change with the states behind it: these heads see the future, and would accept little. This is a bug in the kind of heads.".to_owned()
    };
    Ok(finding("leak", passed, words))
}

/// Returns the candidates of the block behind token `middle` of a text, where all states behind that token are multiplied by
/// `factor`.
fn candidates(
    heads: &FrozenHeads,
    workspace: &Workspace,
    text: &[u32],
    middle: usize,
    factor: f32,
) -> Result<Candidates> {
    let (model, features) = (&workspace.backbone().model, heads.features());
    let read = FeatureTensors::new(&features, model.features(&[Span::chain(text)], None, &features));
    let behind = text.len() - middle - 1;
    let read = read.map(|state| {
        let before = state.clone().narrow(0, 0, middle + 1);
        let after = state.narrow(0, middle + 1, behind).mul_scalar(factor);
        burn::tensor::Tensor::cat(vec![before, after], 0)
    });
    let mut cache = heads.cache(1, text.len() + heads.count() + 1);
    if let Some(cache) = &mut cache {
        heads.read(model, cache, &[text.len()], &read);
    }
    let states = read.map(|state| state.narrow(0, middle, 1));
    let context = cache.as_mut().map(|cache| Context::new(cache, vec![(0, middle)]));
    let starts = BlockStarts { states: &states, pinned: &text[middle + 1..middle + 2], context };
    heads.candidates(model, starts, 8, Wanted::default())
}
