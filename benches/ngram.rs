//! n-gram models: counting and estimation, queries on a lattice, sizes; KenLM beside them in the same run.
//!
//! ```sh
//! cargo bench --bench ngram
//! ```
//!
//! Peers take turns with it where they are: `lmplz` and `build_binary` on the PATH; `DRAFTSMITH_KENLM_LATTICE`, the program
//! compiled from `benches/peers/kenlm_lattice.cc`; `DRAFTSMITH_PYTHON`, a Python with the package `kenlm`. The text is
//! `DRAFTSMITH_IDS` (lines of token ids) or a synthetic one.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use draftsmith::ngram::{Counter, DEFAULT_FALLBACK, Ending, Memory, Model, Options, Rows, State, Vocabulary, estimate};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

/// Rounds in which this program and a peer take turns.
const ROUNDS: usize = 3;
const LATTICES: usize = 500;
const SLOTS: usize = 8;
const K: usize = 16;

fn main() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name);
    let documents = match std::env::var_os("DRAFTSMITH_IDS") {
        Some(file) => read(&PathBuf::from(file)),
        None => synthetic(326_654),
    };
    let lines: String = documents.iter().map(|ids| format!("{}\n", join(ids))).collect();
    fs::write(path("text.ids"), lines).expect("a text");
    let tokens: usize = documents.iter().map(|ids| ids.len() + 1).sum();
    println!("text: {} documents, {tokens} tokens with ends", documents.len());
    estimation(folder.path(), tokens);
    for order in [2, 4] {
        queries(folder.path(), &documents, order);
    }
    sizes(folder.path());
}

/// `ngram estimate --order 4 --memory 1G` against `lmplz -o 4 -S 1G`, both from text to ARPA on disk.
fn estimation(folder: &Path, tokens: usize) {
    let (text, ours, theirs) = (folder.join("text.ids"), folder.join("ours.arpa"), folder.join("theirs.arpa"));
    for round in 1..=ROUNDS {
        let mut command = Command::new(env!("CARGO_BIN_EXE_draftsmith"));
        command.args(["ngram", "estimate", "--discount-fallback", "--memory", "1G", "--format", "json", "--token-ids"]);
        command.arg(&text).arg("--arpa").arg(&ours);
        let (seconds, output) = time(&mut command).expect("this program runs");
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let megabytes = report["peak_memory_bytes"].as_f64().unwrap_or(f64::NAN) / 1e6;
        println!("round {round}: ours {seconds:.2} s, {:.0} tokens/s, {megabytes:.0} MB", tokens as f64 / seconds);

        let mut command = Command::new("lmplz");
        command.args(["-o", "4", "-S", "1G", "--discount_fallback", "-T"]).arg(folder).arg("--text").arg(&text);
        match time(command.arg("--arpa").arg(&theirs)) {
            None => println!("round {round}: lmplz is not on the PATH"),
            Some((seconds, output)) => {
                let log = String::from_utf8_lossy(&output.stderr).into_owned();
                let memory = log.split("RSSMax:").nth(1).and_then(|rest| rest.split_whitespace().next());
                let speed = tokens as f64 / seconds;
                println!("round {round}: lmplz {seconds:.2} s, {speed:.0} tokens/s, {} kB", memory.unwrap_or("?"));
            }
        }
    }
}

/// Wall-clock seconds of a program that is there and succeeds, and what it printed.
fn time(command: &mut Command) -> Option<(f64, Output)> {
    let start = Instant::now();
    let output = command.stdin(Stdio::null()).output().ok()?;
    let seconds = start.elapsed().as_secs_f64();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some((seconds, output))
}

/// All extensions from every slot's candidates to the next slot's, as a search asks for them.
fn queries(folder: &Path, documents: &[Vec<u32>], order: usize) {
    let memory = Memory::usual();
    let mut counter = Counter::new(order, Vocabulary::default(), &memory).expect("an order");
    documents.iter().for_each(|ids| counter.add(ids, Ending::Complete).expect("ids"));
    let options = Options { discount_fallback: Some(DEFAULT_FALLBACK), ..Options::default() };
    let estimated = estimate(&counter.finish().expect("text"), &options, &memory).expect("a fallback");
    let (model, arpa) = (folder.join(format!("o{order}.ngram")), folder.join(format!("o{order}.arpa")));
    Model::write(&estimated.listing, &model).expect("a model");
    draftsmith::ngram::arpa::save(&estimated.listing, &arpa).expect("ARPA text");
    let model = Model::open(&model).expect("a model");
    let lattices = lattices(documents);
    let file = folder.join("lattices");
    fs::write(&file, spell(&lattices)).expect("lattices");
    for round in 1..=ROUNDS {
        let together = walk(&model, &lattices, |states, ids, out| {
            let mut rows = Rows::new(&model, ids);
            states.iter().for_each(|&state| rows.extend(state, ids.len(), out));
        });
        let alone = walk(&model, &lattices, |states, ids, out| {
            states.iter().for_each(|&state| out.extend(ids.iter().map(|&id| model.extend(state, id))));
        });
        println!(
            "order {order}, round {round}: ours {:.1} ns an extension in sets of {K}, {:.1} ns one by one (sum {:.3})",
            together.0, alone.0, together.1
        );
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers/kenlm_queries.py");
        let python = std::env::var_os("DRAFTSMITH_PYTHON").map(|python| {
            let mut command = Command::new(python);
            command.arg(script);
            command
        });
        let compiled = std::env::var_os("DRAFTSMITH_KENLM_LATTICE").map(Command::new);
        for (name, variable, command) in [
            ("KenLM probing (C++)", "DRAFTSMITH_KENLM_LATTICE", compiled),
            ("KenLM by its Python package", "DRAFTSMITH_PYTHON", python),
        ] {
            match command.and_then(|mut command| time(command.arg(&arpa).arg(&file))) {
                None => println!("order {order}, round {round}: {name}: not run, {variable} names none"),
                Some((_, output)) => {
                    let text = String::from_utf8_lossy(&output.stdout).replace('\n', "; ");
                    println!("order {order}, round {round}: {name}: {text}");
                }
            }
        }
    }
}

