//! Tests of round trips, of the errors, and of random damage.

use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;
use proptest::sample::Index;

use super::super::{Counter, DEFAULT_FALLBACK, Ending, Listing, Memory, Model, Options, Vocabulary, estimate};
use super::*;

const TEXT: &str = "\\data\\\nngram 1=5\nngram 2=3\n\n\\1-grams:\n-0.9\t<unk>\n0\t<s>\t-0.4\n-0.7\t</s>\n\
                    -0.5\t7\t-0.3\n-0.8\t8\n\n\\2-grams:\n-0.2\t<s> 7\n-0.1\t7 8\n-0.6\t7 </s>\n\n\\end\\\n";

fn listing(order: usize, size: Option<usize>, documents: &[Vec<u32>]) -> Listing {
    let mut counter =
        Counter::new(order, Vocabulary { eos: vec![0], size, ..Vocabulary::default() }, &Memory::usual()).unwrap();
    counter.add(&[3], Ending::Complete).unwrap();
    documents.iter().for_each(|tokens| counter.add(tokens, Ending::Complete).unwrap());
    let options = Options { discount_fallback: Some(DEFAULT_FALLBACK), ..Options::default() };
    estimate(&counter.finish().unwrap(), &options, &Memory::usual()).unwrap().listing
}

/// Returns the number of damaged inputs to try. Set `DRAFTSMITH_FUZZ_CASES=1000000` for a long run.
fn fuzz_cases() -> u32 {
    std::env::var("DRAFTSMITH_FUZZ_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(500)
}

/// The values that a damaged byte may take.
const BYTES: &[u8] = b"\\-.:=0123456789 \t\n<>se\xff\0";

/// Returns an empty folder for one test.
fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("draftsmith-arpa-{}-{name}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// Returns the error message of reading `text`.
fn complaint(text: &str) -> String {
    parse(text.as_bytes(), Vocabulary::default(), &Memory::usual()).err().unwrap().to_string()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn reads_back_what_it_wrote(
        order in 1usize..=6, padded in any::<bool>(),
        documents in prop::collection::vec(prop::collection::vec(0u32..9, 0..12), 0..10),
    ) {
        let listing = listing(order, padded.then_some(50), &documents);
        let mut text = Vec::new();
        write(&listing, &mut text).unwrap();
        let again = parse(text.as_slice(), listing.vocabulary.clone(), &Memory::usual()).unwrap();
        prop_assert_eq!(again.entries(), listing.entries());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(fuzz_cases()))]

    /// Replaces, cuts out and doubles bytes, and swaps lines.
    #[test]
    fn damage_ends_in_a_model_or_an_error(
        edits in prop::collection::vec((0u8..4, any::<Index>(), any::<Index>(), any::<u8>()), 1..5),
    ) {
        let mut text = TEXT.as_bytes().to_vec();
        for (kind, from, to, byte) in edits {
            if text.is_empty() {
                break;
            }
            let (a, b) = (from.index(text.len()), to.index(text.len()));
            let (a, b) = (a.min(b), a.max(b));
            match kind {
                0 => text[a] = BYTES[usize::from(byte) % BYTES.len()],
                1 => drop(text.drain(a..b.min(a + 20))),
                2 => text.extend_from_within(a..b),
                _ => {
                    let mut lines: Vec<&[u8]> = text.split(|&byte| byte == b'\n').collect();
                    let count = lines.len();
                    lines.swap(a % count, b % count);
                    text = lines.join(&b'\n');
                }
            }
        }
        if let Ok(listing) = parse(text.as_slice(), Vocabulary::default(), &Memory::usual()) {
            let model = Model::compile(&listing).unwrap();
            prop_assert!(!model.score_document(&[7, 8, 9, 7]).is_nan());
            let mut again = Vec::new();
            write(&listing, &mut again).unwrap();
            let again = parse(again.as_slice(), Vocabulary::default(), &Memory::usual()).unwrap();
            prop_assert_eq!(again.entries(), listing.entries());
        }
        let _ = parse_words(text.as_slice(), &Memory::usual());
    }
}

#[test]
fn the_same_counts_give_the_same_bytes_in_a_file_and_in_gzip() {
    let folder = folder("bytes");
    let listing = listing(3, None, &[vec![1, 2, 3, 4, 2, 3], vec![2, 3, 1]]);
    for name in ["model.arpa", "model.arpa.gz"] {
        let path = folder.join(name);
        save(&listing, &path).unwrap();
        let first = fs::read(&path).unwrap();
        save(&listing, &path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), first);
        let again = read(&path, listing.vocabulary.clone(), &Memory::usual()).unwrap();
        assert_eq!(again.entries(), listing.entries());
    }
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 2, "nothing is left aside");
    assert_eq!(&fs::read(folder.join("model.arpa.gz")).unwrap()[..2], b"\x1f\x8b");
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn reads_words_log_zero_and_loose_layout() {
    let text = TEXT.replace("\t7", "\tto").replace(" 7", " to").replace("\t8", "\tbe").replace(" 8", " be");
    let text = text.replace("-0.9", "-99").replace('\n', "\r\n");
    let (listing, words) = parse_words(text.replace('\t', "  ").as_bytes(), &Memory::usual()).unwrap();
    assert_eq!(words, ["to", "be"]);
    let model = Model::compile(&listing).unwrap();
    assert!((model.score_document(&[0, 1]) - (-0.2 - 0.1 - 0.7)).abs() < 1e-6);
    assert_eq!(model.score_document(&[2]), f64::NEG_INFINITY);

    let without_unk = TEXT.replace("-0.9\t<unk>\n", "").replace("1=5", "1=4");
    let listing = parse(without_unk.as_bytes(), Vocabulary::default(), &Memory::usual()).unwrap();
    let model = Model::compile(&listing).unwrap();
    assert_eq!(model.score_document(&[9]), f64::NEG_INFINITY);
}

