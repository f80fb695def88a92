//! Greedy texts that a serving engine wrote, to be used instead of decoding.
//!
//! An engine computes in other float types, and sums in another order. Where two tokens are nearly equally likely, it may
//! therefore choose another one than this program would. So what it wrote is compared with the backbone's own choice, which
//! one forward pass over the whole text gives at every place.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use serde_json::{Map, Value};

use super::forced::teacher_forced;
use super::plan::Item;
use super::{TracePlan, TraceText};
use crate::backbone::{Backbone, Feature, generate};
use crate::error::{Error, Result, bail};
use crate::nn::from_host;
use crate::progress;
use crate::text::{RecordLocation, for_each_record};

/// The number of documents of a train split whose responses are compared with the backbone's own choice. Continuations of a
/// hundred tokens then give a few thousand comparisons, by which one token in a hundred is told from three.
const SAMPLE: usize = 64;

/// The largest share of tokens that may differ. Each token is compared behind the response's own text, so one near-tie is one
/// difference. 16-bit types and sums in another order change about a token in a hundred. Another model, another prompt or a
/// temperature changes one in five or more.
const MOST_DIFFERING: f64 = 0.03;

/// The responses to the prompts of one corpus.
#[derive(Debug, Default)]
pub struct Responses {
    /// The file, for messages.
    origin: String,
    /// The tokens that follow the prompts, by the ids of the documents.
    texts: HashMap<String, Vec<u32>>,
}

/// What became of responses.
#[derive(Debug, Default)]
pub(super) struct Used {
    /// The documents that had a response.
    documents: usize,
    /// The documents without one, which the backbone continued by itself.
    missing: usize,
    /// The documents whose response was not the backbone's own choice to its end, or was cut before it.
    continued: usize,
}

impl Used {
    /// Returns a clause for the message that a trace is finished, or nothing if there were no responses.
    pub fn words(&self) -> String {
        let Self { documents, missing, continued } = self;
        if documents + missing == 0 {
            return String::new();
        }
        format!(
            "; {documents} of the responses given, of which {continued} were not the backbone's own to their end and were decoded from there, and {missing} decoded for want of one"
        )
    }
}

