//! Sums, local searches and lattice networks against their definitions.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Tensor};

use super::host_tables::log_probabilities;
use super::scores::Sum;
use super::{
    BlockContext, Blocks, LatticeNetwork, Lava, LavaNetwork, Rescorer, Scores, Table, Transition, TransitionNetwork,
};
use crate::backbone::{Model, ModelConfig, Transformer};
use crate::config::{LanguageModelConfig, LatticeLoss, StorageType};
use crate::lattice::{Lattice, PathScorer, SlotScorer};
use crate::nn::{Init, from_host, indices, to_host};

const VOCABULARY: usize = 40;
const WIDTH: usize = 16;

fn model(seed: u64) -> Model {
    let size = LanguageModelConfig { hidden: WIDTH, layers: 1, heads: 2, kv_heads: 1, intermediate: 24, context: 64 };
    let config = ModelConfig::from_scratch(&size, VOCABULARY);
    let trained = Transformer::new(&config, &mut Init::seeded(seed, &Device::flex()));
    Model::freeze(&trained, StorageType::Float32).unwrap()
}

/// Four slots of three candidates behind a pinned one.
fn lattice(shift: u32) -> Lattice {
    let ids: Vec<u32> = (0..12).map(|at| (at * 7 + shift) % VOCABULARY as u32).collect();
    let scores: Vec<f32> = (0..12).map(|at| 2.0 - 0.7 * (at % 3) as f32 - 0.1 * (at / 3) as f32).collect();
    Lattice::pinned(shift % VOCABULARY as u32, 3, &ids, &scores).unwrap()
}

fn hidden(shift: usize) -> Vec<f32> {
    (0..WIDTH).map(|at| ((at * 3 + shift) as f32).sin()).collect()
}

/// Adds to every parameter, so that none is zero.
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

/// A block whose tokens are `path`, as networks read it.
fn block_of(model: &Model, lattice: &Lattice, path: &[u32], hidden: &[f32]) -> Blocks {
    let (slots, k) = (lattice.slots() - 1, 3);
    let ids: Vec<u32> = (1..=slots).flat_map(|slot| lattice.ids(slot).to_vec()).collect();
    let scores: Vec<f32> =
        (1..=slots).flat_map(|slot| lattice.scores(slot).iter().map(move |u| u - lattice.scores(slot)[0])).collect();
    let device = model.device();
    Blocks {
        hidden: super::lattice_training::unit_rows(from_host(hidden.to_vec(), [1, WIDTH], device)),
        before: super::lattice_training::unit_rows(model.embed(&path[..slots])),
        tokens: super::lattice_training::unit_rows(model.embed(&ids)),
        candidates: indices(0..ids.len(), device),
        head_scores: from_host(scores, [1, slots, k], device),
    }
}

/// What a network says of a block whose tokens are `path`, slot by slot: log-probabilities of the candidates.
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

fn assert_agrees(network: &impl LatticeNetwork, fitted: &dyn Rescorer, model: &Model) {
    for shift in 0..5 {
        let (lattice, hidden) = (lattice(shift), hidden(shift as usize));
        let context = BlockContext { start: 0, slots: lattice.slots(), lattice: &lattice, hidden: &hidden };
        let Scores::Table(table) = fitted.scores(&[], &context).unwrap() else { panic!("a table") };
        let (sum, _) = Sum::new(&lattice, vec![(1.0, Scores::Table(table))]);
        // Along every path the walk's scores are the network's.
        for choice in 0..81usize {
            let places = [0, choice % 3, choice / 3 % 3, choice / 9 % 3, choice / 27];
            let path: Vec<u32> = places.iter().enumerate().map(|(slot, &place)| lattice.ids(slot)[place]).collect();
            let expected = by_the_network(network, model, &lattice, &path, &hidden);
            let mut state = sum.extend(sum.start(), path[0]).1;
            for slot in 1..lattice.slots() {
                let mut found = Vec::new();
                sum.on(&lattice).extend(slot, state, lattice.width(slot), &mut found);
                for (found, expected) in found.iter().zip(&expected[slot - 1]) {
                    assert!((found.0 - expected).abs() < 1e-4, "slot {slot} of {path:?}: {} {expected}", found.0);
                }
                state = found[places[slot]].1;
            }
        }
    }
}

#[test]
fn fitted_lattice_networks_say_what_the_trained_ones_do() {
    let (model, device) = (model(3), Device::flex());
    let transition = TransitionNetwork::new(4, WIDTH, 5, &mut Init::seeded(1, &device));
    assert_agrees(&transition, &Transition::new(&transition, &model, LatticeLoss::CrossEntropy), &model);
    let shaken = transition.map(&mut Shake(0.0));
    assert_agrees(&shaken, &Transition::new(&shaken, &model, LatticeLoss::CrossEntropy), &model);
    let lava = LavaNetwork::new(4, WIDTH, 5, &mut Init::seeded(1, &device));
    assert_agrees(&lava, &Lava::new(&lava, &model), &model);
    let shaken = lava.map(&mut Shake(0.0));
    assert_agrees(&shaken, &Lava::new(&shaken, &model), &model);
}

