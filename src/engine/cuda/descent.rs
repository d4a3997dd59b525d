//! Descents that the device decides by itself (kernels/descent.cu), and the finite check.

use super::CudaBackend;
use super::memory::{View, ViewMut};
use super::ops::{int, words};
use crate::engine::{AdamW, Judge, ObjectiveTerms, Rows, Rules, Says};

impl CudaBackend {
    /// The objective and its gradient, then `then` with its four numbers on the device: loss, entropy, class confusion,
    /// non-blank frames.
    pub(super) fn objective(
        &self,
        terms: &ObjectiveTerms,
        shape: Rows,
        counted: Option<View<'_>>,
        logits: View<'_>,
        mut dlogits: ViewMut<'_>,
        then: impl FnOnce(View<'_, f64>),
    ) {
        let (frames, classes) = (shape.rows, shape.cols);
        assert_eq!((logits.len(), dlogits.len()), (frames * classes, frames * classes));
        self.with_scratch(2 * (4 * frames + 2 * classes + 4), |mut scratch| {
            let mut scratch = scratch.cast::<f64>();
            let (mut frame_terms, mut rest) = scratch.split(4 * frames);
            let (mut class_terms, mut result) = rest.split(2 * classes);
            self.launcher().entropy_mcc(
                (1, 1, 1),
                logits,
                words(counted),
                &mut dlogits,
                &mut frame_terms,
                &mut class_terms,
                &mut result,
                int(frames),
                int(classes),
                int(terms.blank),
                terms.temperature,
                terms.entropy_weight,
            );
            then(result.as_view());
        });
    }

    /// Raises a flag on the device where a value is not finite, then `then` with it.
    pub(super) fn flag_not_finite(&self, values: View<'_>, then: impl FnOnce(View<'_, u32>)) {
        self.with_scratch(1, |mut scratch| {
            self.zero(scratch.from(0));
            let mut flag = scratch.cast::<u32>();
            let grid = self.grid_over(values.len());
            self.launcher()
                .find_not_finite(grid, values, &mut flag, values.len() as i64);
            then(flag.as_view());
        });
    }
}

impl Judge<CudaBackend> for CudaBackend {
    fn decide(
        &self,
        terms: &ObjectiveTerms,
        shape: Rows,
        counted: Option<View<'_>>,
        logits: View<'_>,
        dlogits: ViewMut<'_>,
        mut ledger: ViewMut<'_>,
        rules: Rules,
    ) {
        assert_eq!(ledger.len(), crate::engine::Ledger::len(rules.steps));
        self.objective(terms, shape, counted, logits, dlogits, |value| {
            let (mut ledger, safeguard) = (ledger.cast::<f64>(), i32::from(rules.safeguard));
            self.launcher()
                .descent_judge((1, 1, 1), value, &mut ledger, int(rules.steps), safeguard);
        });
    }

    fn check_gradients(&self, gradients: View<'_>, mut ledger: ViewMut<'_>) {
        self.flag_not_finite(gradients, |flag| {
            self.launcher()
                .descent_check((1, 1, 1), flag, &mut ledger.cast::<f64>());
        });
    }

    fn copy_where(&self, says: Says, ledger: View<'_>, from: View<'_>, mut to: ViewMut<'_>) {
        assert_eq!(from.len(), to.len());
        let (grid, len) = (self.grid_over(to.len()), to.len() as i64);
        self.launcher()
            .descent_copy(grid, ledger.cast::<f64>(), says as i32, from, &mut to, len);
    }

    fn adamw_where(
        &self,
        settings: &AdamW,
        ledger: View<'_>,
        (first, multiplicity, repeat): (View<'_>, u32, u32),
        mut values: ViewMut<'_>,
        gradients: View<'_>,
        [mut first_moment, mut second_moment]: [ViewMut<'_>; 2],
    ) {
        let len = values.len();
        let lens = (gradients.len(), first_moment.len(), second_moment.len());
        assert_eq!((lens, first.len()), ((len, len, len), 2));
        self.launcher().descent_adamw(
            self.grid_over(len),
            ledger.cast::<f64>(),
            &mut values,
            gradients,
            &mut first_moment,
            &mut second_moment,
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
