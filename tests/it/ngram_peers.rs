//! n-gram models beside other programs: Spark counts for us, KenLM reads what we write.
//!
//! They are Python packages (`pip install pyspark pyarrow kenlm`; Spark needs Java). `DRAFTSMITH_PYTHON` names the
//! Python that has them; without them these tests say that they did nothing.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{has_packages, python_succeeds, skipped, succeed};
use assert_cmd::Command;

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn has_java(folder: &Path) -> bool {
    let java = std::env::var_os("JAVA_HOME").map_or("java".into(), |home| Path::new(&home).join("bin/java"));
    let found = Command::new(java).current_dir(folder).arg("-version").output().is_ok_and(|java| java.status.success());
    if !found {
        skipped("there is no Java");
    }
    found
}

/// Lines of token ids below `types`, low ones far more often than high ones; every tenth line is empty or of one id.
fn zipf_lines(seed: u64, lines: usize, types: f64) -> Vec<Vec<u32>> {
    let mut state = seed;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    let length = |line: usize, uniform: f64| if line % 10 == 9 { line / 10 % 2 } else { 3 + (uniform * 20.0) as usize };
    (0..lines).map(|line| (0..length(line, uniform())).map(|_| types.powf(uniform()) as u32 - 1).collect()).collect()
}

fn write_lines(path: &Path, lines: &[Vec<u32>]) {
    let line = |ids: &Vec<u32>| ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ") + "\n";
    fs::write(path, lines.iter().map(line).collect::<String>()).unwrap();
}

const DOCUMENTS_TO_PARQUET: &str = "
import pyarrow, pyarrow.parquet
documents = [[int(id) for id in line.split()] for line in open('text.ids')]
tokens = pyarrow.array(documents, pyarrow.list_(pyarrow.int32()))
pyarrow.parquet.write_table(pyarrow.table({'tokens': tokens}), 'docs.parquet')
";

const COMPARE_TABLES: &str = "
import pyarrow.parquet
def rows(folder):
    table = pyarrow.parquet.read_table(folder)
    print(*[f'{field.name} {field.type}'.replace(' not null', '') for field in table.schema], sep=', ')
    return sorted(zip(*[table[name].to_pylist() for name in ('order', 'ids', 'count')]))
assert rows('spark') == rows('own')
";

#[test]
fn spark_makes_the_same_model() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    if !has_packages(folder, "pyspark, pyarrow") || !has_java(folder) {
        return;
    }
    write_lines(&folder.join("text.ids"), &zipf_lines(1, 400, 300.0));
    python_succeeds(folder, &["-c", DOCUMENTS_TO_PARQUET]);
    let program = project("tests/spark_counts.py");
    python_succeeds(folder, &[program.to_str().unwrap(), "docs.parquet", "spark", "4", "--memory", "1g"]);
    let count =
        ["ngram", "count", "--order", "4", "--token-ids", "text.ids", "--out", "text.counts", "--parquet", "own"];
    succeed(folder, &count);
    let estimate = |source: &[&str], name: &str| {
        let (model, arpa) = (format!("{name}.ngram"), format!("{name}.arpa"));
        let results = ["--discount-fallback", "--model", &model, "--arpa", &arpa];
        succeed(folder, &[&["ngram", "estimate"], source, &results].concat());
        [model, arpa].map(|file| fs::read(folder.join(file)).unwrap())
    };
    let direct = estimate(&["--order", "4", "--token-ids", "text.ids"], "direct");
    for (source, name) in [("spark", "from-spark"), ("own", "from-table"), ("text.counts", "from-counts")] {
        assert!(estimate(&["--counts", source], name) == direct, "{name} and direct differ");
    }
    let types = python_succeeds(folder, &["-c", COMPARE_TABLES]);
    for line in types.lines() {
        assert_eq!(line, "order int32, ids list<element: int64>, count int64", "{types}");
    }
}

/// Prints KenLM's log10 of every line.
const SCORE: &str = "
import sys, kenlm
model = kenlm.Model(sys.argv[1])
for line in open('held-out.ids'):
    print(repr(model.score(line.strip(), bos=True, eos=True)))
";

#[test]
fn kenlm_reads_and_scores_our_arpa() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    if !has_packages(folder, "kenlm") {
        return;
    }
    write_lines(&folder.join("text.ids"), &zipf_lines(2, 400, 1000.0));
    // The last lines have ids that the text has not.
    let held_out = [zipf_lines(3, 100, 1000.0), zipf_lines(4, 20, 100_000.0), vec![vec![70_000, 80_000]]].concat();
    write_lines(&folder.join("held-out.ids"), &held_out);
    for arpa in ["model.arpa", "model.arpa.gz"] {
        let text = ["ngram", "estimate", "--order", "4", "--token-ids", "text.ids"];
        succeed(folder, &[&text[..], &["--discount-fallback", "--arpa", arpa]].concat());
        let score = ["ngram", "score", "--arpa", arpa, "--token-ids", "held-out.ids", "--format", "json"];
        let ours = succeed(folder, &score).json();
        assert!(ours["oov"].as_u64().unwrap() > 50, "{ours}");
        let ours = ours["log10"].as_array().unwrap();
        let theirs = python_succeeds(folder, &["-c", SCORE, arpa]);
        assert_eq!((ours.len(), theirs.lines().count()), (held_out.len(), held_out.len()));
        for ((line, ours), theirs) in held_out.iter().zip(ours).zip(theirs.lines()) {
            let (ours, theirs) = (ours.as_f64().unwrap(), theirs.parse::<f64>().unwrap());
            assert!((ours - theirs).abs() < 1e-3, "{arpa}, {line:?}: {ours}, KenLM {theirs}");
        }
    }
}

#[test]
fn the_documented_sql_is_the_tested_one() {
    let read = |path: &str| fs::read_to_string(project(path)).unwrap();
    let between = |text: &str, start: &str, end: &str| {
        let (_, rest) = text.split_once(start).unwrap();
        rest.split_once(end).unwrap().0.to_owned()
    };
    let documented = between(&read("docs/scale.md"), "```sql\n", "```");
    assert!(documented.contains("GROUP BY ids"));
    assert_eq!(documented, between(&read("tests/spark_counts.py"), "SQL = \"\"\"\n", "\"\"\""));
}
