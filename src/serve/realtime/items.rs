//! Items of a transcription: which utterances each is made of, which words its client was told, and when it is complete.
//!
//! Words are told (as deltas) once they are committed, and the others with the utterance's final, since a delta cannot be
//! taken back. An item is completed, once, by the revisions of its utterances: the text that adaptation made.

use crate::live::Event;
use std::collections::VecDeque;

/// What is to be told of an item.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum News {
    Delta { item: String, delta: String },
    Completed { item: String, text: String, seconds: f64 },
    Failed { item: String, message: String },
}

/// An utterance's part of an item.
#[derive(Debug, Default)]
struct Part {
    utterance: u64,
    /// Its words that will not change before it is complete.
    words: Vec<String>,
    /// So many of them were told.
    told: usize,
    /// Its final's text.
    heard: Option<String>,
    /// Its revision's.
    revised: Option<String>,
    failed: Option<String>,
}

impl Part {
    /// Whether nothing more comes of it; `last` is the last utterance that had a final, after which no earlier one can
    /// have one, and `idle` says that nothing is being computed.
    fn is_over(&self, last: u64, idle: bool) -> bool {
        match (&self.heard, &self.failed) {
            _ if self.revised.is_some() => true,
            (heard, Some(_)) => heard.is_some() || idle || last > self.utterance,
            _ => false,
        }
    }
}

#[derive(Default)]
struct Item {
    id: String,
    parts: Vec<Part>,
    /// Whether its client knows of it.
    is_known: bool,
    has_text: bool,
    seconds: f64,
}

/// The item that sound is added to, and those before it that are not complete.
pub(super) struct Items {
    prefix: String,
    count: u64,
    open: Item,
    committed: VecDeque<Item>,
    previous: Option<String>,
    /// The last utterance that had a final.
    last: u64,
}

/// An item that was committed.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Committed {
    pub(super) item: String,
    pub(super) previous: Option<String>,
}

impl Items {
    /// Nothing heard yet; the items' names begin with `prefix`.
    pub(super) fn new(prefix: String) -> Self {
        let mut items = Self {
            open: Item::default(),
            prefix,
            count: 0,
            committed: VecDeque::new(),
            previous: None,
            last: 0,
        };
        items.renew();
        items
    }

    /// A new open item; the one before it is given out.
    fn renew(&mut self) -> Item {
        self.count += 1;
        let new = Item {
            id: format!("{}_{}", self.prefix, self.count),
            ..Item::default()
        };
        std::mem::replace(&mut self.open, new)
    }

    /// The open item's name.
    pub(super) fn open(&self) -> &str {
        &self.open.id
    }

    /// Whether somebody spoke in the open item.
    pub(super) fn has_speech(&self) -> bool {
        !self.open.parts.is_empty()
    }

    /// An utterance of the open item begins; `known` says that its client is told of it, and may be told its words.
    pub(super) fn begin(&mut self, utterance: u64, known: bool) {
        self.open.is_known |= known;
        self.open.parts.push(Part {
            utterance,
            ..Part::default()
        });
    }

    /// Ends the open item, of so many seconds: its client is told of it.
    pub(super) fn commit(&mut self, seconds: f64) -> Committed {
        let mut item = self.renew();
        (item.is_known, item.seconds) = (true, seconds);
        let previous = self.previous.replace(item.id.clone());
        let committed = Committed {
            item: item.id.clone(),
            previous,
        };
        self.committed.push_back(item);
        committed
    }

    /// Forgets the open item.
    pub(super) fn clear(&mut self) {
        self.renew();
    }

    /// Something was recognised.
    pub(super) fn event(&mut self, event: &Event) {
        let utterance = match event {
            Event::Partial(partial) => partial.utterance,
            Event::Final(is_final) => is_final.utterance,
            Event::Revision(revision) => revision.utterance,
            Event::Failed { utterance, .. } => *utterance,
        };
        if let Event::Final(_) = event {
            self.last = self.last.max(utterance);
        }
        let parts = self.committed.iter_mut().chain([&mut self.open]);
        let Some(part) = parts
            .flat_map(|item| &mut item.parts)
            .find(|part| part.utterance == utterance)
        else {
            // Of an item that was cleared.
            return;
        };
        let words = |words: &[crate::Word]| words.iter().map(|word| word.word.clone()).collect();
        match event {
            Event::Partial(_) if part.heard.is_some() => {}
            Event::Partial(partial) => part.words = words(&partial.words[..partial.stable]),
            Event::Final(is_final) => {
                part.words = words(&is_final.words);
                part.heard = Some(is_final.text.clone());
            }
            Event::Revision(revision) => part.revised = Some(revision.result.text.clone()),
            Event::Failed { message, .. } => part.failed = Some(message.clone()),
        }
    }

