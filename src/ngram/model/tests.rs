//! Tests of queries against the rule that defines them.

use super::super::{Counter, DEFAULT_FALLBACK, Memory, Options, Smoothing, arpa, estimate};
use super::*;
use proptest::prelude::*;
use std::collections::HashMap;

/// Returns a vocabulary with ids 0..12, of which 0 is `</s>` and 1 is `<s>`.
fn vocabulary(size: Option<usize>) -> Vocabulary {
    Vocabulary { eos: vec![0], bos: Some(1), size, tokenizer: None }
}

pub(super) fn listing(order: usize, size: Option<usize>, documents: &[Vec<u32>]) -> Listing {
    listing_by(order, size, documents, Options::default())
}

fn listing_by(order: usize, size: Option<usize>, documents: &[Vec<u32>], options: Options) -> Listing {
    let mut counter = Counter::new(order, vocabulary(size), &Memory::usual()).unwrap();
    counter.add(&[2], Ending::Complete).unwrap();
    for (i, tokens) in documents.iter().enumerate() {
        let ending = if i % 3 == 0 { Ending::Cut } else { Ending::Complete };
        counter.add(tokens, ending).unwrap();
    }
    let options = Options { discount_fallback: Some(DEFAULT_FALLBACK), ..options };
    estimate(&counter.finish().unwrap(), &options, &Memory::usual()).unwrap().listing
}

pub(super) fn documents() -> impl Strategy<Value = Vec<Vec<u32>>> {
    prop::collection::vec(prop::collection::vec(0u32..10, 0..15), 0..12)
}

