//! Traces: what is in them, and that stopping at any moment changes nothing of it.

use std::cell::Cell;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::common::{CONTEXT, everything_below, world};
use burn::tensor::Device;
use draftsmith::backbone::{Backbone, Feature, Model, Precision, Span, Transformer};
use draftsmith::nn::{Init, load_parameters, parameters_from_safetensors, to_host};
use draftsmith::storage_type::StorageType;
use draftsmith::text::{DataConfig, Document, read_corpus};
use draftsmith::traces::{
    ColumnPlan, ColumnPlans, FinishedTraces, Place, Sampling, Supply, Trace, TraceDocument, TracePlan, TraceText, make,
    make_columns, states_at,
};
use tempfile::TempDir;

const PLENTY: u64 = 1 << 40;

/// A corpus and the model that reads it.
struct Setting {
    backbone: Arc<Backbone>,
    documents: Vec<Document>,
}

impl Setting {
    fn new() -> Self {
        let backbone = Backbone::load(&world().join("model"), Precision::AS_STORED, &Device::flex()).unwrap();
        let path = world().join("fables.jsonl").display().to_string();
        let data = DataConfig { path, separator: "\n".into(), ..DataConfig::default() };
        Self { backbone: Arc::new(backbone), documents: read_corpus(Path::new(&data.path), &data).unwrap() }
    }

    /// Makes a trace as changed by `change` while `free` says how much room there is; gives the batches computed.
    fn make(
        &self,
        folder: &Path,
        change: impl FnOnce(&mut TracePlan),
        free: impl Fn(usize) -> u64,
    ) -> (usize, Option<String>) {
        self.make_from(Supply::Backbone, ColumnPlans::NONE, folder, change, free)
    }

    fn make_from(
        &self,
        supply: Supply,
        columns: ColumnPlans,
        folder: &Path,
        change: impl FnOnce(&mut TracePlan),
        free: impl Fn(usize) -> u64,
    ) -> (usize, Option<String>) {
        let read = |index: usize| Ok(self.documents[index].clone());
        let mut plan = TracePlan {
            supply,
            sampling: Sampling { temperature: 0.8, top_p: 0.95, seed: 4 },
            batch: 3,
            ..TracePlan::greedy("trace", self.documents.len(), &read, 12)
        };
        change(&mut plan);
        let batches = Cell::new(0);
        let room = |_: &Path| {
            batches.set(batches.get() + 1);
            Ok(free(batches.get()))
        };
        let outcome = make(&self.backbone, &plan, folder, columns, &room, |folder| {
            assert!(folder.join("trace.json").exists(), "the mark comes last");
            fs::write(folder.join("mark"), "").unwrap();
            Ok(())
        });
        (batches.get(), outcome.err().map(|e| e.to_string()))
    }

    fn open(&self, folder: &Path) -> Trace {
        Trace::open(folder, &self.backbone.identity()).unwrap()
    }

    /// Makes columns of a trace beside it, in batches of `batch`, while `free` says how much room there is; gives the batches
    /// computed.
    fn columns(
        &self,
        trace: &Path,
        features: &[Feature],
        (dtype, batch): (StorageType, usize),
        free: impl Fn(usize) -> u64,
    ) -> (usize, Option<String>) {
        let batches = Cell::new(0);
        let room = |_: &Path| {
            batches.set(batches.get() + 1);
            Ok(free(batches.get()))
        };
        let outcome = with_columns(trace, features, dtype, |columns| {
            make_columns(&self.backbone, &self.open(trace), columns, ("columns", batch), None, &room)
        });
        (batches.get(), outcome.err().map(|e| e.to_string()))
    }

    /// A trace with its columns.
    fn open_with(&self, folder: &Path, features: &[Feature]) -> Trace {
        let with = |trace: Trace, &feature: &Feature| trace.with_column(&column(folder, feature)).unwrap();
        features.iter().fold(self.open(folder), with)
    }

