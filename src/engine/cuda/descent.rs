//! Descents that the device decides by itself (kernels/descent.cu), and the finite check.

use super::CudaBackend;
use super::memory::{View, ViewMut};
use super::ops::{extent, int, starts};
use super::speech::ctc_words;
use crate::engine::{AdamW, Judge, ObjectiveTerms, ObjectiveValue, Pieces, PlacedLabel, Rows, Rules, Says, Spans};
use std::ops::Range;

impl CudaBackend {
    /// Each utterance's objective and gradient, then `then` with the gradient, four numbers of each on the device (loss,
    /// entropy, class confusion, non-blank frames) and so many words more.
    pub(super) fn objective(
        &self,
        terms: &ObjectiveTerms,
        shape: Rows,
        spans: Option<Spans<View<'_>>>,
        logits: View<'_>,
        dlogits: &mut ViewMut<'_>,
        more: usize,
        then: impl FnOnce(&mut ViewMut<'_>, ViewMut<'_, f64>, ViewMut<'_, f64>),
    ) {
        let (frames, classes, (_, count)) = (shape.rows, shape.cols, extent(shape.rows, spans));
        assert_eq!((logits.len(), dlogits.len()), (frames * classes, frames * classes));
        let of_classes = 2 * classes * count as usize;
        let of_results = 4 * count as usize;
        self.with_scratch(2 * (4 * frames + of_classes + of_results + more), |mut scratch| {
            let mut scratch = scratch.cast::<f64>();
            let (mut frame_terms, mut rest) = scratch.split(4 * frames);
            let (mut class_terms, mut rest) = rest.split(of_classes);
            let (mut result, more) = rest.split(of_results);
            self.launcher().entropy_mcc(
                (count, 1, 1),
                logits,
                starts(spans),
                dlogits,
                &mut frame_terms,
                &mut class_terms,
                &mut result,
                int(frames),
                int(classes),
                int(terms.blank),
                terms.temperature,
                terms.entropy_weight,
            );
            then(dlogits, result, more);
        });
    }

    /// The same of one utterance, its value on the host.
    pub(super) fn one_objective(
        &self,
        terms: &ObjectiveTerms,
        shape: Rows,
        spans: Option<Spans<View<'_>>>,
        logits: View<'_>,
        dlogits: &mut ViewMut<'_>,
    ) -> ObjectiveValue {
        assert!(spans.is_none_or(|spans| spans.count == 1), "one utterance's objective");
        let mut value = [0.0f64; 4];
        self.objective(terms, shape, spans, logits, dlogits, 0, |_, result, _| {
            self.read(result.as_view(), &mut value)
        });
        let [loss, entropy, class_confusion, non_blank_frames] = value;
        ObjectiveValue {
            loss,
            entropy,
            class_confusion,
            non_blank_frames: non_blank_frames as usize,
        }
    }

    /// Raises a flag on the device where a value is not finite, one for each of so many equal stretches, then `then` with
    /// them.
    pub(super) fn flag_not_finite(&self, values: View<'_>, count: usize, then: impl FnOnce(View<'_, u32>)) {
        assert!(
            values.len().is_multiple_of(count),
            "{} values for {count}",
            values.len()
        );
        self.with_scratch(count, |mut scratch| {
            self.zero(scratch.from(0));
            let (mut flags, len) = (scratch.cast::<u32>(), values.len() / count);
            let grid = (self.grid_over(len).0, count as u32, 1);
            self.launcher().find_not_finite(grid, values, &mut flags, len as i64);
            then(flags.as_view());
        });
    }
}

impl Judge<CudaBackend> for CudaBackend {
    fn decide(
        &self,
        terms: &ObjectiveTerms,
        (shape, spans): (Rows, Option<Spans<View<'_>>>),
        label: Option<PlacedLabel<View<'_>>>,
        logits: View<'_>,
        mut dlogits: ViewMut<'_>,
        mut ledgers: ViewMut<'_>,
        rules: Rules,
    ) {
        let (_, count) = extent(shape.rows, spans);
        assert_eq!(ledgers.len(), count as usize * crate::engine::Ledger::len(rules.steps));
        assert!(label.is_none_or(|label| count == 1 && label.frames <= shape.rows));
        let own = |label: PlacedLabel<_>| Rows {
            rows: label.frames,
            ..shape
        };
        let words = label.map_or(0, |label| ctc_words(own(label), label.target.len()));
        self.objective(
            terms,
            shape,
            spans,
            logits,
            &mut dlogits,
            words,
            |dlogits, mut value, mut space| {
                if let Some(label) = label {
                    self.ctc_launches(label, shape.cols, logits, dlogits, &mut space, &mut value);
                }
                let value = value.as_view();
                let (mut ledgers, safeguard) = (ledgers.cast::<f64>(), i32::from(rules.safeguard));
                self.launcher()
                    .descent_judge((count, 1, 1), value, &mut ledgers, int(rules.steps), safeguard);
            },
        );
    }

    fn check_gradients(&self, gradients: View<'_>, mut ledgers: ViewMut<'_>, count: usize) {
        let words = words_of(ledgers.len(), count);
        self.flag_not_finite(gradients, count, |flags| {
            self.launcher()
                .descent_check((count as u32, 1, 1), flags, &mut ledgers.cast::<f64>(), words);
        });
    }

    fn copy_where(&self, says: Says, ledgers: View<'_>, pieces: Pieces<View<'_>>, from: View<'_>, mut to: ViewMut<'_>) {
        assert_eq!(from.len(), to.len());
        let (count, len, spans, cols) = match pieces {
            Pieces::Even(count) => (count, to.len() / count, None, 0),
            Pieces::Rows(spans, cols) => (spans.count, spans.longest * cols, Some(spans), cols),
        };
        let words = words_of(ledgers.len(), count);
        let grid = (self.grid_over(len).0, count as u32, 1);
        let (ledgers, starts) = (ledgers.cast::<f64>(), starts(spans));
        self.launcher().descent_copy(
            grid,
            ledgers,
            words,
            says as i32,
            starts,
            int(cols),
            from,
            &mut to,
            len as i64,
        );
    }

    fn adamw_where(
        &self,
        settings: &AdamW,
        ledgers: View<'_>,
        (first, multiplicity, repeat): (View<'_>, u32, u32),
        (count, range): (usize, Range<usize>),
        mut values: ViewMut<'_>,
        gradients: View<'_>,
        [mut first_moment, mut second_moment]: [ViewMut<'_>; 2],
    ) {
        let (len, share) = (range.len(), values.len() / count);
        let lens = (gradients.len(), first_moment.len(), second_moment.len());
        assert_eq!((lens, first.len()), ((values.len(), values.len(), values.len()), 2));
        assert!(range.end <= share, "{range:?} of {share} values");
        self.launcher().descent_adamw(
            (self.grid_over(len).0, count as u32, 1),
            ledgers.cast::<f64>(),
            words_of(ledgers.len(), count),
            share as i64,
            &mut values.from(range.start),
            gradients.from(range.start),
            &mut first_moment.from(range.start),
            &mut second_moment.from(range.start),
            settings.beta1,
            settings.beta2,
            settings.learning_rate,
            settings.weight_decay,
            settings.epsilon as f32,
            first.cast::<f64>(),
            multiplicity as i32,
            repeat as i32,
            len as i64,
        );
    }
}

/// Words of one of so many ledgers.
fn words_of(values: usize, count: usize) -> i32 {
    assert!(values.is_multiple_of(2 * count), "{values} values of {count} ledgers");
    int(values / 2 / count)
}
