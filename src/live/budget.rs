//! How many steps there is time for.

/// How much of an older measurement stays.
const INERTIA: f64 = 0.7;

/// What adapting to an utterance may cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Budget {
    /// Seconds from now to when it should be done; infinite for no limit.
    pub(super) left: f64,
    /// The utterance's length in seconds.
    pub(super) audio: f64,
    /// Seconds that a pass takes for a second of audio; `None` where nothing was measured yet.
    pub(super) pass_cost: Option<f64>,
}

impl Budget {
    /// Of `planned` steps those there is time for; `None` if not even the transcript can be made in time.
    ///
    /// A step is two passes; two more are the source model's and the last step's (or a carried state's first).
    pub(super) fn steps(self, planned: usize) -> Option<usize> {
        if self.left == f64::INFINITY {
            return Some(planned);
        }
        if self.left <= 0.0 {
            return None;
        }
        let Some(cost) = self.pass_cost.map(|cost| cost * self.audio).filter(|cost| *cost > 0.0) else {
            return Some(planned);
        };
        let passes = self.left / cost;
        (passes >= 2.0).then_some((((passes - 2.0) / 2.0) as usize).min(planned))
    }
}

/// A measurement more.
pub(super) fn updated(cost: Option<f64>, measured: f64) -> Option<f64> {
    if !measured.is_finite() || measured <= 0.0 {
        return cost;
    }
    Some(cost.map_or(measured, |cost| INERTIA * cost + (1.0 - INERTIA) * measured))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_steps_when_behind_and_none_when_far_behind() {
        let budget = |left| Budget {
            left,
            audio: 10.0,
            pass_cost: Some(0.01),
        };
        assert_eq!(budget(f64::INFINITY).steps(10), Some(10));
        assert_eq!(budget(5.0).steps(10), Some(10));
        assert_eq!(budget(1.0).steps(10), Some(4));
        assert_eq!(budget(0.25).steps(10), Some(0));
        assert_eq!(budget(0.15).steps(10), None);
        assert_eq!(budget(-3.0).steps(10), None);
    }

    #[test]
    fn what_was_never_measured_is_tried() {
        let first = Budget {
            left: 0.1,
            audio: 10.0,
            pass_cost: None,
        };
        assert_eq!(first.steps(10), Some(10));
        assert_eq!(updated(None, 0.5), Some(0.5));
        assert_eq!(updated(Some(0.5), f64::NAN), Some(0.5));
    }
}
