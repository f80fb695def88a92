//! Kinds of files that others have made: whole ones, small, and what reads them. `strange_bytes.rs` changes them at random, and the
//! targets in `fuzz/` let libFuzzer change them.

#[path = "../../src/backbone/gguf/tests/writer.rs"]
#[allow(dead_code)]
mod gguf;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use draftsmith::backbone::{
    Backbone, Checkpoint, Feature, LanguageModelConfig, ModelConfig, Precision, Transformer, save_model,
};
use draftsmith::config::{self, Overrides};
use draftsmith::device::{self, DeviceChoice, Opened};
use draftsmith::heads::{
    AttentionConfig, BiasConfig, Binding, FfnConfig, HeadArchitecture, HeadShape, HydraConfig, LinearConfig,
    MedusaConfig, PlainHeads, SpeculatorConfig, load_heads,
};
use draftsmith::ngram::{
    Collector, Counts, DEFAULT_FALLBACK, Ending, Listing, Memory, Model, Options, Vocabulary, arpa, estimate,
};
use draftsmith::nn::{Init, SafetensorsFile, parameters_from_safetensors, parameters_to_safetensors};
use draftsmith::storage_type::StorageType;
use draftsmith::text::{ChatTemplate, DataConfig, Document, TEMPLATE_DATE, Tokenizer, field_names, read_corpus};
use draftsmith::traces::{ColumnPlan, ColumnPlans, Trace, TracePlan, make, make_columns};
use draftsmith::{Result, files};
use flate2::{Compression, write::GzEncoder};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde_json::Value;
use tempfile::TempDir;

/// A kind of file.
pub struct Kind {
    /// Its name, which is that of its target in `fuzz/`.
    pub name: &'static str,
    /// Makes whole files in an empty folder, and returns those of which one is changed at a time.
    make: fn(&Path) -> Vec<PathBuf>,
    /// Reads one of them, with what beside it belongs to it.
    read: fn(&Path) -> Result<()>,
}

/// All kinds.
pub static KINDS: [Kind; 12] = [
    Kind { name: "arpa", make: make_arpa, read: read_arpa },
    Kind { name: "chat_templates", make: make_chat_templates, read: read_chat_template },
    Kind { name: "configurations", make: make_configurations, read: read_configuration },
    Kind { name: "corpora", make: make_corpora, read: read_any_corpus },
    Kind { name: "counts", make: make_counts, read: read_counts },
    Kind { name: "gguf", make: make_gguf, read: read_gguf },
    Kind { name: "heads", make: make_heads, read: read_heads },
    Kind { name: "models", make: make_models, read: read_model },
    Kind { name: "ngram_models", make: make_ngram_models, read: read_ngram_model },
    Kind { name: "safetensors", make: make_safetensors, read: read_safetensors },
    Kind { name: "tokenizers", make: make_tokenizers, read: read_tokenizer },
    Kind { name: "traces", make: make_traces, read: read_trace },
];

/// Whole files of a kind, of which one is changed at a time. An *input* is a byte that says which one, and what lies in its place.
pub struct Files {
    read: fn(&Path) -> Result<()>,
    whole: Vec<(PathBuf, Vec<u8>)>,
    folder: TempDir,
}

impl Files {
    /// Makes the files of a kind in a folder of their own.
    pub fn new(kind: &Kind) -> Self {
        let folder = tempfile::Builder::new().prefix("draftsmith-").tempdir().unwrap();
        let whole = |path: PathBuf| {
            let bytes = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            (path, bytes)
        };
        let whole = (kind.make)(folder.path()).into_iter().map(whole).collect();
        Self { read: kind.read, whole, folder }
    }

    /// Returns the inputs that leave everything as it is, each with the name of its file.
    pub fn inputs(&self) -> impl Iterator<Item = (String, Vec<u8>)> {
        self.whole.iter().zip(0u8..).map(|((path, bytes), number)| {
            let name = path.strip_prefix(self.folder.path()).unwrap_or(path).display().to_string();
            (name, [&[number], &bytes[..]].concat())
        })
    }

