//! Traces: what is in them, and that stopping at any moment changes nothing of it.

use std::cell::Cell;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::common::{CONTEXT, everything_below, world};
use burn::tensor::Device;
use draftsmith::backbone::{Backbone, Precision, Span};
use draftsmith::config::{DataConfig, StorageType, TraceText};
use draftsmith::nn::to_host;
use draftsmith::text::{Document, read_corpus};
use draftsmith::traces::{Sampling, Trace, TraceDocument, TracePlan, make};
use tempfile::TempDir;

const PLENTY: u64 = 1 << 40;

/// A corpus and the model that reads it.
struct Setting {
    backbone: Backbone,
    documents: Vec<Document>,
}

impl Setting {
    fn new() -> Self {
        draftsmith::progress::set_verbosity(0);
        let backbone = Backbone::load(&world().join("model"), Precision::AS_STORED, &Device::default()).unwrap();
        let path = world().join("fables.jsonl").display().to_string();
        let data = DataConfig { path, separator: "\n".into(), ..DataConfig::default() };
        Self { backbone, documents: read_corpus(Path::new(&data.path), &data).unwrap() }
    }

    /// Makes a trace as changed by `change` while `free` says how much room there is; gives the batches computed.
    fn make(
        &self,
        folder: &Path,
        change: impl FnOnce(&mut TracePlan),
        free: impl Fn(usize) -> u64,
    ) -> (usize, Option<String>) {
        let read = |index: usize| Ok(self.documents[index].clone());
        let mut plan = TracePlan {
            title: "trace",
            key: "key",
            documents: self.documents.len(),
            read: &read,
            text: TraceText::Greedy,
            sampling: Sampling { temperature: 0.8, top_p: 0.95, seed: 4 },
            max_new: 12,
            dtype: Some(StorageType::Float16),
            batch: 3,
        };
        change(&mut plan);
        let batches = Cell::new(0);
        let room = |_: &Path| {
            batches.set(batches.get() + 1);
            Ok(free(batches.get()))
        };
        let outcome = make(&self.backbone, &plan, folder, &room, |folder| {
            assert!(folder.join("trace.json").exists(), "the mark comes last");
            fs::write(folder.join("mark"), "").unwrap();
            Ok(())
        });
        (batches.get(), outcome.err().map(|e| e.to_string()))
    }

    fn open(&self, folder: &Path) -> Trace {
        Trace::open(folder, &self.backbone.identity()).unwrap()
    }

    /// A trace made in one go.
    fn whole(&self, change: impl FnOnce(&mut TracePlan)) -> (TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("trace");
        assert_eq!(self.make(&folder, change, |_| PLENTY).1, None);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
        (dir, folder)
    }
}

/// Names and bytes below a folder.
fn bytes(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let files = everything_below(folder).into_iter().filter(|path| path.is_file());
    files.map(|path| (path.strip_prefix(folder).unwrap().to_owned(), fs::read(path).unwrap())).collect()
}

fn entries(trace: &Trace) -> Vec<TraceDocument> {
    // Places in the files follow the batches.
    trace.documents().iter().map(|document| TraceDocument { first: 0, ..document.clone() }).collect()
}

fn assert_same_text(one: &Trace, other: &Trace) {
    assert_eq!(entries(one), entries(other));
    for (a, b) in one.documents().iter().zip(other.documents()) {
        assert_eq!(one.tokens(a), other.tokens(b), "{}", a.id);
        assert!(one.hidden(a, 0..a.len()) == other.hidden(b, 0..b.len()), "{}", a.id);
    }
}

