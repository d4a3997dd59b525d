//! Who computes when: a few threads shared by all streams, decoding apart from adaptation, each stream in its turn.

use super::Decoder;
use crate::decode::whisper::DecodingOptions;
use crate::{AdaptationConfig, Error, Recognizer, Session};
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

/// Sessions of other settings that a thread keeps besides the one it works with: each holds its memory.
const KEPT: usize = 3;

/// A thread's models: decoders and adaptation sessions by the settings they are for, the last used in front.
pub struct Worker {
    recognizer: Recognizer,
    decoders: Vec<(AdaptationConfig, Decoder)>,
    sessions: Vec<((AdaptationConfig, DecodingOptions), Session)>,
    /// Seconds that a pass takes for each second of audio, as measured lately.
    pub(super) pass_cost: Option<f64>,
}

impl Worker {
    fn new(recognizer: Recognizer) -> Self {
        Self {
            recognizer,
            decoders: Vec::new(),
            sessions: Vec::new(),
            pass_cost: None,
        }
    }

    /// A decoder for these settings.
    pub fn decoder(&mut self, config: &AdaptationConfig) -> Result<&mut Decoder, Error> {
        let recognizer = &self.recognizer;
        kept(&mut self.decoders, config, || Decoder::new(recognizer, config))
    }

    /// A session of these settings, in whatever state its last stream left it.
    pub fn session(&mut self, config: &AdaptationConfig) -> Result<&mut Session, Error> {
        self.decoding_session(config, &DecodingOptions::default())
    }

    /// The same with options of Whisper's decoder, which other models have no use for.
    pub fn decoding_session(
        &mut self,
        config: &AdaptationConfig,
        decoding: &DecodingOptions,
    ) -> Result<&mut Session, Error> {
        let recognizer = &self.recognizer;
        let settings = (config.clone(), decoding.clone());
        kept(&mut self.sessions, &settings, || {
            recognizer.decoding_session(config, decoding, 1)
        })
    }
}

fn kept<'a, S: Clone + PartialEq, T>(
    all: &'a mut Vec<(S, T)>,
    config: &S,
    make: impl FnOnce() -> Result<T, Error>,
) -> Result<&'a mut T, Error> {
    match all.iter().position(|(of, _)| of == config) {
        Some(index) => all[..=index].rotate_right(1),
        None => {
            let made = make()?;
            all.truncate(KEPT);
            all.insert(0, (config.clone(), made));
        }
    }
    Ok(&mut all[0].1)
}

/// What a stream wants computed.
pub type Task = Box<dyn FnOnce(&mut Worker) + Send>;

/// Which threads compute a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Partial and final hypotheses: never behind adaptation.
    Decode,
    /// Adaptation, and whole recordings.
    Adapt,
}

#[derive(Default)]
struct Waiting {
    /// Each with the moment from which on it is urgent.
    tasks: VecDeque<(Option<Instant>, Task)>,
    busy: bool,
}

#[derive(Default)]
struct Queue {
    streams: BTreeMap<u64, Waiting>,
    /// Whose turn was last.
    last: u64,
    closed: bool,
}

impl Queue {
    /// The next task in turn: of the streams after the last one served, the first with an urgent task, else the first with
    /// any. A stream's tasks run one after the other.
    fn take(&mut self) -> Option<(u64, Task)> {
        let after = self.streams.range(self.last + 1..);
        let turn: Vec<u64> = after
            .chain(self.streams.range(..=self.last))
            .filter(|(_, stream)| !stream.busy && !stream.tasks.is_empty())
            .map(|(id, _)| *id)
            .collect();
        let now = Instant::now();
        let urgent = |id: &&u64| {
            let mut tasks = self.streams.get(id).into_iter().flat_map(|stream| &stream.tasks);
            tasks.any(|(from, _)| from.is_some_and(|from| from <= now))
        };
        let id = *turn.iter().find(urgent).or(turn.first())?;
        let stream = self.streams.get_mut(&id)?;
        let (_, task) = stream.tasks.pop_front()?;
        stream.busy = true;
        self.last = id;
        Some((id, task))
    }
}

#[derive(Default)]
struct Line {
    queue: Mutex<Queue>,
    changed: Condvar,
}

