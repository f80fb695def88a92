//! Tables and figures: what an analysis says, as plain data.
//!
//! A [`Dataset`] is what an evaluation says about one data set: [`Section`]s, one for each analysis, of [`Table`]s of numbers and
//! [`Figure`]s. Every number stands in a cell of a table, and every column carries its written definition, so a table explains
//! itself wherever it goes.
//!
//! A table is made of records: structs declared with `record!` whose doc comments are the definitions. [`Dataset::rows`]
//! reads them back. Nothing here knows how numbers are
//! computed or on what they are shown; [`format`](mod@format) says how they are written.

mod cell;
mod figure;
pub mod format;
mod record;
mod section;
mod table;

pub use cell::{Cell, Estimate, Family};
pub use figure::{
    Bar, BarRow, Bars, Colour, Drawing, Figure, LengthAxis, Lines, Passage, Piece, Reference, Series, XAxis, YAxis,
};
pub(crate) use record::record;
pub use record::{Entry, Field, FieldSpec, Record};
pub use section::{Dataset, Facts, Section};
pub use table::{Column, Format, Row, Table};

/// The name of plain decoding's rows, which gains refer to: [`Variant::plain`](crate::drafting::Variant::plain) as a text.
pub const BASELINE: &str = "bpd";
/// The name of the rows of the oracle, which knows the answer: a bound for the variants, no way to decode.
pub const ORACLE: &str = "oracle";
