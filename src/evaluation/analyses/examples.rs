//! A few documents written out block by block: some for which the variant that is best on dev does well, and some for
//! which it does not.

use super::Analysis;
use crate::drafting::Drafts;
use crate::error::Result;
use crate::evaluation::{EvaluatedSet, EvaluatedVariant, Route, Step, replay_all};
use crate::lattice::accepted_length;
use crate::tables::{Figure, Passage, Piece, Record, Section, Table, format, record};
use crate::text::Tokenizer;

pub const ANALYSIS: Analysis =
    Analysis { id: "examples", title: "Best and worst documents", definition: ExampleRow::DEFINITION, fill };

record! {
    /// The documents that the variant which is best on dev decodes at the most and at the fewest tokens per call, the best
    /// first, then the worst, written out block by block.
    struct ExampleRow in "examples", each "document" {
        /// Whether the document is among the best or the worst.
        among: String = "among the" as Words;
        /// The document's decoded tokens divided by its backbone calls.
        block_efficiency: f64 = "block efficiency" as ThreeDecimals;
        /// Decoded tokens of the document, end-of-text included.
        tokens: u64 = "tokens" as Count;
        /// Verification forwards of the backbone for the document.
        calls: u64 = "calls" as Count;
    }
}

/// The number of documents of each kind.
const EXAMPLES: usize = 3;

/// The largest number of characters of a prompt that are kept, from its end.
const PROMPT: usize = 300;

fn fill(set: &EvaluatedSet, section: &mut Section) -> Result<()> {
    let variant = &set.variants[set.best()];
    let mut rows = Vec::new();
    for (among, numbers) in ["best", "worst"].into_iter().zip(best_and_worst(&variant.result.steps)) {
        for (place, number) in numbers.into_iter().enumerate() {
            let document = &set.texts.texts[number].entry.id;
            let (tokens, calls) =
                (set.texts.texts[number].continuation().len() as u64, variant.result.steps[number].len() as u64);
            let title = format!(
                "{among}: {document}, {} tokens in {}",
                format::count(tokens),
                format::counted(calls, "call", "calls")
            );
            let passage = passage(set, variant, number)?;
            section.figures.push(Figure::new(&format!("{among}-{}", place + 1), &title, "", passage));
            let block_efficiency = tokens as f64 / calls as f64;
            rows.push((document.clone(), ExampleRow { among: among.into(), block_efficiency, tokens, calls }));
        }
    }
    section.notes.push(format!(
        "With {}. Blocks are in turns of two shades; struck through is what was drafted behind the accepted tokens and rejected, of \
         the draft that went furthest.",
        variant.name()
    ));
    section.tables.push(Table::of(rows));
    Ok(())
}

/// Returns the numbers of the best and of the worst documents by decoded tokens / calls. If two are equal, the earlier
/// one comes first. If there are few documents, each is in only one of the lists.
fn best_and_worst(walks: &[Vec<Step>]) -> [Vec<usize>; 2] {
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

/// Makes the passage that shows one document block by block.
fn passage(set: &EvaluatedSet, variant: &EvaluatedVariant, number: usize) -> Result<Passage> {
    let EvaluatedVariant { prepared, result, .. } = variant;
    let (text, lattices) = (&set.texts.texts[number], &set.texts.lattices(prepared.variant.stop)[number]);
    let tokenizer = &set.evaluator.backbone.tokenizer;
    let drafter = prepared.drafter(&result.settings);
    let keep = |_, step, drafts: &Drafts| (step, drafts.paths.clone());
    let walk = replay_all(&[Route::walk(text, lattices)], &*drafter, keep)?.remove(0);
    let mut pieces = Vec::new();
    for (step, paths) in walk {
        let (begin, end) = (text.prompt + step.start, text.prompt + step.start + step.accepted);
        let furthest = paths.iter().find(|path| accepted_length(&[path], &text.tokens[begin..]) >= step.accepted);
        let behind = furthest.map_or(&[][..], |path| &path[step.accepted.min(path.len())..]);
        let kept = continued(tokenizer, &text.tokens[..begin], &text.tokens[begin..end])?;
        pieces.push(Piece {
            // A lone end-of-text token has no text.
            kept: if kept.is_empty() { "␄".into() } else { kept },
            struck: continued(tokenizer, &text.tokens[..end], behind)?,
        });
    }
    let prompt = tokenizer.decode(&text.tokens[..text.prompt])?;
    let cut = prompt.char_indices().rev().nth(PROMPT).map_or(0, |(at, c)| at + c.len_utf8());
    let before = if cut > 0 { format!("…{}", &prompt[cut..]) } else { prompt };
    Ok(Passage { before, pieces })
}

/// Returns the text that `tokens` add to the text of the tokens before. If tokens end inside a character, it belongs to
/// the tokens that complete it.
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
        // One long block and three short ones have fewer tokens per call than two blocks of two tokens.
        assert_eq!(best_and_worst(&[walk(&[4, 1, 1, 1]), walk(&[2, 2])]), [vec![1], vec![0]]);
    }
}
