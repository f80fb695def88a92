//! Tests with files that they write themselves, against what Python reads from the same bytes (`fixtures/make.py`), and
//! with broken ones.

mod container;
mod llama;
mod tokenizer;
mod writer;
