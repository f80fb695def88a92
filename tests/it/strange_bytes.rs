//! Files that others have made may hold anything. Whatever is changed in one, reading it comes to an end, in a value or in an error,
//! and never in a panic. `DRAFTSMITH_STRANGE` is the number of changed files of each kind, of which there are a few by default; the
//! same number gives the same files.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use burn::tensor::Device;
use draftsmith::backbone::{Backbone, Checkpoint, Precision};
use draftsmith::config::{self, Overrides};
use draftsmith::heads::{Binding, load_heads};
use draftsmith::ngram::{Collector, Counts, Ending, Memory, Model, Vocabulary, arpa};
use draftsmith::nn::parameters_from_safetensors;
use draftsmith::report::{self, Documents};
use draftsmith::text::{ChatTemplate, DataConfig, TEMPLATE_DATE, Tokenizer, read_corpus};
use draftsmith::traces::Trace;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::common::{copy_folder, place, world};

/// Words that files hold where a reader expects something smaller, larger, or else.
const WORDS: [&str; 12] = [
    "18446744073709551615",
    "-1",
    "1e999",
    "0",
    "null",
    "\"\"",
    "[]",
    "{}",
    "\u{fffd}",
    "\n",
    "\0",
    "9999999999999999999999",
];

/// Changes a file in one to three places.
fn changed(rng: &mut ChaCha8Rng, bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..rng.random_range(1..=3) {
        if bytes.is_empty() {
            break;
        }
        // Most of what can go wrong is said in the beginning of a file.
        let most = if rng.random_bool(0.5) { bytes.len().min(400) } else { bytes.len() };
        let at = rng.random_range(0..most);
        let to = (at + rng.random_range(1..=16usize)).min(bytes.len());
        let word = WORDS[rng.random_range(0..WORDS.len())].bytes();
        match rng.random_range(0..7) {
            0 => bytes[at] ^= 1 << rng.random_range(0..8),
            1 => bytes[at] = rng.random(),
            2 => bytes[at..to].fill(0xff),
            3 => bytes.truncate(at),
            4 => drop(bytes.splice(at..to, word)),
            5 => {
                let copy = bytes[at..to].to_vec();
                bytes.splice(at..at, copy);
            }
            _ => {
                // A number becomes another one.
                let digits = |byte: &u8| byte.is_ascii_digit();
                let Some(first) = bytes[at..].iter().position(digits).map(|found| at + found) else { continue };
                let end =
                    bytes[first..].iter().position(|byte| !digits(byte)).map_or(bytes.len(), |found| first + found);
                bytes.splice(first..end, word);
            }
        }
    }
    bytes
}

/// Puts changed copies of the file `name` into `folder` and reads each.
fn read_changed(folder: &Path, name: &str, read: impl Fn() -> bool) {
    let path = folder.join(name);
    let whole = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert!(read(), "{name} can be read as it is");
    let count = std::env::var("DRAFTSMITH_STRANGE").ok().and_then(|n| n.parse().ok()).unwrap_or(100);
    let mut rng = ChaCha8Rng::seed_from_u64(name.bytes().map(u64::from).sum());
    for number in 0..count {
        fs::write(&path, changed(&mut rng, &whole)).unwrap();
        if catch_unwind(AssertUnwindSafe(&read)).is_err() {
            let kept = std::env::temp_dir().join(format!("strange-{}", name.replace('/', "-")));
            fs::copy(&path, &kept).unwrap();
            panic!("{name}: change {number} of {count} ends in a panic; it is kept in {}", kept.display());
        }
    }
    fs::write(&path, whole).unwrap();
}

#[test]
fn models() {
    let reference = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference");
    for name in ["llama", "qwen3", "gpt2"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        copy_folder(&reference.join(name), &path);
        let load = || Checkpoint::open(&path).and_then(|it| it.load(Precision::AS_STORED, &Device::flex())).is_ok();
        read_changed(folder.path(), &format!("{name}/config.json"), load);
        let weights = path.join("model.safetensors");
        read_changed(folder.path(), &format!("{name}/model.safetensors"), || {
            parameters_from_safetensors(&weights).is_ok()
        });
    }
}

#[test]
fn tokenizers_and_chat_templates() {
    let folder = tempfile::tempdir().unwrap();
    copy_folder(&world().join("model"), &folder.path().join("model"));
    let model = folder.path().join("model");
    read_changed(folder.path(), "model/tokenizer.json", || {
        let encoded =
            Tokenizer::load(&model).and_then(|tokenizer| tokenizer.decode(&tokenizer.encode("the fox, 3 <s>")?));
        encoded.is_ok()
    });
    let templates = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/text/chat/templates");
    for name in ["chatml.jinja", "llama3.jinja", "mistral.jinja", "qwen3.jinja"] {
        let path = folder.path().join(name);
        fs::copy(templates.join(name), &path).unwrap();
        read_changed(folder.path(), name, || {
            let template = ChatTemplate::load(&model, &path.to_string_lossy(), TEMPLATE_DATE);
            template.and_then(|found| found.expect("a path was given").render("Tell me of the fox.")).is_ok()
        });
    }
}