    /// Reads the files, one of them as this input has it. It only matters that this ends, in a value or in an error.
    pub fn read(&self, input: &[u8]) -> Result<()> {
        let Some((&number, bytes)) = input.split_first() else { return Ok(()) };
        let (path, whole) = &self.whole[usize::from(number) % self.whole.len()];
        fs::write(path, bytes).unwrap();
        let outcome = (self.read)(path);
        fs::write(path, whole).unwrap();
        outcome
    }
}

const TEXT: &str = "the fox, 3 <s>";

/// The repository, in which the crate of the targets is a folder.
fn repository() -> &'static Path {
    let mut folders = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    folders.find(|folder| folder.join("tests/reference").is_dir()).expect("a folder of the repository")
}

fn cpu() -> Opened {
    device::open(DeviceChoice::Cpu).unwrap()
}

fn memory() -> Memory {
    Memory::new(Memory::LEAST, &std::env::temp_dir())
}

/// Writes a file.
fn put(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, bytes).unwrap();
    path
}

/// Copies the files of a folder of the repository.
fn copies(from: &str, to: &Path) -> Vec<PathBuf> {
    let paths = files::listing(&repository().join(from)).unwrap().into_iter().filter(|path| path.is_file());
    paths.map(|path| put(to, &path.file_name().unwrap().to_string_lossy(), fs::read(&path).unwrap())).collect()
}

fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

fn is(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found == extension)
}

fn folder_of(path: &Path) -> &Path {
    path.parent().expect("files lie in folders")
}

// Weights and models.

fn make_safetensors(folder: &Path) -> Vec<PathBuf> {
    let float32 = folder.join("float32.safetensors");
    let values = [("bias", vec![3], vec![0.5; 3]), ("weight", vec![3, 2], vec![-1.0; 6])];
    let values = values.map(|(name, shape, numbers)| (name.to_owned(), (shape, numbers)));
    parameters_to_safetensors(&float32, &BTreeMap::from(values), StorageType::Float32).unwrap();
    let bfloat16 = repository().join("tests/reference/llama-tied-bf16/model-00001-of-00003.safetensors");
    vec![float32, put(folder, "bfloat16.safetensors", fs::read(bfloat16).unwrap())]
}

fn read_safetensors(path: &Path) -> Result<()> {
    let file = SafetensorsFile::open(path)?;
    for name in file.names() {
        let _ = (file.integers(&name), file.flags(&name));
    }
    parameters_from_safetensors(path).map(drop)
}

fn make_models(folder: &Path) -> Vec<PathBuf> {
    let mut changed = Vec::new();
    for name in
        ["gpt-neox", "gpt2", "llama", "llama3-rope", "llama-tied-bf16", "mistral-window", "qwen2-window", "qwen3"]
    {
        let paths = copies(&format!("tests/reference/{name}"), &folder.join(name));
        changed.extend(paths.into_iter().filter(|path| path.ends_with("config.json")));
    }
    // Its queries, keys and values are rows of one tensor.
    changed.extend(
        ["gpt2/model.safetensors", "llama-tied-bf16/model.safetensors.index.json"].map(|name| folder.join(name)),
    );
    changed.push(put(folder, "llama/generation_config.json", "{\"bos_token_id\": 1, \"eos_token_id\": [2, 3]}"));
    changed
}

fn read_model(path: &Path) -> Result<()> {
    let checkpoint = Checkpoint::open(folder_of(path))?;
    checkpoint.identity(Precision::AS_STORED)?;
    checkpoint.load(Precision::AS_STORED, &cpu().device).map(drop)
}

