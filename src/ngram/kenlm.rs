//! Tests of the estimates and queries against KenLM (`shared/vectors/kenlm`): lmplz's discounts, probabilities and
//! back-off weights, and the query program's scores.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;

use flate2::read::GzDecoder;
use serde_json::Value;

use super::{Counter, Ending, Estimate, Listing, Memory, Model, Options, Vocabulary, arpa, estimate, words};

/// Returns the folder of the vectors, or says that it is absent.
fn vectors() -> Option<PathBuf> {
    let shared = std::env::var_os("DRAFTSMITH_SHARED")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared")), PathBuf::from);
    let folder = shared.join("vectors/kenlm");
    if folder.is_dir() {
        return Some(folder);
    }
    // Not by eprintln!, which the test harness hides.
    writeln!(std::io::stderr(), "skipped: {} is absent", folder.display()).unwrap();
    None
}

fn json(path: PathBuf) -> Value {
    serde_json::from_reader(File::open(path).unwrap()).unwrap()
}

fn shakespeare(folder: &std::path::Path) -> (Vec<Vec<u32>>, Estimate) {
    let mut text = String::new();
    GzDecoder::new(File::open(folder.join("shakespeare700.ids.gz")).unwrap()).read_to_string(&mut text).unwrap();
    let documents: Vec<Vec<u32>> =
        text.lines().map(|line| line.split_whitespace().map(|id| id.parse().unwrap()).collect()).collect();
    let mut counter = Counter::new(4, Vocabulary::default(), &Memory::usual()).unwrap();
    documents.iter().for_each(|tokens| counter.add(tokens, Ending::Complete).unwrap());
    (documents, estimate(&counter.finish().unwrap(), &Options::default(), &Memory::usual()).unwrap())
}

/// Returns every n-gram with its log10 probability and back-off weight.
fn by_words(listing: &Listing) -> HashMap<Vec<u32>, (f32, f32)> {
    listing.entries().into_iter().map(|(words, prob, backoff)| (words, (prob, backoff))).collect()
}

#[test]
fn estimates_equal_those_of_lmplz() {
    let Some(folder) = vectors() else { return };
    let (_, estimate) = shakespeare(&folder);
    let expected =
        arpa::read(&folder.join("shakespeare700.o4.arpa.gz"), Vocabulary::default(), &Memory::usual()).unwrap();
    assert_eq!(estimate.listing.sizes(), expected.sizes());
    let ours = by_words(&estimate.listing);
    let mut worst = (0f32, 0f32);
    for (gram, (prob, backoff)) in by_words(&expected) {
        let (our_prob, our_backoff) = ours[&gram];
        worst = (worst.0.max((our_prob - prob).abs()), worst.1.max((our_backoff - backoff).abs()));
    }
    println!("largest deviation of a log10 probability {}, of a back-off weight {}", worst.0, worst.1);
    assert!(worst.0 < 1e-4 && worst.1 < 1e-4, "{worst:?}");
    assert!(ours[&vec![words::UNK]].0 < 0.0);
}

#[test]
fn discounts_equal_those_of_lmplz() {
    let Some(folder) = vectors() else { return };
    let (_, estimate) = shakespeare(&folder);
    let log = std::fs::read_to_string(folder.join("shakespeare700.discounts.txt")).unwrap();
    let mut lines = 0;
    for line in log.lines().filter(|line| line.contains("D3+=")) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let order: usize = fields[0].parse().unwrap();
        assert_eq!(estimate.listing.sizes()[order - 1], fields[1].parse::<u64>().unwrap());
        for (field, ours) in fields[2..].iter().zip(&estimate.discounts[order - 1].amounts) {
            let expected: f64 = field.split_once('=').unwrap().1.parse().unwrap();
            assert!((ours - expected).abs() < 1e-5, "order {order}: {ours} {expected}");
        }
        lines += 1;
    }
    assert_eq!(lines, 4);
}

#[test]
fn scores_equal_those_of_kenlm() {
    let Some(folder) = vectors() else { return };
    let (documents, estimate) = shakespeare(&folder);
    let model = Model::compile(&estimate.listing).unwrap();
    let expected = json(folder.join("shakespeare700.scores.json"));
    let train = expected["train_log10"].as_array().unwrap().iter().zip(&documents);
    let mut cases: Vec<(Vec<u32>, f64)> =
        train.map(|(log10, tokens)| (tokens.clone(), log10.as_f64().unwrap())).collect();
    for case in expected["held_out"].as_array().unwrap() {
        let tokens = case["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        cases.push((tokens, case["log10"].as_f64().unwrap()));
    }
    let mut worst = 0f64;
    for (tokens, log10) in &cases {
        worst = worst.max((model.score_document(tokens) - log10).abs());
    }
    println!("largest deviation of {} scores {worst}", cases.len());
    assert!(cases.len() > 50 && worst < 1e-3, "{worst}");
}

#[test]
fn a_foreign_model_over_words_is_scored_as_kenlm_does() {
    let Some(folder) = vectors() else { return };
    let (listing, vocabulary) = arpa::read_words(&folder.join("test.arpa"), &Memory::usual()).unwrap();
    let model = Model::compile(&listing).unwrap();
    let ids: HashMap<&str, u32> = vocabulary.iter().map(String::as_str).zip(0..).collect();
    let mut worst = 0f64;
    for case in json(folder.join("test.scores.json"))["cases"].as_array().unwrap() {
        let sentence = case["sentence"].as_str().unwrap();
        let tokens: Vec<u32> = sentence.split(' ').map(|word| ids.get(word).copied().unwrap_or(u32::MAX)).collect();
        let scores = case["scores"].as_array().unwrap();
        let mut state = model.begin();
        let mut total = 0.0;
        for (i, score) in scores.iter().enumerate() {
            let expected = score["log10_prob"].as_f64().unwrap();
            let ln = match tokens.get(i) {
                Some(&token) => {
                    let (ln, next) = model.extend(state, token);
                    state = next;
                    ln
                }
                None => model.end(state),
            };
            let log10 = ln / std::f64::consts::LN_10;
            worst = worst.max((log10 - expected).abs());
            assert!((log10 - expected).abs() < 1e-4, "{sentence}, word {i}: {log10} {expected}");
            total += expected;
        }
        let score = model.score(&tokens, Ending::Complete);
        assert!((score.log10 - total).abs() < 1e-4);
        let oov = scores.iter().filter(|score| score["oov"].as_bool().unwrap()).count() as u64;
        assert_eq!(score.tokens - score.known_tokens, oov, "{sentence}");
    }
    println!("largest deviation of a word's log10 probability {worst}");
}
