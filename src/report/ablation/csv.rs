//! Renders `ablation.csv`, which has a line for every cell, data set and variant.

use super::model::{Ablated, Measured};

/// Renders an ablation as CSV with a heading. Numbers have all their digits, and missing ones are empty.
pub fn csv(report: &Ablated) -> String {
    let axes = report.axes.iter().map(|axis| axis.key.as_str());
    let numbers = [
        "drafts",
        "block_efficiency",
        "ci95_low",
        "ci95_high",
        "block_efficiency_document_mean",
        "relative_gain",
        "dev_block_efficiency",
        "verified_tokens_per_call",
        "verified_tokens_per_call_max",
    ];
    let heading: Vec<&str> = ["dataset"].into_iter().chain(axes).chain(["key", "variant"]).chain(numbers).collect();
    let mut text = line(heading.iter().map(|name| (*name).to_owned()));
    for cell in &report.cells {
        for set in &cell.datasets {
            for variant in &set.variants {
                let place = [set.name.clone()].into_iter().chain(cell.values.iter().cloned());
                let name = [cell.key[..12].to_owned(), variant.variant.clone()];
                text += &line(place.chain(name).chain(fields(variant)));
            }
        }
    }
    text
}

fn fields(variant: &Measured) -> [String; 9] {
    [
        variant.drafts.to_string(),
        variant.block_efficiency.to_string(),
        variant.ci95[0].to_string(),
        variant.ci95[1].to_string(),
        variant.block_efficiency_document_mean.to_string(),
        variant.relative_gain.to_string(),
        variant.dev_block_efficiency.map_or_else(String::new, |value| value.to_string()),
        variant.verified_tokens_per_call.to_string(),
        variant.verified_tokens_per_call_max.to_string(),
    ]
}

fn line(fields: impl Iterator<Item = String>) -> String {
    let quoted = fields.map(|field| {
        if field.contains([',', '"', '\n', '\r']) { format!("\"{}\"", field.replace('"', "\"\"")) } else { field }
    });
    quoted.collect::<Vec<_>>().join(",") + "\n"
}

#[cfg(test)]
mod tests {
    #[test]
    fn fields_that_need_it_are_quoted() {
        let fields = ["a", "b,c", "say \"x\""].map(str::to_owned);
        assert_eq!(super::line(fields.into_iter()), "a,\"b,c\",\"say \"\"x\"\"\"\n");
    }
}