/// Models of one layer with matrices of every small type, and with a tokenizer of each kind.
fn make_gguf(folder: &Path) -> Vec<PathBuf> {
    const WIDTH: u64 = 32;
    let tokens = ["<unk>", "<s>", "</s>", "▁", "a", "b", "▁a", "ab"].map(String::from);
    let mut llama = gguf::Writer::default()
        .text("general.architecture", "llama")
        .count("llama.block_count", 1)
        .count("llama.context_length", 64)
        .count("llama.embedding_length", WIDTH as u32)
        .count("llama.feed_forward_length", 2)
        .count("llama.attention.head_count", 1)
        .key("llama.attention.layer_norm_rms_epsilon", 6, &1e-5f32.to_le_bytes())
        .count("tokenizer.ggml.bos_token_id", 1)
        .count("tokenizer.ggml.eos_token_id", 2)
        .texts("tokenizer.ggml.tokens", &tokens)
        .integers("tokenizer.ggml.token_type", &[2, 3, 3, 1, 1, 1, 1, 1])
        .text("tokenizer.chat_template", "{{ bos_token }}{{ messages[0].content }}")
        .floats("rope_freqs.weight", &[WIDTH / 2], &[1.0; WIDTH as usize / 2]);
    // Each with the number of its type, and the bytes that 32 numbers of it take.
    for (name, rows, kind, bytes) in [
        ("token_embd", tokens.len() as u64, 8, 34),
        ("blk.0.attn_q", WIDTH, 2, 18),
        ("blk.0.attn_k", WIDTH, 3, 20),
        ("blk.0.attn_v", WIDTH, 6, 22),
        ("blk.0.attn_output", WIDTH, 7, 24),
        ("blk.0.ffn_gate", 2, 1, 64),
        ("blk.0.ffn_up", 2, 30, 64),
    ] {
        llama = llama.tensor(&format!("{name}.weight"), kind, &[rows, WIDTH], &vec![0; rows as usize * bytes]);
    }
    llama = llama.floats("blk.0.ffn_down.weight", &[WIDTH, 2], &[0.5; 2 * WIDTH as usize]);
    for name in ["blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"] {
        llama = llama.floats(&format!("{name}.weight"), &[WIDTH], &[1.0; WIDTH as usize]);
    }
    let pieces = llama
        .clone()
        .text("tokenizer.ggml.model", "llama")
        .numbers("tokenizer.ggml.scores", &[0., 0., 0., -3., -4., -5., -1., -2.]);
    let bytes = llama
        .text("tokenizer.ggml.model", "gpt2")
        .text("tokenizer.ggml.pre", "llama-bpe")
        .texts("tokenizer.ggml.merges", &["▁ a".into(), "a b".into()]);
    vec![put(folder, "pieces.gguf", pieces.bytes()), put(folder, "bytes.gguf", bytes.bytes())]
}

fn read_gguf(path: &Path) -> Result<()> {
    let checkpoint = Checkpoint::open(path)?;
    let tokenized = checkpoint.tokenizer().and_then(|tokenizer| use_tokenizer(&tokenizer));
    let asked = checkpoint.chat_template("model").and_then(|template| use_template(template.as_ref()));
    let loaded = checkpoint.load(Precision::AS_STORED, &cpu().device);
    tokenized.and(asked).and(loaded.map(drop))
}

/// A model of this program, for what is bound to one.
static BACKBONE: LazyLock<(Backbone, TempDir)> = LazyLock::new(|| {
    let folder = tempfile::Builder::new().prefix("draftsmith-").tempdir().unwrap();
    let size = LanguageModelConfig { hidden: 8, layers: 2, heads: 2, kv_heads: 1, intermediate: 8, context: 32 };
    let tokenizer = Tokenizer::fit([TEXT].into_iter(), 260, folder.path()).unwrap();
    let config = ModelConfig::from_scratch(&size, tokenizer.vocab_size());
    let model = Transformer::new(&config, &mut Init::seeded(1, &cpu().device));
    save_model(folder.path(), &model, 0, StorageType::Float32).unwrap();
    let backbone = Backbone::load(folder.path(), Precision::AS_STORED, &cpu().device).unwrap();
    (backbone, folder)
});

