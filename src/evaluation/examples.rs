//! A few documents written out block by block: where a variant does well, and where it does not.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ReplayText, Step};
use crate::drafting::Drafter;
use crate::error::Result;
use crate::lattice::{Lattice, accepted_length};
use crate::rescorer::BlockContext;
use crate::text::Tokenizer;

/// Documents of either kind.
const EXAMPLES: usize = 3;

/// The most characters of a prompt that are kept, its last ones.
const PROMPT: usize = 300;

/// The documents that one variant decodes best and worst.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Examples {
    /// Its name.
    pub variant: String,
    /// From the best on.
    pub best: Vec<Example>,
    /// From the worst on; none of them is among the best.
    pub worst: Vec<Example>,
}

/// A document with its blocks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Example {
    /// The corpus's name for it.
    pub document: String,
    /// Decoded tokens / calls.
    pub block_efficiency: f64,
    /// Decoded tokens.
    pub tokens: u64,
    /// Calls.
    pub calls: u64,
    /// The end of its prompt.
    pub prompt: String,
    /// In order.
    pub blocks: Vec<ExampleBlock>,
}

/// One block in words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExampleBlock {
    /// What was accepted; empty for an end-of-text alone.
    pub accepted: String,
    /// What came behind it in the first of the drafts that went furthest.
    pub rejected: String,
}

/// The numbers of the best and of the worst documents by decoded tokens / calls; of equals the earlier one comes first. Where
/// there are few, each is in one list only.
pub fn best_and_worst(walks: &[Vec<Step>]) -> [Vec<usize>; 2] {
    let rate = |number: usize| {
        let tokens: usize = walks[number].iter().map(|step| step.accepted).sum();
        tokens as f64 / walks[number].len().max(1) as f64
    };
    let mut numbers: Vec<usize> = (0..walks.len()).collect();
    numbers.sort_by(|&a, &b| rate(b).total_cmp(&rate(a)));
    let best: Vec<usize> = numbers.iter().copied().take(EXAMPLES.min(walks.len().div_ceil(2))).collect();
    numbers.sort_by(|&a, &b| rate(a).total_cmp(&rate(b)));
    let worst = numbers.into_iter().filter(|number| !best.contains(number)).take(EXAMPLES).collect();
    [best, worst]
}

/// One document that `drafter` walked in `steps`.
pub fn example(
    text: &ReplayText,
    lattices: &[Lattice],
    steps: &[Step],
    drafter: &dyn Drafter,
    tokenizer: &Tokenizer,
) -> Result<Example> {
    let blocks: Vec<BlockContext> =
        steps.iter().map(|step| text.block_context(step.start, &lattices[step.start])).collect();
    let drafts = drafter.session().drafts(&text.tokens, &blocks)?;
    let mut blocks = Vec::new();
    for (step, drafts) in steps.iter().zip(drafts) {
        let (begin, end) = (text.prompt + step.start, text.prompt + step.start + step.accepted);
        let furthest =
            drafts.paths.iter().find(|path| accepted_length(&[path], &text.tokens[begin..]) >= step.accepted);
        let behind = furthest.map_or(&[][..], |path| &path[step.accepted.min(path.len())..]);
        blocks.push(ExampleBlock {
            accepted: continued(tokenizer, &text.tokens[..begin], &text.tokens[begin..end])?,
            rejected: continued(tokenizer, &text.tokens[..end], behind)?,
        });
    }
    let prompt = tokenizer.decode(&text.tokens[..text.prompt])?;
    let cut = prompt.char_indices().rev().nth(PROMPT).map_or(0, |(at, c)| at + c.len_utf8());
    let prompt = if cut > 0 { format!("…{}", &prompt[cut..]) } else { prompt };
    let (tokens, calls) = (text.continuation().len() as u64, steps.len() as u64);
    let block_efficiency = tokens as f64 / calls as f64;
    Ok(Example { document: text.entry.id.clone(), block_efficiency, tokens, calls, prompt, blocks })
}

/// What `tokens` add to the text of the tokens before. Tokens may end inside a character, which then counts to the ones that
/// complete it.
fn continued(tokenizer: &Tokenizer, before: &[u32], tokens: &[u32]) -> Result<String> {
    let (shorter, longer) = (tokenizer.decode(before)?, tokenizer.decode(&[before, tokens].concat())?);
    let same =
        shorter.chars().zip(longer.chars()).take_while(|(a, b)| a == b).map(|(c, _)| c.len_utf8()).sum::<usize>();
    Ok(longer[same..].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drafting::{Decision, TightestMargin};

    fn walk(accepted: &[usize]) -> Vec<Step> {
        let step = |&accepted: &usize| Step {
            start: 0,
            accepted,
            slots: 9,
            nodes: 9,
            tightest: TightestMargin::new(Decision::Draft, f64::INFINITY),
        };
        accepted.iter().map(step).collect()
    }

    #[test]
    fn the_best_and_the_worst_are_ranked_and_apart() {
        let rates = [2, 5, 1, 4, 5, 1, 3, 3].map(|accepted| walk(&[accepted, accepted]));
        assert_eq!(best_and_worst(&rates), [vec![1, 4, 3], vec![2, 5, 0]]);
        assert_eq!(best_and_worst(&rates[..3]), [vec![1, 0], vec![2]]);
        assert_eq!(best_and_worst(&rates[..1]), [vec![0], vec![]]);
        assert_eq!(best_and_worst(&[]), [const { Vec::<usize>::new() }; 2]);
        // One long block and three short ones are fewer tokens a call than two each.
        assert_eq!(best_and_worst(&[walk(&[4, 1, 1, 1]), walk(&[2, 2])]), [vec![1], vec![0]]);
    }
}
