//! The store as the model's passes see it: one utterance's share, or all utterances' at once.

use super::{AdaptedParameters, moved};
use crate::engine::{Backend, Each, Slot};
use crate::model::{OperandId, Parameters};

impl<B: Backend> AdaptedParameters<B> {
    /// [`Parameters::value`] of one share.
    pub(in crate::adapt) fn value_of(&self, backend: &B, id: OperandId, share: usize) -> B::View<'_> {
        match &self.slots[id.index()] {
            Some(range) => backend.view(&self.values, moved(range, share * self.stored)),
            None => self.source.value(backend, id),
        }
    }

    /// [`Parameters::gradient`] of one share.
    pub(in crate::adapt) fn gradient_of(&mut self, backend: &B, id: OperandId, share: usize) -> Option<B::ViewMut<'_>> {
        let range = moved(self.slots[id.index()].as_ref()?, share * self.stored);
        Some(backend.view_mut(&mut self.gradients, range))
    }

    /// [`Parameters::values_and_gradients`] of one share.
    pub(in crate::adapt) fn values_and_gradients_of<const N: usize>(
        &mut self,
        backend: &B,
        ids: [OperandId; N],
        share: usize,
    ) -> ([B::View<'_>; N], [Option<B::ViewMut<'_>>; N]) {
        // A frozen one's gradient becomes an empty stretch, so that one split serves every case.
        let gradients = ids.map(|id| match &self.slots[id.index()] {
            Some(range) => Slot {
                offset: range.start + share * self.stored,
                len: range.len(),
            },
            None => Slot { offset: 0, len: 0 },
        });
        let (slots, stored, values, source) = (&self.slots, self.stored, &self.values, &self.source);
        let values = ids.map(|id| match &slots[id.index()] {
            Some(range) => backend.view(values, moved(range, share * stored)),
            None => source.value(backend, id),
        });
        let ([], views) = backend.split(&mut self.gradients, [], gradients);
        let mut adapted = ids.map(|id| slots[id.index()].is_some()).into_iter();
        (
            values,
            views.map(|view| adapted.next().is_some_and(|is| is).then_some(view)),
        )
    }
}

impl<B: Backend> Parameters<B> for AdaptedParameters<B> {
    fn value(&self, backend: &B, id: OperandId) -> B::View<'_> {
        self.value_of(backend, id, 0)
    }

    fn is_adapted(&self, id: OperandId) -> bool {
        self.slots[id.index()].is_some()
    }

    fn gradient(&mut self, backend: &B, id: OperandId) -> Option<B::ViewMut<'_>> {
        self.gradient_of(backend, id, 0)
    }

    fn values_and_gradients<const N: usize>(
        &mut self,
        backend: &B,
        ids: [OperandId; N],
    ) -> ([B::View<'_>; N], [Option<B::ViewMut<'_>>; N]) {
        self.values_and_gradients_of(backend, ids, 0)
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

    fn gradients_of_each<const N: usize>(
        &mut self,
        backend: &B,
        ids: [OperandId; N],
    ) -> (Each<B::ViewMut<'_>>, [Option<usize>; N]) {
        let places = ids.map(|id| self.slots[id.index()].as_ref().map(|range| range.start));
        let (all, stride) = (self.all(), self.stored);
        let values = backend.view_mut(&mut self.gradients, all);
        (Each { values, stride }, places)
    }
}
