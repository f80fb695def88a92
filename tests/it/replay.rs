//! Replay is exact: every test document of every variant, decoded live, gives the very blocks of the replay.

use std::fs;
use std::path::Path;

use crate::common::{
    CONTEXT, copy_folder, finished, inputs, only_row, place, read_json, report, row, rows, run, succeed, without, world,
};
use draftsmith::nn::parameters_from_safetensors;
use serde_json::Value;

/// Runs everything anew with `sets`, all documents live, and gives the data set's report.
fn all_live(folder: &Path, sets: &[&str]) -> Value {
    let sets = ["evaluation.live_documents=1000"].iter().chain(sets).flat_map(|set| ["--set", set]);
    let arguments: Vec<&str> = ["run", "run.toml"].into_iter().chain(sets).collect();
    succeed(folder, &arguments);
    report(folder)["datasets"][0].clone()
}

fn assert_exact(set: &Value) {
    let live = only_row(set, "live-totals");
    assert!(live["documents"].as_u64().unwrap() >= 15, "{live}");
    assert_eq!(live["documents"], set["facts"]["documents"]);
    assert_eq!(live["mismatches"], 0, "{live}");
    let (decoded, replayed) = (rows(set, "live"), variants(set));
    assert!(decoded.iter().map(|v| &v["name"]).eq(replayed.iter().map(|v| &v["name"])), "{decoded:?}");
    assert!(decoded.iter().all(|v| v["mismatches"] == 0), "{decoded:?}");
    assert!(replayed.iter().all(|v| v["lossless"] == true));
}

/// The rows of the variants, without the oracle's.
fn variants(set: &Value) -> Vec<Value> {
    rows(set, "block-efficiency").into_iter().filter(|row| row["name"] != "oracle").collect()
}

fn without_live(set: Value) -> Value {
    without(&set, &["live", "timing"])
}

/// Ends of text, of `max_new` and of the context all occur, or the tests here would prove little.
#[test]
fn the_tiny_world_has_every_way_a_text_can_end() {
    let trace = read_json(&world().join("runs/tiny/traces/fables-test/trace.json"));
    let ends = |wanted: &dyn Fn(u64, u64, u64) -> bool| {
        let documents = trace["documents"].as_array().unwrap().iter();
        let field = |d: &Value, name: &str| d[name].as_u64().unwrap();
        documents.filter(|d| wanted(field(d, "prompt"), field(d, "continuation"), field(d, "limit"))).count()
    };
    assert!(ends(&|_, continuation, limit| continuation < limit) > 0, "end-of-text");
    assert!(ends(&|_, continuation, limit| continuation == limit && limit == 24) > 0, "max_new");
    assert!(ends(&|prompt, _, limit| prompt + limit == CONTEXT as u64 && limit < 24) > 0, "the context's end");
}

#[test]
fn every_document_live_gives_the_blocks_of_the_replay() {
    let folder = inputs();
    let set = all_live(folder.path(), &[]);
    assert_exact(&set);
    assert_eq!(without_live(set), without_live(report(world())["datasets"][0].clone()), "live changes no other number");
}

#[test]
fn so_side_by_side() {
    let folder = inputs();
    let set = all_live(folder.path(), &["evaluation.live_batch=4"]);
    assert_exact(&set);
    assert_eq!(only_row(&set, "live-totals")["batch"], 4);
    assert_eq!(
        without_live(set),
        without_live(report(world())["datasets"][0].clone()),
        "a batch changes no other number"
    );
}

#[test]
fn so_with_half_precision_traces() {
    let folder = inputs();
    assert_exact(&all_live(folder.path(), &["traces.dtype=float16"]));
}

/// What the heads' matrices are kept in changes what they draft, and nothing else is made anew for it.
#[test]
fn so_with_half_precision_heads() {
    let folder = finished();
    let file = folder.path().join("runs/tiny/heads/heads.safetensors");
    let (trained, plain) = (fs::read(&file).unwrap(), report(folder.path())["datasets"][0].clone());
    let parameters: usize = parameters_from_safetensors(&file).unwrap().values().map(|(_, values)| values.len()).sum();
    for weights in ["float16", "bfloat16"] {
        let set = all_live(folder.path(), &[&format!("heads.weights={weights}")]);
        assert_exact(&set);
        assert_eq!(fs::read(&file).unwrap(), trained, "heads are trained and saved as float32");
        assert_ne!(rows(&set, "heads"), rows(&plain, "heads"), "{weights}: what they predict is rounded");
        let bytes = |set: &Value| row(set, "cost", "bpd")["parameter_bytes"].as_f64().unwrap();
        assert_eq!(bytes(&plain) - bytes(&set), 2.0 * parameters as f64);
    }
}