/// SRILM begins with a blank line and gives `<s>` -99. OpenGrm does the latter too, and does not list `<unk>`.
#[test]
fn other_toolkits_text_is_read() {
    let srilm = TEXT.replace("0\t<s>", "-99\t<s>").replace("-0.8\t8", "-99\t8");
    let opengrm = srilm.replace("-0.9\t<unk>\n", "").replace("1=5", "1=4");
    for text in [format!("\n{srilm}"), opengrm] {
        let model = Model::compile(&parse(text.as_bytes(), Vocabulary::default(), &Memory::usual()).unwrap()).unwrap();
        assert!((model.score_document(&[7, 8]) - (-0.2 - 0.1 - 0.7)).abs() < 1e-6);
        assert_eq!(model.score_document(&[8]), f64::NEG_INFINITY);
    }
}

#[test]
fn errors_name_the_mistake_and_the_line() {
    assert!(parse(TEXT.as_bytes(), Vocabulary::default(), &Memory::usual()).is_ok());
    let cases = [
        ("\\data\\", "iARPA\n\\data\\", "iARPA dialect"),
        ("\\data\\\n", "", "begins with \\data\\, but this begins with `ngram 1=5`"),
        ("-0.5\t7", "0.5\t7", "line 9: the log10 probability 0.5 is positive"),
        ("-0.5\t7", "-0,5\t7", "line 9: `-0,5` is not a number"),
        ("-0.5\t7", "nan\t7", "`nan` is not a number"),
        ("-0.5\t7", "-0.5\tseven", "line 9: the word `seven` is not a token id"),
        ("\\2-grams:", "\\3-grams:", "line 12: the section \\2-grams: is missing"),
        ("ngram 1=5", "ngram 1=6", "line 11: \\1-grams: has 5 n-grams, but the header says 6"),
        ("ngram 2=3", "ngram 2=2", "line 15: \\2-grams: goes on after the 2 n-grams"),
        ("ngram 2=3", "ngram 3=3", "line 3: `ngram 2=COUNT`"),
        ("-0.1\t7 8", "-0.1\t9 8", "line 14: the word `9` is not among the unigrams"),
        ("-0.1\t7 8", "-0.1\t7 9", "line 14: the word `9` is not among the unigrams"),
        ("-0.1\t7 8", "-0.1\t7 </s>", "line 15: the n-gram `7 </s>` is listed twice"),
        ("-0.1\t7 8", "-0.1\t7 8\t-0.5", "highest order has a back-off"),
        ("-0.1\t7 8", "-0.1\t7", "this line has 2 fields"),
        ("0\t<s>\t-0.4", "0\t9\t-0.4", "<s> is not among the unigrams"),
        ("\\end\\\n", "", "the text ends without \\end\\"),
        ("\\end\\\n", "\\end\\\n\nmore\n", "line 19: `more` follows \\end\\"),
        ("-0.1\t7 8\n-0.6\t7 </s>\n\n\\end\\\n", "", "the text ends inside \\2-grams:"),
        ("-0.7\t</s>\n", "-0.7\t6\n", "</s> is not among the unigrams"),
        ("<unk>", "\0", "line 6: this is a binary file"),
    ];
    for (old, new, expected) in cases {
        assert!(TEXT.contains(old));
        let message = complaint(&TEXT.replacen(old, new, 1));
        assert!(message.contains(expected), "{old:?} -> {new:?}: {message}");
    }
}

#[test]
fn a_missing_context_is_named_with_its_line() {
    let text = TEXT.replace("ngram 2=3\n", "ngram 2=3\nngram 3=2\n");
    let text = text.replace("\\end\\", "\\3-grams:\n-0.1\t<s> 7 8\n-0.3\t7 7 8\n\n\\end\\");
    let message = complaint(&text);
    assert!(message.contains("line 20: the n-gram `7 7 8` has a context that is not listed"), "{message}");
}

#[test]
fn compression_and_binary_files_are_recognised() {
    let folder = folder("kinds");
    let listing = listing(2, None, &[]);
    save(&listing, &folder.join("model.gz")).unwrap();
    fs::rename(folder.join("model.gz"), folder.join("model.arpa")).unwrap();
    let message =
        |name: &str| read(&folder.join(name), Vocabulary::default(), &Memory::usual()).err().unwrap().to_string();
    assert!(message("model.arpa").contains("its name does not end in .gz"), "{}", message("model.arpa"));

    fs::write(folder.join("text.gz"), TEXT).unwrap();
    assert!(message("text.gz").contains("this is not a gzip file"));

    let whole = fs::read(folder.join("model.arpa")).unwrap();
    fs::write(folder.join("cut.gz"), &whole[..whole.len() - 12]).unwrap();
    assert!(message("cut.gz").contains("damaged or cut"), "{}", message("cut.gz"));

    fs::write(folder.join("model.bin"), b"mmap lm http://kheafield.com/code format version 5\n\0").unwrap();
    assert!(message("model.bin").contains("KenLM binary"));
    assert!(message("absent.arpa").contains("Check the path"));
    fs::remove_dir_all(folder).unwrap();
}