/// Applies the back-off rule of ARPA to whole contexts, with a plain map.
fn by_definition(grams: &HashMap<Vec<u32>, (f32, f32)>, context: &[u32], word: u32) -> f64 {
    let gram: Vec<u32> = context.iter().copied().chain([word]).collect();
    match (grams.get(&gram), context) {
        (Some(&(prob, _)), _) => f64::from(prob),
        (None, []) => by_definition(grams, &[], UNK),
        (None, [_, rest @ ..]) => {
            let backoff = grams.get(context).map_or(0.0, |&(_, backoff)| f64::from(backoff));
            backoff + by_definition(grams, rest, word)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn probabilities_sum_to_one(
        order in 1usize..=4, padded in any::<bool>(), documents in documents(),
        context in prop::collection::vec(0u32..14, 0..6), starts in any::<bool>(),
        katz in any::<bool>(), prune in prop_oneof![Just(vec![]), Just(vec![0, 0, 1]), Just(vec![1])],
    ) {
        let smoothing = if katz { Smoothing::Katz } else { Smoothing::KneserNey };
        let options = Options { smoothing, prune, ..Options::default() };
        let listing = listing_by(order, padded.then_some(14), &documents, options);
        let model = Model::compile(&listing).unwrap();
        let state = model.state_of(&context, starts);
        let mut sum = model.end(state).exp();
        for id in 2..14 {
            let (ln, _) = model.extend(state, id);
            if padded || listing.entries().iter().any(|(words, ..)| *words == [id + 3]) {
                sum += ln.exp();
            }
        }
        if !padded {
            sum += model.extend(state, 9999).0.exp();
        }
        prop_assert!((sum - 1.0).abs() < 1e-5, "{sum}");
    }

    #[test]
    fn reduced_states_do_not_alter_scores(
        order in 1usize..=5, documents in documents(), text in prop::collection::vec(2u32..14, 0..20),
    ) {
        let listing = listing(order, None, &documents);
        let model = Model::compile(&listing).unwrap();
        let grams: HashMap<Vec<u32>, (f32, f32)> =
            listing.entries().into_iter().map(|(words, prob, backoff)| (words, (prob, backoff))).collect();
        let mut words = vec![BOS];
        let mut state = model.begin();
        let mut total = 0.0;
        for (at, &token) in text.iter().enumerate() {
            let known = grams.contains_key(&vec![token + 3]);
            let word = if known { token + 3 } else { UNK };
            let context = &words[(words.len() + 1).saturating_sub(order)..];
            let (ln, next) = model.extend(state, token);
            let expected = by_definition(&grams, context, word) * LN_10;
            prop_assert!((ln - expected).abs() < 1e-9, "{ln} {expected}");
            words.push(word);
            state = next;
            total += ln;
            prop_assert_eq!(state, model.state_of(&text[..=at], true));
        }
        total += model.end(state);
        prop_assert!((model.score_document(&text) * LN_10 - total).abs() < 1e-9);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// For every state of the model, in any order, and for any number of candidates; twice, because rows are kept.
    #[test]
    fn a_row_is_each_candidate_by_itself(
        order in 1usize..=5, documents in documents(), katz in any::<bool>(), padded in any::<bool>(),
        tokens in prop::collection::vec(0u32..14, 0..80), asked in prop::collection::vec(any::<prop::sample::Index>(), 60),
    ) {
        let smoothing = if katz { Smoothing::Katz } else { Smoothing::KneserNey };
        let options = Options { smoothing, ..Options::default() };
        let model = Model::compile(&listing_by(order, padded.then_some(14), &documents, options)).unwrap();
        let mut rows = Rows::new(&model, &tokens);
        let nodes = model.columns.nodes();
        let drawn = asked.iter().map(|at| (at.index(nodes as usize) as u32, at.index(tokens.len() + 1)));
        for (node, number) in drawn.chain((0..nodes).map(|node| (node, tokens.len()))) {
            let state = State(node);
            let mut out = vec![(0.5, state)];
            rows.extend(state, number, &mut out);
            let alone = tokens[..number].iter().map(|&token| model.extend(state, token));
            prop_assert_eq!(out, [(0.5, state)].into_iter().chain(alone).collect::<Vec<_>>());
        }
    }

    /// ARPA text to a model file and back gives the same bytes. So does the file when it is mapped and made again.
    #[test]
    fn conversions_lose_nothing(order in 1usize..=6, padded in any::<bool>(), documents in documents()) {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let listing = listing(order, padded.then_some(50), &documents);
        arpa::save(&listing, &path("first.arpa")).unwrap();
        let read = arpa::read(&path("first.arpa"), listing.vocabulary.clone(), &Memory::usual()).unwrap();
        Model::write(&read, &path("model")).unwrap();
        let model = Model::open(&path("model")).unwrap();
        model.verify().unwrap();
        model.require(&listing.vocabulary).unwrap();
        let other = Vocabulary { size: Some(9), ..listing.vocabulary.clone() };
        prop_assert!(model.require(&other).is_err());
        arpa::save(&model.listing(&Memory::usual()).unwrap(), &path("second.arpa")).unwrap();
        prop_assert_eq!(std::fs::read(path("first.arpa")).unwrap(), std::fs::read(path("second.arpa")).unwrap());
        let in_memory = Model::compile(&listing).unwrap();
        prop_assert!(in_memory.columns.bytes() == model.columns.bytes());
    }

    #[test]
    fn quantised_values_are_near_and_their_error_is_told(documents in documents(), tokens in prop::collection::vec(2u32..14, 1..9)) {
        let dir = tempfile::tempdir().unwrap();
        let model = Model::compile(&listing(3, None, &documents)).unwrap();
        let cost = model.write_quantised(&dir.path().join("small")).unwrap();
        let small = Model::open(&dir.path().join("small")).unwrap();
        small.verify().unwrap();
        prop_assert!(small.write_quantised(&dir.path().join("again")).is_err());
        prop_assert!(cost.probs_rms <= cost.probs_largest && cost.backoffs_rms <= cost.backoffs_largest);
        for arc in 0..model.header.arcs() as u32 {
            prop_assert!((model.log10_prob(arc) - small.log10_prob(arc)).abs() <= cost.probs_largest + 1e-9);
        }
        // A query adds a probability and at most two weights.
        let bound = (tokens.len() + 1) as f64 * (cost.probs_largest + 2.0 * cost.backoffs_largest);
        prop_assert!((model.score_document(&tokens) - small.score_document(&tokens)).abs() <= bound + 1e-6);
    }

    /// Any byte may change: the header's checksum finds it at once, and the columns' checksums when they are verified.
    #[test]
    fn a_damaged_file_is_refused(at in any::<prop::sample::Index>(), change in 1u8.., cut in any::<bool>()) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model");
        Model::write(&listing(3, None, &[vec![2, 3, 4, 5], vec![3, 4]]), &path).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] ^= change }
        std::fs::write(&path, &bytes).unwrap();
        match Model::open(&path).and_then(|model| model.verify()) {
            Err(error) => prop_assert!(error.to_string().contains("model file"), "{error}"),
            // Between two columns there are up to 63 bytes that mean nothing.
            Ok(()) => prop_assert!(!cut && bytes[at] == change),
        }
    }
}

