//! Live decoding on the clock: every variant of an evaluated run beside decoding token by token, in one process.
//!
//!     DRAFTSMITH_RUN=runs/quickstart cargo bench --bench decode
//!
//! Prompts are those of the run's first data set's test split (DRAFTSMITH_PROMPTS of them, 8). Every variant decodes all of them in
//! each of DRAFTSMITH_ROUNDS rounds (3); the best round counts, as a machine is only ever disturbed towards slower. The time of a
//! forward of n tokens is measured apart, behind the first prompt. With DRAFTSMITH_PYTHON and DRAFTSMITH_PEERS (a folder with
//! `hf_decode.py`), the same prompts go through that script as well.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use draftsmith::backbone::{Span, generate};
use draftsmith::config::DataConfig;
use draftsmith::decoding::{Decoder, Decoding, Spent, Verification, seconds_by_nodes};
use draftsmith::device;
use draftsmith::stages::OpenedRun;
use draftsmith::text::{Split, SplitFractions, read_corpus};

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn main() {
    let Some(folder) = std::env::var_os("DRAFTSMITH_RUN").map(PathBuf::from) else {
        println!("skipped: DRAFTSMITH_RUN names no evaluated run");
        return;
    };
    let device = device::open("cpu".parse().expect("a device")).expect("the CPU");
    let run = OpenedRun::open(&folder, &device.device).expect("an evaluated run");
    let (texts, max_new) = (prompts(&run), run.config.traces.max_new);
    let prompts: Vec<Vec<u32>> =
        texts.iter().map(|text| run.backbone.tokenizer.encode(text).expect("a prompt")).collect();
    let rounds = number("DRAFTSMITH_ROUNDS", 3);

    println!("forward of n tokens behind {} tokens, ms:", prompts[0].len());
    for n in [1, 2, 4, 8, 9, 16, 32, 64] {
        println!("{n:>4} {:8.2}", 1e3 * forward(&run, &prompts[0], n).as_secs_f64());
    }

    let mut tokens = 0;
    let plain = (0..rounds).map(|_| {
        let began = Instant::now();
        tokens = prompts.iter().map(|prompt| generate(&run.backbone, &[prompt], max_new)[0].len()).sum();
        began.elapsed()
    });
    let plain = plain.min().expect("at least one round").as_secs_f64();
    let plain_speed = tokens as f64 / plain;
    println!("\n{} prompts, {tokens} tokens; token by token {plain_speed:.1} tokens/s", prompts.len());
    println!(
        "variant                tokens/s  speed-up  tokens/call  nodes/call | share of a block: backbone heads drafting rest"
    );
    let seconds = seconds_by_nodes(&run.backbone, &run.heads, prompts[0].len(), run.config.evaluation.nodes)
        .expect("heads that draft");
    let mut variants = Vec::new();
    for name in run.variants() {
        let opened = || run.drafter(Some(&name), None).expect("a variant of the run").1;
        if opened().grows() {
            variants.push((format!("{name} (auto)"), opened().priced(seconds.clone())));
        }
        variants.push((name.clone(), opened()));
    }
    for (name, opened) in &variants {
        let drafter = opened.drafter();
        let mut best: Option<(Duration, usize, usize, Spent)> = None;
        for _ in 0..rounds {
            let (began, mut blocks, mut nodes, mut spent, mut decoded) = (Instant::now(), 0, 0, Vec::new(), 0);
            for prompt in &prompts {
                let decoding = Decoding {
                    top_k: run.config.evaluation.top_k,
                    dtype: run.config.traces.dtype,
                    stop: run.config.evaluation.stop,
                    verification: Verification::GREEDY,
                };
                let heads = &run.heads;
                let mut decoder =
                    Decoder::new(&run.backbone, heads, &*drafter, decoding, prompt, max_new).expect("a fitting prompt");
                while !decoder.finished() {
                    let block = decoder.step().expect("a block");
                    (blocks, nodes) = (blocks + 1, nodes + block.nodes);
                    spent.push(block.spent);
                }
                decoded += decoder.decoded().len();
            }
            assert_eq!(decoded, tokens, "{name} is lossless");
            let elapsed = began.elapsed();
            if best.as_ref().is_none_or(|best| elapsed < best.0) {
                best = Some((elapsed, blocks, nodes, spent.into_iter().sum()));
            }
        }
        let (elapsed, blocks, nodes, spent) = best.expect("at least one round");
        let speed = tokens as f64 / elapsed.as_secs_f64();
        let whole = (spent.backbone + spent.heads + spent.drafting + spent.bookkeeping).as_secs_f64();
        let share = |part: Duration| 100.0 * part.as_secs_f64() / whole;
        println!(
            "{name:<22} {speed:8.1} {:9.2} {:12.3} {:11.1} | {:30.1} {:5.1} {:8.1} {:4.1}",
            speed / plain_speed,
            tokens as f64 / blocks as f64,
            nodes as f64 / blocks as f64,
            share(spent.backbone),
            share(spent.heads),
            share(spent.drafting),
            share(spent.bookkeeping)
        );
    }
    peer(&run, &texts, max_new);
}

/// The first test prompts of the run's first data set that has any.
fn prompts(run: &OpenedRun) -> Vec<String> {
    let has_test = |data: &&DataConfig| data.test > 0.0;
    let data = run.config.data.values().find(has_test).expect("an evaluated run has a test split");
    let fractions = SplitFractions::from(data);
    let documents = read_corpus(std::path::Path::new(&data.path), data).expect("the corpus is where it was");
    let test = documents.iter().filter(|document| fractions.split_of(&document.group) == Split::Test);
    let prompts = test.take(number("DRAFTSMITH_PROMPTS", 8)).map(|document| document.prompt.clone());
    prompts.collect()
}

/// The least of some forwards of `n` tokens with their logits.
fn forward(run: &OpenedRun, prompt: &[u32], n: usize) -> Duration {
    let model = &run.backbone.model;
    let mut cache = model.cache(1, prompt.len() + n);
    model.hidden(&[Span::chain(prompt)], Some(&mut cache));
    let tokens: Vec<u32> = (0..n).map(|at| prompt[at % prompt.len()]).collect();
    let one = |_| {
        let began = Instant::now();
        let hidden = model.hidden(&[Span::chain(&tokens)], Some(&mut cache));
        std::hint::black_box(model.logits(hidden));
        let elapsed = began.elapsed();
        cache.truncate(0, prompt.len());
        elapsed
    };
    (0..20).map(one).min().expect("twenty rounds")
}

/// What a user of PyTorch would run.
fn peer(run: &OpenedRun, prompts: &[String], max_new: usize) {
    let (Some(python), Some(peers)) = (std::env::var_os("DRAFTSMITH_PYTHON"), std::env::var_os("DRAFTSMITH_PEERS"))
    else {
        println!("\nskipped: DRAFTSMITH_PYTHON and DRAFTSMITH_PEERS name no peer");
        return;
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("prompts.jsonl");
    let lines: String = prompts.iter().map(|prompt| format!("{}\n", serde_json::json!({"prompt": prompt}))).collect();
    std::fs::write(&file, lines).expect("a written file");
    let mut script = Command::new(python);
    script.arg(PathBuf::from(peers).join("hf_decode.py")).arg(&run.backbone.path).arg(&file);
    script.args(["--docs", &prompts.len().to_string(), "--new", &max_new.to_string()]);
    let output = script.output().expect("the peer starts");
    println!("\npeer: {}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
}