#[test]
fn so_with_wide_trees_with_one_head_and_with_blocks_longer_than_texts() {
    let folder = inputs();
    assert_exact(&all_live(folder.path(), &["heads.block_size=2"]));
    let wide = ["drafting.paths=40", "lattice.top_k=12", "heads.block_size=7"];
    assert_exact(&all_live(folder.path(), &wide));
    let long = ["heads.block_size=30", "heads.training.steps=4", "traces.max_new=9", "drafting.paths=3"];
    assert_exact(&all_live(folder.path(), &long));
}

/// A transition reads the heads' states in every slot, which are kept beside the candidates and rounded live as there.
#[test]
fn so_with_rescorers_that_read_the_heads_states() {
    let folder = finished();
    let candidates = |folder: &Path| place(folder, "candidates/fables-test");
    assert!(!candidates(folder.path()).join("states.bin").exists(), "nothing reads them");
    for heads in ["{kind=\"ffn\",hidden=16}", "{kind=\"attention\",rows=\"parallel\"}"] {
        let sets = [
            format!("heads.architecture={heads}"),
            "rescorer.turns.state=\"slots\"".to_owned(),
            "rescorer.turns.tokens=\"codebooks\"".to_owned(),
            "rescorer.related={kind=\"correlation\",hidden=8,heads=2,rank=4,blocks_per_step=16,training={steps=20}}"
                .to_owned(),
        ];
        let set = all_live(folder.path(), &sets.each_ref().map(String::as_str));
        assert_exact(&set);
        assert!(candidates(folder.path()).join("states.bin").exists());
        let value = |name| row(&set, "block-efficiency", name)["block_efficiency"].as_f64().unwrap();
        assert!(value("turns") > value("bpd"), "{} {}", value("turns"), value("bpd"));
    }
}

#[test]
fn so_with_every_architecture_of_heads() {
    let folder = inputs();
    let architectures = [
        ("{kind=\"ffn\",hidden=8,first_layer=\"shared\"}", "{decay=0.8}", "all"),
        ("{kind=\"medusa\",blocks=2}", "[3, 2, 1]", "all"),
        ("{kind=\"linear\"}", "[0.5, 2, 1]", "one-random"),
        ("{kind=\"medusa\",unembedding=\"own\"}", "constant", "{annealed=15}"),
        ("{kind=\"speculator\",inner=12}", "{pace=0.5}", "all"),
        ("{kind=\"speculator\",inner=12,weights=\"own\",tie_weights=true,scale_input=true}", "constant", "all"),
        ("{kind=\"redrafter\",unembedding=\"own\"}", "constant", "one-random"),
        ("{kind=\"eagle3\",input=[\"layer-1\",\"last\"],warm_start=true}", "constant", "one-random"),
        ("{kind=\"attention\",layers=2,warm_start=false,context={features=[\"layer-1\",\"last\"]}}", "constant", "all"),
        ("{kind=\"attention\",rows=\"parallel\",layers=2,input=[\"layer-0\",\"last\"]}", "constant", "one-random"),
        (
            "{kind=\"dflash\",context=[\"layer-1\",\"last\"],mask_token=3,convolution={kernel=2,group=4}}",
            "{exp=4}",
            "all",
        ),
    ];
    let plain = architectures.map(|(architecture, weights, loss)| (architecture, weights, loss, None));
    let biased = [
        ("{kind=\"ffn\",hidden=8}", "constant", "all", Some("{rank=6}")),
        ("{kind=\"dflash\",context=[\"layer-1\",\"last\"]}", "{exp=4}", "one-random", Some("{rank=6,form=\"gated\"}")),
        ("{kind=\"ffn\",hidden=8}", "constant", "one-random", Some("{rank=5,form=\"recurrent\",tokens=\"codebooks\"}")),
        ("{kind=\"attention\",rows=\"parallel\"}", "constant", "all", Some("{rank=5,form=\"refiner\"}")),
    ];
    for (architecture, weights, loss, bias) in plain.into_iter().chain(biased) {
        let sets = [
            format!("heads.architecture={architecture}"),
            format!("heads.loss_weights={weights}"),
            format!("heads.loss={loss}"),
        ];
        let mut sets: Vec<&str> = sets.iter().map(String::as_str).collect();
        let bias = bias.map(|bias| format!("heads.bias={bias}"));
        sets.extend(bias.as_deref());
        let set = all_live(folder.path(), &sets);
        assert_exact(&set);
        let metrics = fs::read_to_string(folder.path().join("runs/tiny/heads/metrics.jsonl")).unwrap();
        let lines = metrics.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let dev: Vec<f64> =
            lines.filter(|line| line["split"] == "dev").filter_map(|line| line["loss"].as_f64()).collect();
        assert!(dev.last() < dev.first(), "{architecture}: {dev:?}");
    }
}