/// Heads of several kinds, all of whose numbers are zero.
fn make_heads(folder: &Path) -> Vec<PathBuf> {
    let (backbone, config) = (&BACKBONE.0, BACKBONE.0.model.config());
    let mut changed = Vec::new();
    for (name, architecture, bias, vocabulary) in [
        ("ffn", HeadArchitecture::Ffn(FfnConfig { hidden: 2, ..FfnConfig::default() }), None, None),
        ("biased", HeadArchitecture::Linear(LinearConfig {}), Some(BiasConfig::default()), None),
        ("medusa", HeadArchitecture::Medusa(MedusaConfig::default()), None, Some(vec![0, 3, 7])),
        ("speculator", HeadArchitecture::Speculator(SpeculatorConfig::default()), None, None),
        ("hydra", HeadArchitecture::Hydra(HydraConfig::default()), None, None),
        ("attention", HeadArchitecture::Attention(AttentionConfig::default()), None, None),
    ] {
        let shape = HeadShape::above(config, 2, vocabulary.as_deref());
        let shapes = architecture.kind().parameter_shapes(shape, bias, &cpu().device);
        let zeros = |(name, shape): (String, Vec<usize>)| {
            let numbers = vec![0.0; shape.iter().product()];
            (name, (shape, numbers))
        };
        let parameters = shapes.into_iter().map(zeros).collect();
        let heads = PlainHeads { architecture, bias, count: 2, vocabulary, parameters };
        heads.write(&folder.join(name), backbone).unwrap();
        changed.push(folder.join(name).join("heads.json"));
    }
    changed.extend(["ffn/heads.safetensors", "ffn/backbone.json"].map(|name| folder.join(name)));
    changed
}

fn read_heads(path: &Path) -> Result<()> {
    load_heads(folder_of(path), &BACKBONE.0, Binding::Same).map(drop)
}

fn make_traces(folder: &Path) -> Vec<PathBuf> {
    let (backbone, room) = (&BACKBONE.0, |_: &Path| Ok(1 << 40));
    let document = |number: usize| {
        Ok(Document {
            id: number.to_string(),
            group: "all".to_owned(),
            prompt: TEXT[..3 + number].to_owned(),
            completion: String::new(),
            cut: false,
            messages: Vec::new(),
        })
    };
    let plan = TracePlan { batch: 2, ..TracePlan::greedy("key", 3, &document, 4) };
    let (tokens, states) = (folder.join("tokens"), folder.join("states"));
    make(backbone, &plan, &tokens, ColumnPlans::NONE, &room, |_| Ok(())).unwrap();
    let trace = Trace::open(&tokens, &backbone.identity()).unwrap();
    let column =
        ColumnPlan { feature: Feature::Last, dtype: StorageType::Float32, folder: &states, key: "key".to_owned() };
    let columns = ColumnPlans { plans: &[column], mark: &|_, _| Ok(()) };
    make_columns(backbone, &trace, columns, ("column", 2), None, &room).unwrap();
    ["tokens/trace.json", "tokens/tokens.bin", "states/column.json", "states/rows.bin"]
        .map(|name| folder.join(name))
        .into()
}

fn read_trace(path: &Path) -> Result<()> {
    let (folder, backbone) = (folder_of(folder_of(path)), &BACKBONE.0);
    let tokens = folder.join("tokens");
    let trace = Trace::open(&tokens, &backbone.identity())?;
    let vocabulary = backbone.model.config().vocab_size;
    let trace = trace.require_vocabulary(&tokens, vocabulary)?.with_column(&folder.join("states"))?;
    for (number, document) in trace.documents().iter().enumerate() {
        trace.states(number, 0..trace.tokens(document).len(), &[Feature::Last])?;
    }
    Ok(())
}

// Text.

