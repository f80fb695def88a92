//! The tokenizer in a GGUF file, rebuilt as the Hugging Face tokenizer that it was made from.
//!
//! The file has the vocabulary, but only names the rules by which text is split. So the rules are here, one set for
//! each name, as in the models' `tokenizer.json` files.

use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::{NFC, NormalizerWrapper, Prepend, Replace, Sequence};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, DecoderWrapper, SplitDelimiterBehavior, Tokenizer, decoders};

use super::file::GgufFile;
use crate::error::{Error, Result, bail};

const INSTEAD: &str = "Put the model's tokenizer.json beside the .gguf file; it is then used instead";

/// How Llama 3 splits text before it merges bytes: up to three digits stay together.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// How Qwen 2 splits text: each digit is alone.
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// SentencePiece's stand-in for a space.
const SPACE: &str = "▁";

/// The largest size in bytes of a special token, or of a piece that is merged from others; no model has longer ones.
/// What is derived from them here grows with the square of their lengths.
const LONGEST: usize = 256;

/// The types of tokens that matter here, as the file numbers them.
const NORMAL: i64 = 1;
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// Returns the file's tokenizer. It adds no tokens of its own to a text: see [`adds_bos`].
///
/// # Errors
/// When the exact rules of this kind of tokenizer are not known here, or the tokenizer is broken. The error names the
/// key.
pub fn tokenizer(file: &GgufFile) -> Result<Tokenizer> {
    build(file).map_err(|e| e.within(file.path().display()))
}

/// Returns the chat template, in Jinja.
pub fn chat_template(file: &GgufFile) -> Option<&str> {
    file.text("tokenizer.chat_template")
}

/// Returns whether each text begins with the token `tokenizer.ggml.bos_token_id`. If the file does not say, it does for
/// SentencePiece and for Llama 3, as in llama.cpp.
pub fn adds_bos(file: &GgufFile) -> bool {
    file.flag("tokenizer.ggml.add_bos_token").unwrap_or_else(|| {
        file.text("tokenizer.ggml.model") == Some("llama")
            || matches!(file.text("tokenizer.ggml.pre"), Some("llama-bpe" | "llama3" | "llama-v3"))
    })
}

/// Builds the tokenizer; errors do not name the file yet.
fn build(file: &GgufFile) -> Result<Tokenizer> {
    let kind = file.text("tokenizer.ggml.model");
    let mut tokenizer = match kind {
        Some("gpt2") => byte_level(file)?,
        Some("llama") => sentence_pieces(file)?,
        Some(other) => {
            bail!("`tokenizer.ggml.model` is `{other}`; of these, `gpt2` and `llama` are supported. {INSTEAD}.")
        }
        None => bail!("the metadata key `tokenizer.ggml.model` is missing. {INSTEAD}."),
    };
    let (mut special, mut plain) = (Vec::new(), Vec::new());
    for (token, kind) in tokens(file)?.into_iter().zip(types(file)?) {
        let (list, is_special) = match kind {
            UNKNOWN | CONTROL => (&mut special, true),
            USER_DEFINED => (&mut plain, false),
            _ => continue,
        };
        list.push(AddedToken::from(check_length(token)?, is_special).normalized(false));
    }
    tokenizer.add_special_tokens(&special);
    tokenizer.add_tokens(&plain);
    Ok(tokenizer)
}

/// Builds byte-level BPE.
fn byte_level(file: &GgufFile) -> Result<Tokenizer> {
    // Without a prefix space; the decoder's settings do not matter.
    let bytes = |use_regex| PreTokenizerWrapper::from(ByteLevel::new(false, true, use_regex));
    let split = |pattern: &str| {
        Split::new(SplitPattern::Regex(pattern.into()), SplitDelimiterBehavior::Isolated, false).map_err(broken)
    };
    let pre = file.text("tokenizer.ggml.pre");
    let (rules, composed, ignore_merges) = match pre {
        Some("smollm") => (vec![Digits::new(true).into(), bytes(true)], false, false),
        Some("gpt-2") => (vec![bytes(true)], false, false),
        Some("llama-bpe" | "llama3" | "llama-v3") => (vec![split(LLAMA3)?.into(), bytes(false)], false, true),
        Some("qwen2") => (vec![split(QWEN2)?.into(), bytes(false)], true, false),
        _ => bail!(
            "`tokenizer.ggml.pre` is {}, which does not say how the model cuts a text; of these, `smollm`, `gpt-2`, \
             `llama-bpe` and `qwen2` are supported. {INSTEAD}.",
            pre.map_or("missing".into(), |pre| format!("`{pre}`"))
        ),
    };
    let Some(pairs) = file.texts("tokenizer.ggml.merges") else {
        bail!("the metadata key `tokenizer.ggml.merges` must be a list of texts. {INSTEAD}.");
    };
    let merges = pairs
        .into_iter()
        .map(|pair| match pair.split_once(' ') {
            Some((left, right)) => Ok((left.to_owned(), right.to_owned())),
            None => bail!("`tokenizer.ggml.merges` has `{pair}`, which is not a pair of tokens. {INSTEAD}."),
        })
        .collect::<Result<Merges>>()?;
    let model = BPE::builder()
        .vocab_and_merges(vocabulary(&tokens(file)?)?, merges)
        .ignore_merges(ignore_merges)
        .build()
        .map_err(broken)?;
    let mut tokenizer = Tokenizer::new(model);
    tokenizer
        .with_normalizer(composed.then_some(NFC))
        .with_pre_tokenizer(Some(PreTokenizers::new(rules)))
        .with_decoder(Some(ByteLevel::default()));
    Ok(tokenizer)
}