/// Every file of configs/systems, in the sizes of the tiny backbone where it has sizes of its own.
#[test]
fn so_with_every_system() {
    let folder = inputs();
    let systems = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/systems");
    let mut files: Vec<_> = fs::read_dir(&systems).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for file in files {
        let system = file.file_stem().unwrap().to_str().unwrap();
        let sizes: &[&str] = match system {
            "dflash2" => &["heads.architecture.convolution={kernel=2,group=8}"],
            "hidden-transfer" | "firp" => &["heads.architecture.layer=1"],
            "graph" => &["rescorer.small.training.steps=5"],
            _ => &[],
        };
        let with = file.to_str().unwrap();
        let sets = ["evaluation.live_documents=1000", "heads.positions_per_step=128", "heads.keep_checkpoints=true"];
        let sets = sets.iter().chain(sizes).flat_map(|set| ["--set", set]);
        let arguments: Vec<&str> = ["run.toml", "--with", with].into_iter().chain(sets).collect();
        succeed(folder.path(), &[&["run"], &arguments[..]].concat());
        let run = folder.path().join(format!("runs/tiny-{system}"));
        assert_exact(&read_json(&run.join("report/report.json"))["datasets"][0]);
        succeed(folder.path(), &[&["evaluate", "--all-checkpoints"], &arguments[..]].concat());
    }
}

/// What is drafted where heads or a language model propose tokens behind each path, and what ends blocks by what was accepted.
#[test]
fn so_however_drafts_grow_and_end() {
    let folder = inputs();
    let variants = [
        "bpd+adaedl",
        "bpd+max-probability",
        "bpd+length=2",
        "tree-counts+adaedl",
        "grown-0gram",
        "fixed-0gram",
        "fixed-0gram+lookup",
        "chains-0gram",
        "chains-counts+lookup",
        "graph-0gram",
        "graph-counts+lookup",
        "cape-0gram",
        "cape-counts+lookup",
        "cape-0gram@counts",
        "grown-0gram@counts",
        "graph-0gram@counts",
        "chains-counts@small",
    ];
    let named = format!("drafting.variants={variants:?}");
    let sets = [
        "heads.architecture={kind=\"attention\"}",
        "heads.training.steps=60",
        "drafting.branching=[3,2]",
        "drafting.graph={theta=0.1,tau=0.05}",
        "tuning.stop_loss=0.5",
        "evaluation.sampling.documents=6",
        &named,
    ];
    let set = all_live(folder.path(), &sets);
    assert_exact(&set);
    let value = |name: &str, column: &str| row(&set, "block-efficiency", name)[column].as_f64().unwrap();
    assert!(value("grown-0gram", "block_efficiency") >= value("fixed-0gram", "block_efficiency"));
    assert!(value("chains-0gram", "drafts") > 1.0 && value("graph-0gram", "verified_tokens_per_call") > 3.0);
    // Beside every first choice there is another token at least.
    assert!(value("cape-0gram", "drafts") > 1.0 && value("cape-0gram", "verified_tokens_per_call") > 3.0);
    for shorter in ["bpd+adaedl", "bpd+max-probability", "bpd+length=2"] {
        assert!(value(shorter, "verified_tokens_per_call") < value("bpd", "verified_tokens_per_call"), "{shorter}");
    }
    assert_eq!(value("bpd+length=2", "verified_tokens_per_call_max"), 2.0);
    let sampled = rows(&set, "sampling");
    let names: Vec<&str> = sampled.iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["rejection 1", "rejection 4,2,2", "without-replacement 4,2,2", "k-seq 8"]);
    for row in &sampled {
        let [least, most] = [0, 1].map(|end| row["ci95"][end].as_f64().unwrap());
        let found = row["block_efficiency"].as_f64().unwrap();
        assert!(least <= found && found <= most && row["documents"] == 6, "{row}");
    }
    // A merged node is asked once, so that the graph's own settings count.
    let tree = all_live(folder.path(), &[&sets[..], &["drafting.graph={merge=false}"]].concat());
    assert_ne!(row(&tree, "block-efficiency", "graph-0gram"), row(&set, "block-efficiency", "graph-0gram"));
}

