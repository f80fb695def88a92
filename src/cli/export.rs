//! The commands `export` and `import`: heads in the checkpoint formats of other projects, both ways.

use std::path::Path;

use serde_json::json;

use super::args::{Common, ExportOptions, Format};
use super::{print, print_json};
use crate::backbone::{self, Backbone, Precision};
use crate::config::{self, Config, Overrides};
use crate::device;
use crate::drafting::LONGEST_SUFFIX;
use crate::error::{Error, Result, bail};
use crate::export;
use crate::files;
use crate::report;
use crate::stages::load_backbone;
use crate::storage_type::StorageType;
use crate::text::{Split, SplitFractions};

pub fn export(common: &Common, options: &ExportOptions) -> Result<()> {
    if let Some(folder) = &options.check {
        let (format, holds) = export::check(folder)?;
        return match common.format {
            Format::Json => print_json(&json!({"folder": folder, "format": format, "holds": holds})),
            Format::Table => print(&format!("{}: {format}, {holds}\n", folder.display())),
        };
    }
    let (Some(path), Some(to)) = (&options.heads, &options.to) else {
        unreachable!("they are required without --check")
    };
    let file = path.join("run.toml");
    let run = file.is_file().then(|| config::load(&file, &Overrides::default())).transpose()?;
    if to == "flags" {
        return print(&export::flags(run.map_or(8, |run| run.heads.block_size - 1), LONGEST_SUFFIX));
    }
    let Some(output) = &options.output else {
        bail!("--to {to}: a checkpoint needs a new folder. Give --output FOLDER.")
    };
    let dtype = dtype(&options.dtype)?;
    let device = device::open(common.device.as_deref().unwrap_or("auto").parse()?)?.device;
    let backbone = match (&options.backbone, &run) {
        (Some(model), _) => Backbone::load(&backbone::resolve(model)?, Precision::AS_STORED, &device)?,
        (None, Some(run)) => load_backbone(run, &device)?.0,
        (None, None) => bail!(
            "{}: it is no run, so its backbone is not known. Give --backbone MODEL, or the folder of the run.",
            path.display()
        ),
    };
    let heads = export::trained(path, &backbone)?;
    let report = path.join("report/report.json");
    let results = if report.is_file() {
        format!(
            "{}```\n{}```",
            run.as_ref().map_or_else(String::new, trained_on),
            report::table(&report::read(&report)?, None)
        )
    } else {
        "None are known: the heads were exported without the report of a run.".to_owned()
    };
    let (format, holds) = export::export(&heads, &backbone, (to, dtype), output, &results)?;
    match common.format {
        Format::Json => print_json(&json!({"folder": output, "format": format, "holds": holds})),
        Format::Table => print(&format!("{}: {format}, {holds}\n", output.display())),
    }
}

pub fn import(common: &Common, checkpoint: &str, model: &str, output: &Path) -> Result<()> {
    if output.exists() {
        bail!("{}: it exists already, and nothing is written over. Name a new folder.", output.display());
    }
    let device = device::open(common.device.as_deref().unwrap_or("auto").parse()?)?.device;
    let backbone = Backbone::load(&backbone::resolve(model)?, Precision::AS_STORED, &device)?;
    let heads = export::import(&backbone::resolve_draft(checkpoint)?, &backbone)?;
    let folder = files::StagedDir::new(output)?;
    heads.write(folder.path(), &backbone)?;
    folder.commit()?;
    let kind = heads.architecture.kind().name();
    match common.format {
        Format::Json => print_json(&json!({"folder": output, "kind": kind, "heads": heads.count})),
        Format::Table => print(&format!("{}: {} heads of kind \"{kind}\"\n", output.display(), heads.count)),
    }
}

/// Says what the heads of a run were trained on.
fn trained_on(run: &Config) -> String {
    let texts: Vec<String> = run.traces.train_text.iter().map(|text| json!(text).to_string()).collect();
    let trained = run.data.iter().filter(|(_, data)| SplitFractions::from(*data).share(Split::Train) > 0.0);
    let names: Vec<&str> = trained.map(|(name, _)| name.as_str()).collect();
    format!(
        "Trained on the backbone's traces ({}) of at most {} documents of each of {}; measured on documents that were left out.\n\n",
        texts.join(", "),
        run.traces.train_documents,
        names.join(", ")
    )
}

fn dtype(name: &str) -> Result<StorageType> {
    Ok(match name {
        "bf16" | "bfloat16" => StorageType::Bfloat16,
        "f16" | "float16" => StorageType::Float16,
        "f32" | "float32" => StorageType::Float32,
        other => return Err(Error::new(format!("--dtype {other}: take bf16, f16 or f32."))),
    })
}
