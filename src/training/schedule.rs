//! The learning rate of every step.

use super::OptimizationConfig;

/// One phase of a training.
#[derive(Debug, Clone, PartialEq)]
pub struct SchedulePhase {
    /// The number of steps.
    pub steps: usize,
    /// The highest learning rate.
    pub learning_rate: f64,
    /// The number of steps of linear warm-up.
    pub warmup_steps: usize,
}

/// Phases one after the other. Each is a linear warm-up followed by a cosine from its highest to its final rate
/// (Loshchilov and Hutter 2017).
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    phases: Vec<SchedulePhase>,
    /// The last rate of a phase, as a share of its highest.
    final_rate: f64,
}

impl Schedule {
    /// Makes a schedule of one phase.
    pub fn new(options: &OptimizationConfig) -> Self {
        let &OptimizationConfig { steps, learning_rate, warmup_steps, .. } = options;
        Self::of_phases(vec![SchedulePhase { steps, learning_rate, warmup_steps }], options.final_rate)
    }

    /// Makes a schedule of several phases, at least one.
    ///
    /// # Panics
    /// When there are no phases.
    pub fn of_phases(phases: Vec<SchedulePhase>, final_rate: f64) -> Self {
        assert!(!phases.is_empty());
        Self { phases, final_rate }
    }

    /// Returns the index of the phase of step `step` (from 0), and the step within it. The last phase never ends.
    pub fn phase(&self, step: usize) -> (usize, usize) {
        let mut within = step;
        for (index, phase) in self.phases.iter().enumerate() {
            if within < phase.steps || index + 1 == self.phases.len() {
                return (index, within);
            }
            within -= phase.steps;
        }
        unreachable!("the last phase takes every step")
    }

    /// Returns the learning rate of step `step` (from 0).
    pub fn rate(&self, step: usize) -> f64 {
        let (index, step) = self.phase(step);
        let SchedulePhase { steps, learning_rate, warmup_steps } = self.phases[index];
        if step < warmup_steps {
            return learning_rate * (step + 1) as f64 / warmup_steps as f64;
        }
        let span = steps.saturating_sub(warmup_steps).max(1);
        let done = (step - warmup_steps) as f64 / span as f64;
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * done.min(1.0)).cos());
        learning_rate * (self.final_rate + (1.0 - self.final_rate) * cosine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phase(steps: usize, learning_rate: f64, warmup_steps: usize) -> SchedulePhase {
        SchedulePhase { steps, learning_rate, warmup_steps }
    }

    #[test]
    fn the_rate_rises_then_falls_to_its_floor() {
        let schedule = Schedule::of_phases(vec![phase(110, 1.0, 10)], 0.2);
        for (step, expected) in [(0, 0.1), (9, 1.0), (60, 0.6), (110, 0.2)] {
            assert!((schedule.rate(step) - expected).abs() < 1e-12, "{step}");
        }
    }

    #[test]
    fn every_phase_has_a_rise_and_a_fall_of_its_own() {
        let schedule = Schedule::of_phases(vec![phase(110, 1.0, 10), phase(20, 0.5, 0)], 0.2);
        assert_eq!((schedule.phase(109), schedule.phase(110), schedule.phase(200)), ((0, 109), (1, 0), (1, 90)));
        for (step, expected) in [(60, 0.6), (110, 0.5), (120, 0.3), (130, 0.1)] {
            assert!((schedule.rate(step) - expected).abs() < 1e-12, "{step}");
        }
    }
}