impl Responses {
    /// Reads a file of responses: lines of JSON with the `id` of a document, its `corpus` where there are several, and `tokens`
    /// or `text`. Returns the responses to each corpus. `corpora` has the ids of the documents of every corpus.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read, if it names an unknown document or one twice, if a token is not in the
    /// vocabulary, or if a text changes when it is tokenised. The message names the line.
    pub fn read(
        path: &Path,
        backbone: &Backbone,
        corpora: &BTreeMap<&str, HashSet<&str>>,
    ) -> Result<BTreeMap<String, Self>> {
        if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("txt")) {
            bail!(
                "{}: `traces.from` names lines of JSON, such as responses.jsonl, and not plain text.",
                path.display()
            );
        }
        let new = |name: &&str| ((*name).to_owned(), Self { origin: path.display().to_string(), ..Self::default() });
        let mut all: BTreeMap<String, Self> = corpora.keys().map(new).collect();
        let mut lines: HashMap<(String, String), RecordLocation> = HashMap::new();
        for_each_record(path, &[], |location, record| {
            let corpus = corpus(record, corpora)?;
            let id = match record.get("id") {
                Some(Value::String(id)) => id.clone(),
                Some(Value::Number(id)) => id.to_string(),
                _ => bail!("`id` is missing; it names the document whose prompt was continued."),
            };
            if !corpora[corpus].contains(id.as_str()) {
                bail!(
                    "the corpus `{corpus}` has no document `{id}`. Check the id; it may also be among those that `max_documents`, `max_tokens` or `exclude` leave out."
                );
            }
            if let Some(first) = lines.insert((corpus.to_owned(), id.clone()), location) {
                bail!("the document `{id}` has a response in {first} already. Keep one of them.");
            }
            let tokens = tokens(record, backbone).map_err(|e| e.within(format!("`{id}`")))?;
            all.get_mut(corpus).expect("a corpus that is known").texts.insert(id, tokens);
            Ok(())
        })?;
        Ok(all)
    }

    /// Returns the response to a document, up to its first end-of-text token and to its limit, or none if it has no token.
    fn of(&self, item: &Item, end_of_text: &[u32]) -> Option<&[u32]> {
        let tokens = self.texts.get(&item.id)?;
        let end = tokens.iter().position(|token| end_of_text.contains(token)).map_or(tokens.len(), |last| last + 1);
        Some(&tokens[..end.min(item.limit)]).filter(|tokens| !tokens.is_empty())
    }

    /// Returns the continuations of a batch. With `exact` each is the very text that the backbone decodes: a response is kept
    /// up to the first token that is not its own choice, and decoded from there. Otherwise responses are taken as they are.
    /// Documents without a response are decoded.
    ///
    /// # Errors
    /// Returns an error after an interrupt.
    pub(super) fn continuations(
        &self,
        backbone: &Backbone,
        batch: &[Item],
        exact: bool,
        used: &mut Used,
    ) -> Result<Vec<Vec<u32>>> {
        let given: Vec<&[u32]> =
            batch.iter().map(|item| self.of(item, &backbone.end_of_text).unwrap_or_default()).collect();
        let there = given.iter().filter(|given| !given.is_empty()).count();
        used.documents += there;
        used.missing += batch.len() - there;
        let mut texts: Vec<Vec<u32>> = given.iter().map(|given| given.to_vec()).collect();
        if exact {
            let own =
                own_choices(backbone, &batch.iter().zip(&given).map(|(i, g)| (&*i.prompt, *g)).collect::<Vec<_>>());
            for (text, own) in texts.iter_mut().zip(&own) {
                let same = text.iter().zip(own).take_while(|(a, b)| a == b).count();
                text.truncate(same);
            }
        }
        let ended = |text: &[u32], item: &Item| {
            text.len() == item.limit || text.last().is_some_and(|token| backbone.end_of_text.contains(token))
        };
        let left: Vec<usize> = (0..batch.len())
            .filter(|&n| if exact { !ended(&texts[n], &batch[n]) } else { texts[n].is_empty() })
            .collect();
        used.continued += left.iter().filter(|&&n| !given[n].is_empty()).count();
        let begun: Vec<Vec<u32>> = left.iter().map(|&n| [&batch[n].prompt[..], &texts[n]].concat()).collect();
        let most = left.iter().map(|&n| batch[n].limit - texts[n].len()).max().unwrap_or(0);
        let begun: Vec<&[u32]> = begun.iter().map(Vec::as_slice).collect();
        for (&n, rest) in left.iter().zip(generate(backbone, &begun, most)?) {
            texts[n].extend(rest);
            texts[n].truncate(batch[n].limit);
        }
        Ok(texts)
    }

    /// Compares the responses to an even sample of a plan's documents with the backbone's own choices, and says how many tokens
    /// differ.
    ///
    /// # Errors
    /// Returns an error if more than 3 % do, or if a document cannot be tokenised.
    pub(super) fn check(&self, backbone: &Backbone, plan: &TracePlan) -> Result<()> {
        debug_assert_eq!(plan.text, TraceText::Greedy);
        let mut items = Vec::new();
        // Documents are tried in order and evenly apart; the first of those that have a response are compared.
        let every = plan.documents.div_ceil(SAMPLE).max(1);
        for first in 0..every {
            for index in (first..plan.documents).step_by(every) {
                if items.len() < SAMPLE && self.texts.contains_key(&(plan.read)(index)?.id) {
                    items.extend(plan.item(backbone, index)?);
                }
            }
        }
        let (mut tokens, mut differing) = (0, 0);
        for batch in items.chunks(plan.batch) {
            let given =
                batch.iter().map(|item| (&*item.prompt, self.of(item, &backbone.end_of_text).unwrap_or_default()));
            let given: Vec<(&[u32], &[u32])> = given.collect();
            for ((_, given), own) in given.iter().zip(own_choices(backbone, &given)) {
                tokens += given.len();
                differing += given.iter().zip(own).filter(|(a, b)| **a != *b).count();
            }
        }
        let words = format!(
            "{}: of {tokens} tokens in {} sampled responses of {}, {differing} are not the backbone's own choice",
            plan.title,
            items.len(),
            self.origin
        );
        if differing as f64 > MOST_DIFFERING * tokens as f64 {
            bail!(
                "{words}, which is more than {:.0} %. Near-ties of float types explain one in a hundred; so many mean that another model wrote them, to other prompts, or at a temperature. Let the engine answer the very tokens that `draftsmith trace --prompts FILE` writes, with temperature 0.",
                100.0 * MOST_DIFFERING
            );
        }
        if tokens > 0 {
            progress::say(format!("{words}; they stay in text for training"));
        }
        Ok(())
    }
}