impl Line {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Tasks run outside the lock: a panic cannot have left the queue half changed.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a task; `None` when the pool is closed, whatever waits.
    fn next(&self) -> Option<(u64, Task)> {
        let mut queue = self.lock();
        loop {
            if queue.closed {
                return None;
            }
            if let Some(next) = queue.take() {
                return Some(next);
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn done(&self, id: u64) {
        if let Some(stream) = self.lock().streams.get_mut(&id) {
            stream.busy = false;
        }
        self.changed.notify_all();
    }
}

#[derive(Default)]
struct Lines {
    decode: Line,
    adapt: Line,
    next: std::sync::atomic::AtomicU64,
}

impl Lines {
    fn lane(&self, lane: Lane) -> &Line {
        match lane {
            Lane::Decode => &self.decode,
            Lane::Adapt => &self.adapt,
        }
    }
}

/// The threads, and the lines before them.
pub struct Pool {
    recognizer: Recognizer,
    lines: Arc<Lines>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// So many threads for each lane, at least one.
    pub fn new(recognizer: &Recognizer, decoding: usize, adapting: usize) -> std::io::Result<Self> {
        let lines = Arc::new(Lines::default());
        let mut threads = Vec::new();
        for (lane, count, name) in [(Lane::Decode, decoding, "decode"), (Lane::Adapt, adapting, "adapt")] {
            for index in 0..count.max(1) {
                let (lines, recognizer) = (Arc::clone(&lines), recognizer.clone());
                let builder = std::thread::Builder::new().name(format!("{name} {index}"));
                threads.push(builder.spawn(move || work(lines.lane(lane), &recognizer))?);
            }
        }
        Ok(Self {
            recognizer: recognizer.clone(),
            lines,
            threads,
        })
    }

    /// A quarter of the cores for decoding, the others for adaptation, one at least for each.
    pub fn on_all_cores(recognizer: &Recognizer) -> std::io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, |count| count.get());
        let decoding = (cores / 4).max(1);
        Self::new(recognizer, decoding, cores.saturating_sub(decoding))
    }

    /// The model.
    pub fn recognizer(&self) -> &Recognizer {
        &self.recognizer
    }

    /// A place in both lines.
    pub fn seat(&self) -> Seat {
        let next = &self.lines.next;
        let id = 1 + next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        for lane in [Lane::Decode, Lane::Adapt] {
            self.lines.lane(lane).lock().streams.insert(id, Waiting::default());
        }
        Seat {
            id,
            lines: Arc::clone(&self.lines),
        }
    }

    /// Tasks waiting in a lane, of all streams.
    pub fn waiting(&self, lane: Lane) -> usize {
        self.lines
            .lane(lane)
            .lock()
            .streams
            .values()
            .map(|stream| stream.tasks.len())
            .sum()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        for lane in [Lane::Decode, Lane::Adapt] {
            let line = self.lines.lane(lane);
            line.lock().closed = true;
            line.changed.notify_all();
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn work(line: &Line, recognizer: &Recognizer) {
    let mut worker = Worker::new(recognizer.clone());
    while let Some((id, task)) = line.next() {
        // Whoever waits for the task notices that what it was to send never comes.
        if catch_unwind(AssertUnwindSafe(|| task(&mut worker))).is_err() {
            worker = Worker::new(recognizer.clone());
        }
        line.done(id);
    }
}

/// A stream's place in the lines; what still waits is dropped with it.
pub struct Seat {
    id: u64,
    lines: Arc<Lines>,
}

impl Seat {
    /// Adds a task; urgent ones, with what their own stream has before them, go before other streams' that are not.
    pub fn submit(&self, lane: Lane, urgent: bool, task: Task) {
        self.submit_urgent_from(lane, urgent.then(Instant::now), task);
    }

    /// Adds a task that becomes urgent at a moment: one that will then only have to say that it is too late.
    pub fn submit_urgent_from(&self, lane: Lane, from: Option<Instant>, task: Task) {
        let line = self.lines.lane(lane);
        if let Some(stream) = line.lock().streams.get_mut(&self.id) {
            stream.tasks.push_back((from, task));
        }
        line.changed.notify_one();
    }

    /// This stream's waiting tasks in a lane.
    pub fn waiting(&self, lane: Lane) -> usize {
        let queue = self.lines.lane(lane).lock();
        queue.streams.get(&self.id).map_or(0, |stream| stream.tasks.len())
    }
}

impl Seat {
    /// Leaves the lines: what still waits is dropped, and nothing more is taken.
    pub fn leave(&self) {
        for lane in [Lane::Decode, Lane::Adapt] {
            // The tasks are dropped outside the lock: what they own may be another seat.
            let dropped = self.lines.lane(lane).lock().streams.remove(&self.id);
            drop(dropped);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task() -> Task {
        Box::new(|_| {})
    }

    /// Streams by number, and of each task whether it is urgent.
    fn queue(streams: &[(u64, &[bool])]) -> Queue {
        let mut queue = Queue::default();
        for (id, tasks) in streams {
            let stream = queue.streams.entry(*id).or_default();
            let now = Instant::now();
            stream
                .tasks
                .extend(tasks.iter().map(|urgent| (urgent.then_some(now), task())));
        }
        queue
    }

    fn served(queue: &mut Queue) -> Vec<u64> {
        let mut order = Vec::new();
        while let Some((id, _)) = queue.take() {
            order.push(id);
            queue.streams.get_mut(&id).unwrap().busy = false;
        }
        order
    }

    #[test]
    fn a_stream_with_much_to_do_waits_for_the_others() {
        let mut queue = queue(&[(1, &[false; 4]), (2, &[false; 1]), (3, &[false; 2])]);
        assert_eq!(served(&mut queue), [1, 2, 3, 1, 3, 1, 1]);
    }

    #[test]
    fn urgent_tasks_go_first_but_not_before_their_own_streams_earlier_ones() {
        let mut queue = queue(&[(1, &[false]), (2, &[true, true]), (3, &[false, true])]);
        assert_eq!(served(&mut queue), [2, 3, 2, 3, 1]);
    }

    /// With many streams those whose time was over waited for a whole round before they were told so.
    #[test]
    fn a_task_whose_time_is_over_goes_first() {
        let mut queue = queue(&[(1, &[false]), (2, &[false]), (3, &[]), (4, &[])]);
        let now = Instant::now();
        let later = now + std::time::Duration::from_secs(600);
        for (stream, from) in [(3, later), (4, now)] {
            queue
                .streams
                .get_mut(&stream)
                .unwrap()
                .tasks
                .push_back((Some(from), task()));
        }
        assert_eq!(served(&mut queue), [4, 1, 2, 3]);
    }

    #[test]
    fn a_streams_tasks_never_run_at_the_same_time() {
        let mut queue = queue(&[(1, &[true, true])]);
        assert!(queue.take().is_some());
        assert!(queue.take().is_none());
    }
}
