//! What comes before a model and after it: Whisper's log-mel frames, CTC of pseudo-labels.

use super::device::blocks;
use super::memory::{View, ViewMut};
use super::ops::int;
use super::{CudaBackend, lock};
use crate::engine::{Backend, EngineError, PlacedLabel, PseudoLabel, Rows, count_to_value, to_values};

/// Samples a window, samples from one to the next, frequencies (as in kernels/log_mel.cu).
const WINDOW: usize = 400;
const HOP: usize = 160;
const BINS: usize = WINDOW / 2 + 1;

/// Words of f64 that CTC of a target of so many symbols takes.
pub(super) fn ctc_words(shape: Rows, length: usize) -> usize {
    2 * shape.rows * (shape.cols + 2 * length + 1)
}

impl CudaBackend {
    /// See [`crate::engine::Backend::pseudo_label`]: kernels/ctc.cu.
    pub(super) fn ctc(&self, label: &PseudoLabel<'_>, shape: Rows, logits: View<'_>, mut dlogits: ViewMut<'_>) -> f64 {
        let (frames, classes, length) = (shape.rows, shape.cols, label.target.len());
        let values = frames * classes;
        assert_eq!((logits.len(), dlogits.len()), (values, values));
        assert!(
            label
                .target
                .iter()
                .all(|&symbol| symbol < classes && symbol != label.blank)
        );
        if values == 0 {
            return if length == 0 { 0.0 } else { f64::INFINITY };
        }
        let target: Vec<f32> = label.target.iter().map(|&symbol| count_to_value(symbol)).collect();
        let mut loss = [f64::NAN];
        let words = ctc_words(shape, length) + 1;
        self.with_scratch(2 * words + length, |mut scratch| {
            let (mut words_of, mut labels) = scratch.split(2 * words);
            self.upload(&target, labels.from(0));
            let mut words_of = words_of.cast::<f64>();
            let (mut space, mut result) = words_of.split(words - 1);
            let placed = PlacedLabel {
                target: labels.as_view(),
                frames,
                blank: label.blank,
                over_time: label.over_time,
            };
            self.ctc_launches(placed, classes, logits, &mut dlogits, &mut space, &mut result);
            self.read(result.as_view(), &mut loss);
        });
        loss[0]
    }

    /// The launches alone, of as many frames as count: the gradient, and the loss as the first of `loss`. `space` has
    /// [`ctc_words`].
    pub(super) fn ctc_launches(
        &self,
        label: PlacedLabel<View<'_>>,
        classes: usize,
        logits: View<'_>,
        dlogits: &mut ViewMut<'_>,
        space: &mut ViewMut<'_, f64>,
        loss: &mut ViewMut<'_, f64>,
    ) {
        let (frames, length) = (label.frames, label.target.len());
        let (values, states) = (frames * classes, 2 * length + 1);
        assert!(logits.len() >= values && dlogits.len() >= values && loss.len() > 0);
        let groups = if label.over_time { classes } else { frames };
        let over_time = i32::from(label.over_time);
        let (t, v, l, blank) = (int(frames), int(classes), int(length), int(label.blank));
        let labels = label.target.cast::<u32>();
        let (mut log_probabilities, mut rest) = space.split(values);
        let (mut occupancy, mut rest) = rest.split(values);
        let (mut alpha, mut rest) = rest.split(frames * states);
        let (mut beta, _) = rest.split(frames * states);
        let launcher = self.launcher();
        let grid = (blocks(groups, 4), 1, 1);
        launcher.ctc_log_softmax(grid, logits, &mut log_probabilities, t, v, over_time);
        let (log_probabilities, two) = (log_probabilities.as_view(), (2, 1, 1));
        launcher.ctc_paths(two, log_probabilities, labels, &mut alpha, &mut beta, t, v, l, blank);
        let (alpha, beta) = (alpha.as_view(), beta.as_view());
        // A grid's second dimension ends at 65,535: 21 minutes of frames.
        let by_symbol = (blocks(classes, 128), frames as u32, 1);
        launcher.ctc_occupancy(by_symbol, alpha, beta, labels, &mut occupancy, t, v, l, blank);
        let occupancy = occupancy.as_view();
        launcher.ctc_gradient(
            grid,
            log_probabilities,
            alpha,
            occupancy,
            dlogits,
            loss,
            t,
            v,
            l,
            over_time,
        );
    }

    /// Whisper's log-mel frames of samples, `[samples / 160, bands]` (kernels/log_mel.cu). `tables` gives, where they are not
    /// on the device yet, a turn's cosines and the bands' filters; see [`crate::audio::LogMel::tables`].
    pub fn log_mel(
        &self,
        samples: &[f32],
        bands: usize,
        tables: impl FnOnce() -> (Vec<f64>, Vec<f64>),
    ) -> Result<Vec<f32>, EngineError> {
        let frames = samples.len() / HOP;
        let mut out = vec![0.0; frames * bands];
        if frames == 0 {
            return Ok(out);
        }
        let mut known = lock(&self.tables);
        if known.as_ref().is_none_or(|(known, _)| *known != bands) {
            let (cosines, filters) = tables();
            assert_eq!((cosines.len(), filters.len()), (WINDOW, bands * BINS));
            *known = Some((bands, self.buffer(to_values(&[cosines, filters].concat()))?));
        }
        let Some((_, table)) = &*known else { return Ok(out) };
        let turn = 2 * WINDOW;
        let cosines = self.view(table, 0..turn).cast::<f64>();
        let filters = self.view(table, turn..table.len).cast::<f64>();
        self.with_scratch(samples.len() + out.len() + frames, |mut scratch| {
            let (mut x, mut rest) = scratch.split(samples.len());
            let (mut values, mut highest) = rest.split(out.len());
            self.upload(samples, x.from(0));
            let (launcher, grid) = (self.launcher(), (frames as u32, 1, 1));
            let (len, count) = (int(samples.len()), int(bands));
            launcher.log_mel_bands(
                grid,
                x.as_view(),
                cosines,
                filters,
                &mut values,
                &mut highest,
                len,
                count,
            );
            let (grid, len) = (self.grid_over(out.len()), out.len() as i64);
            launcher.log_mel_scale(grid, highest.as_view(), &mut values, int(frames), len);
            self.read(values.as_view(), &mut out);
        });
        self.status()?;
        Ok(out)
    }
}