fn make_tokenizers(folder: &Path) -> Vec<PathBuf> {
    const S: &str = r#""added_tokens": [{"id": 3, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true}]"#;
    const BYTES: &str = r#"{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}"#;
    const SPACE: &str = r#"{"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true}"#;
    let bpe = format!(
        r#"{{{S}, "pre_tokenizer": {BYTES}, "decoder": {BYTES},
        "normalizer": {{"type": "Sequence", "normalizers": [{{"type": "NFC"}},
            {{"type": "Replace", "pattern": {{"Regex": "x+"}}, "content": "x"}}]}},
        "model": {{"type": "BPE", "dropout": 0.5, "fuse_unk": false, "byte_fallback": false,
            "vocab": {{"t": 0, "h": 1, "th": 2}}, "merges": [["t", "h"]]}}}}"#
    );
    let unigram = format!(
        r#"{{"truncation": {{"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}},
        "pre_tokenizer": {SPACE}, "decoder": {SPACE},
        "model": {{"type": "Unigram", "unk_id": 0, "byte_fallback": false,
            "vocab": [["?", 0.0], ["▁", -1.0], ["the", -2.0], ["fox", -3.0]]}}}}"#
    );
    let words = format!(
        r#"{{{S}, "padding": {{"strategy": {{"Fixed": 8}}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
            "pad_type_id": 0, "pad_token": "?"}},
        "pre_tokenizer": {{"type": "Split", "pattern": {{"Regex": "\\s+|,"}}, "behavior": "Removed", "invert": false}},
        "post_processor": {{"type": "TemplateProcessing",
            "single": [{{"SpecialToken": {{"id": "<s>", "type_id": 0}}}}, {{"Sequence": {{"id": "A", "type_id": 0}}}}],
            "pair": [{{"Sequence": {{"id": "A", "type_id": 0}}}}, {{"Sequence": {{"id": "B", "type_id": 1}}}}],
            "special_tokens": {{"<s>": {{"id": "<s>", "ids": [3], "tokens": ["<s>"]}}}}}},
        "model": {{"type": "WordLevel", "vocab": {{"?": 0, "the": 1, "fox": 2, "<s>": 3}}, "unk_token": "?"}}}}"#
    );
    let pieces = r###"{"normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"}, "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "?", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
            "vocab": {"?": 0, "the": 1, "fo": 2, "##x": 3}}}"###;
    vec![
        put(folder, "bpe/tokenizer.json", bpe),
        put(folder, "unigram/tokenizer.json", unigram),
        put(folder, "words/tokenizer.json", words),
        put(folder, "pieces/tokenizer.json", pieces),
        put(folder, "words/tokenizer_config.json", r#"{"add_bos_token": true, "bos_token": {"content": "<s>"}}"#),
    ]
}

fn read_tokenizer(path: &Path) -> Result<()> {
    use_tokenizer(&Tokenizer::load(folder_of(path))?)
}

fn use_tokenizer(tokenizer: &Tokenizer) -> Result<()> {
    let _ = tokenizer.vocab_size();
    tokenizer.encode_continuation(TEXT)?;
    tokenizer.decode(&tokenizer.encode(TEXT)?).map(drop)
}

/// The templates of the library's tests, and one in the model's own `tokenizer_config.json`.
fn make_chat_templates(folder: &Path) -> Vec<PathBuf> {
    let templates = copies("src/text/chat/templates", folder).into_iter().filter(|path| is(path, "jinja"));
    let config = r#"{"bos_token": "<s>", "eos_token": {"content": "</s>"}, "unk_token": "<unk>",
        "chat_template": [{"name": "default", "template": "{{ bos_token }}{% for m in messages %}{{ m.content | trim }}{% endfor %}"}]}"#;
    templates.chain([put(folder, "tokenizer_config.json", config)]).collect()
}

fn read_chat_template(path: &Path) -> Result<()> {
    let source = if is(path, "jinja") { path.to_string_lossy() } else { "model".into() };
    use_template(ChatTemplate::load(folder_of(path), &source, TEMPLATE_DATE)?.as_ref())
}

