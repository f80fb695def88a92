//! Tests that compare the fitted networks, which draft, with the networks that are trained.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Tensor};

use super::super::testing::{VOCABULARY, WIDTH, hidden, lattice, model};
use super::super::{
    BlockContext, Correlation, CorrelationConfig, CorrelationNetwork, GateState, GlobalScoring, Lava, LavaConfig,
    LavaNetwork, PrefixToken, Rescorer, Transition, TransitionConfig,
};
use super::{Blocks, LatticeKind, LatticeLoss, LatticeNetwork, LatticeShape, log_probabilities, unit_tokens};
use crate::backbone::Model;
use crate::lattice::Lattice;
use crate::nn::{Init, TokenVectors, TransitionNetwork, from_host, indices, to_host, unit_rows};

/// Changes every parameter by a different amount, so that none is zero.
struct Shake(f32);

impl ModuleMapper for Shake {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|tensor| {
            let (shape, device) = (tensor.dims(), tensor.device());
            let shaken = |x: f32| {
                self.0 += 1.0;
                x + 0.3 * self.0.sin()
            };
            from_host(to_host(tensor).into_iter().map(shaken).collect(), shape, &device)
        })
    }
}

/// Returns the heads' states in four slots, `[4, WIDTH]`.
fn states() -> Vec<f32> {
    (3..7).flat_map(|slot| hidden(7 * slot)).collect()
}

const SHAPE: LatticeShape = LatticeShape { slots: 4, width: WIDTH, vocabulary: VOCABULARY };

/// Returns an untrained network of every sort of transitions.
fn transitions() -> Vec<TransitionNetwork> {
    let mut networks = Vec::new();
    for state in [GateState::Backbone, GateState::Slots] {
        for tokens in [TokenVectors::Embeddings, TokenVectors::Codebooks] {
            let config = TransitionConfig { rank: 5, state, tokens, ..TransitionConfig::default() };
            networks.push(config.network(SHAPE, &mut Init::seeded(1, &Device::flex())));
        }
    }
    networks
}

fn correlation() -> CorrelationNetwork {
    let config = CorrelationConfig { hidden: 8, heads: 2, rank: 5, ..CorrelationConfig::default() };
    config.network(SHAPE, &mut Init::seeded(1, &Device::flex()))
}

fn lava() -> LavaNetwork {
    LavaConfig { rank: 5, ..LavaConfig::default() }.network(SHAPE, &mut Init::seeded(1, &Device::flex()))
}

/// Returns a block whose true tokens are `path`, as the networks read it.
fn block_of(model: &Model, lattice: &Lattice, path: &[u32], hidden: &[f32]) -> Blocks {
    let (slots, k) = (lattice.slots() - 1, 3);
    let ids: Vec<u32> = (1..=slots).flat_map(|slot| lattice.ids(slot).to_vec()).collect();
    let scores: Vec<f32> =
        (1..=slots).flat_map(|slot| lattice.scores(slot).iter().map(move |u| u - lattice.scores(slot)[0])).collect();
    let device = model.device();
    Blocks {
        hidden: unit_rows(from_host(hidden.to_vec(), [1, WIDTH], device)),
        states: Some(unit_rows(from_host(states(), [slots, WIDTH], device))),
        before: unit_tokens(&path[..slots], model),
        tokens: unit_tokens(&ids, model),
        candidates: indices(0..ids.len(), device),
        head_scores: from_host(scores, [1, slots, k], device),
    }
}

/// Returns the log-probabilities that a network gives to the candidates of each slot, in a block whose true tokens are
/// `path`.
fn by_the_network(
    network: &impl LatticeNetwork,
    model: &Model,
    lattice: &Lattice,
    path: &[u32],
    hidden: &[f32],
) -> Vec<Vec<f64>> {
    to_host(network.scores(&block_of(model, lattice, path, hidden)))
        .chunks(3)
        .map(|row| log_probabilities(row.iter().copied()))
        .collect()
}

fn assert_agrees(network: &impl LatticeNetwork, fitted: &dyn GlobalScoring, model: &Model) {
    for shift in 0..5 {
        let (lattice, hidden) = (lattice(shift), hidden(shift as usize));
        let context = BlockContext { hidden: &hidden, states: &states(), ..BlockContext::new(0, &lattice) };
        let mut scores = fitted.scores(&[], &context).unwrap();
        // On every path, the fitted rescorer's scores are the network's.
        for choice in 0..81usize {
            let places = [0, choice % 3, choice / 3 % 3, choice / 9 % 3, choice / 27];
            let path: Vec<u32> = places.iter().enumerate().map(|(slot, &place)| lattice.ids(slot)[place]).collect();
            let expected = by_the_network(network, model, &lattice, &path, &hidden);
            let mut state = scores.start();
            for slot in 0..lattice.slots() {
                let mut found = Vec::new();
                scores.extend(slot, state, lattice.width(slot), &mut found);
                for (found, expected) in found.iter().zip(slot.checked_sub(1).map_or(&[][..], |at| &expected[at])) {
                    assert!((found.0 - expected).abs() < 1e-4, "slot {slot} of {path:?}: {} {expected}", found.0);
                }
                state = found[places[slot]].1;
            }
        }
    }
}