/// Returns the corpus that a record names. If there is only one, it need not be named.
fn corpus<'a>(record: &Map<String, Value>, corpora: &BTreeMap<&'a str, HashSet<&str>>) -> Result<&'a str> {
    let known = || corpora.keys().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    match record.get("corpus").map(|name| name.as_str().unwrap_or_default()) {
        Some(name) => match corpora.get_key_value(name) {
            Some((name, _)) => Ok(name),
            None => bail!("`corpus` is \"{name}\"; the configuration has {}.", known()),
        },
        None if corpora.len() == 1 => Ok(corpora.keys().next().expect("there is one")),
        None => bail!("`corpus` is missing; it says which of {} the document is of.", known()),
    }
}

/// Returns the tokens of a record.
fn tokens(record: &Map<String, Value>, backbone: &Backbone) -> Result<Vec<u32>> {
    let vocabulary = backbone.model.config().vocab_size;
    let mut tokens = match (record.get("tokens"), record.get("text").and_then(Value::as_str)) {
        (Some(Value::Array(ids)), _) => {
            let id = |id: &Value| match id.as_u64() {
                Some(id) if (id as usize) < vocabulary => Ok(id as u32),
                _ => Err(Error::new(format!(
                    "`tokens` has {id}, which is not the id of one of the model's {vocabulary} tokens."
                ))),
            };
            ids.iter().map(id).collect::<Result<Vec<u32>>>()?
        }
        (None, Some(text)) => {
            let tokens = backbone.tokenizer.encode_continuation(text)?;
            // Some tokenizers put a space in front of every text.
            if backbone.tokenizer.decode(&tokens)?.trim() != text.trim() {
                bail!(
                    "`text` is another text after it is tokenised, so these cannot be the tokens that the engine wrote. Give their ids in `tokens`, and leave special tokens out of `text`."
                );
            }
            tokens
        }
        _ => bail!("there are neither `tokens`, a list of ids, nor a `text`."),
    };
    // An engine that gives text leaves the end-of-text token out of it.
    if record.get("finish").and_then(Value::as_str) == Some("stop")
        && !tokens.iter().any(|token| backbone.end_of_text.contains(token))
    {
        tokens.extend(backbone.end_of_text.first());
    }
    Ok(tokens)
}

/// Returns the backbone's own greedy choice in place of every token of the texts, each a prompt and what follows it.
fn own_choices(backbone: &Backbone, texts: &[(&[u32], &[u32])]) -> Vec<Vec<u32>> {
    let (model, width) = (&backbone.model, backbone.model.config().hidden_size);
    let projection = model.projection();
    let there = || texts.iter().filter(|(_, text)| !text.is_empty());
    // What follows the last token is not asked.
    let whole: Vec<Vec<u32>> = there().map(|(prompt, text)| [*prompt, &text[..text.len() - 1]].concat()).collect();
    let whole: Vec<&[u32]> = whole.iter().map(Vec::as_slice).collect();
    let mut states = teacher_forced(model, &whole, &[Feature::Last]);
    let choices = |(prompt, text): &(&[u32], &[u32])| {
        if text.is_empty() {
            return Vec::new();
        }
        let states = states.next().expect("states of every text");
        let rows = states[0][(prompt.len() - 1) * width..].to_vec();
        let best = projection.largest(from_host(rows, [text.len(), width], model.device()), 1, false);
        best.iter().map(|best| best.first().0).collect()
    };
    texts.iter().map(choices).collect()
}
