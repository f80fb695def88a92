//! The pages in a real browser. `DRAFTSMITH_BROWSER`, else a chromium or Chrome on the path; without one this test says that it
//! did nothing.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::common::{GRID, finished, skipped, succeed};
use assert_cmd::Command;
use serde_json::Value;

/// Looks at a page in a frame of a given width: what the page is like, as JSON in the outer document.
const LOOK: &str = r#"<!doctype html><meta charset="utf-8"><pre id="found"></pre>
<iframe id="frame" width="WIDTH" height="4000" style="border:0"></iframe>
<script>
const page = PAGE, frame = document.getElementById("frame");
frame.onload = () => {
  const inner = frame.contentDocument, view = frame.contentWindow, wide = inner.documentElement.clientWidth;
  const found = {wide, scroll: inner.documentElement.scrollWidth, drawings: [], cut: [], sorted: null};
  for (const svg of inner.querySelectorAll("svg")) {
    const outer = svg.getBoundingClientRect();
    const shapes = [...svg.querySelectorAll("rect, polyline, path, circle")].filter(s => {
      const box = s.getBoundingClientRect();
      return box.width > 0 && box.height > 0;
    });
    const title = svg.querySelector("title").textContent;
    found.drawings.push({title, shapes: shapes.length, width: outer.width, height: outer.height});
    for (const text of svg.querySelectorAll("text")) {
      const box = text.getBoundingClientRect();
      if (box.left < outer.left - 1 || box.right > outer.right + 1 || box.top < outer.top - 1 || box.bottom > outer.bottom + 1)
        found.cut.push(title + ": " + text.textContent);
    }
  }
  for (const element of inner.querySelectorAll("h1, h2, h3, p, figcaption, dt, dd, li, summary")) {
    if (element.offsetParent && element.scrollWidth > element.clientWidth + 1 && view.getComputedStyle(element).display !== "inline")
      found.cut.push(element.tagName + ": " + element.textContent.slice(0, 60));
  }
  const table = inner.querySelector("table");
  if (table && SORT) {
    const column = () => [...table.tBodies[0].rows].map(row => Number.parseFloat(row.cells[1].dataset.order ?? row.cells[1].textContent));
    table.tHead.rows[0].cells[1].click();
    const falling = column();
    table.tHead.rows[0].cells[1].click();
    found.sorted = [falling, column()];
  }
  document.getElementById("found").textContent = JSON.stringify(found);
};
frame.srcdoc = page;
</script>"#;

fn browser() -> Option<String> {
    let named = std::env::var("DRAFTSMITH_BROWSER").ok();
    let known = ["chromium", "chromium-browser", "google-chrome"].map(str::to_owned);
    named.into_iter().chain(known).find(|name| Command::new(name).arg("--version").output().is_ok())
}

/// What a page is like at a width, in pixels.
fn look(browser: &str, page: &Path, width: u32, sort: bool) -> Value {
    let folder = tempfile::tempdir().unwrap();
    // A script inside a script's text must not end it.
    let text = serde_json::to_string(&fs::read_to_string(page).unwrap()).unwrap().replace("</", "<\\/");
    let frame = LOOK.replace("WIDTH", &width.to_string()).replace("SORT", &sort.to_string()).replace("PAGE", &text);
    let outer = folder.path().join("look.html");
    fs::write(&outer, frame).unwrap();
    let profile = format!("--user-data-dir={}", folder.path().join("profile").display());
    let output = Command::new(browser)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--window-size=1400,1000",
            "--virtual-time-budget=5000",
        ])
        .args([&profile, "--dump-dom", &format!("file://{}", outer.display())])
        .timeout(Duration::from_secs(120))
        .output()
        .unwrap();
    let dom = String::from_utf8_lossy(&output.stdout);
    let found = dom.split("<pre id=\"found\">").nth(1).and_then(|rest| rest.split("</pre>").next()).unwrap_or_default();
    let found = found.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    serde_json::from_str(&found).unwrap_or_else(|e| panic!("{e}: {found}\n{}", String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn pages_fit_wide_and_narrow_windows() {
    let Some(browser) = browser() else { return skipped("there is no chromium") };
    let finished = finished();
    let folder = finished.path();
    let sets = ["name=steps", "heads.keep_checkpoints=true", "lattice.top_k=4"];
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    succeed(folder, &[&["evaluate", "run.toml", "--all-checkpoints"], &sets[..]].concat());
    succeed(folder, &["report", "runs/tiny", "runs/steps", "--output", "compared"]);
    fs::write(folder.join("grid.toml"), GRID).unwrap();
    succeed(folder, &["ablate", "grid.toml"]);
    for (page, sort, least) in [
        ("runs/tiny/report/report.html", true, 11),
        ("runs/steps/report/report.html", true, 12),
        ("runs/tiny/heads/report.html", false, 5),
        ("compared/comparison.html", true, 2),
        ("runs/grid/report/ablation.html", false, 2),
    ] {
        for width in [1280, 390] {
            let found = look(&browser, &folder.join(page), width, sort);
            assert_eq!(found["wide"], width, "{page}");
            assert_eq!(found["scroll"], width, "{page} at {width} is wider than its window");
            assert_eq!(found["cut"], serde_json::json!([]), "{page} at {width}");
            let drawings = found["drawings"].as_array().unwrap();
            assert!(drawings.len() >= least, "{page}: {}", drawings.len());
            for drawing in drawings {
                let size = |name: &str| drawing[name].as_f64().unwrap();
                assert!(size("shapes") >= 1.0 && size("width") > 150.0 && size("height") > 50.0, "{page}: {drawing}");
            }
            if !sort {
                continue;
            }
            let column = |order: usize| -> Vec<f64> {
                found["sorted"][order].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
            };
            let (falling, rising) = (column(0), column(1));
            assert!(falling.len() > 10 && falling.is_sorted_by(|a, b| a >= b), "{falling:?}");
            assert!(rising.is_sorted() && rising != falling);
        }
    }
    // What the looking is for: a page that does not fit, with an empty drawing, is seen as one.
    let text = fs::read_to_string(folder.join("runs/tiny/report/report.html")).unwrap();
    let empty = "<svg viewBox=\"0 0 9 9\"><title>empty</title><text x=\"8\" y=\"5\">beyond</text></svg>";
    let hurt = folder.join("hurt.html");
    fs::write(&hurt, text.replace("</main>", &format!("{empty}<p style=\"width: 600px\">wide</p></main>"))).unwrap();
    let found = look(&browser, &hurt, 390, false);
    assert!(found["scroll"].as_u64().unwrap() > 390);
    assert_eq!(found["cut"], serde_json::json!(["empty: beyond"]));
    assert_eq!(found["drawings"].as_array().unwrap().last().unwrap()["shapes"], 0);
}
