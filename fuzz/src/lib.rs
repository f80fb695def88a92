//! What the targets have in common.

#[path = "../../tests/it/strange_files.rs"]
mod strange_files;

use std::fs;
use std::panic;
use std::path::Path;

pub use strange_files::Files;

/// Makes the files of the kind `name`, and puts them into its corpus if that is empty.
pub fn begin(name: &str) -> Files {
    let hook = panic::take_hook();
    // libFuzzer's hook ends the process. Panics of libraries that are caught and become errors are no findings.
    panic::set_hook(Box::new(move |info| {
        if !draftsmith::error::in_guarded_code() {
            hook(info);
        }
    }));
    let kind = strange_files::KINDS.iter().find(|kind| kind.name == name).expect("a kind of that name");
    let files = Files::new(kind);
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    fs::create_dir_all(&corpus).unwrap();
    if fs::read_dir(&corpus).unwrap().next().is_none() {
        for (number, (file, input)) in files.inputs().enumerate() {
            fs::write(corpus.join(format!("{number:02}-{}", file.replace('/', "-"))), input).unwrap();
        }
    }
    files
}

/// The target that reads files of a kind.
#[macro_export]
macro_rules! target {
    ($name:literal) => {
        static FILES: std::sync::LazyLock<$crate::Files> = std::sync::LazyLock::new(|| $crate::begin($name));

        libfuzzer_sys::fuzz_target!(init: std::sync::LazyLock::force(&FILES), |input: &[u8]| {
            let _ = FILES.read(input);
        });
    };
}
