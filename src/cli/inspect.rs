//! The command `inspect`, which describes a folder or a model file. With `--check`, it compares a model's results with
//! reference vectors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::args::{Common, Format, InspectOptions};
use super::{print, print_json};
use crate::backbone::{Backbone, Checkpoint, Precision, check, resolve};
use crate::config::Config;
use crate::device;
use crate::error::{Error, Result, bail};
use crate::evaluation::analyses::VariantRow;
use crate::files;
use crate::ngram::{self, Counts, arpa};
use crate::nn::SafetensorsFile;
use crate::report;
use crate::store::{MARK, seconds_of};

pub fn inspect(common: &Common, options: &InspectOptions) -> Result<()> {
    if let Some(value) = file(&options.path)? {
        return show(common, &value);
    }
    let path = &resolve(&options.path.to_string_lossy())?;
    if let Some(vectors) = &options.check {
        return compare(common, path, vectors, options.tolerance);
    }
    let has = |name: &str| path.join(name).exists();
    let value = if has("trace.json") {
        trace(path)?
    } else if has("run.toml") {
        run(path)?
    } else if has("heads.json") {
        heads(path)?
    } else if has(MARK) {
        artefact(path)?
    } else if ["traces", "heads", "reports"].iter().any(|kind| path.join(kind).is_dir()) {
        store(path)?
    } else if path.is_dir() && !has("config.json") {
        bail!(
            "{} is neither a model (config.json), a trace (trace.json), a run (run.toml), heads (heads.json), a store of runs nor a part of one ({MARK}).",
            path.display()
        );
    } else {
        model(path, options.tensors)?
    };
    show(common, &value)
}

/// Describes a file that is known by its name: an n-gram model, ARPA text or counts.
fn file(path: &Path) -> Result<Option<Value>> {
    let name = path.to_string_lossy();
    Ok(if name.ends_with(".ngram") {
        Some(ngram(path)?)
    } else if name.ends_with(".arpa") || name.ends_with(".arpa.gz") {
        let sizes = arpa::sizes(path)?;
        Some(json!({
            "kind": "n-gram model as ARPA text", "order": sizes.len(), "ngrams": sizes, "bytes": files::measure(path)?.0,
        }))
    } else if name.ends_with(".counts") {
        let counts = Counts::open(&[path])?;
        let vocabulary = counts.vocabulary();
        Some(json!({
            "kind": "n-gram counts", "order": counts.order(), "bytes": files::measure(path)?.0,
            "vocab_size": vocabulary.size, "tokenizer_hash": vocabulary.tokenizer,
        }))
    } else {
        None
    })
}

/// Describes trained heads: their kind and size, and of which training they are.
fn heads(path: &Path) -> Result<Value> {
    let description: Value = files::read_json(&path.join("heads.json"))?;
    let weights = SafetensorsFile::open(&path.join("heads.safetensors"))?;
    let of_tensor = |name: &String| weights.info(name).map_or(0, |info| info.shape.iter().product());
    let parameters: usize = weights.names().iter().map(of_tensor).sum();
    let mut value = json!({
        "kind": "heads", "heads": description["architecture"]["kind"], "block_size": description["block_size"],
        "parameters": parameters, "bytes": files::measure(path)?.0,
        "draft_vocabulary": description["vocabulary"].as_array().map(Vec::len),
        "architecture": settings(&description["architecture"]), "backbone_hash": description["backbone"],
        "tokenizer_hash": description["tokenizer"],
    });
    if let Ok(best) = files::read_json::<Value>(&path.join("checkpoints/best.json")) {
        value["best_step"] = best["step"].clone();
    }
    if path.join(MARK).exists() {
        value["training"] = artefact(path)?["settings"].take();
    }
    Ok(value)
}