/// Nanoseconds an extension, the best of 20 passes, and the sum of all log10 scores. Every candidate's own state is the one
/// made from the predecessor with the best sum.
fn walk(
    model: &Model,
    lattices: &[(Vec<u32>, Vec<Vec<u32>>)],
    extend: impl Fn(&[State], &[u32], &mut Vec<(f64, State)>),
) -> (f64, f64) {
    let starts: Vec<State> = lattices.iter().map(|(context, _)| model.state_of(context, false)).collect();
    let (mut best, mut sum, mut out) = (f64::INFINITY, 0.0, Vec::new());
    for _ in 0..21 {
        let (start, mut extensions) = (Instant::now(), 0);
        sum = 0.0;
        for (&first, (_, slots)) in starts.iter().zip(lattices) {
            let (mut scores, mut states) = (vec![0.0], vec![first]);
            for ids in slots {
                let mut next = vec![(f64::NEG_INFINITY, first); ids.len()];
                out.clear();
                extend(&states, ids, &mut out);
                for (score, row) in scores.iter().zip(out.chunks(ids.len())) {
                    for (best, &(log, after)) in next.iter_mut().zip(row) {
                        sum += log;
                        if score + log > best.0 {
                            *best = (score + log, after);
                        }
                    }
                    extensions += ids.len();
                }
                (scores, states) = next.into_iter().unzip();
            }
        }
        best = best.min(start.elapsed().as_secs_f64() * 1e9 / extensions as f64);
    }
    (best, sum / std::f64::consts::LN_10)
}

/// Contexts from the text, with candidates of which one is what follows and half are drawn from what follows the same
/// token elsewhere.
fn lattices(documents: &[Vec<u32>]) -> Vec<(Vec<u32>, Vec<Vec<u32>>)> {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut followers: std::collections::HashMap<u32, Vec<u32>> = std::collections::HashMap::new();
    for pair in documents.iter().flat_map(|ids| ids.windows(2)) {
        followers.entry(pair[0]).or_default().push(pair[1]);
    }
    let text: Vec<u32> = documents.concat();
    let lattice = |rng: &mut ChaCha8Rng| {
        let at = rng.random_range(3..text.len() - SLOTS);
        let slots = (at..at + SLOTS).map(|at| {
            let mut ids = vec![text[at]];
            while ids.len() < K {
                let seen = followers.get(&text[at - 1]).filter(|seen| ids.len() % 2 == 0 && !seen.is_empty());
                let id = match seen {
                    Some(seen) => seen[rng.random_range(0..seen.len())],
                    None => text[rng.random_range(0..text.len())],
                };
                ids.push(id);
            }
            ids
        });
        let slots = slots.collect();
        (text[at - 3..at].to_vec(), slots)
    };
    (0..LATTICES).map(|_| lattice(&mut rng)).collect()
}

/// The form that `benches/peers` read.
fn spell(lattices: &[(Vec<u32>, Vec<Vec<u32>>)]) -> String {
    let mut text = format!("{SLOTS} {K}\n");
    for (context, slots) in lattices {
        [context].into_iter().chain(slots).for_each(|ids| writeln!(text, "{}", join(ids)).expect("a string"));
    }
    text
}

/// File sizes of the same order-4 model.
fn sizes(folder: &Path) {
    let bytes = |name: &str| folder.join(name).metadata().map_or(0, |data| data.len());
    let model = Model::open(&folder.join("o4.ngram")).expect("a model");
    let cost = model.write_quantised(&folder.join("small.ngram")).expect("a model");
    println!("{} n-grams by order; ARPA text {} bytes", join(model.sizes()), bytes("o4.arpa"));
    println!("ours {} bytes; quantised {} bytes, {cost:?}", bytes("o4.ngram"), bytes("small.ngram"));
    for (name, arguments) in
        [("probing", &["probing"][..]), ("trie", &["trie"]), ("trie -q 8 -b 8", &["-q", "8", "-b", "8", "trie"])]
    {
        let target = folder.join("kenlm.bin");
        let mut command = Command::new("build_binary");
        match time(command.args(arguments).arg(folder.join("o4.arpa")).arg(&target)) {
            None => println!("KenLM {name}: build_binary is not on the PATH"),
            Some(_) => println!("KenLM {name} {} bytes", bytes("kenlm.bin")),
        }
    }
}

fn join<T: ToString>(ids: &[T]) -> String {
    ids.iter().map(T::to_string).collect::<Vec<_>>().join(" ")
}

fn read(path: &Path) -> Vec<Vec<u32>> {
    let text = fs::read_to_string(path).expect("DRAFTSMITH_IDS is a text file");
    text.lines().map(|line| line.split_whitespace().map(|id| id.parse().expect("token ids")).collect()).collect()
}

/// Few frequent tokens, many rare ones, some order.
fn synthetic(tokens: usize) -> Vec<Vec<u32>> {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut token = 1u32;
    let draw = |rng: &mut ChaCha8Rng| (12_000f64.powf(rng.random_range(0.0..1.0))) as u32;
    let mut next = || {
        token = if rng.random_bool(0.5) { (token * 7 + draw(&mut rng) % 4) % 12_000 } else { draw(&mut rng) };
        token
    };
    (0..tokens / 200).map(|_| (0..200).map(|_| next()).collect()).collect()
}