    /// The states of a document, computed by themselves.
    fn direct(&self, trace: &Trace, document: usize, feature: Feature, dtype: StorageType) -> Vec<f32> {
        let tokens = trace.tokens(&trace.documents()[document]);
        let mut states = to_host(self.backbone.model.features(&[Span::chain(tokens)], None, &[feature]).remove(0));
        dtype.round(&mut states);
        states
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

/// Calls `work` with the plans of columns beside a trace.
fn with_columns<R>(trace: &Path, features: &[Feature], dtype: StorageType, work: impl FnOnce(ColumnPlans) -> R) -> R {
    let folders: Vec<PathBuf> = features.iter().map(|&feature| column(trace, feature)).collect();
    let plan = |(folder, &feature)| ColumnPlan { feature, dtype, folder, key: format!("{feature} {dtype:?}") };
    let plans: Vec<ColumnPlan> = folders.iter().map(PathBuf::as_path).zip(features).map(plan).collect();
    let mark = |number: usize, folder: &Path| {
        assert!(folder.join("column.json").exists(), "the mark comes last");
        fs::write(folder.join("mark"), features[number].to_string()).unwrap();
        Ok(())
    };
    work(ColumnPlans { plans: &plans, mark: &mark })
}

/// Where a test puts a column of a trace.
fn column(trace: &Path, feature: Feature) -> PathBuf {
    trace.with_file_name(feature.to_string())
}

/// In no order; the tiny model has two layers.
const FEATURES: [Feature; 3] = [Feature::Last, Feature::Layer(0), Feature::Layer(2)];

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
    let damages: [Damage; 6] = [
        ("data beyond the last line", 5, &|folder| append(&folder.join("data/tokens.bin"), &[1; 10])),
        ("the beginning of a line", 5, &|folder| append(&folder.join("batches.jsonl"), b"[{\"index\":3,\"id\":\"fo")),
        ("a line that is none", 5, &|folder| append(&folder.join("batches.jsonl"), b"\0\0\0\0\n[]\n")),
        ("a line cut short", 4, &|folder| cut(&folder.join("batches.jsonl"), 7)),
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
    let other = |plan: &mut TracePlan| (plan.key, plan.text) = ("other", TraceText::Corpus);
    let (_kept, expected) = setting.whole(other);
    let (total, _) = setting.make(&tempfile::tempdir().unwrap().path().join("t"), |_| {}, |_| PLENTY);
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("trace");
    setting.make(&folder, |_| {}, |batch| if batch > 5 { 0 } else { PLENTY });
    assert_eq!(setting.make(&folder, other, |_| PLENTY), (total, None));
    assert!(bytes(&folder) == bytes(&expected));
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
    let (_kept, folder) = setting.whole(|plan| plan.text = TraceText::Corpus);
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
        assert_eq!(trace.tokens(entry), [prompt, expected].concat(), "{}", document.id);
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

/// Wherever making stops, columns that are made along with a trace have the bytes of those that a second pass makes.
#[test]
fn columns_made_along_are_those_of_a_second_pass() {
    let (setting, dtype) = (Setting::new(), StorageType::Bfloat16);
    for text in [TraceText::Greedy, TraceText::Sampled] {
        let change = |plan: &mut TracePlan| plan.text = text;
        let (_kept, expected) = setting.whole(change);
        assert_eq!(setting.columns(&expected, &FEATURES, (dtype, 4), |_| PLENTY).1, None);
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("trace");
        let make = |features: &[Feature], enough: usize| {
            let free = |batch| if batch > enough { 0 } else { PLENTY };
            with_columns(&folder, features, dtype, |columns| {
                setting.make_from(Supply::Backbone, columns, &folder, change, free)
            })
        };
        let finished = |feature: &&Feature| column(&folder, **feature).exists();
        // The last column is asked for when three batches are finished, so that it is not made along.
        assert!(make(&FEATURES[..2], 3).1.is_some());
        assert!(make(&FEATURES, 2).1.is_some());
        assert!(!folder.exists() && !FEATURES.iter().any(|feature| finished(&feature)));
        // Of the last batch, the process wrote the states and not yet the tokens.
        let journal = dir.path().join("trace.partial/batches.jsonl");
        let lines = fs::read_to_string(&journal).unwrap();
        let last = lines.trim_end().rfind('\n').unwrap() + 1;
        fs::write(&journal, &lines[..last]).unwrap();
        assert_eq!(make(&FEATURES, usize::MAX).1, None);
        assert_eq!(FEATURES.iter().filter(finished).count(), 2);
        assert_eq!(setting.columns(&folder, &FEATURES[2..], (dtype, 5), |_| PLENTY).1, None);
        for feature in FEATURES {
            assert!(bytes(&column(&folder, feature)) == bytes(&column(&expected, feature)), "{feature}");
        }
        assert!(bytes(&folder) == bytes(&expected));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1 + FEATURES.len(), "nothing is left beside them");
    }
}

/// Of every kind of text, in every type, whatever the batches: columns hold what a forward over the document alone gives, and
/// so does the backbone that reads the texts again, in whatever order they are asked for.
#[test]
fn columns_and_the_backbone_give_the_states_of_every_text() {
    let setting = Setting::new();
    for (text, dtype, batch) in [
        (TraceText::Greedy, StorageType::Float32, 1),
        (TraceText::Sampled, StorageType::Bfloat16, 7),
        (TraceText::Corpus, StorageType::Float16, 3),
    ] {
        let (_kept, folder) = setting.whole(|plan| plan.text = text);
        assert_eq!(setting.columns(&folder, &FEATURES, (dtype, batch), |_| PLENTY).1, None);
        let stored = setting.open_with(&folder, &FEATURES);
        let computed = setting.open(&folder).recomputing(setting.backbone.clone(), &FEATURES, dtype);
        assert_eq!((stored.features(), stored.width()), (computed.features(), computed.width()));
        for document in (0..stored.documents().len()).rev() {
            let rows = stored.documents()[document].len();
            for trace in [&stored, &computed] {
                let states = trace.states(document, 0..rows, &FEATURES).unwrap();
                for feature in FEATURES {
                    let direct = setting.direct(trace, document, feature, dtype);
                    assert!(states.get(feature) == direct, "{feature} of {}", stored.documents()[document].id);
                }
                let end = trace.states(document, rows - 1..rows, &[Feature::Layer(0)]).unwrap();
                assert_eq!(end.get(Feature::Layer(0)), states.row(rows - 1).get(Feature::Layer(0)));
            }
        }
        // Single tokens of two traces, some more than once.
        let place = |n: usize| {
            let document = n * 7 % stored.documents().len();
            Place { trace: n % 2, document, row: n * 5 % stored.documents()[document].len() }
        };
        let places: Vec<Place> = (0..60).chain(0..9).map(place).collect();
        let asked = [Feature::Layer(2), Feature::Last];
        let mixed = states_at(&[&stored, &computed], &places, &asked).unwrap();
        assert!(mixed == states_at(&[&computed, &computed], &places, &asked).unwrap());
        for (number, place) in places.iter().enumerate() {
            for feature in asked {
                let direct = setting.direct(&stored, place.document, feature, dtype);
                let row = &direct[place.row * stored.width()..][..stored.width()];
                assert_eq!(mixed.row(number).get(feature), row, "{place:?}");
            }
        }
    }
}

#[test]
fn a_column_is_added_without_making_the_others_again() {
    let setting = Setting::new();
    let (dir, folder) = setting.whole(|_| {});
    let options = (StorageType::Float32, 4);
    let (all, error) = setting.columns(&folder, &[Feature::Last], options, |_| PLENTY);
    assert_eq!(error, None);
    let (tokens, last) = (bytes(&folder), bytes(&column(&folder, Feature::Last)));
    let written = |folder: &Path| fs::metadata(folder.join("rows.bin")).unwrap().modified().unwrap();
    let before = written(&column(&folder, Feature::Last));
    // One pass serves two columns, and both are what they are alone.
    let added = [Feature::Layer(1), Feature::Layer(0)];
    assert_eq!(setting.columns(&folder, &added, options, |_| PLENTY), (all, None));
    assert_eq!(written(&column(&folder, Feature::Last)), before);
    assert!(bytes(&folder) == tokens && bytes(&column(&folder, Feature::Last)) == last);
    assert_eq!(fs::read_to_string(column(&folder, Feature::Layer(0)).join("mark")).unwrap(), "layer-0");
    let (_kept, alone) = setting.whole(|_| {});
    for feature in [Feature::Last, added[0], added[1]] {
        setting.columns(&alone, &[feature], (StorageType::Float32, 9), |_| PLENTY);
        assert!(bytes(&column(&alone, feature)) == bytes(&column(&folder, feature)), "{feature}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4, "nothing is left beside them");
    // A trace of other tokens has no use for it.
    let (_kept, other) = setting.whole(|plan| plan.text = TraceText::Corpus);
    let error = setting.open(&other).with_column(&column(&folder, Feature::Last)).err().unwrap().to_string();
    assert!(error.contains("computed from other tokens"), "{error}");
}

#[test]
fn columns_stopped_at_any_moment_end_in_the_same_bytes() {
    let setting = Setting::new();
    let (_kept, expected) = setting.whole(|_| {});
    let options = (StorageType::Float16, 5);
    let (total, error) = setting.columns(&expected, &FEATURES, options, |_| PLENTY);
    assert_eq!(error, None);
    let (dir, folder) = setting.whole(|_| {});
    let partial = |feature: Feature| dir.path().join(format!("{feature}.partial"));
    let append =
        |path: &Path, bytes: &[u8]| OpenOptions::new().append(true).open(path).unwrap().write_all(bytes).unwrap();
    // The last states come as far as four batches, and something beyond; then all three as far as two more.
    let (_, error) = setting.columns(&folder, &FEATURES[..1], options, |batch| if batch > 4 { 0 } else { PLENTY });
    let error = error.unwrap();
    for words in ["nearly full", "last.partial", "goes on after the 20 documents"] {
        assert!(error.contains(words), "{error}");
    }
    append(&partial(Feature::Last).join("data/rows.bin"), &[7; 1234]);
    append(&partial(Feature::Last).join("batches.jsonl"), b"[{\"index\":20,");
    let (begun, _) = setting.columns(&folder, &FEATURES, options, |batch| if batch > 6 { 0 } else { PLENTY });
    assert_eq!(begun, 7, "four batches for the others, two for all");
    fs::remove_dir_all(partial(Feature::Layer(2))).unwrap();
    assert!(FEATURES.iter().all(|&feature| !column(&folder, feature).exists()));
    let outcome = setting.columns(&folder, &FEATURES, options, |_| PLENTY);
    assert_eq!(outcome, (total, None), "six batches for the one that was lost, the others for all");
    for feature in FEATURES {
        assert!(bytes(&column(&folder, feature)) == bytes(&column(&expected, feature)), "{feature}");
        assert!(!partial(feature).exists());
    }
}

/// A backbone whose residual stream goes beyond float16, and whose last hidden states do not.
#[test]
fn a_number_that_float16_cannot_hold_is_refused_with_its_place() {
    let mut setting = Setting::new();
    let model = Backbone::load(&world().join("model"), Precision::AS_STORED, &Device::flex()).unwrap();
    let mut parameters = parameters_from_safetensors(&world().join("model/model.safetensors")).unwrap();
    parameters.get_mut("model.embed_tokens.weight").unwrap().1.iter_mut().for_each(|x| *x *= 1e6);
    let empty = Transformer::new(model.model.config(), &mut Init::empty(&Device::flex()));
    let large = Model::freeze(&load_parameters(empty, parameters).unwrap(), StorageType::Float32).unwrap();
    setting.backbone = Arc::new(Backbone { model: large, ..model });
    let (_kept, folder) = setting.whole(|_| {});
    let half = |feature| setting.columns(&folder, &[feature], (StorageType::Float16, 4), |_| PLENTY).1;
    assert_eq!(half(Feature::Last), None);
    let stored = half(Feature::Layer(1)).unwrap();
    let trace = setting.open(&folder).recomputing(setting.backbone.clone(), &[Feature::Layer(1)], StorageType::Float16);
    let computed = trace.states(0, 0..1, &[Feature::Layer(1)]).unwrap_err().to_string();
    for error in [stored, computed] {
        let id = error.split('`').nth(1).unwrap();
        assert!(setting.documents.iter().any(|document| document.id == id), "{error}");
        for words in ["`layer-1`", "float16 ends at 65,504", "\"bfloat16\" or \"float32\""] {
            assert!(error.contains(words), "{error}");
        }
    }
    for dtype in [StorageType::Bfloat16, StorageType::Float32] {
        assert_eq!(setting.columns(&folder, &[Feature::Layer(1)], (dtype, 4), |_| PLENTY).1, None);
    }
}

#[test]
fn traces_with_the_same_document_overlap() {
    let setting = Setting::new();
    let half = |shard: &str| setting.whole(|plan| plan.shard = Some(shard.parse().unwrap()));
    let [(_one, first), (_two, second)] = ["1/2", "2/2"].map(half);
    let open = |title: &str, folder: &Path| (title.to_owned(), setting.open(folder));
    let finished = FinishedTraces::new(vec![open("a", &first), open("b", &second)]).unwrap();
    let (_kept, whole) = setting.whole(|_| {});
    let dir = tempfile::tempdir().unwrap();
    let merged = dir.path().join("merged");
    let outcome = setting.make_from(Supply::Finished(&finished), ColumnPlans::NONE, &merged, |_| {}, |_| PLENTY);
    assert_eq!(outcome.1, None);
    assert!(bytes(&merged) == bytes(&whole));
    let error = FinishedTraces::new(vec![open("a", &first), open("b", &first)]).err().unwrap().to_string();
    assert!(error.contains("b and a overlap: both have the document `"), "{error}");
    let half = FinishedTraces::new(vec![open("a", &first)]).unwrap();
    let (_, error) =
        setting.make_from(Supply::Finished(&half), ColumnPlans::NONE, &dir.path().join("t"), |_| {}, |_| PLENTY);
    assert!(error.unwrap().ends_with("is missing in a."));
    let shorter = |plan: &mut TracePlan| plan.max_new = 3;
    let (_, error) =
        setting.make_from(Supply::Finished(&finished), ColumnPlans::NONE, &dir.path().join("t"), shorter, |_| PLENTY);
    assert!(error.unwrap().contains("has another prompt or another limit there"));
}
