//! Records: rows of a table as typed values, with their definitions.

use super::cell::{Cell, Estimate, Family};
use super::table::Format;

/// What a row of a table holds, declared with `record!`.
pub trait Record: Sized {
    /// The id of the table.
    const TABLE: &'static str;
    /// What the rows are, in the singular.
    const ROWS_ARE: &'static str;
    /// What the table says: the doc comment of the type.
    const DEFINITION: &'static str;

    /// The fields, in the order of the columns.
    fn fields() -> Vec<FieldSpec>;
    /// The cells of every field, in the order of [`Record::fields`].
    fn entries(&self) -> Vec<Vec<Entry>>;
    /// The record whose fields have these cells, given by the field's place; none if one of them is of another type.
    fn read<'a>(cells: impl FnMut(usize) -> Vec<(Option<&'a str>, &'a Cell)>) -> Option<Self>;
}

/// A column, or a family of columns.
#[derive(Clone, Copy, Debug)]
pub struct FieldSpec {
    /// The field's name.
    pub id: &'static str,
    /// What stands above the column; of a family, `{}` stands for the key.
    pub heading: &'static str,
    /// The doc comment of the field.
    pub definition: &'static str,
    /// How its numbers are written.
    pub format: Format,
    /// Whether narrow tables show it as well.
    pub compact: bool,
}

/// A cell and, of a family, the key of its column.
pub type Entry = (Option<String>, Cell);

/// A type that fields can have.
pub trait Field: Sized {
    /// Its cells, each with its key.
    fn entries(&self) -> Vec<Entry>;
    /// The value whose cells these are; none if they are of another type.
    fn read(cells: &[(Option<&str>, &Cell)]) -> Option<Self>;
}

/// A value that fills one cell.
trait Single: Sized {
    fn cell(&self) -> Cell;
    fn from_cell(cell: &Cell) -> Option<Self>;
}

macro_rules! single {
    ($($Type:ty: $Variant:ident),*) => {$(
        impl Single for $Type {
            fn cell(&self) -> Cell {
                Cell::$Variant(self.to_owned())
            }

            fn from_cell(cell: &Cell) -> Option<Self> {
                match cell {
                    Cell::$Variant(value) => Some(value.to_owned()),
                    _ => None,
                }
            }
        }
    )*};
}
single!(bool: Flag, u64: Count, f64: Number, [f64; 2]: Interval, Estimate: Estimate, String: Text);

impl<T: Single> Single for Option<T> {
    fn cell(&self) -> Cell {
        self.as_ref().map_or(Cell::Nothing, Single::cell)
    }

    fn from_cell(cell: &Cell) -> Option<Self> {
        match cell {
            Cell::Nothing => Some(None),
            cell => T::from_cell(cell).map(Some),
        }
    }
}

impl<T: Single> Field for T {
    fn entries(&self) -> Vec<Entry> {
        vec![(None, self.cell())]
    }

    fn read(cells: &[(Option<&str>, &Cell)]) -> Option<Self> {
        match cells {
            [(None, cell)] => Self::from_cell(cell),
            _ => None,
        }
    }
}

impl<T: Single> Field for Family<T> {
    fn entries(&self) -> Vec<Entry> {
        self.0.iter().map(|(key, value)| (Some(key.clone()), value.cell())).collect()
    }

    /// Columns in which a row has nothing are those of other rows' keys.
    fn read(cells: &[(Option<&str>, &Cell)]) -> Option<Self> {
        let one = |(key, cell): &(Option<&str>, &Cell)| Some(((*key)?.to_owned(), T::from_cell(cell)?));
        cells.iter().filter(|(_, cell)| **cell != Cell::Nothing).map(one).collect()
    }
}

/// Declares the rows of a table: a struct whose doc comment says what the table is about, and whose fields, each with the
/// definition of its column as doc comment, are followed by the column's heading and the [`Format`] of its numbers. `compact`
/// fields are shown in narrow tables as well.
///
/// ```ignore
/// record! {
///     /// Block efficiency of every variant.
///     pub struct Efficiency in "efficiency", each "variant" {
///         /// Decoded tokens divided by backbone calls.
///         block_efficiency: f64 = "block efficiency" as ThreeDecimals, compact;
///         /// For position j: the blocks that accept at least j tokens, divided by all.
///         rate: Family<f64> = "position {}" as Percent;
///     }
/// }
/// ```
macro_rules! record {
    (
        $(#[doc = $about:literal])+
        $visibility:vis struct $Name:ident in $table:literal, each $rows_are:literal {
            $($(#[doc = $line:literal])+ $field:ident: $Type:ty = $heading:literal as $Format:ident $(, $compact:ident)?;)+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        #[serde(deny_unknown_fields)]
        $visibility struct $Name {
            $($(#[doc = $line])+ pub $field: $Type,)+
        }

        impl $crate::tables::Record for $Name {
            const TABLE: &'static str = $table;
            const ROWS_ARE: &'static str = $rows_are;
            const DEFINITION: &'static str = concat!($($about),+).trim_ascii();

            fn fields() -> Vec<$crate::tables::FieldSpec> {
                vec![$($crate::tables::FieldSpec {
                    id: stringify!($field),
                    heading: $heading,
                    definition: concat!($($line),+).trim_ascii(),
                    format: $crate::tables::Format::$Format,
                    compact: $crate::tables::record!(@compact $($compact)?),
                }),+]
            }

            fn entries(&self) -> Vec<Vec<$crate::tables::Entry>> {
                vec![$($crate::tables::Field::entries(&self.$field)),+]
            }

            fn read<'a>(
                mut cells: impl FnMut(usize) -> Vec<(Option<&'a str>, &'a $crate::tables::Cell)>,
            ) -> Option<Self> {
                let mut places = 0..;
                $(let $field = $crate::tables::Field::read(&cells(places.next()?))?;)+
                Some(Self { $($field),+ })
            }
        }
    };
    (@compact) => { false };
    (@compact compact) => { true };
}
pub(crate) use record;
