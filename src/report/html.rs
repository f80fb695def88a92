//! Renders `report.html` from `evaluation.html`: one self-contained page, meant to be read before the numbers are
//! looked up.

use serde::Serialize;
use serde_json::Value as Json;

use super::markdown::{definitions, named};
use super::model::Report;
use super::page::{self, Entry, Plot, prose};
use super::settings::{configuration, flatten};
use crate::error::Result;
use crate::tables::{self, Cell as Content, Dataset, Drawing, Figure, Passage, Record, format};

/// Renders a report as a complete page, which needs neither a network nor other files.
pub fn html(report: &Report) -> Result<String> {
    page::render(include_str!("evaluation.html"), Page::new(report))
}

#[derive(Serialize)]
struct Page<'a> {
    title: String,
    /// What was measured, where and when, in one line.
    byline: String,
    claims: Vec<String>,
    contents: Vec<Entry>,
    opening: Vec<Plot>,
    datasets: Vec<Set<'a>>,
    across: Vec<Section<'a>>,
    definitions: Vec<(&'a str, Vec<(&'a str, &'a str)>)>,
    settings: Vec<[String; 2]>,
    provenance: Vec<[String; 2]>,
}

#[derive(Serialize)]
struct Set<'a> {
    /// The id of its place on the page.
    id: String,
    name: &'a str,
    split: &'a str,
    facts: String,
    sections: Vec<Section<'a>>,
}

#[derive(Serialize)]
struct Section<'a> {
    /// The id of its place on the page.
    id: String,
    title: &'a str,
    definition: String,
    warnings: Vec<String>,
    notes: Vec<String>,
    figures: Vec<Plot>,
    tables: Vec<Table<'a>>,
    /// Texts that the reader can unfold, by their titles.
    passages: Vec<(&'a str, &'a Passage)>,
}

#[derive(Serialize)]
struct Table<'a> {
    label: String,
    /// The definition of the table, if the section does not give it.
    definition: Option<String>,
    rows_are: &'a str,
    headings: Vec<Heading<'a>>,
    rows: Vec<Row>,
}

#[derive(Serialize)]
struct Heading<'a> {
    text: String,
    /// The definition that is shown under the pointer.
    definition: &'a str,
    /// Whether the column is not shown until the reader chooses it, because the table is too wide otherwise.
    extra: bool,
}

#[derive(Serialize)]
struct Row {
    name: String,
    /// Whether dev chose it.
    best: bool,
    cells: Vec<Cell>,
}

#[derive(Serialize)]
struct Cell {
    text: String,
    /// The key by which the column is sorted. Cells without one are sorted last.
    order: Option<String>,
}

impl<'a> Page<'a> {
    fn new(report: &'a Report) -> Self {
        let names: Vec<_> = report.datasets.iter().map(|d| d.name.as_str()).collect();
        let title = if names.is_empty() { "no data set".into() } else { names.join(", ") };
        let facts = tables::Facts::fields().iter().map(|field| (field.id, field.definition)).collect();
        let mut provenance = report.provenance.clone();
        provenance.remove("configuration");
        let mut definitions = definitions(report);
        definitions.insert(0, ("Data sets", facts));
        let mut contents = Entry::of_sets(names);
        let sets = contents.iter().zip(&report.datasets).map(|(entry, set)| Set::new(entry.id.clone(), set));
        let datasets: Vec<Set> = sets.collect();
        let of_across = report.across.iter().map(|section| Section::new(section, "across", "all data sets"));
        let across: Vec<Section> = of_across.collect();
        let entry = |id: &str, title: &str, inner| Entry { id: id.to_owned(), title: title.to_owned(), inner };
        let inner = |sections: &[Section]| sections.iter().map(|s| entry(&s.id, s.title, Vec::new())).collect();
        contents.iter_mut().zip(&datasets).for_each(|(entry, set)| entry.inner = inner(&set.sections));
        if !across.is_empty() {
            contents.push(entry("across", "All data sets", inner(&across)));
        }
        contents.push(entry("definitions", "Definitions", Vec::new()));
        Self {
            title: format!("Block efficiency: {title}"),
            byline: byline(report),
            claims: report.sections().flat_map(|(_, section)| &section.claims).cloned().map(prose).collect(),
            contents,
            opening: report.across.iter().flat_map(|section| plots(section, "all data sets", true)).collect(),
            datasets,
            across,
            definitions,
            settings: configuration(report).map(flatten).unwrap_or_default(),
            provenance: flatten(&provenance),
        }
    }
}

