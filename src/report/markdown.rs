//! Renders tables as text: Markdown for a pull request, and aligned columns for the terminal.

use super::model::Report;
use crate::tables::{Column, Dataset, Row, Section, Table, format};

/// Renders `report.md`. For each data set it has the claims, and then each section's notes and tables. The definitions
/// follow in a folded block.
pub fn markdown(report: &Report) -> String {
    let mut text = report.datasets.iter().map(dataset).collect::<Vec<_>>().join("\n");
    for across in &report.across {
        text += &section(across, "##", &across.claims);
    }
    text += "\n<details><summary>Definitions</summary>\n";
    for (title, columns) in definitions(report) {
        text += &format!("\n{}\n\n", escape(title));
        for (name, definition) in columns {
            text += &format!("- **{}**: {}\n", escape(name), escape(definition));
        }
    }
    text + "\n</details>\n"
}

/// Renders the narrow tables and the notes of the brief sections of every data set, aligned for a fixed-width font, in lines
/// of at most `width` characters where a width is given.
pub fn table(report: &Report, width: Option<usize>) -> String {
    report.datasets.iter().map(|set| brief(set, width)).collect::<Vec<_>>().join("\n")
}

/// Returns the definition of every column, each only once, grouped by the title of the section.
pub fn definitions(report: &Report) -> Vec<(&str, Vec<(&str, &str)>)> {
    let mut groups: Vec<(&Section, Vec<(&str, &str)>)> = Vec::new();
    for (_, section) in report.sections() {
        let place = groups.iter().position(|(known, _)| known.id == section.id).unwrap_or_else(|| {
            groups.push((section, Vec::new()));
            groups.len() - 1
        });
        let definitions = &mut groups[place].1;
        for column in section.tables.iter().flat_map(|table| &table.columns) {
            let definition = (&*column.id, &*column.definition);
            if !definitions.contains(&definition) {
                definitions.push(definition);
            }
        }
    }
    let groups = groups.into_iter().filter(|(_, definitions)| !definitions.is_empty());
    groups.map(|(section, definitions)| (&*section.title, definitions)).collect()
}

fn dataset(set: &Dataset) -> String {
    let mut text = format!("## {} ({})\n", escape(&set.name), escape(&set.split));
    set.sections.iter().for_each(|section| text += &sentences(&section.claims));
    set.sections.iter().for_each(|of_set| text += &section(of_set, "###", &[]));
    text
}

/// Renders a section under a heading of the given level, with the given claims. Sections with nothing to read are left
/// out.
fn section(section: &Section, level: &str, claims: &[String]) -> String {
    let tables = section.tables.iter().filter(|table| !table.detail).map(|table| format!("\n{}", rows(&cells(table))));
    let words = [claims, &section.warnings, &section.notes].map(sentences).concat();
    let text = words + &tables.collect::<String>();
    if text.is_empty() { text } else { format!("\n{level} {}\n{text}", escape(&section.title)) }
}

fn sentences(sentences: &[String]) -> String {
    sentences.iter().map(|sentence| format!("\n{}\n", escape(sentence))).collect()
}

/// Renders a table whose first row holds the headings.
fn rows(table: &[Vec<String>]) -> String {
    let [headings, rows @ ..] = table else { return String::new() };
    let rule = format!("|---|{}\n", "---:|".repeat(headings.len() - 1));
    row(headings) + &rule + &rows.iter().map(|cells| row(cells)).collect::<String>()
}

fn row(cells: &[String]) -> String {
    let cells: Vec<_> = cells.iter().map(|c| escape(c)).collect();
    format!("| {} |\n", cells.join(" | "))
}

/// Returns the cells of a table: first the headings, then the rows. If some columns are compact, only these are
/// included.
fn cells(table: &Table) -> Vec<Vec<String>> {
    let narrow = table.columns.iter().any(|column| column.compact);
    let shown = |column: &Column| column.compact || !narrow;
    let headings = table.columns.iter().filter(|column| shown(column)).map(|column| column.heading.clone());
    let row = |row: &Row| {
        let cells = table.columns.iter().zip(&row.cells).filter(|(column, _)| shown(column));
        std::iter::once(named(row)).chain(cells.map(|(column, cell)| column.format.text(cell))).collect()
    };
    let headings = std::iter::once(table.rows_are.clone()).chain(headings).collect();
    std::iter::once(headings).chain(table.rows.iter().map(row)).collect()
}

/// Returns the name of a row, with its mark if it has one, and with what dev says of it.
pub fn named(row: &Row) -> String {
    let marks: Vec<&str> = row.mark.as_deref().into_iter().chain(row.best.then_some("best on dev")).collect();
    if marks.is_empty() { row.name.clone() } else { format!("{} ({})", row.name, marks.join(", ")) }
}