/// Replay grows the drafts of some documents side by side; others take the places of those that end.
#[test]
fn so_where_more_documents_grow_than_side_by_side() {
    let set = all_live(
        inputs().path(),
        &[
            "data.fables.dev=0.1",
            "data.fables.test=0.8",
            "heads.architecture={kind=\"attention\"}",
            "drafting.variants=[\"grown-0gram\",\"grown-counts\"]",
            "evaluation.live_batch=3",
        ],
    );
    assert_exact(&set);
    assert!(set["facts"]["documents"].as_u64().unwrap() > 40, "{}", set["facts"]);
}

/// The tiny backbone has two layers.
#[test]
fn so_when_heads_read_several_features() {
    let folder = finished();
    let at = |file: &str| folder.path().join("runs/tiny").join(file);
    let (last, tokens) = (at("columns/fables-train/last/rows.bin"), at("traces/fables-train/tokens.bin"));
    let made = [&last, &tokens].map(|file| fs::metadata(file).unwrap().modified().unwrap());
    let set = all_live(folder.path(), &["heads.architecture.features=[\"layer-1\", \"layer-0\", \"last\"]"]);
    assert_exact(&set);
    assert_eq!([&last, &tokens].map(|file| fs::metadata(file).unwrap().modified().unwrap()), made, "kept as they were");
    let rows = |column: &str| fs::read(at("columns/fables-train").join(column).join("rows.bin")).unwrap();
    assert!(rows("layer-1") != rows("last") && rows("layer-1").len() == rows("last").len());
    let parameters = parameters_from_safetensors(&at("heads/heads.safetensors")).unwrap();
    for number in 0..2 {
        let (shape, values) = &parameters[&format!("inputs.projections.{number}.weight")];
        assert!(shape == &[32, 32] && values.iter().any(|&x| x != 0.0), "a projection is learnt");
    }
    succeed(folder.path(), &["generate", "--run", "runs/tiny", "--prompt", "Tell of the fox.", "--max-new", "8"]);
    // Given to a run whose own heads read `last` alone, they read what they were trained on.
    copy_folder(&at("heads"), &folder.path().join("given"));
    succeed(folder.path(), &["evaluate", "run.toml", "--heads", "given"]);
    let other = fs::read_dir(at("other-heads")).unwrap().next().unwrap().unwrap().path();
    let given = read_json(&other.join("report/report.json"))["datasets"][0].clone();
    assert_eq!(without(&given, &["timing", "live"]), without(&set, &["timing", "live"]));
}

#[test]
fn features_that_there_are_not_are_refused() {
    let folder = inputs();
    for (features, said) in [
        (
            "[\"layer-3\", \"last\"]",
            "the backbone has 2 layers, so its features are \"last\" and \"layer-0\" to \"layer-2\"",
        ),
        ("[\"hidden\", \"last\"]", "`hidden` is no feature of the backbone; write \"last\" or \"layer-N\""),
        ("[\"layer-1\"]", "`heads.architecture.features` lacks \"last\""),
        (
            "[\"last\", \"last\"]",
            "`heads.architecture.features` is [\"last\", \"last\"]; it must be a list of one or more different",
        ),
    ] {
        let set = format!("heads.architecture.features={features}");
        for command in [&["trace", "run.toml"][..], &["trace", "run.toml", "--dry-run"], &["train-heads", "run.toml"]] {
            let outcome = run(folder.path(), &[command, &["--set", &set]].concat());
            assert_eq!(outcome.code, Some(2), "{command:?}");
            assert!(outcome.stderr.contains(said), "{features}: {}", outcome.stderr);
        }
    }
    assert!(!folder.path().join("runs/tiny/traces").exists(), "before anything is made");
}