/// Returns the plots of a section, either those that the page opens with or the others.
fn plots(section: &tables::Section, place: &str, opening: bool) -> Vec<Plot> {
    let figures = section.figures.iter().filter(|figure| figure.opens == opening);
    figures.filter_map(|figure| Plot::new(figure, &format!("on {place}"))).collect()
}

impl<'a> Set<'a> {
    fn new(id: String, set: &'a Dataset) -> Self {
        let tables::Facts { documents, decoded_tokens, block_size, top_k } = set.facts;
        let facts = [
            format::counted(documents, "document", "documents"),
            format::counted(decoded_tokens, "decoded token", "decoded tokens"),
            format!("block size {block_size}"),
            format!("top {top_k} of each head"),
        ];
        Self {
            name: &set.name,
            split: &set.split,
            facts: facts.join(" · "),
            sections: set.sections.iter().map(|section| Section::new(section, &id, &set.name)).collect(),
            id,
        }
    }
}

impl<'a> Section<'a> {
    fn new(section: &'a tables::Section, above: &str, place: &str) -> Self {
        let words = |sentences: &[String]| sentences.iter().cloned().map(prose).collect();
        let passage = |figure: &'a Figure| match &figure.drawing {
            Drawing::Passage(passage) => Some((&*figure.title, passage)),
            Drawing::Lines(_) | Drawing::Bars(_) => None,
        };
        let shown = section.tables.iter().filter(|table| !table.detail);
        Self {
            id: format!("{above}-{}", section.id),
            title: &section.title,
            definition: prose(section.definition.clone()),
            warnings: words(&section.warnings),
            notes: words(&section.notes),
            figures: plots(section, place, false),
            tables: shown.map(|table| Table::new(table, section, place)).collect(),
            passages: section.figures.iter().filter_map(passage).collect(),
        }
    }
}

impl<'a> Table<'a> {
    fn new(table: &'a tables::Table, section: &tables::Section, place: &str) -> Self {
        let narrow = table.columns.iter().any(|column| column.compact);
        let heading = |column: &'a tables::Column| Heading {
            text: prose(column.heading.clone()),
            definition: &column.definition,
            extra: narrow && !column.compact,
        };
        let row = |row: &tables::Row| {
            let cells = table.columns.iter().zip(&row.cells);
            let cell = |(column, content): (&tables::Column, &Content)| {
                let text = column.format.text(content);
                let number = content.number().filter(|x| x.is_finite()).map(|x| x.to_string());
                let order = if matches!(content, Content::Text(_)) { Some(text.clone()) } else { number };
                Cell { text, order }
            };
            Row { name: named(row), best: row.best, cells: cells.map(cell).collect() }
        };
        Self {
            label: format!("{} on {place}", section.title),
            definition: (table.definition != section.definition).then(|| prose(table.definition.clone())),
            rows_are: &table.rows_are,
            headings: table.columns.iter().map(heading).collect(),
            rows: table.rows.iter().map(row).collect(),
        }
    }
}