/// Describes a part of a store: what it was made with, of what, and how long that took.
fn artefact(path: &Path) -> Result<Value> {
    let mark: Value = files::read_json(&path.join(MARK))?;
    let files: Vec<&String> = mark["files"].as_object().into_iter().flat_map(Map::keys).collect();
    let mut value = json!({
        "kind": mark["kind"], "name": mark["name"], "hash": mark["hash"], "program": mark["program"],
        "seconds": seconds_of(path), "bytes": files::measure(path)?.0, "files": files,
        "settings": settings(&mark["settings"]), "inputs": settings(&mark["inputs"]),
    });
    if path.join("model.ngram").exists() {
        value["model"] = ngram(&path.join("model.ngram"))?;
    }
    Ok(value)
}

/// Lists settings as records of a key and its value.
fn settings(of: &Value) -> Vec<Value> {
    let rows = of.as_object().map(report::flatten).unwrap_or_default();
    rows.into_iter().map(|[key, value]| json!({"key": key, "value": value})).collect()
}

/// Describes a store of runs: how many parts of each kind it has, and how large they are.
fn store(path: &Path) -> Result<Value> {
    let (mut kinds, mut bytes) = (Vec::new(), 0);
    for kind in files::listing(path)?.into_iter().filter(|path| path.is_dir()) {
        let parts: Vec<PathBuf> = files::listing(&kind)?.into_iter().filter(|path| path.is_dir()).collect();
        let finished = parts.iter().filter(|part| part.join(MARK).exists()).count();
        let of_kind = files::measure(&kind)?.0;
        bytes += of_kind;
        kinds.push(json!({
            "parts": kind.file_name().map(|name| name.to_string_lossy()), "finished": finished,
            "unfinished": parts.len() - finished, "bytes": of_kind,
        }));
    }
    Ok(json!({"kind": "store of runs", "bytes": bytes, "parts": kinds}))
}

fn show(common: &Common, value: &Value) -> Result<()> {
    match (common.format, value) {
        (Format::Table, Value::Object(fields)) => {
            print(&fields.iter().map(|(name, v)| lines(name, v)).collect::<String>())
        }
        _ => print_json(value),
    }
}