#[test]
fn fitted_lattice_networks_say_what_the_trained_ones_do() {
    let model = model(3);
    for transition in transitions() {
        assert_agrees(&transition, &Transition::new(&transition, &model, LatticeLoss::CrossEntropy), &model);
        let shaken = transition.map(&mut Shake(0.0));
        assert_agrees(&shaken, &Transition::new(&shaken, &model, LatticeLoss::CrossEntropy), &model);
    }
    let correlation = correlation();
    assert_agrees(&correlation, &Correlation::new(&correlation, &model, LatticeLoss::CrossEntropy), &model);
    let shaken = correlation.map(&mut Shake(0.0));
    assert_agrees(&shaken, &Correlation::new(&shaken, &model, LatticeLoss::CrossEntropy), &model);
    let lava = lava();
    assert_agrees(&lava, &Lava::new(&lava, &model), &model);
    let shaken = lava.map(&mut Shake(0.0));
    assert_agrees(&shaken, &Lava::new(&shaken, &model), &model);
}

/// Behind a path of candidates, a reader says what the lattice's scores say there.
#[test]
fn behind_a_path_the_scores_are_those_in_the_lattice() {
    let (model, lattice, hidden) = (model(3), lattice(2), hidden(1));
    let network = transitions().remove(0).map(&mut Shake(0.0));
    for loss in [LatticeLoss::CrossEntropy, LatticeLoss::Crf] {
        let fitted = Transition::new(&network, &model, loss);
        let mut reader = fitted.reader().unwrap();
        reader.read(&[], 0).unwrap();
        reader.hear(&hidden);
        let context = BlockContext { hidden: &hidden, states: &states(), ..BlockContext::new(0, &lattice) };
        let mut scores = fitted.scores(&[], &context).unwrap();
        for slot in 1..lattice.slots() {
            let newest = lattice.ids(slot - 1).iter().map(|&token| PrefixToken {
                token,
                after: None,
                slot,
                candidates: lattice.ids(slot),
                scores: lattice.scores(slot),
            });
            let found = reader.extend(&newest.collect::<Vec<_>>(), true).unwrap();
            let mut shifts = Vec::new();
            for (place, found) in found.iter().enumerate() {
                let mut in_lattice = Vec::new();
                scores.extend(slot, place as u32, lattice.width(slot), &mut in_lattice);
                shifts.extend(found.iter().zip(&in_lattice).map(|(found, (in_lattice, _))| found - in_lattice));
            }
            assert!(shifts.iter().all(|shift| (shift - shifts[0]).abs() < 1e-12), "one shift a slot: {shifts:?}");
            assert!(shifts[0] == 0.0 || loss == LatticeLoss::Crf);
        }
    }
}

/// Checks `pairs` of a network that is trained as a random field. They are its scores after every candidate, and the
/// fitted rescorer's scores differ from them only by a constant per slot.
#[test]
fn pairs_are_the_scores_behind_every_candidate() {
    let (model, lattice, hidden) = (model(3), lattice(2), hidden(1));
    for network in transitions() {
        let network = network.map(&mut Shake(0.0));
        let blocks = block_of(&model, &lattice, &lattice.top1(), &hidden);
        let pairs = to_host(network.pairs(&blocks).unwrap());
        let fitted = Transition::new(&network, &model, LatticeLoss::Crf);
        let context = BlockContext { hidden: &hidden, states: &states(), ..BlockContext::new(0, &lattice) };
        let mut scores = fitted.scores(&[], &context).unwrap();
        for slot in 2..5 {
            let mut shifts = Vec::new();
            for before in 0..3 {
                let mut path = lattice.top1();
                path[slot - 1] = lattice.ids(slot - 1)[before];
                let behind = to_host(network.scores(&block_of(&model, &lattice, &path, &hidden)));
                let mut found = vec![(0.0, scores.start())];
                for at in 0..=slot {
                    let state = if at == slot { found[before].1 } else { found[0].1 };
                    found.clear();
                    scores.extend(at, state, lattice.width(at), &mut found);
                }
                for place in 0..3 {
                    let pair = pairs[((slot - 2) * 3 + before) * 3 + place];
                    let expected = behind[(slot - 1) * 3 + place];
                    assert!((pair - expected).abs() < 1e-4, "slot {slot}, {place} behind {before}: {pair} {expected}");
                    shifts.push(found[place].0 - f64::from(pair));
                }
            }
            assert!(shifts.iter().all(|shift| (shift - shifts[0]).abs() < 1e-4), "one shift a slot: {shifts:?}");
        }
    }
}

#[test]
fn untrained_lattice_networks_give_the_head_scores() {
    let (model, lattice, hidden) = (model(3), lattice(2), hidden(1));
    let path = lattice.top1();
    let heads: Vec<Vec<f64>> = (1..5).map(|slot| log_probabilities(lattice.scores(slot).iter().copied())).collect();
    let mut all: Vec<Vec<Vec<f64>>> =
        transitions().iter().map(|network| by_the_network(network, &model, &lattice, &path, &hidden)).collect();
    all.push(by_the_network(&correlation(), &model, &lattice, &path, &hidden));
    all.push(by_the_network(&lava(), &model, &lattice, &path, &hidden));
    for found in all {
        for (found, expected) in found.concat().iter().zip(heads.concat()) {
            assert!((found - expected).abs() < 1e-5, "{found} {expected}");
        }
    }
}
