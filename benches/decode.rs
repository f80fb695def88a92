//! Live decoding on the clock: every variant of an evaluated run beside decoding token by token, in one process.
//!
//!     DRAFTSMITH_RUN=runs/quickstart cargo bench --bench decode
//!
//! Prompts are those of the test split of the run's data set DRAFTSMITH_SET, or its first (DRAFTSMITH_PROMPTS of them, 8), decoded
//! with the settings tuned on it. Every variant decodes all of them in each of DRAFTSMITH_ROUNDS rounds (3); the best round counts,
//! as a machine is only ever disturbed towards slower. The time of a forward of n tokens is measured apart, behind the first prompt.
//! Then 1, 4 and 8 prompts are decoded side by side: token by token, by plain blocks, and by trees of DRAFTSMITH_NODES nodes (8).
//! With DRAFTSMITH_PYTHON and DRAFTSMITH_PEERS (a folder with `hf_decode.py`), the same prompts go through that script as well.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use draftsmith::backbone::{Span, generate};
use draftsmith::decoding::{Decoder, Decoding, Spent, Verification, block_seconds};
use draftsmith::device;
use draftsmith::drafting::{PreparedVariant, Selection, Settings, Variant};
use draftsmith::heads::Binding;
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
    let run = OpenedRun::open(&folder, &device.device, Binding::Same).expect("an evaluated run");
    let set = std::env::var("DRAFTSMITH_SET").ok().or_else(|| {
        let mut sets = run.config.data.iter();
        sets.find(|(_, data)| data.test > 0.0).map(|(name, _)| name.clone())
    });
    let set = set.expect("an evaluated run has a test split");
    let (texts, max_new) = (prompts(&run, &set), run.config.traces.max_new);
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
        tokens = prompts
            .iter()
            .map(|prompt| generate(&run.backbone, &[prompt], max_new).expect("nobody stops it")[0].len())
            .sum();
        began.elapsed()
    });
    let plain = plain.min().expect("at least one round").as_secs_f64();
    let plain_speed = tokens as f64 / plain;
    println!("\n{} prompts, {tokens} tokens; token by token {plain_speed:.1} tokens/s", prompts.len());
    println!(
        "variant                tokens/s  speed-up  tokens/call  nodes/call | share of a block: backbone heads drafting rest"
    );
    let drafting = &run.config.drafting;
    let [of_lattices, of_growth] = [None, Some(drafting.frontier)].map(|frontier| {
        block_seconds(&run.backbone, &run.heads, prompts[0].len(), drafting.nodes, frontier).expect("heads that draft")
    });
    let mut variants = Vec::new();
    for variant in run.variants() {
        let (opened, settings) = run.variant(Some(&variant), Some(&set)).expect("a variant of the run");
        if opened.drafts_trees() {
            let seconds = if opened.grows() { &of_growth } else { &of_lattices };
            let timed = opened.clone().with_seconds(seconds.clone());
            variants.push((format!("{variant} (auto)"), timed, settings.clone()));
        }
        variants.push((variant.to_string(), opened, settings));
    }
    let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    for (name, opened, settings) in &variants {
        let best =
            (0..rounds).map(|_| by_blocks(&run, (opened, settings), &prompts, max_new, 1)).min_by_key(|d| d.elapsed);
        let Decoded { elapsed, tokens: decoded, blocks, nodes, spent } = best.expect("at least one round");
        assert_eq!(decoded, tokens, "{name} is lossless");
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
    side_by_side(&run, &set, &prompts, max_new, rounds);
    peer(&run, &texts, max_new);
}

/// What decoding some prompts took.
struct Decoded {
    elapsed: Duration,
    tokens: usize,
    blocks: usize,
    nodes: usize,
    /// In steps that gave blocks.
    spent: Spent,
}

/// Decodes `batch` prompts side by side, then the next ones, as `generate` does.
fn by_blocks(
    run: &OpenedRun,
    (variant, settings): (&PreparedVariant, &Settings),
    prompts: &[&[u32]],
    max_new: usize,
    batch: usize,
) -> Decoded {
    let drafter = variant.drafter(settings);
    let decoding = Decoding {
        top_k: run.config.lattice.top_k,
        dtype: run.config.traces.dtype,
        stop: variant.variant.stop,
        verification: Verification::GREEDY,
    };
    let (began, mut spent) = (Instant::now(), Vec::new());
    let (mut tokens, mut blocks, mut nodes) = (0, 0, 0);
    for prompts in prompts.chunks(batch) {
        let documents: Vec<(&[u32], usize)> = prompts.iter().map(|prompt| (*prompt, max_new)).collect();
        let mut decoder =
            Decoder::new(&run.backbone, &run.heads, &*drafter, decoding, &documents, batch).expect("fitting prompts");
        while !decoder.finished() {
            let round = decoder.step().expect("a step");
            if !round.blocks.is_empty() {
                spent.push(round.spent);
            }
            blocks += round.blocks.len();
            nodes += round.blocks.iter().map(|(_, block)| block.nodes).sum::<usize>();
        }
        tokens += (0..documents.len()).map(|document| decoder.decoded(document).len()).sum::<usize>();
    }
    Decoded { elapsed: began.elapsed(), tokens, blocks, nodes, spent: spent.into_iter().sum() }
}

/// Several prompts side by side: token by token, plain blocks, and the run's first tree with few nodes, as many rows are
/// computed anyway.
fn side_by_side(run: &OpenedRun, set: &str, prompts: &[&[u32]], max_new: usize, rounds: usize) {
    let nodes = number("DRAFTSMITH_NODES", 8);
    let tree = run.variants().into_iter().find(|variant| variant.selection == Selection::ExpectedTree);
    let variants = [Variant::plain()].into_iter().chain(tree).map(|variant| {
        let (opened, settings) = run.variant(Some(&variant), Some(set)).expect("a variant of the run");
        let name = if opened.drafts_trees() { format!("{variant} ({nodes} nodes)") } else { variant.to_string() };
        (name, opened.with_nodes(nodes), settings)
    });
    let variants: Vec<_> = variants.collect();
    println!("\nbatch  variant                      tokens/s  speed-up over token by token in the same batch");
    for batch in [1, 4, 8] {
        // In turn, so that what disturbs the machine disturbs all of them.
        let mut best = vec![f64::MAX; 1 + variants.len()];
        let mut tokens = 0;
        for _ in 0..rounds {
            let began = Instant::now();
            let texts = prompts
                .chunks(batch)
                .flat_map(|prompts| generate(&run.backbone, prompts, max_new).expect("nobody stops it"));
            tokens = texts.map(|text| text.len()).sum();
            best[0] = best[0].min(began.elapsed().as_secs_f64());
            for (best, (name, opened, settings)) in best[1..].iter_mut().zip(&variants) {
                let decoded = by_blocks(run, (opened, settings), prompts, max_new, batch);
                assert_eq!(decoded.tokens, tokens, "{name} is lossless");
                *best = best.min(decoded.elapsed.as_secs_f64());
            }
        }
        let names = ["token by token"].into_iter().chain(variants.iter().map(|(name, ..)| name.as_str()));
        for (name, seconds) in names.zip(&best) {
            println!("{batch:>5}  {name:<28} {:8.1} {:9.2}", tokens as f64 / seconds, best[0] / seconds);
        }
    }
}

/// The first test prompts of a data set.
fn prompts(run: &OpenedRun, set: &str) -> Vec<String> {
    let data = run.config.data.get(set).expect("DRAFTSMITH_SET names a data set of the run");
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
