//! The store as the model's passes see it: the first utterance's share, or all utterances' at once.

use super::AdaptedParameters;
use crate::engine::{Backend, Each, Slot};
use crate::model::{EachWithGradients, OperandId, Parameters};

impl<B: Backend> Parameters<B> for AdaptedParameters<B> {
    fn value(&self, backend: &B, id: OperandId) -> B::View<'_> {
        match &self.slots[id.index()] {
            Some(range) => backend.view(&self.values, range.clone()),
            None => self.source.value(backend, id),
        }
    }

    fn is_adapted(&self, id: OperandId) -> bool {
        self.slots[id.index()].is_some()
    }

    fn gradient(&mut self, backend: &B, id: OperandId) -> Option<B::ViewMut<'_>> {
        let range = self.slots[id.index()].clone()?;
        Some(backend.view_mut(&mut self.gradients, range))
    }

    fn values_and_gradients<const N: usize>(
        &mut self,
        backend: &B,
        ids: [OperandId; N],
    ) -> ([B::View<'_>; N], [Option<B::ViewMut<'_>>; N]) {
        // A frozen one's gradient becomes an empty stretch, so that one split serves every case.
        let gradients = ids.map(|id| match &self.slots[id.index()] {
            Some(range) => Slot {
                offset: range.start,
                len: range.len(),
            },
            None => Slot { offset: 0, len: 0 },
        });
        let (slots, values, source) = (&self.slots, &self.values, &self.source);
        let values = ids.map(|id| match &slots[id.index()] {
            Some(range) => backend.view(values, range.clone()),
            None => source.value(backend, id),
        });
        let ([], views) = backend.split(&mut self.gradients, [], gradients);
        let mut adapted = ids.map(|id| slots[id.index()].is_some()).into_iter();
        (
            values,
            views.map(|view| adapted.next().is_some_and(|is| is).then_some(view)),
        )
    }

    fn each(&self, backend: &B, id: OperandId) -> Each<B::View<'_>> {
        match &self.slots[id.index()] {
            Some(range) => Each {
                values: backend.view(&self.values, range.start..self.all().end),
                stride: self.stored,
            },
            None => Each {
                values: self.source.value(backend, id),
                stride: 0,
            },
        }
    }

    fn each_with_gradients<const N: usize>(&mut self, backend: &B, ids: [OperandId; N]) -> EachWithGradients<'_, B, N> {
        let (all, stride) = (self.all(), self.stored);
        let (slots, values, source) = (&self.slots, &self.values, &self.source);
        let places = ids.map(|id| slots[id.index()].as_ref().map(|range| range.start));
        let each = ids.map(|id| match &slots[id.index()] {
            Some(range) => Each {
                values: backend.view(values, range.start..all.end),
                stride,
            },
            None => Each {
                values: source.value(backend, id),
                stride: 0,
            },
        });
        let values = backend.view_mut(&mut self.gradients, all);
        (each, Each { values, stride }, places)
    }
}