#[test]
fn so_when_heads_draft_from_a_part_of_the_vocabulary() {
    let folder = inputs();
    let sets = ["heads.vocabulary={size=60,drafting=true}", "heads.architecture={kind=\"speculator\",inner=12}"];
    for sets in [&sets[..1], &sets] {
        let whole = all_live(folder.path(), &sets[1..]);
        let part = all_live(folder.path(), sets);
        assert_exact(&part);
        assert_ne!(without_live(part), without_live(whole));
    }
    let heads = read_json(&folder.path().join("runs/tiny/heads/heads.json"));
    let ids: Vec<u64> = heads["vocabulary"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
    assert!(ids.len() == 60 && ids.is_sorted(), "{ids:?}");
}

#[test]
fn so_when_blocks_end_where_heads_are_unsure() {
    let folder = inputs();
    let verified = |set: &Value| -> Vec<f64> {
        variants(set).iter().map(|v| v["verified_tokens_per_call"].as_f64().unwrap()).collect()
    };
    let sure = "heads.bias={rank=6,confidence=true}";
    for (stop, heads) in [("max-probability=0.2", None), ("entropy-bound=0.2", None), ("confidence=0.2", Some(sure))] {
        let whole = verified(&all_live(folder.path(), &heads.into_iter().collect::<Vec<_>>()));
        let stopping = format!("drafting.stop={stop}");
        let set = all_live(folder.path(), &heads.into_iter().chain([&*stopping]).collect::<Vec<_>>());
        assert_exact(&set);
        // Plain decoding and prompt lookup, now the third row, verify what they did; first choices with the rule verify less.
        let fewer = verified(&set);
        assert!(fewer[0] == whole[0] && fewer[2] == whole[1], "{stop}: {fewer:?} {whole:?}");
        assert!(fewer[1] > 1.0 && fewer[1] < whole[0], "{stop}: {fewer:?} {whole:?}");
    }
    // Bounds that dev chooses: the largest of those that cost no more than they may.
    let tuned: Vec<[String; 3]> = [0.3, 0.0]
        .map(|loss| [sure.to_owned(), "drafting.stop=confidence".to_owned(), format!("tuning.stop_loss={loss}")])
        .into();
    let [some, none] = [&tuned[0], &tuned[1]].map(|sets| {
        let set = all_live(folder.path(), &sets.iter().map(String::as_str).collect::<Vec<_>>());
        assert_exact(&set);
        let value = |name: &str, column: &str| row(&set, "block-efficiency", name)[column].as_f64().unwrap();
        let dev = ["bpd", "bpd+confidence"].map(|name| value(name, "dev_block_efficiency"));
        (verified(&set), dev)
    });
    assert!(some.0[1] < none.0[1] && none.0[1] <= none.0[0], "{some:?} {none:?}");
    assert!(some.1[1] >= 0.7 * some.1[0] && none.1[1] >= none.1[0], "{some:?} {none:?}");
    let stopped = ["bpd", "counts"].map(|name| format!("{name}+max-probability=1"));
    let none = all_live(folder.path(), &[&format!("drafting.variants={stopped:?}")]);
    assert_exact(&none);
    let found = variants(&none);
    let names: Vec<&str> = found.iter().map(|v| v["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["bpd", &stopped[0], &stopped[1]]);
    assert_eq!(found[1]["block_efficiency"], 1.0, "no slot is drafted whose head is not quite sure");
}

#[test]
fn so_when_the_context_ends_the_block() {
    let folder = inputs();
    assert_exact(&all_live(folder.path(), &["traces.max_new=200", "heads.block_size=6"]));
}

#[test]
fn one_candidate_a_head_makes_every_variant_plain_decoding() {
    let folder = inputs();
    let set = all_live(folder.path(), &["lattice.top_k=1", "tuning.lookup=[]"]);
    assert_exact(&set);
    let reads_heads = |variant: &&Value| variant["name"] != "prompt-lookup";
    let all = rows(&set, "block-efficiency");
    for variant in all.iter().filter(reads_heads) {
        assert_eq!(variant["backbone_calls"], all[0]["backbone_calls"], "{variant}");
    }
}