    /// What is new since the last call; `idle` says that nothing is being computed.
    pub(super) fn news(&mut self, idle: bool) -> Vec<News> {
        let mut news = Vec::new();
        let known = self.committed.iter_mut().chain([&mut self.open]);
        for item in known.filter(|item| item.is_known) {
            for part in &mut item.parts {
                let new = part.words.get(part.told..).unwrap_or_default().join(" ");
                part.told = part.told.max(part.words.len());
                if new.is_empty() {
                    continue;
                }
                let delta = if item.has_text { format!(" {new}") } else { new };
                item.has_text = true;
                let item = item.id.clone();
                news.push(News::Delta { item, delta });
            }
        }
        let last = self.last;
        self.committed.retain_mut(|item| {
            let is_over = item.parts.iter().all(|part| part.is_over(last, idle));
            if is_over {
                news.push(item.completed());
            }
            !is_over
        });
        news
    }
}

impl Item {
    /// Its last news.
    fn completed(&mut self) -> News {
        let item = std::mem::take(&mut self.id);
        let mut texts = Vec::new();
        for part in &mut self.parts {
            match part.revised.take().or(part.heard.take()) {
                Some(text) => texts.push(text),
                None => {
                    let message = part.failed.take().unwrap_or_default();
                    return News::Failed { item, message };
                }
            }
        }
        texts.retain(|text| !text.is_empty());
        News::Completed {
            item,
            text: texts.join(" "),
            seconds: self.seconds,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::{Final, Partial, Revision};
    use crate::{Utterance, Word};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn words(text: &str) -> Vec<Word> {
        let word = |word: &str| Word {
            word: word.into(),
            start: 0.0,
            end: 0.0,
            confidence: 1.0,
        };
        text.split_whitespace().map(word).collect()
    }

    fn partial(utterance: u64, text: &str, stable: usize) -> Event {
        Event::Partial(Partial {
            utterance,
            start: 0.0,
            end: 0.0,
            text: text.into(),
            stable,
            words: words(text),
            delay: 0.0,
        })
    }

    fn is_final(utterance: u64, text: &str) -> Event {
        Event::Final(Final {
            utterance,
            start: 0.0,
            end: 0.0,
            text: text.into(),
            words: words(text),
            delay: 0.0,
        })
    }

    fn revision(utterance: u64, text: &str) -> Event {
        Event::Revision(Box::new(Revision {
            utterance,
            changed: true,
            skipped: None,
            allowed_steps: 1,
            delay: 0.0,
            result: Utterance {
                text: text.into(),
                ..Utterance::empty(0.0, 0.0)
            },
        }))
    }

    fn failed(utterance: u64) -> Event {
        let message = "broken".into();
        Event::Failed { utterance, message }
    }

    fn hear(items: &mut Items, event: &Event) -> Vec<News> {
        items.event(event);
        items.news(false)
    }

    fn delta(item: &str, delta: &str) -> News {
        News::Delta {
            item: item.into(),
            delta: delta.into(),
        }
    }

    fn completed(item: &str, text: &str) -> News {
        News::Completed {
            item: item.into(),
            text: text.into(),
            seconds: 0.0,
        }
    }

    #[test]
    fn committed_words_then_the_rest_then_the_adapted_text() {
        let mut items = Items::new("item".into());
        items.begin(1, true);
        assert_eq!(hear(&mut items, &partial(1, "A B C", 0)), []);
        assert_eq!(hear(&mut items, &partial(1, "A B C", 2)), [delta("item_1", "A B")]);
        assert_eq!(items.commit(0.0).previous, None);
        assert_eq!(hear(&mut items, &is_final(1, "A B D E")), [delta("item_1", " D E")]);
        items.begin(2, true);
        assert_eq!(hear(&mut items, &partial(2, "F G", 1)), [delta("item_2", "F")]);
        assert_eq!(hear(&mut items, &revision(1, "A X D")), [completed("item_1", "A X D")]);
        assert_eq!(items.commit(0.0).previous.as_deref(), Some("item_1"));
    }

    #[test]
    fn words_wait_until_the_item_is_known_and_several_utterances_are_one_item() {
        let mut items = Items::new("item".into());
        items.begin(1, false);
        assert_eq!(hear(&mut items, &is_final(1, "A B")), []);
        assert_eq!(hear(&mut items, &revision(1, "A C")), []);
        items.begin(2, false);
        items.commit(0.0);
        assert_eq!(items.news(false), [delta("item_1", "A B")]);
        assert_eq!(hear(&mut items, &is_final(2, "D")), [delta("item_1", " D")]);
        assert_eq!(hear(&mut items, &revision(2, "E")), [completed("item_1", "A C E")]);
        // Nobody spoke.
        items.commit(0.0);
        assert_eq!(items.news(false), [completed("item_2", "")]);
    }

    #[test]
    fn a_failure_is_told_once_it_is_sure() {
        let mut items = Items::new("item".into());
        items.begin(1, true);
        // Of a partial hypothesis: the final still comes.
        assert_eq!(hear(&mut items, &failed(1)), []);
        items.commit(0.0);
        assert_eq!(items.news(false), []);
        items.begin(2, true);
        items.commit(0.0);
        let broken = |item: &str| News::Failed {
            item: item.into(),
            message: "broken".into(),
        };
        assert_eq!(
            hear(&mut items, &is_final(2, "A")),
            [delta("item_2", "A"), broken("item_1")]
        );
        // Only adaptation failed.
        assert_eq!(hear(&mut items, &failed(2)), [completed("item_2", "A")]);
        items.begin(3, true);
        items.commit(0.0);
        assert_eq!(hear(&mut items, &failed(3)), []);
        assert_eq!(items.news(true), [broken("item_3")]);
    }

    #[test]
    fn what_was_cleared_is_not_told() {
        let mut items = Items::new("item".into());
        items.begin(1, true);
        items.clear();
        assert_eq!(hear(&mut items, &is_final(1, "A")), []);
        assert_eq!(hear(&mut items, &revision(1, "A")), []);
        items.begin(2, true);
        assert_eq!(hear(&mut items, &partial(2, "B C", 1)), [delta("item_2", "B")]);
    }

    proptest! {
        /// However utterances, commits and results come after one another: each item is completed exactly once, after its
        /// deltas, which together are its finals.
        #[test]
        fn each_item_is_completed_once(
            utterances in prop::collection::vec((any::<bool>(), any::<bool>(), 0usize..4, 0u8..5), 1..12),
            known: bool,
        ) {
            let mut items = Items::new("item".into());
            let (mut deltas, mut ends) = (BTreeMap::<String, String>::new(), BTreeMap::<String, News>::new());
            let (mut finals, mut committed) = (BTreeMap::<String, Vec<String>>::new(), 0);
            let mut late = Vec::new();
            let mut sort = |news: Vec<News>| {
                for news in news {
                    match news {
                        News::Delta { item, delta } => {
                            assert!(!ends.contains_key(&item), "a delta after the end");
                            deltas.entry(item).or_default().push_str(&delta);
                        }
                        News::Completed { ref item, .. } | News::Failed { ref item, .. } => {
                            assert_eq!(ends.insert(item.clone(), news.clone()), None);
                        }
                    }
                }
                ends.len()
            };
            for (number, (commits, waits, stable, fails)) in utterances.iter().enumerate() {
                let utterance = number as u64 + 1;
                let text = format!("A{utterance} B{utterance} C{utterance}");
                items.begin(utterance, known);
                finals.entry(items.open().into()).or_default().push(text.clone());
                sort(hear(&mut items, &partial(utterance, &text, *stable.min(&2))));
                if *commits {
                    items.commit(0.0);
                    committed += 1;
                }
                sort(hear(&mut items, &is_final(utterance, &text)));
                let end = if *fails == 0 { failed(utterance) } else { revision(utterance, &text) };
                if *waits {
                    late.push(end);
                } else {
                    sort(hear(&mut items, &end));
                }
            }
            items.commit(0.0);
            for end in late {
                sort(hear(&mut items, &end));
            }
            prop_assert_eq!(sort(items.news(true)), committed + 1);
            for (item, finals) in finals {
                let finals = finals.join(" ");
                prop_assert_eq!(&deltas[&item], &finals);
                let end = completed(&item, &finals);
                prop_assert_eq!(&ends[&item], &end);
            }
        }
    }
}
