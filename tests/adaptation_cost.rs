//! Ways to adapt for less: what each computes, what each leaves out, and that what remains is SUTA's own trajectory.

mod common;

use aurist::adapt::{AdaptedParameters, Adapter, Episode, Selection, greedy_labels};
use aurist::audio::{Features, read_all};
use aurist::engine::cpu::CpuBackend;
use aurist::engine::{AdamW, Arena, ObjectiveTerms, Rows};
use aurist::model::{CtcModel, OperandId, Parameters, Place};
use aurist::{AdaptationConfig, Bundled, Compatibility, ParameterChoice, Recognizer, Settled, Stopped};
use common::repository;
use std::cell::RefCell;
use std::sync::Arc;

const CLIP: &str = "tests/data/librivox/sense_and_sensibility_01_austen_64kb-0880.wav";

struct Fixture {
    backend: CpuBackend,
    model: Arc<CtcModel<CpuBackend>>,
    input: Vec<f32>,
}

impl Fixture {
    fn new() -> Self {
        let backend = CpuBackend::new(1).unwrap();
        let model = common::load(&backend, &repository("models/whisper-tiny.en-ctc"));
        let samples = read_all(&repository(CLIP)).unwrap();
        let input = Features::log_mel(80).compute(&samples[..24_000]);
        Self { backend, model, input }
    }

    fn adapter(&self, config: &AdaptationConfig) -> Adapter<CpuBackend> {
        Adapter::new(&self.backend, self.model.clone(), config).unwrap()
    }

    fn run(&self, config: &AdaptationConfig) -> Episode {
        self.adapter(config).run(&self.backend, &self.input).unwrap()
    }

    fn labels(&self, logits: &[f32]) -> Vec<usize> {
        let config = self.model.config();
        greedy_labels(logits, config.vocab_size, config.blank)
    }
}

fn exact() -> AdaptationConfig {
    AdaptationConfig {
        learning_rate: 1e-3,
        parameters: ParameterChoice::LayerNorm,
        ..AdaptationConfig::paper()
    }
}

fn losses(episode: &Episode) -> Vec<f64> {
    episode.objectives.iter().map(|objective| objective.loss).collect()
}

#[test]
fn stopping_when_settled_gives_the_exact_trajectorys_beginning() {
    let fixture = Fixture::new();
    let whole = fixture.run(&exact());
    let all = losses(&whole);
    let states: Vec<Vec<usize>> = (0..10)
        .map(|steps| fixture.labels(&fixture.run(&AdaptationConfig { steps, ..exact() }).adapted_logits))
        .collect();
    let mut stops = Vec::new();
    for rule in [(0.2, 1), (0.05, 1), (0.05, 2), (0.02, 3)] {
        let (loss_change, in_a_row) = rule;
        let rule = Settled {
            loss_change,
            steps: in_a_row,
        };
        let stopped = fixture.run(&AdaptationConfig {
            stop_when_settled: Some(rule),
            ..exact()
        });
        // By the rule's own words, from the exact run: the first of so many steps in a row that changed little.
        let settled = |step: &usize| {
            (0..in_a_row).all(|back| {
                let (now, before) = (step - back, step - back - 1);
                (all[now] - all[before]).abs() < loss_change * all[before].abs() && states[now] == states[before]
            })
        };
        match (in_a_row..10).find(settled) {
            Some(step) => {
                assert_eq!(
                    (stopped.steps, stopped.stopped),
                    (step, Some(Stopped::Settled)),
                    "{rule:?}"
                );
                assert_eq!((stopped.forwards, stopped.backwards), (step + 1, step));
                assert_eq!(losses(&stopped), all[..step]);
                let exact = fixture.run(&AdaptationConfig { steps: step, ..exact() });
                assert_eq!(stopped.adapted_logits, exact.adapted_logits);
                stops.push(step);
            }
            None => assert_eq!((stopped.steps, stopped.stopped), (10, None), "{rule:?}"),
        }
    }
    assert!(stops.len() >= 2, "too few of the rules stop at all: {stops:?}");
    let never = fixture.run(&AdaptationConfig {
        stop_when_settled: Some(Settled {
            loss_change: 0.0,
            steps: 1,
        }),
        ..exact()
    });
    assert_eq!((losses(&never), never.stopped), (all, None));
    assert_eq!(never.adapted_logits, whole.adapted_logits);
}

