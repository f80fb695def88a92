//! Collects the reports of the cells.

use std::collections::BTreeMap;

use serde_json::json;

use super::Ablation;
use crate::error::Result;
use crate::evaluation::analyses::VariantRow;
use crate::report::ablation::{Ablated, AblatedCell, CellState, Measured, MeasuredSet};
use crate::report::read;

/// Collects the results of the finished cells. They depend on the cells' reports alone, not on the order, the number of
/// jobs, the machines or interruptions.
pub fn collect(ablation: &Ablation) -> Result<Ablated> {
    let grid = &ablation.grid;
    let mut cells: Vec<Option<AblatedCell>> = grid.cells.iter().map(|_| None).collect();
    for run in &ablation.runs {
        let done = run.folder.join("report/stage.json").exists();
        let report = done.then(|| read(&run.folder.join("report/report.json"))).transpose()?;
        let failure = run.failure().filter(|_| !done);
        let state = match (&report, &failure) {
            (Some(_), _) => CellState::Done,
            (None, Some(_)) => CellState::Failed,
            (None, None) => CellState::Missing,
        };
        for &number in &run.cells {
            let sets = report.iter().flat_map(|report| &report.datasets).map(|set| {
                let variants = set.rows::<VariantRow>()?.into_iter().map(Measured::from).collect();
                Ok(MeasuredSet { name: set.name.clone(), variants })
            });
            cells[number] = Some(AblatedCell {
                values: grid.cells[number].values.clone(),
                key: run.key.clone(),
                state,
                error: failure.as_ref().map(|failure| failure.error.clone()),
                datasets: sets.collect::<Result<_>>()?,
            });
        }
    }
    let axes = grid.axes.iter().enumerate().map(|(place, key)| {
        let mut values: Vec<String> = Vec::new();
        for cell in &grid.cells {
            if !values.contains(&cell.values[place]) {
                values.push(cell.values[place].clone());
            }
        }
        (key.clone(), values)
    });
    let provenance = BTreeMap::from([
        ("configuration".to_owned(), json!(ablation.config.to_toml())),
        ("version".to_owned(), json!(env!("CARGO_PKG_VERSION"))),
    ]);
    let cells = cells.into_iter().map(|cell| cell.expect("every cell is a run's")).collect();
    Ok(Ablated::new(ablation.config.name.clone(), axes.collect(), cells, provenance))
}