/// Builds a SentencePiece tokenizer as BPE with byte fallback.
fn sentence_pieces(file: &GgufFile) -> Result<Tokenizer> {
    let (tokens, types) = (tokens(file)?, types(file)?);
    let Some(scores) = file.numbers("tokenizer.ggml.scores").filter(|scores| scores.len() == tokens.len()) else {
        bail!("the metadata key `tokenizer.ggml.scores` must be a list with a number for each token. {INSTEAD}.");
    };
    let vocab = vocabulary(&tokens)?;
    let merges = merges(&tokens, &types, &scores, &vocab)?;
    let mut model = BPE::builder().vocab_and_merges(vocab, merges).fuse_unk(true).byte_fallback(true);
    if let Some(unknown) = types.iter().position(|&kind| kind == UNKNOWN) {
        model = model.unk_token(tokens[unknown].into());
    }
    let prefix = file.flag("tokenizer.ggml.add_space_prefix").unwrap_or(true);
    let mut normalizers: Vec<NormalizerWrapper> = vec![Replace::new(" ", SPACE).map_err(broken)?.into()];
    let mut steps: Vec<DecoderWrapper> = vec![
        Replace::new(SPACE, " ").map_err(broken)?.into(),
        decoders::byte_fallback::ByteFallback::new().into(),
        decoders::fuse::Fuse::new().into(),
    ];
    if prefix {
        normalizers.insert(0, Prepend::new(SPACE.into()).into());
        steps.push(decoders::strip::Strip::new(' ', 1, 0).into());
    }
    let mut tokenizer = Tokenizer::new(model.build().map_err(broken)?);
    tokenizer
        .with_normalizer(Some(Sequence::new(normalizers)))
        .with_decoder(Some(decoders::sequence::Sequence::new(steps)));
    Ok(tokenizer)
}

/// Returns SentencePiece's merges as a BPE's list of pairs, the best first. SentencePiece merges the neighbours whose
/// union has the best score. So the list has every split of every piece into two others, sorted by the score of the
/// piece; among equal ones, the pair with the longer left part comes first.
fn merges(tokens: &[&str], types: &[i64], scores: &[f32], vocab: &Vocab) -> Result<Merges> {
    let normal = |piece: &str| vocab.get(piece).copied().filter(|&id| types[id as usize] == NORMAL);
    let mut cuts = Vec::new();
    for (id, token) in tokens.iter().enumerate().filter(|(id, _)| types[*id] == NORMAL) {
        let start = cuts.len();
        // `at` counts bytes, `length` characters.
        for (length, (at, _)) in check_length(token)?.char_indices().enumerate().skip(1) {
            let (left, right) = token.split_at(at);
            if let (Some(left), Some(right)) = (normal(left), normal(right)) {
                cuts.push((id, length, left, right));
            }
        }
        cuts[start..].sort_unstable_by_key(|&(_, _, left, right)| (left, right));
    }
    // A stable sort, so that ties stay in the order of ids. Adding 0 makes both zeros equal.
    let characters = |id: u32| tokens[id as usize].chars().count();
    cuts.sort_by(|a, b| {
        let order = (scores[b.0] + 0.0).total_cmp(&(scores[a.0] + 0.0)).then(b.1.cmp(&a.1));
        order.then_with(|| characters(b.3).cmp(&characters(a.3)))
    });
    let text = |id: u32| tokens[id as usize].to_owned();
    Ok(cuts.into_iter().map(|(_, _, left, right)| (text(left), text(right))).collect())
}

/// Returns the vocabulary's tokens, in the order of their ids.
fn tokens(file: &GgufFile) -> Result<Vec<&str>> {
    match file.texts("tokenizer.ggml.tokens") {
        Some(tokens) if !tokens.is_empty() => Ok(tokens),
        _ => bail!("the metadata key `tokenizer.ggml.tokens` must be a list of texts. {INSTEAD}."),
    }
}

/// Returns the type of every token.
fn types(file: &GgufFile) -> Result<Vec<i64>> {
    match file.integers("tokenizer.ggml.token_type") {
        Some(types) if types.len() == tokens(file)?.len() => Ok(types),
        _ => bail!(
            "the metadata key `tokenizer.ggml.token_type` must be a list with a number for each token. {INSTEAD}."
        ),
    }
}

/// Returns the ids of the tokens, each of which must be different.
fn vocabulary(tokens: &[&str]) -> Result<Vocab> {
    let mut vocab = Vocab::default();
    for (id, token) in (0..).zip(tokens) {
        if let Some(first) = vocab.insert((*token).to_owned(), id) {
            bail!("`tokenizer.ggml.tokens` has `{token}` twice, as {first} and as {id}. {INSTEAD}.");
        }
    }
    Ok(vocab)
}

/// Fails if a token is longer than [`LONGEST`].
fn check_length(token: &str) -> Result<&str> {
    if token.len() > LONGEST {
        bail!("`tokenizer.ggml.tokens` has a token of {} bytes, above {LONGEST}. {INSTEAD}.", token.len());
    }
    Ok(token)
}

fn broken(error: tokenizers::Error) -> Error {
    Error::new(format!("the tokenizer in the file is broken ({error}). {INSTEAD}."))
}
