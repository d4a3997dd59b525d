//! What two models have in common: the stages at the bottom that are the same in both.

use super::checkpoint::Stored;
use super::tensors::{NamedTensor, Place, Weights};
use super::{CtcModel, Input};
use crate::engine::Backend;

/// Quantised values are products of two roundings in f32, which the step's half must leave room for.
const SLACK: f32 = 1.0 + 1e-4;

/// Why two models share no layer.
#[derive(Debug, Clone, PartialEq)]
pub enum Apart {
    /// They hear different things.
    Input([Input; 2]),
    /// Their attention is cut into different numbers of heads.
    Heads([usize; 2]),
    /// One of them has no such tensor, or has it in another shape.
    Shape {
        /// Its name behind the encoder's.
        tensor: String,
        /// Empty where there is none.
        shapes: [Vec<usize>; 2],
    },
    /// Its values differ by more than the way they are stored explains.
    Values {
        /// Its name behind the encoder's.
        tensor: String,
        /// The largest difference.
        difference: f32,
    },
}

impl std::fmt::Display for Apart {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let hears = |input: &Input| match input {
            Input::LogMel { bands } => format!("{bands} log-mel bands"),
            Input::Waveform { .. } => "the waveform".to_string(),
        };
        match self {
            Self::Input([first, second]) => write!(out, "one hears {}, the other {}", hears(first), hears(second)),
            Self::Heads([first, second]) => write!(out, "one has {first} attention heads, the other {second}"),
            Self::Shape { tensor, shapes } => match shapes.iter().any(Vec::is_empty) {
                true => write!(out, "only one of them has a tensor `{tensor}`"),
                false => write!(
                    out,
                    "`{tensor}` is {:?} in one and {:?} in the other",
                    shapes[0], shapes[1]
                ),
            },
            Self::Values { tensor, difference } => {
                write!(
                    out,
                    "`{tensor}` differs by up to {difference:.1e}, more than rounding explains"
                )
            }
        }
    }
}

/// How many of the lowest encoder layers, and all that is below them, are the same in two models; a norm above the last
/// layer counts as one more. An error, with the first difference, where not even one is.
///
/// Values are the same where both can be roundings of one number: bit by bit where both are stored alike, else within
/// the sum of both roundings. That is 2^-11 of a value stored in f16 (2^-25 at least), 2^-9 of one in bf16, and of one in
/// 8 bits half a step, 1/254 of its row's largest.
pub fn shared_layers<B: Backend>(backend: &B, first: &CtcModel<B>, second: &CtcModel<B>) -> Result<usize, Apart> {
    let inputs = [first.input(), second.input()];
    let is_log_mel = matches!(inputs[0], Input::LogMel { .. });
    if inputs[0] != inputs[1] || !is_log_mel {
        return Err(Apart::Input(inputs));
    }
    let heads = [first, second].map(|model| model.config().transformer.heads);
    if heads[0] != heads[1] {
        return Err(Apart::Heads(heads));
    }
    let encoders = [first, second].map(|model| Encoder {
        weights: model.weights(),
        prefix: model.config().names().encoder,
    });
    let layers = encoders
        .iter()
        .map(|encoder| encoder.weights.layers())
        .min()
        .unwrap_or(0);
    encoders[0].compare(&encoders[1], backend, |place| !matches!(place, Place::Layer(_)))?;
    for layer in 0..=layers {
        match encoders[0].compare(&encoders[1], backend, |place| place == Place::Layer(layer)) {
            Ok(()) => {}
            Err(apart) if layer == 0 => return Err(apart),
            Err(_) => return Ok(layer),
        }
    }
    Ok(layers + 1)
}

struct Encoder<'a, B: Backend> {
    weights: &'a Weights<B>,
    prefix: String,
}

