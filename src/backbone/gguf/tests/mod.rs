//! Files that the tests write, against what Python makes of the same bytes (`fixtures/make.py`), and broken ones.

mod container;
mod llama;
mod tokenizer;
mod writer;