#[test]
fn a_full_disk_stops_it_in_time_and_what_is_finished_stays() {
    let setting = Setting::new();
    // The second stops in the second window.
    for (size, enough) in [(3, 5), (1, 65)] {
        let change = |plan: &mut TracePlan| plan.batch = size;
        let (_kept, expected) = setting.whole(change);
        let (total, _) = setting.make(&tempfile::tempdir().unwrap().path().join("t"), change, |_| PLENTY);
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("trace");
        let (_, error) = setting.make(&folder, change, |batch| if batch > enough { 1 << 26 } else { PLENTY });
        let (error, after) = (error.unwrap(), format!("goes on after the {} documents", size * enough));
        for words in ["nearly full", "up to", "64.00 MiB are kept free", "trace.partial", &after] {
            assert!(error.contains(words), "{error}");
        }
        assert!(!folder.exists());
        let outcome = setting.make(&folder, change, |_| PLENTY);
        assert_eq!(outcome, (total - enough, None), "finished batches are not computed again");
        assert!(bytes(&folder) == bytes(&expected));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}

#[test]
fn whatever_a_crash_left_is_cut_to_whole_batches() {
    let setting = Setting::new();
    let (_kept, expected) = setting.whole(|_| {});
    let (total, _) = setting.make(&tempfile::tempdir().unwrap().path().join("t"), |_| {}, |_| PLENTY);
    let append =
        |path: &Path, bytes: &[u8]| OpenOptions::new().append(true).open(path).unwrap().write_all(bytes).unwrap();
    let cut = |path: &Path, by: u64| {
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(file.metadata().unwrap().len() - by).unwrap();
    };
    type Damage<'a> = (&'a str, usize, &'a dyn Fn(&Path));
    let damages: [Damage; 7] = [
        ("data beyond the last line", 5, &|folder| {
            append(&folder.join("data/tokens.bin"), &[1; 10]);
            append(&folder.join("data/hidden.bin"), &[2; 333]);
        }),
        ("the beginning of a line", 5, &|folder| append(&folder.join("batches.jsonl"), b"[{\"index\":3,\"id\":\"fo")),
        ("a line that is none", 5, &|folder| append(&folder.join("batches.jsonl"), b"\0\0\0\0\n[]\n")),
        ("a line cut short", 4, &|folder| cut(&folder.join("batches.jsonl"), 7)),
        ("hidden states lost", 4, &|folder| cut(&folder.join("data/hidden.bin"), 1)),
        ("tokens lost", 4, &|folder| cut(&folder.join("data/tokens.bin"), 5)),
        ("another plan", 0, &|folder| fs::write(folder.join("plan.json"), "{").unwrap()),
    ];
    for (what, kept, damage) in damages {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("trace");
        setting.make(&folder, |_| {}, |batch| if batch > 5 { 0 } else { PLENTY });
        damage(&dir.path().join("trace.partial"));
        let (redone, error) = setting.make(&folder, |_| {}, |_| PLENTY);
        assert_eq!((redone, error), (total - kept, None), "{what}");
        assert!(bytes(&folder) == bytes(&expected), "{what}");
    }
}

#[test]
fn what_another_configuration_began_is_started_over() {
    let setting = Setting::new();
    let other = |plan: &mut TracePlan| {
        plan.key = "other";
        plan.dtype = None;
    };
    let (_kept, expected) = setting.whole(other);
    let (total, _) = setting.make(&tempfile::tempdir().unwrap().path().join("t"), |_| {}, |_| PLENTY);
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("trace");
    setting.make(&folder, |_| {}, |batch| if batch > 5 { 0 } else { PLENTY });
    assert_eq!(setting.make(&folder, other, |_| PLENTY), (total, None));
    assert!(bytes(&folder) == bytes(&expected));
    assert!(!folder.join("hidden.bin").exists(), "tokens only");
    // An earlier trace stays whole until the new one takes its place.
    setting.make(&folder, |_| {}, |batch| if batch > 5 { 0 } else { PLENTY });
    assert!(bytes(&folder) == bytes(&expected));
}

#[test]
fn batches_change_no_text() {
    let setting = Setting::new();
    for text in [TraceText::Greedy, TraceText::Sampled, TraceText::Corpus] {
        let traced = |batch| setting.whole(|plan| (plan.text, plan.batch) = (text, batch));
        let (one, seven) = (traced(1), traced(7));
        assert_same_text(&setting.open(&one.1), &setting.open(&seven.1));
    }
}

#[test]
fn samples_follow_the_seed() {
    let setting = Setting::new();
    let sampled = |seed| {
        let (dir, folder) = setting.whole(|plan| (plan.text, plan.sampling.seed) = (TraceText::Sampled, seed));
        let trace = setting.open(&folder);
        let texts: Vec<Vec<u32>> = trace.documents().iter().map(|d| trace.continuation(d).to_vec()).collect();
        drop(dir);
        texts
    };
    assert_eq!(sampled(4), sampled(4));
    assert_ne!(sampled(4), sampled(5));
    let (_kept, greedy) = setting.whole(|_| {});
    let greedy = setting.open(&greedy);
    let differs = |(text, document): (&Vec<u32>, &TraceDocument)| text != greedy.continuation(document);
    assert!(sampled(4).iter().zip(greedy.documents()).any(differs));
}

#[test]
fn the_corpus_is_read_as_it_is() {
    let setting = Setting::new();
    let change = |plan: &mut TracePlan| (plan.text, plan.dtype) = (TraceText::Corpus, Some(StorageType::Float32));
    let (_kept, folder) = setting.whole(change);
    let trace = setting.open(&folder);
    assert_eq!(trace.text(), TraceText::Corpus);
    let (tokenizer, mut traced) = (&setting.backbone.tokenizer, trace.documents().iter());
    for document in &setting.documents {
        let prompt = tokenizer.encode(&document.prompt).unwrap();
        if prompt.len() >= CONTEXT {
            continue;
        }
        let mut expected = tokenizer.encode_continuation(&document.completion).unwrap();
        if !document.cut {
            expected.push(setting.backbone.end_of_text[0]);
        }
        expected.truncate(12.min(CONTEXT - prompt.len()));
        let entry = traced.next().unwrap();
        assert_eq!((entry.id.as_str(), trace.continuation(entry)), (document.id.as_str(), expected.as_slice()));
        let text = [prompt, expected].concat();
        let direct = to_host(setting.backbone.model.hidden(&[Span::chain(&text)], None));
        assert!(trace.hidden(entry, 0..entry.len()) == direct, "{}", document.id);
    }
    assert!(traced.next().is_none());
}

#[test]
fn documents_without_a_text_of_their_own_are_left_out() {
    let mut setting = Setting::new();
    setting.documents.truncate(5);
    setting.documents[1].completion.clear();
    let (_kept, folder) = setting.whole(|plan| plan.text = TraceText::Corpus);
    assert_eq!(setting.open(&folder).documents().len(), 4);
    setting.documents.iter_mut().for_each(|document| document.completion.clear());
    let dir = tempfile::tempdir().unwrap();
    let (_, error) = setting.make(&dir.path().join("t"), |plan| plan.text = TraceText::Corpus, |_| PLENTY);
    assert!(error.unwrap().contains("no document can be traced; every one has no completion"));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