impl<B: Backend> Encoder<'_, B> {
    /// The encoder's tensors in some places, by their names behind the encoder's.
    fn tensors(&self, of: impl Fn(Place) -> bool) -> Vec<(&str, &NamedTensor)> {
        let tensors = self.weights.tensors().iter();
        let encoder = tensors.filter(|tensor| !matches!(tensor.place, Place::Head | Place::Decoder(_)));
        let chosen = encoder.filter(|tensor| of(tensor.place));
        chosen
            .map(|tensor| (tensor.name.strip_prefix(&self.prefix).unwrap_or(&tensor.name), tensor))
            .collect()
    }

    fn values(&self, backend: &B, tensor: &NamedTensor) -> Vec<f32> {
        let mut operand = vec![0.0; self.weights.operand_len(tensor.operand)];
        backend.download(self.weights.value(backend, tensor.operand), &mut operand);
        operand[tensor.range.clone()].to_vec()
    }

    fn compare(&self, other: &Self, backend: &B, of: impl Fn(Place) -> bool) -> Result<(), Apart> {
        let (ours, theirs) = (self.tensors(&of), other.tensors(&of));
        let lonely = |these: &[(&str, &NamedTensor)], those: &[(&str, &NamedTensor)]| {
            let mut these = these.iter();
            these
                .find(|(name, _)| those.iter().all(|(other, _)| name != other))
                .map(|(name, _)| name.to_string())
        };
        if let Some(tensor) = lonely(&ours, &theirs).or_else(|| lonely(&theirs, &ours)) {
            let shapes = [Vec::new(), Vec::new()];
            return Err(Apart::Shape { tensor, shapes });
        }
        for (name, ours) in ours {
            let Some((_, theirs)) = theirs.iter().find(|(other, _)| *other == name) else {
                continue;
            };
            let tensor = name.to_string();
            if ours.shape != theirs.shape {
                let shapes = [ours.shape.clone(), theirs.shape.clone()];
                return Err(Apart::Shape { tensor, shapes });
            }
            let values = [self.values(backend, ours), other.values(backend, theirs)];
            let row = ours.shape.iter().skip(1).product::<usize>().max(1);
            let difference = difference(&values, row, [ours.storage, theirs.storage]);
            if let Some(difference) = difference {
                return Err(Apart::Values { tensor, difference });
            }
        }
        Ok(())
    }
}

/// The largest difference, where one is larger than the roundings of both ways of storing.
fn difference(values: &[Vec<f32>; 2], row: usize, stored: [Stored; 2]) -> Option<f32> {
    let mut largest = 0.0f32;
    let mut explained = true;
    for (ours, theirs) in values[0].chunks(row).zip(values[1].chunks(row)) {
        let steps = [ours, theirs].map(|row| row.iter().fold(0.0f32, |most, value| most.max(value.abs())) / 254.0);
        for (ours, theirs) in ours.iter().zip(theirs) {
            let difference = (ours - theirs).abs();
            largest = largest.max(difference);
            let rounded = |value: f32, index: usize| match stored[index] {
                Stored::F32 => 0.0,
                Stored::F16 => value.abs() / 2048.0 + 2f32.powi(-25),
                Stored::Bf16 => value.abs() / 512.0,
                Stored::Int8Rows => steps[index] * SLACK,
            };
            let allowed = match stored[0] == stored[1] {
                true => 0.0,
                false => rounded(*ours, 0) + rounded(*theirs, 1),
            };
            explained &= difference <= allowed;
        }
    }
    (!explained).then_some(largest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_storing_rounds_away_is_the_same() {
        let exact = vec![0.731f32, -0.2503, 0.0117, -1.91];
        let f16: Vec<f32> = exact.iter().map(|v| half::f16::from_f32(*v).to_f32()).collect();
        let int8: Vec<f32> = exact.chunks(2).flat_map(quantised).collect();
        let same = |values: [&Vec<f32>; 2], stored| difference(&values.map(Clone::clone), 2, stored).is_none();
        assert!(same([&exact, &f16], [Stored::F32, Stored::F16]));
        assert!(same([&int8, &f16], [Stored::Int8Rows, Stored::F16]));
        // Stored alike they were made of the same numbers only if they are the same.
        assert!(!same([&exact, &f16], [Stored::F32; 2]));
        // A step of one value in another row's size.
        let mut moved = f16.clone();
        moved[2] += 0.5 * 1.91 / 127.0;
        assert!(same([&int8, &moved], [Stored::Int8Rows, Stored::F16]));
        moved[2] += 1.91 / 127.0;
        assert!(!same([&int8, &moved], [Stored::Int8Rows, Stored::F16]));
        moved = f16.clone();
        moved[1] -= 0.0041;
        assert!(!same([&int8, &moved], [Stored::Int8Rows, Stored::F16]));
        moved = f16;
        moved[0] = f32::NAN;
        assert!(!same([&exact, &moved], [Stored::F32, Stored::F16]));
    }

    fn quantised(row: &[f32]) -> Vec<f32> {
        let scale = 127.0 / row.iter().fold(0.0f32, |most, value| most.max(value.abs()));
        row.iter().map(|value| (value * scale).round() / scale).collect()
    }
}
