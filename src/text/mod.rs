//! Text on its way to tokens: corpora, chat templates, the tokenizer, splits. Knows nothing of models.

mod chat;
mod config;
mod corpus;
mod split;
mod tokenizer;

pub use chat::{ChatTemplate, Message, TEMPLATE_DATE};
pub use config::DataConfig;
pub use corpus::{Document, field_names, read_corpus, read_corpus_files};
pub(crate) use corpus::{RecordLocation, for_each_record};
pub use split::{Split, SplitFractions};
pub use tokenizer::{END_OF_TEXT, Tokenizer};