fn brief(set: &Dataset, width: Option<usize>) -> String {
    let documents = format::counted(set.facts.documents, "document", "documents");
    let mut text = format!("{} ({}), {documents}\n", set.name, set.split);
    for section in set.sections.iter().filter(|section| section.brief) {
        let tables = section.tables.iter().filter(|table| table.columns.iter().any(|column| column.compact));
        tables.for_each(|table| text += &aligned_rows(&cells(table), width));
        section.notes.iter().for_each(|note| text += &format!("{note}\n"));
    }
    text
}

/// Aligns rows of equal length: the first cell to the left, the others to the right. Columns that do not fit in `width`
/// characters follow below, beside the first one again.
pub(super) fn aligned_rows(cells: &[Vec<String>], width: Option<usize>) -> String {
    let widest = |column: usize| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..cells[0].len()).map(widest).collect();
    let mut text = String::new();
    let mut next = 1;
    while next < widths.len() || text.is_empty() {
        let (first, mut taken) = (next, widths[0]);
        while next < widths.len() && (next == first || width.is_none_or(|width| taken + 2 + widths[next] <= width)) {
            taken += 2 + widths[next];
            next += 1;
        }
        if first > 1 {
            text += "\n";
        }
        for row in cells {
            text += &format!("{:<1$}", row[0], widths[0]);
            for (cell, width) in row.iter().zip(&widths).take(next).skip(first) {
                text += &format!("  {cell:>width$}");
            }
            text += "\n";
        }
    }
    text
}

/// Escapes a name. Names come from configurations and may contain anything, so they must not produce tags, table cells,
/// code or emphasis.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => escaped += "&lt;",
            '\n' | '\r' => escaped.push(' '),
            '|' | '`' | '*' | '\\' => escaped.extend(['\\', c]),
            _ => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture;
    use crate::tables::Cell;

    #[test]
    fn columns_that_do_not_fit_follow_below() {
        let text = table(&fixture::report(), Some(60));
        let expected = "\
tales (test), 200 documents
variant                     block efficiency   95 % interval
bpd                                    1.525  [1.489, 1.561]
ngram (lossy, best on dev)             1.739  [1.703, 1.775]

variant                        gain
bpd                               –
ngram (lossy, best on dev)  +14.0 %
12 of 200 documents loop.
";
        assert_eq!(text, expected);
        assert_eq!(table(&fixture::report(), Some(69)), table(&fixture::report(), None));
        // A column that is wider than all is still there.
        assert_eq!(table(&fixture::report(), Some(1)).lines().count(), 2 + 3 * 3 + 2);
    }

    #[test]
    fn the_terminal_table() {
        assert_eq!(
            table(&fixture::report(), None),
            "\
tales (test), 200 documents
variant                     block efficiency   95 % interval     gain
bpd                                    1.525  [1.489, 1.561]        –
ngram (lossy, best on dev)             1.739  [1.703, 1.775]  +14.0 %
12 of 200 documents loop.
"
        );
    }

    #[test]
    fn the_pull_request() {
        assert_eq!(
            markdown(&fixture::report()),
            "\
## tales (test)

On tales, ngram decodes 14.0 % more.

### Block efficiency

| variant | block efficiency | 95 % interval | gain |
|---|---:|---:|---:|
| bpd | 1.525 | [1.489, 1.561] | – |
| ngram (lossy, best on dev) | 1.739 | [1.703, 1.775] | +14.0 % |

### Loops

12 of 200 documents loop.

### By training step

This is doubtful.

| step | bpd |
|---|---:|
| 50 | 1.250 [1.000, 1.500] |

## A line

Over 5 data sets, it rises.

| line | slope |
|---|---:|
| bpd | 0.210 |

<details><summary>Definitions</summary>

Block efficiency

- **block_efficiency**: Tokens divided by calls.
- **ci95**: Its interval.
- **gain**: Over plain decoding; null for it.
- **drafts**: The drafts.
- **lossless**: Whether nothing is lost.

By training step

- **block_efficiency**: Tokens divided by calls after so many steps.

A line

- **slope**: How steep it is.

</details>
"
        );
    }

    #[test]
    fn names_cannot_break_out_of_their_cell_and_no_number_is_nan() {
        let mut report = fixture::report();
        let row = &mut report.datasets[0].sections[0].tables[0].rows[0];
        row.name = "a|b<i>`\n".into();
        row.cells[0] = Cell::Number(f64::NAN);
        let text = markdown(&report);
        assert!(text.contains("| a\\|b&lt;i>\\`  | n/a |") && !text.contains("NaN"), "{text}");
    }
}
