//! The tokenizer of a Hugging Face folder, and byte-level BPE fitted from scratch.

use std::fmt;
use std::path::Path;

use serde_json::Value;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    AddedToken, DecoderWrapper, Encoding, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
    TokenizerBuilder,
};

use crate::error::{Error, Result, bail, guarded};
use crate::files;

/// The token that ends a text, in tokenizers that this program fits.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// A tokenizer, from text to token ids and back.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The token prepended to every text, if `tokenizer_config.json` asks for one.
    bos: Option<u32>,
    /// Whether [`Tokenizer::encode`] adds special tokens.
    special: bool,
    hash: String,
    /// The hash without a chat template.
    plain_hash: String,
}

impl Tokenizer {
    /// Reads `tokenizer.json` of a model folder and, if it is there, `add_bos_token` of `tokenizer_config.json`.
    ///
    /// # Errors
    /// When `tokenizer.json` is missing or not a tokenizer, or the token to prepend is not in it.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join("tokenizer.json");
        let text = files::read_text(&path)?;
        let broken = |e: &dyn fmt::Display| Error::new(format!("{}: not a tokenizer.json ({e}).", path.display()));
        // The library stumbles over some files that it cannot use.
        let parsed = guarded(|| text.parse::<tokenizers::Tokenizer>());
        let inner = parsed.ok_or_else(|| broken(&"a part of it cannot be used"))?.map_err(|e| broken(&e))?;
        let inner = whole(inner);
        let bos = leading_token(folder, &inner)?;
        let hash = blake3::hash(format!("{bos:?}{text}").as_bytes()).to_hex().to_string();
        Ok(Self { inner, bos, special: true, plain_hash: hash.clone(), hash })
    }

    /// Wraps a tokenizer that came in another file; `bos` is prepended to every text. In the hash, `key` stands for the
    /// tokenizer.
    pub fn from_parts(inner: tokenizers::Tokenizer, bos: Option<u32>, key: &str) -> Self {
        let hash = files::hash_json(&(key, bos));
        Self { inner, bos, special: true, plain_hash: hash.clone(), hash }
    }

    /// Fits byte-level BPE of `vocab_size` types on `texts`, with [`END_OF_TEXT`] as id 0, and writes it to `folder`.
    pub fn fit<'a>(texts: impl Iterator<Item = &'a str> + Send, vocab_size: usize, folder: &Path) -> Result<Self> {
        let mut trainer = BpeTrainer::builder()
            .vocab_size(vocab_size)
            .show_progress(false)
            .special_tokens(vec![AddedToken::from(END_OF_TEXT, true)])
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .build();
        let mut inner =
            TokenizerBuilder::<BPE, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>::new(
            )
            .with_model(BPE::default())
            .with_normalizer(None)
            .with_pre_tokenizer(Some(ByteLevel::new(false, true, true).into()))
            .with_post_processor(None)
            .with_decoder(Some(ByteLevel::default().into()))
            .build()
            .map_err(|e| Error::new(format!("cannot make a tokenizer: {e}")))?;
        inner.train(&mut trainer, texts).map_err(|e| Error::new(format!("cannot fit the tokenizer: {e}")))?;
        let json = inner.to_string(true).map_err(|e| Error::new(format!("cannot write the tokenizer: {e}")))?;
        files::write_atomic(&folder.join("tokenizer.json"), json.as_bytes())?;
        Self::load(folder)
    }

    /// Returns the tokenizer for texts that a chat template has made: they contain every special token already. The
    /// hash then includes `key`, that of the template.
    pub fn for_chat(mut self, key: &str) -> Self {
        self.special = false;
        self.hash = files::hash_json(&(&self.hash, key));
        self
    }

    /// Returns the token ids of a text, with special tokens added as the folder's files say.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        if !self.special {
            return self.encode_continuation(text);
        }
        let encoding = self.encoded(text, true)?;
        let mut ids = encoding.get_ids().to_vec();
        if let Some(bos) = self.bos
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
        }
        Ok(ids)
    }

    /// Returns the token ids of a text that continues another one: no special token is added.
    pub fn encode_continuation(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.encoded(text, false)?.get_ids().to_vec())
    }

    fn encoded(&self, text: &str, special: bool) -> Result<Encoding> {
        let encoded = guarded(|| self.inner.encode_fast(text, special));
        let encoded = encoded.ok_or_else(|| Error::new("tokenizer.json: a part of it cannot be used on this text."))?;
        encoded.map_err(|e| Error::new(format!("cannot tokenise a text: {e}.")))
    }

    /// Returns the text of token ids, without special tokens.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let decoded = guarded(|| self.inner.decode(ids, true));
        let decoded =
            decoded.ok_or_else(|| Error::new("tokenizer.json: a part of it cannot be used on these tokens."))?;
        decoded.map_err(|e| Error::new(format!("cannot decode tokens: {e}")))
    }

    /// Returns the text of a token as the vocabulary has it, if there is one with this id.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Returns one more than the largest id, added tokens included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab(true).values().max().map_or(0, |&largest| largest as usize + 1)
    }

    /// Returns the token that [`Tokenizer::encode`] prepends to every text, if there is one.
    pub fn bos(&self) -> Option<u32> {
        self.bos.filter(|_| self.special)
    }

    /// Returns the hash (BLAKE3) of the tokenizer, the prepended token and the chat template.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Returns the hash without the chat template: it says which ids stand for which text.
    pub fn plain_hash(&self) -> &str {
        &self.plain_hash
    }
}