#[test]
fn a_confident_utterance_costs_one_forward_pass() {
    let fixture = Fixture::new();
    let whole = fixture.run(&exact());
    let entropy = whole.first.unwrap().entropy;
    let below = |threshold: f64| {
        fixture.run(&AdaptationConfig {
            skip_confident: Some(threshold),
            ..exact()
        })
    };
    let skipped = below(entropy * 1.001);
    assert_eq!((skipped.forwards, skipped.backwards, skipped.steps), (1, 0, 0));
    assert_eq!(skipped.stopped, Some(Stopped::Confident));
    assert_eq!(skipped.adapted_logits, whole.source_logits);
    let adapted = below(entropy * 0.999);
    assert_eq!((adapted.forwards, adapted.backwards, adapted.stopped), (11, 10, None));
    assert_eq!(adapted.adapted_logits, whole.adapted_logits);
}

#[test]
fn no_step_begins_after_the_time_is_over() {
    let fixture = Fixture::new();
    let mut adapter = fixture.adapter(&exact());
    adapter.limit_time(Some(std::time::Instant::now()));
    let late = adapter.run(&fixture.backend, &fixture.input).unwrap();
    assert_eq!(
        (late.forwards, late.backwards, late.stopped),
        (1, 0, Some(Stopped::Late))
    );
    assert_eq!(late.adapted_logits, late.source_logits);
    adapter.limit_time(None);
    let whole = adapter.run(&fixture.backend, &fixture.input).unwrap();
    assert_eq!((whole.steps, whole.stopped), (10, None));
}

#[test]
fn a_step_that_raises_the_loss_is_tried_again_at_half_the_rate() {
    let fixture = Fixture::new();
    let step = |learning_rate: f64| AdaptationConfig {
        steps: 1,
        learning_rate,
        ..exact()
    };
    // The first rate of 1e-3, 2e-3, 4e-3, ... at which one step raises the loss: at half of it, it does not.
    let rises = |&rate: &f64| {
        let episode = fixture.run(&step(rate));
        episode.last.unwrap().loss > episode.first.unwrap().loss
    };
    let too_large = (0..20).map(|i| 1e-3 * f64::from(1 << i)).find(rises).unwrap();
    assert!(too_large > 1e-3);
    let half = fixture.run(&step(too_large / 2.0));
    let guarded = AdaptationConfig {
        steps: 2,
        safeguard: true,
        ..step(too_large)
    };
    let episode = fixture.run(&guarded);
    assert_eq!((episode.steps, episode.rollbacks), (1, 1));
    // No second backward pass: the gradient at the state gone back to is still there.
    assert_eq!((episode.forwards, episode.backwards), (3, 1));
    assert_eq!(episode.adapted_logits, half.adapted_logits);
    assert_eq!(episode.last.unwrap().loss, half.last.unwrap().loss);
    assert_eq!(losses(&episode), losses(&half));
    assert_eq!(episode.guard, None);
}

#[test]
fn nothing_is_left_of_steps_that_were_all_taken_back() {
    let fixture = Fixture::new();
    // Far too large: what comes of it is not finite. (A collapse onto one symbol would be, and would lower the loss.)
    let mut adapter = fixture.adapter(&AdaptationConfig {
        steps: 3,
        learning_rate: 1e38,
        safeguard: true,
        ..exact()
    });
    let source: Vec<_> = adapter.parameters().tensors(&fixture.backend).collect();
    let episode = adapter.run(&fixture.backend, &fixture.input).unwrap();
    assert_eq!((episode.steps, episode.rollbacks), (0, 3));
    assert_eq!(episode.adapted_logits, episode.source_logits);
    assert_eq!(episode.first.unwrap().loss, episode.last.unwrap().loss);
    assert!(adapter.parameters().tensors(&fixture.backend).eq(source));
}

#[test]
fn without_a_rise_the_safeguard_changes_nothing() {
    let fixture = Fixture::new();
    let config = AdaptationConfig { steps: 3, ..exact() };
    let plain = fixture.run(&config);
    let rose = plain.objectives.windows(2).any(|pair| pair[1].loss > pair[0].loss);
    assert!(!rose && plain.last.unwrap().loss < plain.objectives[2].loss);
    let guarded = fixture.run(&AdaptationConfig {
        safeguard: true,
        ..config
    });
    assert_eq!(guarded.adapted_logits, plain.adapted_logits);
    assert_eq!((guarded.rollbacks, guarded.backwards), (0, 3));
}

/// Notes every read of an operand.
struct Noted {
    store: AdaptedParameters<CpuBackend>,
    reads: RefCell<Vec<usize>>,
}

