//! All activations of a step in one allocation, planned once per input length.

use super::{Backend, EngineError, Spans, count_to_value};
use std::ops::Range;

/// A stretch of the arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// First value.
    pub offset: usize,
    /// Number of values.
    pub len: usize,
}

impl Slot {
    /// As an index range.
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.len
    }

    /// A stretch inside this one. Panics when it does not fit.
    pub fn part(&self, offset: usize, len: usize) -> Slot {
        assert!(
            offset + len <= self.len,
            "slot part {offset}+{len} is outside {} values",
            self.len
        );
        Slot {
            offset: self.offset + offset,
            len,
        }
    }
}

/// Hands out slots one after the other, each on a 64-byte boundary (a cache line, and a full vector register).
#[derive(Debug, Default)]
pub struct ArenaPlan {
    len: usize,
}

impl ArenaPlan {
    const ALIGN: usize = 16;

    /// Reserves `len` values.
    pub fn slot(&mut self, len: usize) -> Slot {
        let slot = Slot { offset: self.len, len };
        self.len += len.next_multiple_of(Self::ALIGN);
        slot
    }

    /// Values reserved so far.
    pub fn total(&self) -> usize {
        self.len
    }
}

/// How many rows count of each of so many utterances' padded inputs; see [`Backend::pads`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// Of the first convolution's output.
    Convolved(usize),
    /// Of what the model gives.
    Output(usize),
}

/// Utterances that an arena has words for at first, which is what is passed through together by default.
const UTTERANCES: usize = 8;

/// Words for so many.
fn words_for(utterances: usize) -> usize {
    3 * utterances + 1
}

/// The memory behind a plan; it grows to the longest utterance seen and is used again for the next.
pub struct Arena<B: Backend> {
    /// The one buffer that all slots point into.
    pub buffer: B::Buffer,
    /// Words, on devices that pad: each utterance's count after the first convolution, and in the end; the spans' starts.
    words: B::Buffer,
    /// Utterances there are words for.
    room: usize,
}

/// Something that there need not be, and slots to read and to write.
type With<'a, B, What, const R: usize, const W: usize> = (
    Option<What>,
    [<B as Backend>::View<'a>; R],
    [<B as Backend>::ViewMut<'a>; W],
);

impl<B: Backend> Arena<B> {
    /// An arena of at least `len` values.
    pub fn new(backend: &B, len: usize) -> Result<Self, EngineError> {
        Ok(Self {
            buffer: backend.zeros(len)?,
            words: backend.zeros(if backend.pads() { words_for(UTTERANCES) } else { 0 })?,
            room: UTTERANCES,
        })
    }

    /// Which rows count from now on: of each utterance how many of the first convolution's output, and of what the model
    /// gives. After [`Arena::reserve_spans`] for as many.
    pub fn set_counts(&mut self, backend: &B, counts: &[[usize; 2]]) {
        assert!(counts.len() <= self.room, "{} utterances", counts.len());
        let mut words = vec![0; words_for(self.room)];
        for (index, [convolved, output]) in counts.iter().enumerate() {
            words[index] = *convolved;
            words[self.room + index] = *output;
            words[2 * self.room + index + 1] = words[2 * self.room + index] + output;
        }
        let words: Vec<f32> = words.into_iter().map(count_to_value).collect();
        backend.upload(&words, backend.view_mut(&mut self.words, 0..words.len()));
    }

    /// Makes room for the words of so many utterances.
    pub fn reserve_spans(&mut self, backend: &B, count: usize) -> Result<(), EngineError> {
        if self.room < count {
            let room = count.next_power_of_two();
            self.words = backend.zeros(words_for(room))?;
            self.room = room;
        }
        Ok(())
    }

    /// Makes room for a plan. Contents are undefined afterwards.
    pub fn reserve(&mut self, backend: &B, plan: &ArenaPlan) -> Result<(), EngineError> {
        if backend.len(&self.buffer) < plan.total() {
            // Given back first: the old and the new one together would be the peak.
            self.buffer = backend.zeros(0)?;
            self.buffer = backend.zeros(plan.total())?;
        }
        Ok(())
    }

    /// See [`Backend::split`].
    pub fn split<const R: usize, const W: usize>(
        &mut self,
        backend: &B,
        reads: [Slot; R],
        writes: [Slot; W],
    ) -> ([B::View<'_>; R], [B::ViewMut<'_>; W]) {
        backend.split(&mut self.buffer, reads, writes)
    }

    /// The same with counts, where there is padding.
    pub fn split_counted<const R: usize, const W: usize>(
        &mut self,
        backend: &B,
        counted: Option<Count>,
        reads: [Slot; R],
        writes: [Slot; W],
    ) -> With<'_, B, B::View<'_>, R, W> {
        let counted = counted.map(|count| match count {
            Count::Convolved(utterances) => backend.view(&self.words, 0..utterances),
            Count::Output(utterances) => backend.view(&self.words, self.room..self.room + utterances),
        });
        let (reads, writes) = backend.split(&mut self.buffer, reads, writes);
        (counted, reads, writes)
    }

    /// The same with the starts of spans, where there are any.
    pub fn split_spans<const R: usize, const W: usize>(
        &mut self,
        backend: &B,
        spans: Option<Spans<()>>,
        reads: [Slot; R],
        writes: [Slot; W],
    ) -> With<'_, B, Spans<B::View<'_>>, R, W> {
        let spans = spans.map(|spans| Spans {
            starts: backend.view(&self.words, 2 * self.room..2 * self.room + spans.count + 1),
            count: spans.count,
            longest: spans.longest,
        });
        let (reads, writes) = backend.split(&mut self.buffer, reads, writes);
        (spans, reads, writes)
    }

    /// One slot, to read.
    pub fn view(&self, backend: &B, slot: Slot) -> B::View<'_> {
        backend.view(&self.buffer, slot.range())
    }

    /// One slot, to write.
    pub fn view_mut(&mut self, backend: &B, slot: Slot) -> B::ViewMut<'_> {
        backend.view_mut(&mut self.buffer, slot.range())
    }
}
