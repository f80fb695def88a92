//! The pages in a real browser. `DRAFTSMITH_BROWSER`, else a chromium or Chrome on the path; without one this test says that it
//! did nothing.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::common::{GRID, finished, skipped, succeed};
use assert_cmd::Command;
use serde_json::{Value, json};

fn browser() -> Option<String> {
    let named = std::env::var("DRAFTSMITH_BROWSER").ok();
    let known = ["chromium", "chromium-browser", "google-chrome"].map(str::to_owned);
    named.into_iter().chain(known).find(|name| Command::new(name).arg("--version").output().is_ok())
}

/// What a page is like at a width, in pixels, on light or on dark paper: `look.html` says what is looked at. `table` is whether
/// the first table is tried out as well.
fn look(browser: &str, page: &Path, width: u32, dark: bool, table: bool) -> Value {
    let folder = tempfile::tempdir().unwrap();
    // A script inside a script's text must not end it.
    let text = serde_json::to_string(&fs::read_to_string(page).unwrap()).unwrap().replace("</", "<\\/");
    let frame = include_str!("look.html").replace("WIDTH", &width.to_string()).replace("TABLE", &table.to_string());
    let outer = folder.path().join("look.html");
    fs::write(&outer, frame.replace("PAGE", &text)).unwrap();
    let profile = format!("--user-data-dir={}", folder.path().join("profile").display());
    let scheme = format!("--blink-settings=preferredColorScheme={}", if dark { 0 } else { 1 });
    let output = Command::new(browser)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--window-size=1400,1000",
            "--virtual-time-budget=20000",
        ])
        .args([&scheme, &profile, "--dump-dom", &format!("file://{}", outer.display())])
        .timeout(Duration::from_secs(120))
        .output()
        .unwrap();
    let dom = String::from_utf8_lossy(&output.stdout);
    let found = dom.split("<pre id=\"found\">").nth(1).and_then(|rest| rest.split("</pre>").next()).unwrap_or_default();
    let found = found.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    let found: Value = serde_json::from_str(&found)
        .unwrap_or_else(|e| panic!("{e}: {found}\n{}", String::from_utf8_lossy(&output.stderr)));
    assert!(found["error"].is_null(), "{}: {found}", page.display());
    found
}

