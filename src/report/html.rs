//! `report.html`: one self-contained page from `evaluation.html`, made to be read before the numbers are looked up.

use serde::Serialize;
use serde_json::Value as Json;

use super::columns::COLUMNS;
use super::figures::figures;
use super::grids::{Grid, grids};
use super::model::{Dataset, Live, Report};
use super::page::{self, Plot, prose};
use super::{format, summary};
use crate::error::Result;
use crate::evaluation::Example;

/// The page, whole: no network, no other file.
pub fn html(report: &Report) -> Result<String> {
    page::render(include_str!("evaluation.html"), Page::new(report))
}

#[derive(Serialize)]
struct Page {
    title: String,
    /// What was measured, where and when, in one line.
    byline: String,
    claims: Vec<String>,
    datasets: Vec<Section>,
    definitions: Vec<[String; 2]>,
    provenance: Vec<[String; 2]>,
}

#[derive(Serialize)]
struct Section {
    name: String,
    split: String,
    facts: String,
    table: Table,
    figures: Vec<Plot>,
    grids: Vec<TitledTable>,
    examples: Vec<ExampleSection>,
    looping: String,
    live: Option<LiveSection>,
}

#[derive(Serialize)]
struct LiveSection {
    sound: bool,
    summary: String,
    table: Table,
}

/// A document to unfold.
#[derive(Clone, Serialize)]
struct ExampleSection {
    title: String,
    prompt: String,
    /// Accepted and rejected text.
    blocks: Vec<[String; 2]>,
}

#[derive(Serialize)]
struct TitledTable {
    title: &'static str,
    note: String,
    table: Table,
}

#[derive(Serialize)]
struct Table {
    /// What the rows are.
    rows_are: &'static str,
    headings: Vec<Heading>,
    rows: Vec<Row>,
}

#[derive(Serialize)]
struct Heading {
    text: String,
    /// Shown under the pointer.
    definition: String,
}

#[derive(Serialize)]
struct Row {
    name: String,
    best: bool,
    cells: Vec<Cell>,
}

#[derive(Serialize)]
struct Cell {
    text: String,
    /// What the column is sorted by; nothing sorts last.
    order: Option<f64>,
}

impl Page {
    fn new(report: &Report) -> Self {
        let names: Vec<_> = report.datasets.iter().map(|d| d.name.as_str()).collect();
        Self {
            title: format!(
                "Block efficiency: {}",
                if names.is_empty() { "no data set".into() } else { names.join(", ") }
            ),
            byline: byline(report),
            claims: summary::claims(report).into_iter().map(prose).collect(),
            datasets: report.datasets.iter().map(|set| Section::new(set, report)).collect(),
            definitions: report.definitions.iter().map(|(name, text)| [name.clone(), text.clone()]).collect(),
            provenance: flatten(&report.provenance),
        }
    }
}

impl Section {
    fn new(set: &Dataset, report: &Report) -> Self {
        let facts = [
            format::counted(set.documents, "document", "documents"),
            format::counted(set.decoded_tokens, "decoded token", "decoded tokens"),
            format!("block size {}", set.block_size),
            format!("top {} of each head", set.top_k),
        ];
        Self {
            name: set.name.clone(),
            split: set.split.clone(),
            facts: facts.join(" · "),
            table: variants(set, report),
            figures: figures(set).into_iter().map(Plot::from).collect(),
            grids: grids(set).into_iter().map(|grid| TitledTable::new(grid, report)).collect(),
            examples: examples(set),
            looping: prose(summary::looping(set)),
            live: set.live.as_ref().map(|live| LiveSection::new(live, report)),
        }
    }
}

impl LiveSection {
    fn new(live: &Live, report: &Report) -> Self {
        let columns = [("mismatches", "mismatches"), ("near-ties", "near_ties")];
        let headings = headings(columns.into_iter(), report);
        let rows = live.variants.iter().map(|v| {
            let cells = vec![
                Cell::new(format::count(v.mismatches), v.mismatches as f64),
                Cell::new(format::count(v.near_ties), v.near_ties as f64),
            ];
            Row { name: v.name.clone(), best: false, cells }
        });
        let table = Table { rows_are: "variant", headings, rows: rows.collect() };
        Self { sound: live.mismatches == 0, summary: prose(summary::live(live)), table }
    }
}

