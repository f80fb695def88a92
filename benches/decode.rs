//! Live decoding on the clock: every variant of an evaluated run beside decoding token by token, in one process.
//!
//!     DRAFTSMITH_RUN=runs/quickstart cargo bench --bench decode
//!
//! Prompts are those of the test split of the run's data set DRAFTSMITH_SET, or its first (DRAFTSMITH_PROMPTS of them, 8), decoded
//! with the settings tuned on it. Every variant decodes all of them in each of DRAFTSMITH_ROUNDS rounds (3); the best round counts,
//! as a machine is only ever disturbed towards slower. The time of a forward of n tokens is measured apart, behind the first prompt.
//! Then 1, 4 and 8 prompts are decoded side by side: token by token, by plain blocks, by trees of DRAFTSMITH_NODES nodes (8), and by
//! trees that are as large as pays in such a batch, those of the variant DRAFTSMITH_VARIANT or of the run's first two. Speeds are those
//! of prefill and decode together, and of decode alone. Where trees are sized by what was timed before, the forwards of the steps are
//! beside it: how much longer than timed they took, in steps that only verified pinned tokens and in all others.
//! With DRAFTSMITH_PYTHON and DRAFTSMITH_PEERS (a folder with `hf_decode.py`), the same prompts go through that script as well.

use std::cmp::Ordering;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use draftsmith::backbone::{Span, generate_timed};
use draftsmith::decoding::{BlockSeconds, Decoder, Decoding, Spent, TimedBatch, Verification, block_seconds};
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

    let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    let plain = (0..rounds).map(|_| token_by_token(&run, &prompts, max_new, 1)).min_by(Decoded::faster);
    let plain = plain.expect("at least one round");
    let prompt_tokens: usize = prompts.iter().map(|prompt| prompt.len()).sum();
    println!(
        "\n{} prompts, {prompt_tokens} tokens; {} tokens follow; token by token {:.1} tokens/s, prefill {:.1}, decode {:.1}",
        prompts.len(),
        plain.tokens,
        plain.speed(),
        prompt_tokens as f64 / plain.prefill,
        plain.decode_speed()
    );
    println!("variant                {COLUMNS}");
    let mut variants = Vec::new();
    for variant in run.variants() {
        let (opened, settings) = run.variant(Some(&variant), Some(&set)).expect("a variant of the run");
        if opened.drafts_trees() {
            let seconds = seconds_of(&run, (&opened, &settings), &prompts, max_new, 1);
            variants.push((format!("{variant} (auto)"), opened.clone(), settings.clone(), Some(seconds)));
        }
        variants.push((variant.to_string(), opened, settings, None));
    }
    for (name, opened, settings, seconds) in &variants {
        let decoded =
            (0..rounds).map(|_| by_blocks(&run, (opened, settings), &prompts, max_new, (1, seconds.as_ref())));
        let best = decoded.min_by(Decoded::faster).expect("at least one round");
        assert_eq!(best.tokens, plain.tokens, "{name} is lossless");
        println!("{name:<22} {} | {}", best.beside(&plain), best.shares());
    }
    side_by_side(&run, &set, &prompts, max_new, rounds);
    peer(&run, &texts, max_new);
}

/// What decoding some prompts took.
#[derive(Default)]
struct Decoded {
    /// Seconds of prefill, and of everything after.
    prefill: f64,
    decode: f64,
    tokens: usize,
    blocks: usize,
    nodes: usize,
    spent: Spent,
    /// Where forwards were timed before: the seconds that they took, and those that were expected, of steps without drafts and with.
    forwards: [(f64, f64); 2],
}

impl Decoded {
    fn speed(&self) -> f64 {
        self.tokens as f64 / (self.prefill + self.decode)
    }

    fn decode_speed(&self) -> f64 {
        self.tokens as f64 / self.decode
    }

    fn faster(&self, other: &Self) -> Ordering {
        (self.prefill + self.decode).total_cmp(&(other.prefill + other.decode))
    }