impl Noted {
    fn note(&self, id: OperandId) {
        self.reads.borrow_mut()[id.index()] += 1;
    }
}

impl Parameters<CpuBackend> for Noted {
    fn value(&self, backend: &CpuBackend, id: OperandId) -> &[f32] {
        self.note(id);
        self.store.value(backend, id)
    }
    fn is_adapted(&self, id: OperandId) -> bool {
        self.store.is_adapted(id)
    }
    fn gradient(&mut self, backend: &CpuBackend, id: OperandId) -> Option<&mut [f32]> {
        self.store.gradient(backend, id)
    }
    fn values_and_gradients<const N: usize>(
        &mut self,
        backend: &CpuBackend,
        ids: [OperandId; N],
    ) -> ([&[f32]; N], [Option<&mut [f32]>; N]) {
        ids.iter().for_each(|id| self.note(*id));
        self.store.values_and_gradients(backend, ids)
    }
}

#[test]
fn what_lies_below_the_adapted_layers_is_computed_once() {
    let Fixture { backend, model, input } = Fixture::new();
    let weights = model.weights().clone();
    let layers = weights.layers();
    for top_layers in [None, Some(3), Some(2), Some(1)] {
        let selection = Selection {
            choice: ParameterChoice::LayerNorm,
            top_layers,
            lowest_layers: None,
            compatibility: Compatibility::None,
            half: aurist::Half::Both,
        };
        let mut noted = Noted {
            store: AdaptedParameters::new(&backend, weights.clone(), Some(selection)).unwrap(),
            reads: RefCell::new(vec![0; weights.operands().len()]),
        };
        let lowest = model.lowest_adapted_stage(&noted);
        let (plan, activations) = model.plan(&backend, input.len(), lowest).unwrap();
        let mut arena = Arena::new(&backend, 0).unwrap();
        arena.reserve(&backend, &plan).unwrap();
        model.load_input(&backend, &mut arena, &activations, &input);
        model.forward(&backend, &noted, &mut arena, &activations, 0);
        let after_first = noted.reads.borrow().clone();
        let terms = ObjectiveTerms {
            temperature: 2.5,
            entropy_weight: 0.3,
            blank: model.config().blank,
        };
        let shape = Rows {
            rows: activations.output_frames(),
            cols: model.config().vocab_size,
        };
        for _ in 0..10 {
            use aurist::engine::Backend;
            let ([logits], [dlogits]) = arena.split(&backend, [activations.logits()], [activations.dlogits()]);
            backend.entropy_mcc(&terms, shape, None, logits, dlogits);
            noted.store.zero_gradients(&backend);
            model.backward(&backend, &mut noted, &mut arena, &activations);
            noted.store.update(&backend, &AdamW::suta(1e-3));
            model.forward(&backend, &noted, &mut arena, &activations, lowest);
        }
        let reads = noted.reads.borrow();
        let first_layer = layers - top_layers.unwrap_or(layers);
        for tensor in weights.tensors() {
            let (name, operand) = (&tensor.name, tensor.operand.index());
            let below = match tensor.place {
                Place::Layer(layer) => layer < first_layer,
                Place::Feature | Place::Encoder | Place::Decoder(_) => true,
                Place::Head => false,
            };
            assert!(after_first[operand] > 0, "{name} is not read at all");
            if below {
                assert_eq!(
                    reads[operand], after_first[operand],
                    "{name}, top layers {top_layers:?}"
                );
            } else {
                assert!(reads[operand] >= after_first[operand] + 10, "{name} is read too rarely");
            }
        }
    }
}

#[test]
fn fast_takes_a_third_of_the_passes_at_most() {
    let recognizer = Recognizer::bundled(Bundled::TinyEnCtc).unwrap();
    let default = recognizer.default_adaptation();
    let samples = read_all(&repository(CLIP)).unwrap();
    let run = |config: &AdaptationConfig| {
        let mut session = recognizer.session(config, 1).unwrap();
        session.transcribe_utterance(&samples, 0.0).unwrap()
    };
    let (exact, fast) = (run(&default), run(&default.clone().fast()));
    assert_eq!((exact.forwards, exact.backwards), (11, 10));
    assert!(3 * (fast.forwards + fast.backwards) <= exact.forwards + exact.backwards);
    assert!(fast.steps > 0 && fast.entropy_after < fast.entropy_before);
    assert_ne!(fast.text, "");
    // What is not about cost stays as it was.
    let paper = AdaptationConfig::paper();
    assert_eq!(paper.clone().fast().parameters, paper.parameters);
}