impl TitledTable {
    fn new(grid: Grid, report: &Report) -> Self {
        let rows = grid.rows.into_iter().map(|(name, cells)| Row {
            name,
            best: false,
            cells: cells.into_iter().map(|cell| Cell::new(cell.text, cell.order)).collect(),
        });
        let headings = headings(grid.headings.iter().map(|(text, definition)| (&**text, *definition)), report);
        let table = Table { rows_are: grid.rows_are, headings, rows: rows.collect() };
        Self { title: grid.title, note: prose(grid.note), table }
    }
}

impl Cell {
    fn new(text: String, order: f64) -> Self {
        Self { text, order: order.is_finite().then_some(order) }
    }
}

/// Best and worst documents in words.
fn examples(set: &Dataset) -> Vec<ExampleSection> {
    let section = |kind: &str, example: &Example| {
        let (tokens, calls) = (format::count(example.tokens), format::counted(example.calls, "call", "calls"));
        // An end-of-text alone has no text.
        let shown = |text: &String| if text.is_empty() { "␄".to_owned() } else { text.clone() };
        ExampleSection {
            title: format!("{kind}: {}, {tokens} tokens in {calls}", example.document),
            prompt: example.prompt.clone(),
            blocks: example.blocks.iter().map(|block| [shown(&block.accepted), block.rejected.clone()]).collect(),
        }
    };
    let of = |kind: &'static str, all: &[Example]| -> Vec<ExampleSection> {
        all.iter().map(|example| section(kind, example)).collect()
    };
    set.examples.iter().flat_map(|all| [of("best", &all.best), of("worst", &all.worst)].concat()).collect()
}

fn variants(set: &Dataset, report: &Report) -> Table {
    let best = set.best().map(|v| v.name.as_str());
    let row = |v: &super::Variant| Row {
        name: v.name.clone(),
        best: set.variants.len() > 1 && best == Some(&v.name),
        cells: COLUMNS.iter().map(|c| Cell::new((c.cell)(v), (c.order)(v))).collect(),
    };
    let columns = COLUMNS.iter().map(|c| (c.heading, c.definition));
    Table { rows_are: "variant", headings: headings(columns, report), rows: set.variants.iter().map(row).collect() }
}

fn headings<'a>(columns: impl Iterator<Item = (&'a str, &'a str)>, report: &Report) -> Vec<Heading> {
    let definition = |name: &str| report.definitions.get(name).cloned().unwrap_or_default();
    columns.map(|(text, name)| Heading { text: prose(text.into()), definition: definition(name) }).collect()
}

/// Version, backbone, device and start, as far as the provenance has them.
fn byline(report: &Report) -> String {
    let text = |name: &str| report.provenance.get(name).and_then(Json::as_str).map(str::to_owned);
    let backbone = report.provenance.get("backbone").and_then(|b| b.get("path")).and_then(Json::as_str);
    let backbone = backbone.and_then(|path| path.trim_end_matches('/').rsplit('/').next()).map(str::to_owned);
    let version = text("version").map(|v| format!("draftsmith {v}"));
    [backbone, text("device"), text("started"), version].into_iter().flatten().collect::<Vec<_>>().join(" · ")
}