#[test]
fn an_arpa_model_that_lacks_suffixes_is_compiled() {
    // As pruned by other programs: `7 8 9` is listed, `8 9` is not.
    let text = "\\data\\\nngram 1=6\nngram 2=2\nngram 3=1\n\n\\1-grams:\n-2\t<unk>\n0\t<s>\t-0.4\n-0.7\t</s>\n-0.5\t7\t-0.3\n\
                -0.8\t8\t-0.2\n-0.9\t9\t-0.1\n\n\\2-grams:\n-0.2\t7 8\t-0.25\n-0.3\t9 7\n\n\\3-grams:\n-0.1\t7 8 9\n\n\\end\\\n";
    let listing = arpa::parse(text.as_bytes(), Vocabulary::default(), &Memory::usual()).unwrap();
    let model = Model::compile(&listing).unwrap();
    let state = model.state_of(&[7, 8, 9], false);
    assert_eq!(state, model.state_of(&[9], false), "the longest suffix that is listed");
    assert!((model.extend(state, 7).0 / LN_10 - -0.3).abs() < 1e-6);
    assert!((model.extend(model.state_of(&[7, 8], false), 9).0 / LN_10 - -0.1).abs() < 1e-6);
    assert!((model.extend(model.state_of(&[7, 8], false), 7).0 / LN_10 - (-0.25 - 0.2 - 0.5)).abs() < 1e-6);
}

#[test]
fn what_is_no_model_file_is_diagnosed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model");
    let message = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        Model::open(&path).err().unwrap().to_string()
    };
    assert!(message(b"\\data\\\nngram 1=4\n").contains("ARPA text is read where"));
    assert!(message(b"").contains("not an n-gram model file") || message(b"").contains("cannot map"));
    assert!(message(b"dsngrams\x09\0\0\0\0\0\0\0").contains("version 9"));
}

#[test]
fn ids_that_are_large_and_few_are_found() {
    let documents = [vec![70_000, 3_000_000_000, 70_000], vec![3_000_000_000, 5]];
    let mut counter = Counter::new(3, Vocabulary::default(), &Memory::usual()).unwrap();
    documents.iter().for_each(|tokens| counter.add(tokens, Ending::Complete).unwrap());
    let options = Options { discount_fallback: Some(DEFAULT_FALLBACK), ..Options::default() };
    let estimated = estimate(&counter.finish().unwrap(), &options, &Memory::usual()).unwrap();
    let model = Model::compile(&estimated.listing).unwrap();
    assert!(model.header.roots == 0 && model.header.wide);
    let score = model.score(&documents[0], Ending::Complete);
    assert_eq!((score.tokens, score.known_tokens), (4, 4));
    assert_eq!(model.score(&[6], Ending::Cut).known_tokens, 0);
}

#[test]
fn states_of_contexts_that_nothing_follows_are_equal() {
    let model = Model::compile(&listing(3, None, &[vec![], vec![2, 3, 4], vec![5, 3, 4], vec![2, 6]])).unwrap();
    assert_eq!(model.state_of(&[9, 8], false), model.empty());
    assert_eq!(model.state_of(&[8, 3], false), model.state_of(&[3], false));
    assert_ne!(model.state_of(&[2, 3], false), model.state_of(&[3], false));
    assert_eq!(model.state_of(&[], true), model.begin());
    assert_eq!(model.state_of(&[1], true), model.begin());
    assert_eq!(model.state_of(&[2, 0], false), model.begin(), "after </s> a document begins");
}

#[test]
fn special_ids_and_perplexity() {
    let model = Model::compile(&listing(2, None, &[vec![], vec![2, 3, 4], vec![2, 3, 3]])).unwrap();
    assert_eq!(model.score(&[1, 2, 3, 0], Ending::Cut), model.score(&[2, 3], Ending::Complete));
    let cut = model.score(&[2, 3], Ending::Cut);
    assert_eq!(cut.tokens, 2);
    assert_eq!(model.extend(model.begin(), 1), (model.extend(model.begin(), 9).0, model.begin()));

    let mut score = model.score(&[2, 9, 3], Ending::Complete);
    assert_eq!((score.tokens, score.known_tokens), (4, 3));
    assert!(score.perplexity() > score.perplexity_without_oov());
    assert!((score.perplexity() - 10f64.powf(-model.score_document(&[2, 9, 3]) / 4.0)).abs() < 1e-9);
    score += cut;
    assert_eq!((score.tokens, score.known_tokens), (6, 5));
}

#[test]
fn every_unseen_id_has_its_own_share_of_a_padded_vocabulary() {
    let documents = [vec![], vec![2, 3, 4], vec![2, 3, 3]];
    let padded = Model::compile(&listing(2, Some(1000), &documents)).unwrap();
    let plain = Model::compile(&listing(2, None, &documents)).unwrap();
    let share = |model: &Model| model.extend(model.empty(), 999).0;
    // 998 ids and </s> in place of the types 2, 3, 4, </s> and <unk>.
    assert!((share(&plain) - share(&padded) - (999f64 / 5.0).ln()).abs() < 1e-5);
}