    /// Speeds beside those of decoding token by token, and the tokens and nodes of a call.
    fn beside(&self, plain: &Self) -> String {
        let calls = self.blocks.max(1) as f64;
        format!(
            "{:8.1} {:9.2} {:17.1} {:9.2} {:12.3} {:11.1}",
            self.speed(),
            self.speed() / plain.speed(),
            self.decode_speed(),
            self.decode_speed() / plain.decode_speed(),
            self.tokens as f64 / calls,
            self.nodes as f64 / calls
        )
    }

    /// What shares of a block its parts take, in percent, where it is known.
    fn shares(&self) -> String {
        let Spent { backbone, heads, drafting, bookkeeping, .. } = self.spent;
        let whole = (backbone + heads + drafting + bookkeeping).as_secs_f64();
        let share = |part: Duration| match part.as_secs_f64() / whole {
            share if share.is_finite() => format!("{:9.1}", 100.0 * share),
            _ => format!("{:>9}", "-"),
        };
        [backbone, heads, drafting, bookkeeping].map(share).concat()
    }
}

/// The columns of [`Decoded::beside`] and [`Decoded::shares`].
const COLUMNS: &str = "tokens/s  speed-up  decode, tokens/s  speed-up  tokens/call  nodes/call |  backbone    heads drafting     rest % of a block";

/// Decodes `batch` prompts side by side, then the next ones, with one token a call.
fn token_by_token(run: &OpenedRun, prompts: &[&[u32]], max_new: usize, batch: usize) -> Decoded {
    let mut decoded = Decoded::default();
    for prompts in prompts.chunks(batch) {
        let (texts, seconds) = generate_timed(&run.backbone, prompts, max_new).expect("nobody stops it");
        decoded.prefill += seconds.prefill;
        decoded.decode += seconds.decode;
        decoded.tokens += texts.iter().map(Vec::len).sum::<usize>();
    }
    decoded
}

/// How a variant is decoded.
fn decoding(run: &OpenedRun, variant: &PreparedVariant) -> Decoding {
    Decoding {
        top_k: run.config.lattice.top_k,
        dtype: run.config.traces.dtype,
        stop: variant.variant.stop,
        verification: Verification::GREEDY,
    }
}

/// The seconds of a variant's steps with so many documents.
fn seconds_of(
    run: &OpenedRun,
    (variant, settings): (&PreparedVariant, &Settings),
    prompts: &[&[u32]],
    max_new: usize,
    documents: usize,
) -> BlockSeconds {
    let prompts: Vec<(&[u32], usize)> = prompts.iter().map(|prompt| (*prompt, max_new)).collect();
    let (drafter, nodes) = (variant.drafter(settings), run.config.drafting.nodes);
    let frontier = variant.grows().then_some(run.config.drafting.frontier);
    let batch = TimedBatch { prompts: &prompts, documents, nodes, frontier };
    block_seconds(&run.backbone, &run.heads, &*drafter, decoding(run, variant), batch).expect("heads that draft")
}

/// Decodes `batch` prompts side by side, then the next ones, as `generate` does, with trees as large as pays if seconds are given.
fn by_blocks(
    run: &OpenedRun,
    (variant, settings): (&PreparedVariant, &Settings),
    prompts: &[&[u32]],
    max_new: usize,
    (batch, seconds): (usize, Option<&BlockSeconds>),
) -> Decoded {
    let drafter = variant.drafter(settings);
    let (began, mut spent) = (Instant::now(), Vec::new());
    let mut decoded = Decoded::default();
    for prompts in prompts.chunks(batch) {
        let documents: Vec<(&[u32], usize)> = prompts.iter().map(|prompt| (*prompt, max_new)).collect();
        let options = decoding(run, variant);
        let mut decoder =
            Decoder::new(&run.backbone, &run.heads, &*drafter, options, &documents, batch).expect("fitting prompts");
        if let Some(seconds) = seconds {
            decoder = decoder.sized_by(seconds.clone());
        }
        while !decoder.finished() {
            let round = decoder.step().expect("a step");
            spent.push(round.spent);
            let nodes = round.blocks.iter().map(|(_, block)| block.nodes).sum::<usize>();
            decoded.blocks += round.blocks.len();
            decoded.nodes += nodes;
            if let Some(BlockSeconds { forward, .. }) = seconds
                && nodes > 0
                && round.spent.prefill.is_zero()
            {
                let (clock, timed) = &mut decoded.forwards[usize::from(nodes > round.blocks.len())];
                *clock += round.spent.backbone.as_secs_f64();
                *timed += forward[nodes.min(forward.len()) - 1];
            }
        }
        decoded.tokens += (0..documents.len()).map(|document| decoder.decoded(document).len()).sum::<usize>();
    }
    let elapsed = began.elapsed().as_secs_f64();
    decoded.spent = spent.into_iter().sum();
    decoded.prefill = decoded.spent.prefill.as_secs_f64();
    decoded.decode = elapsed - decoded.prefill;
    decoded
}

