//! An n-gram language model over token ids: counted, estimated, queried.
//!
//!     cargo run --example ngram

use draftsmith::Result;
use draftsmith::ngram::{Counter, DEFAULT_FALLBACK, Ending, Memory, Model, Options, Vocabulary, estimate};

/// Sentences over the words 0 to 5.
const WORDS: [&str; 6] = ["the", "old", "man", "and", "sea", "was"];
const DOCUMENTS: [&[u32]; 3] = [&[0, 1, 2, 3, 0, 4], &[0, 2, 5, 1], &[0, 1, 2, 5, 1]];

fn main() -> Result<()> {
    // Counts are sorted in bounded memory; what does not fit goes to temporary files.
    let memory = Memory::usual();
    let mut counter = Counter::new(3, Vocabulary::default(), &memory)?;
    for document in DOCUMENTS {
        counter.add(document, Ending::Complete)?;
    }
    // So small a text has no reliable counts of counts, from which discounts are estimated: these are taken instead.
    let options = Options { discount_fallback: Some(DEFAULT_FALLBACK), ..Options::default() };
    let estimated = estimate(&counter.finish()?, &options, &memory)?;
    let model = Model::compile(&estimated.listing)?;

    // A state stands for the words before; every word gives its log-probability and the next state.
    let state = model.state_of(&[0, 1], true);
    println!("after \"the old\":");
    for (token, word) in WORDS.iter().enumerate() {
        let (log_probability, _) = model.extend(state, token as u32);
        println!("  {word:<4} {:.3}", log_probability.exp());
    }
    let score = model.score(&[0, 1, 2], Ending::Complete);
    println!("perplexity of \"the old man\": {:.2}", score.perplexity());
    Ok(())
}