fn use_template(template: Option<&ChatTemplate>) -> Result<()> {
    let template = template.expect("it was asked for");
    let _ = template.ending();
    template.render("Tell me of the fox.").map(drop)
}

fn make_configurations(folder: &Path) -> Vec<PathBuf> {
    copies("configs/systems", &folder.join("systems"));
    copies("configs", folder);
    ["ablation-tales", "pretrain-tales", "quickstart", "smollm2-attention", "tales-growth", "tales-rescorers"]
        .map(|name| folder.join(name).with_extension("toml"))
        .into()
}

fn read_configuration(path: &Path) -> Result<()> {
    let config = config::load(path, &Overrides::default())?;
    config.to_toml();
    config.grid().map(drop)
}

fn make_corpora(folder: &Path) -> Vec<PathBuf> {
    let record = |id: usize| format!("{{\"id\": \"{id}\", \"prompt\": \"x\\u00e9\", \"completion\": \"y\"}}\n");
    let lines: String = (0..5).map(record).collect();
    let chat = "{\"chat\": [{\"role\": \"user\", \"content\": \"x\"}, {\"role\": \"assistant\", \"content\": \"y\"}]}\n\
        {\"chat\": [{\"from\": \"human\", \"value\": \"x\"}, {\"from\": \"gpt\", \"value\": \"y\"}]}\n";
    let table = "id,prompt,completion\na,\"x, \"\"y\"\"\",z\nb,x,\"y\nz\"\n";
    vec![
        put(folder, "lines.jsonl", &lines),
        put(folder, "lines.jsonl.gz", gzipped(lines.as_bytes())),
        put(folder, "chat.jsonl", chat),
        put(folder, "table.csv", table),
        put(folder, "table.tsv", table.replace(',', "\t")),
        put(folder, "table.parquet", parquet_table()),
        put(folder, "text.txt", "One.\n\nTwo.\n\nThree.\n\nFour.\n\nFive.\n\nSix.\n\nSeven.\n\nEight.\n\nNine.\n"),
    ]
}

/// A table of prompts and completions.
fn parquet_table() -> Vec<u8> {
    let schema = "message texts { required binary prompt (UTF8); required binary completion (UTF8); }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for texts in [["x", "xé"], ["y", ""]] {
        let mut column = group.next_column().unwrap().expect("a column for each field");
        column.typed::<ByteArrayType>().write_batch(&texts.map(ByteArray::from), None, None).unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.into_inner().unwrap()
}

fn read_any_corpus(path: &Path) -> Result<()> {
    let chat = if path.ends_with("chat.jsonl") { "chat" } else { "" };
    let _ = field_names(path);
    read_corpus(path, &DataConfig { chat: chat.to_owned(), ..DataConfig::default() }).map(drop)
}

// The n-gram toolkit.

const ARPA: &str = "\\data\\\nngram 1=5\nngram 2=3\n\n\\1-grams:\n-0.9\t<unk>\n0\t<s>\t-0.4\n-0.7\t</s>\n-0.5\t1\t-0.3\n-0.6\t2\t0\n\n\
    \\2-grams:\n-0.3\t<s> 1\n-0.2\t1 2\n-0.4\t2 </s>\n\n\\end\\\n";

fn make_arpa(folder: &Path) -> Vec<PathBuf> {
    vec![put(folder, "model.arpa", ARPA), put(folder, "model.arpa.gz", gzipped(ARPA.as_bytes()))]
}

fn read_arpa(path: &Path) -> Result<()> {
    let sizes = arpa::sizes(path);
    let _ = arpa::read_words(path, &memory());
    let listing = arpa::read(path, Vocabulary::default(), &memory())?;
    use_model(&Model::compile(&listing)?)?;
    sizes.map(drop)
}