/// A network trained as a random field, and what it drafts with: behind every candidate, its scores as they are.
#[test]
fn pairs_are_the_scores_behind_every_candidate() {
    let (model, lattice, hidden) = (model(3), lattice(2), hidden(1));
    let network = TransitionNetwork::new(4, WIDTH, 5, &mut Init::seeded(1, &Device::flex())).map(&mut Shake(0.0));
    let blocks = block_of(&model, &lattice, &lattice.top1(), &hidden);
    let pairs = to_host(network.pairs(&blocks).unwrap());
    let fitted = Transition::new(&network, &model, LatticeLoss::Crf);
    let context = BlockContext { start: 0, slots: lattice.slots(), lattice: &lattice, hidden: &hidden };
    let Scores::Table(table) = fitted.scores(&[], &context).unwrap() else { panic!("a table") };
    let (sum, _) = Sum::new(&lattice, vec![(1.0, Scores::Table(table))]);
    for slot in 2..5 {
        let mut shifts = Vec::new();
        for before in 0..3 {
            let mut path = lattice.top1();
            path[slot - 1] = lattice.ids(slot - 1)[before];
            let behind = to_host(network.scores(&block_of(&model, &lattice, &path, &hidden)));
            let mut state = sum.start();
            path[..slot].iter().for_each(|&token| state = sum.extend(state, token).1);
            for place in 0..3 {
                let pair = pairs[((slot - 2) * 3 + before) * 3 + place];
                let expected = behind[(slot - 1) * 3 + place];
                assert!((pair - expected).abs() < 1e-4, "slot {slot}, {place} behind {before}: {pair} {expected}");
                shifts.push(sum.extend(state, lattice.ids(slot)[place]).0 - f64::from(pair));
            }
        }
        assert!(shifts.iter().all(|shift| (shift - shifts[0]).abs() < 1e-4), "one shift a slot: {shifts:?}");
    }
}

#[test]
fn untrained_lattice_networks_give_the_head_scores() {
    let (model, lattice, hidden) = (model(3), lattice(2), hidden(1));
    let transition = TransitionNetwork::new(4, WIDTH, 5, &mut Init::seeded(1, &Device::flex()));
    let lava = LavaNetwork::new(4, WIDTH, 5, &mut Init::seeded(1, &Device::flex()));
    let path = lattice.top1();
    let heads: Vec<Vec<f64>> = (1..5).map(|slot| log_probabilities(lattice.scores(slot).iter().copied())).collect();
    for found in [
        by_the_network(&transition, &model, &lattice, &path, &hidden),
        by_the_network(&lava, &model, &lattice, &path, &hidden),
    ] {
        for (found, expected) in found.concat().iter().zip(heads.concat()) {
            assert!((found - expected).abs() < 1e-5, "{found} {expected}");
        }
    }
}

#[test]
fn a_sum_is_its_weighted_terms() {
    let lattice = lattice(4);
    let width = |slot: usize| lattice.width(slot);
    let alone = Table::new(&lattice, |slot| (0..width(slot)).map(|c| -0.5 * c as f64 - slot as f64).collect()).unwrap();
    let neighbours = |slot: usize| {
        let rows = if slot == 0 { 1 } else { width(slot - 1) };
        (0..rows * width(slot)).map(|at| -0.25 * (at % 5) as f64).collect()
    };
    let pairs = Table::new(&lattice, neighbours).unwrap();
    for order in [[0, 1], [1, 0]] {
        let terms = [(0.25, &alone), (0.75, &pairs)];
        let parts = order.map(|at| (terms[at].0, Scores::Table(terms[at].1.clone()))).into();
        let (sum, language) = Sum::new(&lattice, parts);
        assert!(language.is_none());
        let (mut state, mut before) = (sum.start(), 0);
        for slot in 0..lattice.slots() {
            let mut found = Vec::new();
            sum.on(&lattice).extend(slot, state, lattice.width(slot), &mut found);
            for (place, (score, _)) in found.iter().enumerate() {
                let (row, single) = (if slot == 0 { 0 } else { before }, -0.5 * place as f64 - slot as f64);
                let pair = -0.25 * ((row * width(slot) + place) % 5) as f64;
                assert_eq!(*score, 0.25 * single + 0.75 * pair, "slot {slot}, candidate {place}");
            }
            before = found.len() - 1;
            state = found[before].1;
        }
    }
}

#[test]
fn scores_that_are_not_numbers_are_refused_and_positive_ones_shifted() {
    let lattice = lattice(1);
    let error = Table::new(&lattice, |slot| vec![f64::NAN; lattice.width(slot)]).unwrap_err().to_string();
    assert!(error.contains("slot 0"), "{error}");
    assert!(Table::new(&lattice, |_| vec![0.0; 2]).is_err());
    let shifted = Table::new(&lattice, |slot| vec![3.0 + slot as f64; lattice.width(slot)]).unwrap();
    let nothing = Table::new(&lattice, |slot| vec![0.0; lattice.width(slot)]).unwrap();
    assert_eq!(shifted, nothing);
}