/// Returns the line with the run's name, backbone, heads, device and version, as far as the provenance contains them.
fn byline(report: &Report) -> String {
    let text = |name: &str| report.provenance.get(name).and_then(Json::as_str).map(str::to_owned);
    let version = text("version").map(|v| format!("draftsmith {v}"));
    let name = report.run().map(|name| format!("run {name}"));
    [name, report.backbone(), report.heads(), text("device"), version]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(" · ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture;

    fn page(change: impl FnOnce(&mut Report)) -> String {
        let mut report = fixture::report();
        change(&mut report);
        html(&report).unwrap()
    }

    #[test]
    fn one_drawing_for_each_figure_with_shapes_in_it() {
        let page = page(|_| ());
        let drawings: Vec<&str> = page.split("<svg ").skip(1).map(|s| s.split("</svg>").next().unwrap()).collect();
        assert_eq!(drawings.len(), 2);
        for drawing in drawings {
            assert!(drawing.contains("viewBox=") && drawing.contains("role=\"img\"><title>"));
            assert!(["<rect class=\"bar\"", "<polyline"].iter().any(|shape| drawing.contains(shape)));
        }
        assert!(page.contains("<title>Efficiency by step on tales</title>"));
    }

    #[test]
    fn tables_are_those_that_are_not_for_programs_alone() {
        let tables = |page: &str| page.matches("<table>").count();
        assert_eq!(tables(&page(|_| ())), 3);
        let without = page(|report| report.datasets[0].sections[0].tables[0].detail = true);
        assert_eq!(tables(&without), 2);
        assert!(without.contains("<dt>ci95</dt>"), "a figure may show them");
    }

    #[test]
    fn columns_explain_themselves_and_sort_by_their_numbers() {
        let page = page(|_| ());
        assert!(page.contains("title=\"Over plain decoding; null for it.\">gain</th>"));
        assert!(page.contains("<td data-order=\"0.1403\">+14.0 %</td>") && page.contains("<td>–</td>"), "{page}");
        assert!(page.contains("<tr class=\"best\"><th scope=\"row\">ngram (lossy, best on dev)</th>"));
        assert!(page.contains("data-extra title=\"The drafts.\">drafts</th>"), "{page}");
        let title = "<td data-order=\"1.25\">1.250 [1.000, 1.500]</td>";
        assert!(page.contains(title) && page.contains("<p class=\"bad\">This is doubtful.</p>"));
    }

    #[test]
    fn names_are_escaped_wherever_they_stand() {
        let evil = "<img src=https://example.org/x onerror=alert(1)>";
        let text = serde_json::to_string(&fixture::report()).unwrap();
        // Words of names and of sentences.
        for word in [
            "tales",
            "ngram",
            "This is doubtful.",
            "On tales",
            "…and then",
            " Pip found",
            " it",
            "Whiskers.",
            "best: tale-7",
            "cpu",
        ] {
            let (from, to) = (serde_json::to_string(word).unwrap(), serde_json::to_string(evil).unwrap());
            let report: Report =
                serde_json::from_str(&text.replace(&from[1..from.len() - 1], &to[1..to.len() - 1])).unwrap();
            let page = html(&report).unwrap();
            assert!(page.contains("&lt;img") && !page.contains("<img"), "{word}");
        }
    }

    #[test]
    fn documents_are_written_out_block_by_block() {
        let page = page(|_| ());
        assert!(page.contains("<summary>best: tale-7</summary>"));
        assert!(page.contains("<i>…and then</i><span> Pip found<s> it</s></span>"));
    }

    #[test]
    fn asks_nothing_of_the_network() {
        let page = page(|_| ()).replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
        for link in ["http:", "https:", "src=", "url(", "@import", "fetch("] {
            assert!(!page.contains(link), "{link}");
        }
        assert!(page.split("href=").skip(1).all(|link| link.starts_with("\"#")), "links stay on the page");
    }

    #[test]
    fn contents_lead_to_every_section() {
        let page = page(|_| ());
        let links: Vec<&str> = page.split("href=\"#").skip(1).map(|link| link.split('"').next().unwrap()).collect();
        let sections = ["block-efficiency", "loops", "by-step", "examples"].map(|id| format!("set-1-{id}"));
        let expected = ["set-1"].into_iter().chain(sections.iter().map(String::as_str));
        assert_eq!(links, expected.chain(["across", "across-line", "definitions"]).collect::<Vec<_>>());
        assert!(links.iter().all(|id| page.matches(&format!("id=\"{id}\"")).count() == 1), "{links:?}");
    }

    #[test]
    fn a_figure_that_opens_the_page_stands_before_the_data_sets_alone() {
        let page = page(|report| {
            let figure = report.datasets[0].sections[0].figures.remove(0);
            report.across[0].figures.push(figure.opening());
        });
        let title = "<title>Block efficiency by variant on all data sets</title>";
        assert_eq!(page.matches(title).count(), 1);
        assert!(page.find(title).unwrap() < page.find("id=\"set-1\"").unwrap());
    }

    #[test]
    fn opens_with_the_claims_and_ends_with_where_they_come_from() {
        let page = page(|_| ());
        let claims = ["On tales, ngram decodes 14.0\u{a0}% more.", "Over 5 data sets, it rises."];
        assert!(claims.iter().all(|claim| page.find(claim).unwrap() < page.find("<table").unwrap()));
        assert!(page.contains("200 documents · 18,944 decoded tokens · block size 9 · top 16 of each head"));
        assert!(page.contains("run tales · SmolLM2-135M-Instruct · ffn heads · cpu · draftsmith 0.1.0"));
        assert!(page.contains("<dt>heads.block_size</dt><dd>9</dd>") && !page.contains("configuration.heads"));
        assert!(page.contains("backbone.parameters") && page.contains("draftsmith evaluate runs"));
        for name in ["block_efficiency", "decoded_tokens", "slope"] {
            assert!(page.contains(&format!("<dt>{name}</dt>")), "{name}");
        }
        let empty = html(&Report::new(Vec::new(), Vec::new(), Default::default())).unwrap();
        assert!(empty.contains("<h1>Block efficiency: no data set</h1>"));
    }
}
