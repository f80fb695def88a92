//! Block efficiency in the course of the heads' training, by replay with every checkpoint.

use super::{Evaluation, Texts, Walked, groups, oracle, tally, walk};
use crate::error::{Result, bail};
use crate::evaluation::Tally;
use crate::evaluation::bootstrap::intervals;
use crate::files::StagedDir;
use crate::heads::{StoredCandidates, load_heads_at};
use crate::progress;
use crate::report::{BySteps, ORACLE, StepPoint};
use crate::stages::{CorpusTrace, HOW_TO_KEEP};
use crate::training::KeptCheckpoints;

impl Evaluation<'_> {
    /// Replays the test documents with the heads of every checkpoint: the ways of `walked` that read heads and run no language
    /// model, at the settings that were chosen for the best heads.
    pub(super) fn by_step(&self, test: &CorpusTrace, walked: &[Walked]) -> Result<BySteps> {
        let Evaluation { workspace, heads, .. } = self;
        let Some(KeptCheckpoints { best, weights }) = KeptCheckpoints::find(&heads.folder)? else {
            bail!("--all-checkpoints: {} has not every checkpoint: {HOW_TO_KEEP}", heads.folder.display());
        };
        let (config, backbone) = (&workspace.config, &workspace.backbone);
        let top_k = config.lattice.top_k;
        let replayed =
            walked.iter().filter(|walked| walked.way.variant.reads_heads() && !walked.is_neural(&heads.heads));
        let replayed: Vec<&Walked> = replayed.collect();
        let mut points = Vec::new();
        for (step, file) in weights {
            progress::stop_if_interrupted("evaluating")?;
            // As large as all candidates of the best heads, and needed once: the folder vanishes.
            let folder = StagedDir::new(&workspace.folder.join("report").join("candidates"))?;
            let title = format!("candidates {} at step {step}", test.name.replace('-', " "));
            let heads = load_heads_at(&heads.folder, &file, backbone)?;
            StoredCandidates::make(&test.trace, &heads, &backbone.model, top_k, folder.path(), &title)?;
            let stored = StoredCandidates::open(folder.path(), &test.trace)?;
            let texts = Texts::new(test, &stored, config)?;
            let groups = groups(&texts.texts);
            let mut add = |name: &str, tally: &Tally| -> Result<()> {
                let documents = &tally.documents;
                let bands = intervals(&groups, documents, documents, config.evaluation.bootstrap, config.seed)?;
                let (variant, block_efficiency) = (name.to_owned(), tally.block_efficiency());
                points.push(StepPoint { step: step as u64, variant, block_efficiency, ci95: bands.ratio });
                Ok(())
            };
            for Walked { way, found } in &replayed {
                add(
                    &way.variant.to_string(),
                    &tally(&walk(&texts, way.variant.stop, &*way.drafter(&found.settings))?),
                )?;
            }
            add(ORACLE, &oracle(&texts.texts, top_k).1)?;
            let plain = &points[points.len() - replayed.len() - 1];
            let efficiency = plain.block_efficiency;
            progress::say(format!("evaluate {} at step {step}: {} {efficiency:.3}", test.corpus, plain.variant));
        }
        Ok(BySteps { chosen_step: best as u64, points })
    }
}