/// Several prompts side by side: token by token, plain blocks, and trees with few nodes, as many rows are computed anyway, and with
/// as many as pay.
fn side_by_side(run: &OpenedRun, set: &str, prompts: &[&[u32]], max_new: usize, rounds: usize) {
    let nodes = number("DRAFTSMITH_NODES", 8);
    let trees: Vec<Variant> = match std::env::var("DRAFTSMITH_VARIANT") {
        Ok(name) => vec![name.parse().expect("a variant that drafts trees")],
        Err(_) => {
            let first = |selection| run.variants().into_iter().find(|variant| variant.selection == selection);
            [Selection::ExpectedTree, Selection::GrownTree].into_iter().filter_map(first).collect()
        }
    };
    let opened = |variant: &Variant| run.variant(Some(variant), Some(set)).expect("a variant of the run");
    println!(
        "\nspeed-ups over token by token in a batch of the same size\nbatch  variant                      {COLUMNS} | forwards over those timed: pinned only, drafted"
    );
    for batch in [1, 4, 8] {
        let (plain, settings) = opened(&Variant::plain());
        let mut variants = vec![(Variant::plain().to_string(), plain, settings, None)];
        for variant in &trees {
            let (opened, settings) = opened(variant);
            let seconds = seconds_of(run, (&opened, &settings), prompts, max_new, batch);
            variants.push((
                format!("{variant} ({nodes} nodes)"),
                opened.clone().with_nodes(nodes),
                settings.clone(),
                None,
            ));
            variants.push((format!("{variant} (auto)"), opened, settings, Some(seconds)));
        }
        // In turn, so that what disturbs the machine disturbs all of them.
        let mut best: Vec<Option<Decoded>> = (0..=variants.len()).map(|_| None).collect();
        let mut keep = |place: usize, decoded: Decoded| {
            if best[place].as_ref().is_none_or(|best| decoded.faster(best).is_lt()) {
                best[place] = Some(decoded);
            }
        };
        for _ in 0..rounds {
            let plain = token_by_token(run, prompts, max_new, batch);
            let tokens = plain.tokens;
            keep(0, plain);
            for (place, (name, opened, settings, seconds)) in variants.iter().enumerate() {
                let decoded = by_blocks(run, (opened, settings), prompts, max_new, (batch, seconds.as_ref()));
                assert_eq!(decoded.tokens, tokens, "{name} is lossless");
                keep(place + 1, decoded);
            }
        }
        let best: Vec<Decoded> = best.into_iter().flatten().collect();
        let names = ["token by token"].into_iter().chain(variants.iter().map(|(name, ..)| name.as_str()));
        for (name, decoded) in names.zip(&best) {
            let over = |(clock, timed): (f64, f64)| {
                if timed > 0.0 { format!("{:6.2}", clock / timed) } else { format!("{:>6}", "-") }
            };
            let forwards = decoded.forwards.map(over).concat();
            println!(
                "{batch:>5}  {name:<28} {} | {}            | {forwards}",
                decoded.beside(&best[0]),
                decoded.shares()
            );
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