/// Takes what `tokenizer.json` may say for training away: texts are neither cut nor padded, and always become the same tokens.
fn whole(mut tokenizer: tokenizers::Tokenizer) -> tokenizers::Tokenizer {
    // Only giving limits can fail.
    let _ = tokenizer.with_truncation(None);
    tokenizer.with_padding(None);
    if let ModelWrapper::BPE(bpe) = tokenizer.get_model()
        && bpe.dropout.is_some()
    {
        let mut certain = bpe.clone();
        certain.dropout = None;
        tokenizer.with_model(certain);
    }
    tokenizer
}

/// Returns the token to prepend to every text, if `tokenizer_config.json` asks for one.
fn leading_token(folder: &Path, tokenizer: &tokenizers::Tokenizer) -> Result<Option<u32>> {
    let path = folder.join("tokenizer_config.json");
    if !path.exists() {
        return Ok(None);
    }
    let config: Value = files::read_json(&path)?;
    if config.get("add_bos_token").and_then(Value::as_bool) != Some(true) {
        return Ok(None);
    }
    let bos = config.get("bos_token");
    let name = bos.and_then(Value::as_str).or_else(|| bos?.get("content")?.as_str());
    match name.and_then(|name| tokenizer.token_to_id(name)) {
        Some(id) => Ok(Some(id)),
        None => bail!("{}: add_bos_token is true, but bos_token is not in tokenizer.json.", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fitted_tokenizer_round_trips_any_text() {
        let dir = tempfile::tempdir().unwrap();
        let texts = ["the cat sat on the mat", "the dog sat on the log"];
        let tokenizer = Tokenizer::fit(texts.into_iter(), 280, dir.path()).unwrap();
        assert!(tokenizer.vocab_size() <= 280);
        for text in ["the cat", "naïve ☃\n", "  two  spaces"] {
            assert_eq!(tokenizer.decode(&tokenizer.encode(text).unwrap()).unwrap(), text);
        }
        assert_eq!(tokenizer.encode(END_OF_TEXT).unwrap(), [0]);
        assert!(tokenizer.encode("the").unwrap().len() < 3);
    }

    #[test]
    fn texts_are_neither_cut_nor_padded_nor_split_at_random() {
        let dir = tempfile::tempdir().unwrap();
        let plain = Tokenizer::fit(["the fox saw the foxes"].into_iter(), 270, dir.path()).unwrap();
        let path = dir.path().join("tokenizer.json");
        let mut json: Value = files::read_json(&path).unwrap();
        json["truncation"] =
            serde_json::json!({"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0});
        json["padding"] = serde_json::json!({"strategy": {"Fixed": 40}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "x"});
        json["model"]["dropout"] = 0.9.into();
        files::write_json(&path, &json).unwrap();
        let odd = Tokenizer::load(dir.path()).unwrap();
        for text in ["the fox", "the foxes saw the fox and the fox saw them", ""] {
            assert_eq!(odd.encode(text).unwrap(), plain.encode(text).unwrap());
        }
    }

    #[test]
    fn a_decoder_that_the_library_stumbles_over_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        Tokenizer::fit(["the fox"].into_iter(), 270, dir.path()).unwrap();
        let path = dir.path().join("tokenizer.json");
        let mut json: Value = files::read_json(&path).unwrap();
        // It takes more from the end than there is.
        json["decoder"] = serde_json::json!({"type": "Strip", "content": "a", "start": 0, "stop": 9});
        files::write_json(&path, &json).unwrap();
        let tokenizer = Tokenizer::load(dir.path()).unwrap();
        let error = tokenizer.decode(&tokenizer.encode("aaa").unwrap()).unwrap_err().to_string();
        assert!(error.contains("tokenizer.json"), "{error}");
    }

    #[test]
    fn a_broken_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("tokenizer.json"), "{").unwrap();
        let error = Tokenizer::load(dir.path()).err().unwrap().to_string();
        assert!(error.contains("tokenizer.json"), "{error}");
    }
}
