//! What a configuration says of the heads' loss is what is trained.

mod common;

use std::fs;

use common::{copy_folder, inputs, succeed, world};
use serde_json::Value;

/// The loss is linear in the weights, once they are scaled to a sum of 1: three lists that favour one head each have the
/// constant weights' loss as their mean, for all heads as for one drawn head.
#[test]
fn weights_say_how_much_each_head_counts() {
    let folder = inputs();
    copy_folder(&world().join("runs/tiny/traces"), &folder.path().join("runs/tiny/traces"));
    for loss in ["all", "one-random"] {
        // On the first batch, before any update.
        let first_loss = |weights: &str| {
            let sets = [
                format!("heads.loss={loss}"),
                format!("heads.loss_weights={weights}"),
                "heads.training.steps=1".into(),
            ];
            let sets = sets.iter().flat_map(|set| ["--set", set]);
            succeed(folder.path(), &["train-heads", "run.toml"].into_iter().chain(sets).collect::<Vec<_>>());
            let metrics = fs::read_to_string(folder.path().join("runs/tiny/heads/metrics.jsonl")).unwrap();
            let line: Value = serde_json::from_str(metrics.lines().next().unwrap()).unwrap();
            line["loss"].as_f64().unwrap()
        };
        let constant = first_loss("constant");
        let favoured = ["[2, 1, 1]", "[1, 2, 1]", "[1, 1, 2]"].map(first_loss);
        assert!(favoured.iter().all(|found| (found - constant).abs() > 1e-6), "{loss}: {favoured:?}, {constant}");
        let mean = favoured.iter().sum::<f64>() / 3.0;
        assert!((mean - constant).abs() < 1e-9, "{loss}: {favoured:?}, {constant}");
        assert!((first_loss("[10, 20, 10]") - favoured[1]).abs() < 1e-12, "only ratios count");
        assert!((first_loss("{decay=0.5}") - first_loss("[4, 2, 1]")).abs() < 1e-12);
    }
}