#[test]
fn ngram_models_and_counts() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let tokens = [1u32, 2, 3];
    fs::write(
        path("model.arpa"),
        "\\data\\\nngram 1=5\nngram 2=3\n\n\\1-grams:\n-0.9\t<unk>\n0\t<s>\t-0.4\n-0.7\t</s>\n-0.5\t1\t-0.3\n-0.6\t2\t0\n\n\\2-grams:\n\
         -0.3\t<s> 1\n-0.2\t1 2\n-0.4\t2 </s>\n\n\\end\\\n",
    )
    .unwrap();
    read_changed(folder.path(), "model.arpa", || {
        let sizes = arpa::sizes(&path("model.arpa"));
        arpa::read(&path("model.arpa"), Vocabulary::default(), &Memory::usual()).is_ok() && sizes.is_ok()
    });
    fs::copy(place(world(), "rescorers/counts").join("model.ngram"), path("model.ngram")).unwrap();
    read_changed(folder.path(), "model.ngram", || {
        let Ok(model) = Model::open(&path("model.ngram")) else { return false };
        // What fails the check of its sums is not asked for scores by the program either.
        model.verify().is_ok() && model.score(&tokens, Ending::Cut).log10.is_finite()
    });
    let mut counts = Collector::new(2, Vocabulary::default(), &Memory::usual()).unwrap();
    for window in [[Counts::BEGIN, 1], [1, 2], [2, Counts::END]] {
        counts.add(&window, 3).unwrap();
    }
    counts.finish().unwrap().save(&path("text.counts")).unwrap();
    read_changed(folder.path(), "text.counts", || {
        Counts::open(&[path("text.counts")]).and_then(|counts| counts.for_each(|_, _| Ok(()))).is_ok()
    });
}

#[test]
fn configurations_and_corpora() {
    let folder = tempfile::tempdir().unwrap();
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    for name in ["quickstart.toml", "tales-rescorers.toml", "ablation-tales.toml"] {
        let whole = fs::read_to_string(configs.join(name)).unwrap();
        fs::write(folder.path().join(name), whole.replace("extends", "# extends")).unwrap();
        let path = folder.path().join(name);
        // Not every one stands without what it extends.
        read_changed(folder.path(), name, || {
            config::load(&path, &Overrides::default()).is_ok() || name.starts_with("abl")
        });
    }
    let record = |id: usize| format!("{{\"id\": \"{id}\", \"prompt\": \"x\\u00e9\", \"completion\": \"y\"}}\n");
    fs::write(folder.path().join("c.jsonl"), (0..5).map(record).collect::<String>()).unwrap();
    fs::write(folder.path().join("c.csv"), "id,prompt,completion\na,\"x, \"\"y\"\"\",z\nb,x,\"y\nz\"\n").unwrap();
    fs::write(folder.path().join("c.txt"), "One.\n\nTwo.\n\nThree.\n\nFour.\n\nFive.\n\nSix.\n\nSeven.\n\nEight.\n")
        .unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, &fs::read(folder.path().join("c.jsonl")).unwrap()).unwrap();
    fs::write(folder.path().join("z.jsonl.gz"), gzip.finish().unwrap()).unwrap();
    for name in ["c.jsonl", "c.csv", "c.txt", "z.jsonl.gz"] {
        let path = folder.path().join(name);
        read_changed(folder.path(), name, || read_corpus(&path, &DataConfig::default()).is_ok());
    }
}

#[test]
fn what_the_program_itself_has_written() {
    let folder = tempfile::tempdir().unwrap();
    let backbone = Backbone::load(&world().join("model"), Precision::AS_STORED, &Device::flex()).unwrap();
    for (part, copy) in [("heads", "heads"), ("traces/fables-test", "trace"), ("report", "report")] {
        copy_folder(&place(world(), part), &folder.path().join(copy));
        // With its mark, a changed file would be found out by its hash.
        fs::remove_file(folder.path().join(copy).join("stage.json")).unwrap();
    }
    let (heads, trace) = (folder.path().join("heads"), folder.path().join("trace"));
    for file in ["heads.json", "heads.safetensors", "backbone.json"] {
        read_changed(folder.path(), &format!("heads/{file}"), || load_heads(&heads, &backbone, Binding::Same).is_ok());
    }
    for file in ["trace.json", "tokens.bin"] {
        read_changed(folder.path(), &format!("trace/{file}"), || {
            let vocabulary = backbone.model.config().vocab_size;
            let opened =
                Trace::open(&trace, &backbone.identity()).and_then(|it| it.require_vocabulary(&trace, vocabulary));
            opened.is_ok_and(|trace| trace.documents().iter().all(|document| !trace.tokens(document).is_empty()))
        });
    }
    let report = folder.path().join("report");
    read_changed(folder.path(), "report/report.json", || {
        report::read(&report.join("report.json")).is_ok_and(|report| report::html(&report).is_ok())
    });
    read_changed(folder.path(), "report/documents.json", || Documents::read(&report).is_ok());
}
