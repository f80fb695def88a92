//! `trace`: the backbone's greedy text and hidden states for every corpus and split.

use std::path::PathBuf;

use super::Workspace;
use crate::error::{Result, bail};
use crate::files;
use crate::text::{Document, Split};
use crate::traces::{Plan, Trace, make};

/// The traces of a run.
pub struct Traces {
    /// One per corpus.
    pub train: Vec<Trace>,
    /// One per corpus.
    pub dev: Vec<Trace>,
    /// One per corpus.
    pub test: Vec<Trace>,
    /// Hashes of what made train and dev.
    pub fit_key: String,
    /// Hash of what made all of them.
    pub key: String,
}

/// Makes the traces that are missing and opens them all.
pub fn trace(workspace: &Workspace) -> Result<Traces> {
    let options = &workspace.config.traces;
    let mut keys = Vec::new();
    let mut open = |split: Split, most: usize| -> Result<Vec<Trace>> {
        let mut traces = Vec::new();
        for corpus in &workspace.corpora {
            let title = format!("trace {} {}", corpus.name, split.name());
            let documents: Vec<&Document> = corpus.split(split).take(most).collect();
            if documents.is_empty() {
                bail!(
                    "{title}: the split has no documents. Give a larger corpus, or other shares `data.{0}.dev` and `data.{0}.test`.",
                    corpus.name
                );
            }
            let identity = workspace.backbone.identity();
            let key = files::hash_json(&(
                &identity,
                &corpus.hash,
                &corpus.config,
                split,
                most,
                options.max_new,
                options.dtype,
                options.batch,
            ));
            let folder = folder(workspace, &corpus.name, split);
            if !workspace.finished(&title, &folder, &key)? {
                let plan = Plan {
                    title: &title,
                    documents: &documents,
                    max_new: options.max_new,
                    dtype: options.dtype,
                    batch: options.batch,
                };
                make(&workspace.backbone, &plan, &folder)?;
                workspace.finish(&folder, &key)?;
            }
            traces.push(Trace::open(&folder, &identity)?);
            keys.push(key);
        }
        Ok(traces)
    };
    let train = open(Split::Train, options.train_documents)?;
    let dev = open(Split::Dev, options.dev_documents)?;
    let test = open(Split::Test, options.test_documents)?;
    let fit_key = files::hash_json(&keys[..2 * workspace.corpora.len()]);
    Ok(Traces { train, dev, test, fit_key, key: files::hash_json(&keys) })
}

fn folder(workspace: &Workspace, corpus: &str, split: Split) -> PathBuf {
    workspace.folder.join("traces").join(format!("{corpus}-{}", split.name()))
}