/// Nested fields as `outer.inner`, lists of plain values on one line.
fn flatten(fields: &serde_json::Map<String, Json>) -> Vec<[String; 2]> {
    let plain = |value: &Json| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut rows = Vec::new();
    for (name, value) in fields {
        match value {
            Json::Object(inner) => {
                rows.extend(flatten(inner).into_iter().map(|[key, value]| [format!("{name}.{key}"), value]))
            }
            Json::Array(items) => rows.push([name.clone(), items.iter().map(plain).collect::<Vec<_>>().join(" ")]),
            _ => rows.push([name.clone(), plain(value)]),
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{LiveVariant, fixture};

    fn page(change: impl FnOnce(&mut Report)) -> String {
        let mut report = fixture::report();
        change(&mut report);
        html(&report).unwrap()
    }

    fn drawings(page: &str) -> Vec<&str> {
        page.split("<svg ").skip(1).map(|s| s.split("</svg>").next().unwrap()).collect()
    }

    #[test]
    fn one_drawing_for_each_plot_with_shapes_in_it() {
        let page = page(|_| ());
        let drawings = drawings(&page);
        assert_eq!(drawings.len(), 12);
        for drawing in drawings {
            assert!(drawing.contains("viewBox=") && drawing.contains("role=\"img\"><title>"));
            assert!(["<rect class=\"bar\"", "<polyline"].iter().any(|shape| drawing.contains(shape)));
            assert!(!drawing.contains("points=\"\"") && !drawing.contains("NaN"));
        }
    }

    #[test]
    fn plots_without_data_are_left_out() {
        assert_eq!(drawings(&page(|r| r.datasets[0].oracle.clear())).len(), 11);
        assert_eq!(drawings(&page(|r| r.datasets[0].heads.clear())).len(), 8);
        assert_eq!(drawings(&page(|r| r.datasets[0].by_step = None)).len(), 11);
        assert_eq!(drawings(&page(|r| r.datasets[0].best_paths.clear())).len(), 10);
        assert_eq!(drawings(&html(&fixture::smallest()).unwrap()).len(), 3);
        assert_eq!(drawings(&page(|r| r.datasets[0].variants.truncate(1))).len(), 12);
        assert_eq!(drawings(&page(|r| r.datasets.clear())).len(), 0);
    }

    #[test]
    fn works_without_a_live_check() {
        assert!(page(|_| ()).contains("Live check"));
        assert!(!page(|r| r.datasets[0].live = None).contains("Live check"));
    }

    #[test]
    fn names_are_escaped_wherever_they_stand() {
        let page = page(|report| {
            let evil = "<img src=https://example.org/x onerror=alert(1)>";
            report.provenance.insert(evil.into(), Json::from(evil));
            let set = &mut report.datasets[0];
            (set.name, set.split) = (evil.into(), evil.into());
            set.variants[2].name = evil.into();
            set.tuning[0].variant = evil.into();
            let examples = set.examples.as_mut().unwrap();
            (examples.variant, examples.best[0].document, examples.best[0].prompt) =
                (evil.into(), evil.into(), evil.into());
            let block = &mut examples.worst[0].blocks[0];
            (block.accepted, block.rejected) = (evil.into(), evil.into());
            let live = set.live.as_mut().unwrap();
            live.near_ties_by_kind.insert(evil.into(), 1);
            live.variants.push(LiveVariant { name: evil.into(), mismatches: 0, near_ties: 0 });
            set.timing.as_mut().unwrap().variants[0].name = evil.into();
            set.by_step.as_mut().unwrap().points[0].variant = evil.into();
        });
        assert!(page.contains("&lt;img") && !page.contains("<img"));
    }

    #[test]
    fn documents_are_written_out_block_by_block() {
        let page = page(|r| r.datasets[0].examples.as_mut().unwrap().best[0].blocks[1].accepted.clear());
        assert!(page.contains("best: tale-7, 20 tokens in 5 calls"));
        assert!(page.contains("<span> Pip found<s> it</s></span><span>␄<s> it</s></span>"));
        assert!(page.contains("worst: tale-3, 20 tokens in 16 calls"));
    }

    #[test]
    fn asks_nothing_of_the_network() {
        let page = page(|_| ()).replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
        for link in ["http:", "https:", "src=", "href=", "url(", "@import"] {
            assert!(!page.contains(link), "{link}");
        }
    }

    #[test]
    fn opens_with_the_claim_and_ends_with_where_it_comes_from() {
        let page = page(|_| ());
        let claim = page.find("35.9\u{a0}% more than the 1.525 of plain bpd").unwrap();
        assert!(claim < page.find("<table").unwrap());
        assert!(page.contains("SmolLM2-135M-Instruct · cpu · 2026-01-02T03:04:05Z · draftsmith 0.1.0"));
        assert!(page.contains("backbone.parameters") && page.contains("draftsmith evaluate runs"));
        for (name, _) in crate::report::definitions() {
            assert!(page.contains(&format!("<dt>{name}</dt>")), "{name}");
        }
    }
}
