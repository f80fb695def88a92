//! The written definition of every number, in one place.

use std::collections::BTreeMap;

/// One sentence for each name in the schema; every rendering prints these and words none of its own.
pub fn definitions() -> BTreeMap<String, String> {
    DEFINITIONS.iter().map(|&(name, sentence)| (name.to_owned(), sentence.to_owned())).collect()
}

const DEFINITIONS: &[(&str, &str)] = &[
    (
        "accept_rate_by_position",
        "For position j of the block: the blocks whose accepted length is at least j, divided by the blocks that had at \
         least j slots, where a block's slots end after block_size tokens, after the end-of-text token, and at the limits \
         of new tokens and of the context; 0 where no block had j slots.",
    ),
    (
        "accuracy",
        "For a head from 2 on: the positions whose token is the head's first choice, divided by its positions; null for head 1, whose first choice the greedy text is.",
    ),
    (
        "accuracy_top_k",
        "For a head from 2 on: the positions whose token is among the head's top_k, divided by its positions.",
    ),
    ("autoregressive_cost", "cost of decoding one token a call, without heads."),
    (
        "autoregressive_tokens_per_s",
        "Decoded tokens divided by wall-clock seconds, prefill included, when the same documents are decoded one token a \
         call on the same device, batch of them at a time.",
    ),
    (
        "backbone_calls",
        "Verification forwards of the backbone over the whole set, one for each block; the forward over a prompt is \
         counted apart, in prefill_calls.",
    ),
    (
        "backbone_flops_per_token",
        "2 x verified_tokens_per_call x (weights of the backbone's matrices, unembedding included + multiplications of attention behind 512 tokens), divided by block_efficiency.",
    ),
    (
        "batch",
        "Documents decoded side by side in the live check: block by block, one that waits takes the place of one that has \
         ended; token by token, the next batch begins when all of the one before have ended.",
    ),
    (
        "best_paths",
        "For each pbest- variant that was not switched off, its block_efficiency and verified_tokens_per_call on the evaluated split when its drafts are the p best paths under the settings that dev chose for the table's p (and plain bpd's draft besides, where drafting.include_top1 is on and p is above 1).",
    ),
    (
        "bin_accuracy",
        "Of a calibration bin's positions, the share at which the head's first choice is the text's token.",
    ),
    (
        "bin_positions",
        "The positions in a calibration bin: a tenth of the head's, or one more, by rising predicted probability.",
    ),
    (
        "block_efficiency",
        "Decoded tokens divided by backbone calls, both summed over the whole set (a ratio of sums); autoregressive \
         decoding has 1, and block_size is the most.",
    ),
    (
        "block_efficiency_without_loops",
        "block_efficiency over the documents that do not loop: those in whose text no n-gram of at most 16 tokens repeats three times or more in a row.",
    ),
    (
        "block_efficiency_document_mean",
        "The unweighted mean over documents of each document's decoded tokens divided by its backbone calls.",
    ),
    (
        "block_efficiency_dp",
        "The strict bound of the lattice: block efficiency when the accepted lengths, each at most the oracle's at its \
         position, are chosen so that the whole text needs the fewest calls.",
    ),
    ("block_size", "H: the tokens proposed at once, the first of them the backbone's own next token."),
    (
        "bpd_block_efficiency_without",
        "Block efficiency of plain bpd over the documents that do not loop; null when every document loops.",
    ),
    (
        "by_step",
        "block_efficiency and ci95 on the evaluated split with the heads of each checkpoint, for plain bpd, the oracle and every variant that reads the heads and runs no neural model, at the settings and with the rescorers of chosen_step.",
    ),
    (
        "candidates_seconds",
        "Wall-clock seconds in which the heads' candidates were computed from the stored hidden states at every position of the evaluated split, whenever that was; replay reads them from disk.",
    ),
    ("calls", "Verification forwards of the backbone for one document."),
    (
        "choice_share",
        "Of the slots behind the pinned one in the blocks drafted, the share that were left more than one candidate by top_k and the tuned gate.",
    ),
    ("chosen_step", "The training step of the heads that dev chose, which every other number is about."),
    (
        "ci95",
        "The 2.5 % and 97.5 % quantiles of block_efficiency under a bootstrap that resamples whole groups of documents.",
    ),
    (
        "conditional_accept_rate_by_position",
        "For position j of the block: the blocks whose accepted length is at least j, divided by those that had at least j slots and an accepted length of at least j - 1; 0 where there was none.",
    ),
    (
        "cost",
        "What one accepted token costs by shapes and measured counts, whatever the machine; prefills are left out.",
    ),
    (
        "coverage",
        "For each slot of the block, over all positions of dev at which one could begin: of those whose next tokens were \
         among the top_k candidates in every slot before, the share where it is so in this slot as well.",
    ),
    (
        "decoded_tokens",
        "New tokens emitted over the whole set, end-of-text included; prompt tokens, and drafted tokens after the end of \
         the text, are not counted.",
    ),
    ("dev_block_efficiency", "block_efficiency of the same variant on dev with the settings that test uses."),
    ("documents", "The documents counted: of the data set, of the looping ones, or of those decoded live."),
    ("drafts", "p: the drafts verified in one backbone call."),
    (
        "ece",
        "Expected calibration error: the mean over a head's positions of |bin_accuracy - predicted| of the position's bin.",
    ),
    (
        "efficiency_by_h_max",
        "The least-squares line of plain bpd's block_efficiency on h_max over the data sets; null of fewer than three sets, or where one of the two does not vary.",
    ),
    (
        "entropy",
        "The mean over a head's positions of -sum of p ln p, in nats, of its softmax over every token that it drafts from (the backbone's whole vocabulary for head 1).",
    ),
    (
        "entropy_histogram",
        "Entry i is the share of a head's positions whose entropy is at least i/2 nats and below (i+1)/2.",
    ),
    (
        "flops_per_token",
        "The sum of backbone_flops_per_token, head_flops_per_token and rescorer_flops_per_token; the search for drafts is left out.",
    ),
    (
        "h_max",
        "The largest i such that entropy rises strictly from head 2, the first that drafts, to head i; head 1, the frozen backbone, is left out, as heads trained on its greedy text can be surer than it is.",
    ),
    ("head", "The number of a head; head j predicts the token j places on, and head 1 is the backbone itself."),
    (
        "head_flops_per_token",
        "2 x (the heads' parameters + for every head without an unembedding of its own, width x tokens drafted from), divided by block_efficiency.",
    ),
    (
        "headroom_closed",
        "(block_efficiency - that of plain bpd) / (oracle - that of plain bpd), with the oracle of this top_k; null where the oracle gains nothing.",
    ),
    ("intercept", "The line's value at h_max 0."),
    (
        "kv_bytes_per_token",
        "Bytes of keys and values read in a call behind 128, 512, 1,024 and 2,048 tokens, divided by block_efficiency: the backbone's once, a neural rescorer's once a slot.",
    ),
    (
        "lattices_seconds",
        "Wall-clock seconds in which the stored candidates were read and the lattices of every position built, once for all variants.",
    ),
    (
        "lm_scale",
        "a: the weight of the rescorer, whose score a path receives as (1-a) times the head score plus a times the \
         rescorer's; chosen on dev only, null without a rescorer.",
    ),
    (
        "longest_run",
        "The mean, over the blocks that plain bpd visits, of the longest run of equal tokens in the variant's first draft, counted from 1.",
    ),
    (
        "looping",
        "A document loops when, in its decoded text, an n-gram of at most 16 tokens repeats three times or more in a row; \
         small models fall into loops, and loops are easy to draft.",
    ),
    (
        "losses",
        "Of the blocks that plain bpd visits, those where the variant's draft from the same start has a shorter accepted length.",
    ),
    (
        "lossless",
        "True when the variant emits the backbone's own greedy text (or samples its own distribution), whatever the draft \
         says.",
    ),
    (
        "mismatches",
        "Documents whose live blocks or text differ from replay at a step that is no near-tie, summed over variants; \
         anything but 0 is a bug.",
    ),
    (
        "near_ties",
        "Documents whose live decoding first differs from replay at a step where the closest decision has a margin under \
         the stated bound (1e-3 in float32), summed over variants; decoding then goes on from the trace's token.",
    ),
    (
        "near_ties_by_kind",
        "near_ties by the decision that was nearly tied: the verifier's first two tokens, the k-th candidate against the \
         next, the p-th path against the next, or the rescorer's argmax.",
    ),
    (
        "neural",
        "True where replay runs a language model, whose forwards are then part of replay_seconds; every other variant is replayed from stored lattices by table look-ups and a small network at most.",
    ),
    (
        "oracle",
        "Block efficiency when each step takes, from the lattice of every head's top_k candidates, the path with the \
         longest accepted prefix; over a whole text it need not be the best, which block_efficiency_dp is.",
    ),
    (
        "parameter_bytes",
        "Bytes of all parameters that are held: the backbone's matrices, the heads, and the rescorers that have a say (n-gram models and token tables whole).",
    ),
    (
        "parameter_bytes_per_token",
        "Bytes of weights read in a call, divided by block_efficiency: every matrix of backbone and heads once, a neural rescorer's once a slot; rows that are looked up (embeddings, n-grams, token tables) are left out.",
    ),
    ("paths", "p: the best paths that are verified together."),
    (
        "positions",
        "All places of the decoded texts at which a block could begin, whether one did or not, and whose block has a slot for the head (within max_new and the context) with a token of the text in it.",
    ),
    (
        "predicted",
        "The mean, over a calibration bin, of the probability that the head gives its first choice, by its softmax over every token that it drafts from.",
    ),
    ("prefill_calls", "Forwards over prompts, one for each document; not part of block_efficiency."),
    ("r", "Pearson's correlation of the two over the data sets."),
    (
        "relative_gain",
        "block_efficiency divided by that of plain bpd on the same documents, minus 1: 0.14 is 14 % more.",
    ),
    (
        "relative_gain_ci95",
        "The 2.5 % and 97.5 % quantiles of relative_gain under the bootstrap of ci95, variant and bpd resampled together.",
    ),
    (
        "repairs",
        "Of the wins, those where the first token that plain bpd had rejected equals the token before it in its draft, so that a repetition was repaired.",
    ),
    (
        "repetition",
        "Of all pairs of neighbouring tokens in the variant's first drafts at the starts that plain bpd visits, the share whose two tokens are equal.",
    ),
    (
        "replay_over_live",
        "replay_tokens_per_s divided by tokens_per_s of the same variant on the same machine: how many times faster replay is than decoding.",
    ),
    (
        "replay_seconds",
        "Wall-clock seconds in which the variant walked all documents of the evaluated split once, from lattices in memory and at its final settings, on all threads; candidates_seconds, lattices_seconds and the search on dev are not in it.",
    ),
    ("replay_tokens_per_s", "decoded_tokens divided by replay_seconds."),
    (
        "rescorer_flops_per_token",
        "Floating-point operations of the rescorers that have a say on one block, divided by block_efficiency; 0 for n-gram models, which look up.",
    ),
    ("sets", "The data sets that the line is fitted to."),
    (
        "lookup_confidence",
        "By the length of the longest suffix (1, 2, 3 to 4, 5 to 8, at least 9 tokens) that occurs earlier in the text, and by \
         slot: over all positions of dev at which a block could begin, of those whose copied tokens are right in every slot \
         before, the share where it is so in this slot as well, both counts begun with one right of two.",
    ),
    (
        "slot_temperatures",
        "For each slot of the block: the temperature, from 1/4 to 4, at which the softmax of the candidates' scores makes the \
         backbone's tokens on dev most likely, over the positions where these were among the top_k candidates in this slot \
         and in every slot before; 1 for the pinned slot.",
    ),
    ("step", "The optimizer steps that the heads of a checkpoint were trained for."),
    ("share", "Looping documents divided by all documents of the data set."),
    ("slope", "The line's rise in tokens per backbone call for each further head of h_max."),
    (
        "ties",
        "Of the blocks that plain bpd visits, those where the variant's draft from the same start has an equal accepted length.",
    ),
    ("tokens", "Decoded tokens of one document, end-of-text included."),
    (
        "tokens_per_s",
        "Decoded tokens of the documents decoded live, all together, divided by the wall-clock seconds from the first prompt \
         to the last token, prefill and drafting included; for a whole live check, over all its variants together.",
    ),
    ("timing", "Seconds and speeds, the only numbers that differ between two evaluations of the same inputs."),
    ("top_k", "k: the candidates kept per head in the lattice."),
    (
        "tuned",
        "The settings chosen on dev by name: lm_scale; decay, by whose power each later slot counts less; temperature, by which scores are divided before they become probabilities; slot_tempering, by whose power of slot_temperatures head scores are divided where paths are compared; lookup, by which lookup_confidence is multiplied, 0 where nothing is copied; top_k, the candidates per slot that are looked at; gate, the most that a candidate may be behind its slot's first, infinity where it is absent; and the shares of a sum's terms; empty where the variant did not beat plain bpd on dev and drafts as it does.",
    ),
    (
        "tuning",
        "Block efficiency on dev at each value tried in the last pass over every setting; test uses the highest.",
    ),
    ("value", "The value tried of the parameter named beside it, the others held still; null is infinity."),
    (
        "verified_tokens_per_call",
        "The mean number of draft nodes in a verification forward; a prefix that several drafts share in a tree counts \
         once.",
    ),
    ("verified_tokens_per_call_max", "The largest number of draft nodes in one verification forward."),
    (
        "wins",
        "Of the blocks that plain bpd visits, those where the variant's draft from the same start has a longer accepted length.",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture;
    use serde_json::Value;

    /// The names under `value` that lead to a number, a list of numbers or a truth value.
    fn numbers(value: &Value, into: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                for (name, field) in fields {
                    let plain = |v: &Value| v.is_number() || v.is_boolean();
                    if plain(field) || field.as_array().is_some_and(|a| !a.is_empty() && a.iter().all(plain)) {
                        into.push(name.clone());
                    } else if name != "near_ties_by_kind" && name != "tuned" {
                        numbers(field, into);
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| numbers(item, into)),
            _ => {}
        }
    }

    #[test]
    fn every_number_of_the_schema_has_a_definition() {
        let mut names = Vec::new();
        numbers(&serde_json::to_value(fixture::report().datasets).unwrap(), &mut names);
        assert!(names.len() > 40);
        let written = definitions();
        for name in names {
            assert!(written.contains_key(&name), "{name} has no definition");
        }
    }

    #[test]
    fn definitions_are_single_sentences_and_named_once() {
        assert_eq!(definitions().len(), DEFINITIONS.len());
        for (name, sentence) in DEFINITIONS {
            assert!(sentence.ends_with('.') && !sentence.contains("  "), "{name}: {sentence}");
        }
    }
}