#[test]
fn pages_fit_wide_and_narrow_windows_and_can_be_worked_with() {
    let Some(browser) = browser() else { return skipped("there is no chromium") };
    let finished = finished();
    let folder = finished.path();
    let sets = ["name=steps", "heads.keep_checkpoints=true", "lattice.top_k=4"];
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    succeed(folder, &[&["evaluate", "run.toml", "--all-checkpoints"], &sets[..]].concat());
    succeed(folder, &["report", "runs/tiny", "runs/steps", "--output", "compared"]);
    fs::write(folder.join("grid.toml"), GRID).unwrap();
    succeed(folder, &["ablate", "grid.toml"]);
    for (page, contents, table, least) in [
        ("runs/tiny/report/report.html", 15, true, 12),
        ("runs/steps/report/report.html", 16, true, 13),
        ("runs/tiny/heads/report.html", 0, false, 6),
        ("compared/comparison.html", 2, true, 7),
        ("runs/grid/report/ablation.html", 1, false, 2),
        ("runs/index.html", 0, false, 0),
    ] {
        for (width, dark) in [(1280, false), (390, true)] {
            let found = look(&browser, &folder.join(page), width, dark, table);
            let place = format!("{page} at {width}");
            assert_eq!(found["wide"], width, "{page}");
            assert_eq!(found["scroll"], width, "{place} is wider than its window");
            assert_eq!(found["cut"], json!([]), "{place}");
            assert!(found["contents"].as_u64() >= Some(contents) && found["astray"] == json!([]), "{place}: {found}");
            assert_eq!(found["paper"], if dark { "rgb(22, 24, 27)" } else { "rgb(253, 253, 251)" }, "{place}");
            let drawings = found["drawings"].as_array().unwrap();
            assert!(drawings.len() >= least, "{place}: {}", drawings.len());
            for drawing in drawings {
                let size = |name: &str| drawing[name].as_f64().unwrap();
                assert!(size("shapes") >= 1.0 && size("width") > 150.0 && size("height") > 50.0, "{place}: {drawing}");
                assert!(size("lines") <= 8.0, "{place}: {drawing}");
                // Alone it is what it is on light paper, and not black.
                let copied = |name: &str| drawing["copied"][name].as_f64().unwrap();
                assert!(copied("dark") < 0.1 && copied("coloured") > 0.001, "{place}: {drawing}");
                let ink = if dark { "rgb(232, 232, 228)" } else { "rgb(28, 30, 33)" };
                assert!(drawing["ink"].is_null() || drawing["ink"] == ink, "{place}: {drawing}");
            }
            if least > 0 {
                assert_eq!(found["readout"], json!([false, found["readout"][2], found["readout"][2]]), "{place}");
                assert_eq!(found["png"], 880, "{place}");
            }
            if table {
                assert_sorts(&found);
            }
            if page.ends_with("tiny/report/report.html") {
                assert_chooses(&found, width);
            }
            if page.contains("heads") || page.starts_with("compared") {
                assert!(found["smooth"].as_u64().unwrap() >= 5, "{place}: {found}");
                assert_eq!(found["axes"], json!([["by step", false], ["by the clock", true]]), "{place}");
                assert_eq!(found["turned"], json!([true, false]), "{place}");
            }
        }
    }
    // What the looking is for: a page that does not fit, with an empty drawing that is black when it is copied, is seen as one.
    let text = fs::read_to_string(folder.join("runs/tiny/report/report.html")).unwrap();
    let hurt = folder.join("hurt.html");
    let black = "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 9 9\"><title>empty</title><rect class=\"bar\" width=\"9\" height=\"9\"/>\
                 <text x=\"8\" y=\"5\">beyond</text></svg>";
    let wide = format!("<figure>{black}</figure><p style=\"width: 600px\">wide</p><script>");
    fs::write(&hurt, text.replacen("<script>", &wide, 1).replace("id=\"set-1\"", "")).unwrap();
    let found = look(&browser, &hurt, 390, false, false);
    assert!(found["scroll"].as_u64().unwrap() > 390);
    assert_eq!(found["cut"], json!(["empty: beyond"]));
    assert_eq!(found["astray"], json!(["fables"]));
    let last = found["drawings"].as_array().unwrap().last().unwrap();
    assert!(last["copied"]["dark"].as_f64().unwrap() > 0.9 && last["copied"]["coloured"] == 0.0, "{last}");
}

/// The first column sorts both ways.
fn assert_sorts(found: &Value) {
    let column = |order: usize| -> Vec<f64> {
        found["sorted"][order].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
    };
    let (falling, rising) = (column(0), column(1));
    assert!(falling.len() > 10 && falling.is_sorted_by(|a, b| a >= b), "{falling:?}");
    assert!(rising.is_sorted() && rising != falling);
}

/// Columns and lines can be chosen, and what is shown is copied.
fn assert_chooses(found: &Value, width: u32) {
    let (table, number) = (&found["table"], |name: &str| found["table"][name].as_u64().unwrap());
    assert!(number("shown") < number("columns") && number("then") == number("shown") + 1, "{table}");
    assert_eq!(number("again"), number("shown"));
    assert!(width < 1280 || number("width") <= number("room"), "the main table fits: {table}");
    let csv: Vec<&str> = table["csv"].as_str().unwrap().lines().collect();
    let markdown: Vec<&str> = table["markdown"].as_str().unwrap().lines().collect();
    assert_eq!((markdown.len(), markdown[0].matches('|').count() as u64), (csv.len() + 1, number("shown") + 1));
    assert!(csv[0].starts_with("variant,block efficiency,95 % interval,gain") && csv[1].starts_with("bpd,"), "{csv:?}");
    assert!(markdown[1].starts_with("|---|---:|") && csv.iter().any(|line| line.contains("(best on dev)")));
    let chosen = &found["chosen"];
    let names = |of: &str| -> Vec<&str> { chosen[of].as_array().unwrap().iter().filter_map(Value::as_str).collect() };
    let (before, after) = (names("before"), names("after"));
    assert!(chosen["lines"].as_u64() > Some(8) && (before.len(), after.len()) == (8, 8), "{chosen}");
    assert!(chosen["locked"] == true && chosen["lockedAgain"] == false, "{chosen}");
    assert_eq!(after.iter().filter(|name| !before.contains(name)).count(), 1);
    assert!(before.contains(&"bpd") && before.contains(&"oracle"), "{before:?}");
}