fn make_ngram_models(folder: &Path) -> Vec<PathBuf> {
    let read = |text: &str| -> Listing { arpa::parse(text.as_bytes(), Vocabulary::default(), &memory()).unwrap() };
    let [narrow, wide, coded] = ["narrow", "wide", "coded"].map(|name| folder.join(name));
    Model::write(&read(ARPA), &narrow).unwrap();
    Model::write(&read(&ARPA.replace("2\t0", "70000\t0").replace("1 2", "1 70000").replace("2 <", "70000 <")), &wide)
        .unwrap();
    Model::open(&narrow).unwrap().write_quantised(&coded).unwrap();
    vec![narrow, wide, coded]
}

fn read_ngram_model(path: &Path) -> Result<()> {
    let mut bytes = fs::read(path).unwrap();
    if hash_anew(&mut bytes).is_some() {
        fs::write(path, bytes).unwrap();
    }
    let model = Model::open(path)?;
    // What fails this check is not asked for scores by the program either.
    model.verify()?;
    use_model(&model)
}

fn use_model(model: &Model) -> Result<()> {
    let tokens = [1, 70_000, 2, 1, 2, 1];
    model.score(&tokens, Ending::Complete);
    model.state_of(&tokens, true);
    model.listing(&memory()).map(drop)
}

/// Puts the hashes of what a model file holds into it, as one who means harm would: no change goes far without. Returns none where
/// the file is not laid out as one.
fn hash_anew(bytes: &mut [u8]) -> Option<()> {
    let end = 16 + u32::from_le_bytes(*bytes.get(12..16)?.first_chunk()?) as usize;
    let mut header: Value = serde_json::from_slice(bytes.get(16..end)?).ok()?;
    let number = |value: &Value| value.as_u64().map(|n| n as usize).filter(|&n| n <= bytes.len());
    let sizes: Vec<usize> = header["sizes"].as_array()?.iter().map(number).collect::<Option<_>>()?;
    let (roots, last) = (number(&header["roots"])?, *sizes.last()?);
    let (coded, wide) = (header["quantised"].as_bool()?, header["wide"].as_bool()?);
    let arcs = 1 + sizes.iter().sum::<usize>();
    let nodes = arcs - last;
    let (value, word) = (if coded { 1 } else { 4 }, if wide { 4 } else { 2 });
    let codebooks = if coded { 2048 } else { 0 };
    let lengths = [value * nodes, value * arcs, word * arcs, 4 * last, 4 * roots, codebooks, 8 * (nodes + 1)];
    let (mut at, mut hashes) = (end + 32, Vec::new());
    for length in lengths {
        let start = at.next_multiple_of(64);
        at = start + length;
        hashes.push(blake3::hash(bytes.get(start..at)?).to_hex().to_string());
    }
    header["hashes"] = hashes.into();
    let text = serde_json::to_vec(&header).ok()?;
    bytes.get_mut(16..end).filter(|place| place.len() == text.len())?.copy_from_slice(&text);
    let hash = blake3::hash(&bytes[..end]);
    bytes[end..end + 32].copy_from_slice(hash.as_bytes());
    Some(())
}

/// Counts in a file, and as a table.
fn make_counts(folder: &Path) -> Vec<PathBuf> {
    let mut counts = Collector::new(2, Vocabulary::default(), &memory()).unwrap();
    for window in [[Counts::BEGIN, 1], [1, 2], [2, Counts::END]] {
        counts.add(&window, 3).unwrap();
    }
    let (counts, file, table) = (counts.finish().unwrap(), folder.join("text.counts"), folder.join("table"));
    counts.save(&file).unwrap();
    counts.write_parquet(&table).unwrap();
    vec![file, table.join("counts.parquet")]
}

fn read_counts(path: &Path) -> Result<()> {
    let counts = match is(path, "parquet") {
        true => Counts::read_parquet(folder_of(path), Vocabulary::default(), &memory())?,
        false => Counts::open(&[path])?,
    };
    counts.for_each(|_, _| Ok(()))?;
    let options = Options { discount_fallback: Some(DEFAULT_FALLBACK), ..Options::default() };
    use_model(&Model::compile(&estimate(&counts, &options, &memory())?.listing)?)
}