/// Formats a value as a line `name value`, or as one line for each element of a list of records.
fn lines(name: &str, value: &Value) -> String {
    match value {
        Value::Array(records) if records.first().is_some_and(Value::is_object) => {
            let record = |r: &Value| {
                let cells = r.as_object().into_iter().flat_map(Map::values).map(plain);
                format!("  {}\n", cells.collect::<Vec<_>>().join("  "))
            };
            format!("{name}\n{}", records.iter().map(record).collect::<String>())
        }
        Value::Object(fields) => {
            let fields = fields.iter().map(|(field, value)| format!("  {field:<22} {}\n", plain(value)));
            format!("{name}\n{}", fields.collect::<String>())
        }
        _ => format!("{name:<24} {}\n", plain(value)),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.replace('\n', " "),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

/// Describes a checkpoint: shape, types and hashes, and every tensor if they are `listed`. The weights are read only to compute
/// their hash.
fn model(path: &Path, listed: bool) -> Result<Value> {
    let checkpoint = Checkpoint::open(path)?;
    let identity = checkpoint.identity(Precision::AS_STORED)?;
    let tokenizer = checkpoint.tokenizer()?;
    let config = &checkpoint.config;
    let tensors = checkpoint.tensors();
    let parameters: usize = tensors.iter().map(|(_, _, shape)| shape.iter().product::<usize>()).sum();
    let tensor =
        |(name, kind, shape): &(String, String, Vec<usize>)| json!({"name": name, "dtype": kind, "shape": shape});
    let sentence = "Once upon a time, 3 dragons met.";
    let ids = tokenizer.encode(sentence)?;
    let pieces: Vec<String> = ids.iter().map(|id| tokenizer.decode(&[*id])).collect::<Result<_>>()?;
    let mut value = json!({
        "kind": "model", "architecture": checkpoint.model_type(), "parameters": parameters,
        "layers": config.num_hidden_layers, "width": config.hidden_size, "query_heads": config.num_attention_heads,
        "key_heads": config.num_key_value_heads, "head_width": config.head_dim, "mlp_width": config.intermediate_size,
        "vocab_size": config.vocab_size, "context": config.max_position_embeddings,
        "tied_unembedding": config.tie_word_embeddings, "weights": identity.weights, "bytes": files::measure(path)?.0,
        "end_of_text": identity.end_of_text, "hash": identity.hash, "tokenizer_hash": tokenizer.hash(),
        "sample": sentence, "sample_token_ids": ids, "sample_tokens": pieces,
    });
    if listed {
        value["tensors"] = tensors.iter().map(tensor).collect();
    }
    Ok(value)
}

fn compare(common: &Common, path: &Path, vectors: &Path, tolerance: f32) -> Result<()> {
    let device = device::open(common.device.as_deref().unwrap_or("auto").parse()?)?;
    let result = if path.join("tokenizer.json").exists() || !path.is_dir() {
        let backbone = Backbone::load(path, Precision::AS_STORED, &device.device)?;
        check(&backbone.model, Some(&backbone.tokenizer), vectors, tolerance)?
    } else {
        check(&Checkpoint::open(path)?.load(Precision::AS_STORED, &device.device)?, None, vectors, tolerance)?
    };
    show(common, &serde_json::to_value(&result).expect("a check is JSON"))?;
    match result.differences.len() {
        0 => Ok(()),
        n => Err(Error::check_failed(format!(
            "{}: {n} differences from {}; the largest of a number is {:e}, {tolerance:e} is allowed.",
            path.display(),
            vectors.display(),
            result.largest_difference
        ))),
    }
}

/// Describes the content of an n-gram model and verifies its checksums.
fn ngram(path: &Path) -> Result<Value> {
    let model = ngram::Model::open(path)?;
    model.verify().map_err(|e| e.within(path.display()))?;
    let vocabulary = model.vocabulary();
    Ok(json!({
        "kind": "n-gram model", "order": model.order(), "ngrams": model.sizes(), "bytes": model.bytes(),
        "quantised": model.quantised(), "end_of_text": vocabulary.eos, "beginning_of_text": vocabulary.bos,
        "vocab_size": vocabulary.size, "tokenizer_hash": vocabulary.tokenizer,
    }))
}

fn trace(path: &Path) -> Result<Value> {
    let index: Value = files::read_json(&path.join("trace.json"))?;
    let documents = index["documents"].as_array().map_or(&[][..], Vec::as_slice);
    let sum = |field: &str| documents.iter().filter_map(|d| d[field].as_u64()).sum::<u64>();
    let mut value = json!({
        "kind": "trace", "documents": documents.len(), "prompt_tokens": sum("prompt"),
        "continuation_tokens": sum("continuation"), "text": index["text"], "bytes": files::measure(path)?.0,
        "backbone_hash": index["identity"]["backbone"], "tokenizer_hash": index["identity"]["tokenizer"],
        "columns": columns(path, &index)?,
    });
    if let Some(sample) = sample(path, documents)? {
        value["sample"] = sample;
    }
    Ok(value)
}

/// Describes the columns of a trace's tokens, using the run that the trace lies in.
fn columns(path: &Path, index: &Value) -> Result<Vec<Value>> {
    let run = path.parent().and_then(Path::parent);
    let of_trace = run.zip(path.file_name()).map(|(run, name)| run.join("columns").join(name));
    let Some(folder) = of_trace.filter(|folder| folder.is_dir()) else { return Ok(Vec::new()) };
    let mut columns = Vec::new();
    for folder in files::listing(&folder)?.into_iter().filter(|folder| folder.join("column.json").exists()) {
        let column: Value = files::read_json(&folder.join("column.json"))?;
        if column["tokens_hash"] == index["tokens_hash"] {
            columns.push(json!({
                "column": column["feature"], "dtype": column["dtype"], "width": column["width"],
                "bytes": files::measure(&folder)?.0,
            }));
        }
    }
    Ok(columns)
}

/// Decodes the first document of a trace, if the run that the trace lies in still names its tokenizer.
fn sample(path: &Path, documents: &[Value]) -> Result<Option<Value>> {
    let run = path.parent().and_then(Path::parent).map(|run| run.join("run.toml")).filter(|file| file.exists());
    let (Some(run), Some(first)) = (run, documents.first()) else { return Ok(None) };
    let Ok(config) = toml::from_str::<Config>(&files::read_text(&run)?) else { return Ok(None) };
    let Ok(tokenizer) = resolve(&config.backbone.path).and_then(|path| Checkpoint::open(&path)?.tokenizer()) else {
        return Ok(None);
    };
    let tokens = path.join("tokens.bin");
    let bytes = std::fs::read(&tokens).map_err(|e| Error::io("read", &tokens, e))?;
    let ids: Vec<u32> = bytes.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
    let number = |field: &str| first[field].as_u64().unwrap_or(0) as usize;
    let (start, prompt, continuation) = (number("first"), number("prompt"), number("continuation"));
    let Some(ids) = ids.get(start..start + prompt + continuation) else { return Ok(None) };
    let (prompt, continuation) = ids.split_at(prompt);
    Ok(Some(json!([tokenizer.decode(prompt)?, "→", tokenizer.decode(continuation)?])))
}

/// Describes a run: which parts are finished, and how much space they take.
fn run(path: &Path) -> Result<Value> {
    let provenance: Value = files::read_json(&path.join("provenance.json")).unwrap_or_default();
    let mut parts = BTreeMap::new();
    collect_parts(path, path, &mut parts)?;
    let bytes = files::measure(path)?.0 + parts.values().map(|(_, bytes)| bytes).sum::<u64>();
    let mut parts: Vec<(String, u64)> = parts.into_values().collect();
    parts.sort();
    let parts: Vec<Value> = parts.iter().map(|(name, bytes)| json!({"finished": name, "bytes": bytes})).collect();
    let finished = path.join("report/report.json");
    let variants: Vec<Value> = if finished.exists() {
        let mut variants = Vec::new();
        for set in report::read(&finished)?.datasets {
            variants.extend(set.rows::<VariantRow>()?.into_iter().map(
                |(name, row)| json!({"dataset": set.name, "variant": name, "block_efficiency": row.block_efficiency}),
            ));
        }
        variants
    } else {
        Vec::new()
    };
    Ok(json!({
        "kind": "run", "name": path.file_name().map(|n| n.to_string_lossy().into_owned()), "bytes": bytes,
        "started": provenance["started"], "device": provenance["device"], "seed": provenance["seed"],
        "backbone": provenance["backbone"]["path"], "backbone_hash": provenance["backbone"]["hash"],
        "finished": finished.exists(), "parts": parts, "variants": variants,
    }))
}

/// Adds every finished part that the run in `root` links to from `folder` or below. Each is keyed by where it lies, and
/// has its name in the run and its size in bytes. A part with several names is added once.
fn collect_parts(root: &Path, folder: &Path, parts: &mut BTreeMap<PathBuf, (String, u64)>) -> Result<()> {
    for path in files::listing(folder)?.into_iter().filter(|path| path.is_dir()) {
        if path.join(MARK).exists() {
            let place = path.canonicalize().map_err(|e| Error::io("read", &path, e))?;
            let (name, bytes) =
                (path.strip_prefix(root).unwrap_or(&path).display().to_string(), files::measure(&place)?.0);
            parts.entry(place).or_insert((name, bytes));
        } else if !path.is_symlink() {
            collect_parts(root, &path, parts)?;
        }
    }
    Ok(())
}
