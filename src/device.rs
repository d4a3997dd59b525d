//! Where recognition runs: a model and a session's work on whichever backend was asked for.

use crate::AdaptationConfig;
use crate::adapt::{Adapter, BatchAdapter, Episode, PolicyState};
use crate::engine::cpu::CpuBackend;
#[cfg(feature = "cuda")]
use crate::engine::cuda::{CudaBackend, CudaDevice, device_count};
use crate::engine::{Backend, CudaPrecision, EngineError};
use crate::model::{CtcModel, ModelConfig, ModelError, ModelFiles};
use std::sync::Arc;

/// Where to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Device {
    /// The processor.
    #[default]
    Cpu,
    /// The first GPU where there is one that can be used, else the processor.
    Auto(CudaPrecision),
    /// A GPU, counted from 0 as its driver does.
    Cuda(usize, CudaPrecision),
}

/// A model in a device's memory.
pub(crate) enum PlacedModel {
    Cpu(Arc<CtcModel<CpuBackend>>),
    #[cfg(feature = "cuda")]
    Cuda(Arc<CudaDevice>, Arc<CtcModel<CudaBackend>>),
}

/// Does the same to a model, or a worker, on any backend.
macro_rules! on_any {
    ($value:expr, $kind:ident, $part:ident => $body:expr) => {
        match $value {
            $kind::Cpu(.., $part) => $body,
            #[cfg(feature = "cuda")]
            $kind::Cuda(.., $part) => $body,
        }
    };
}

impl PlacedModel {
    /// Loads a model onto a device.
    pub(crate) fn load(files: ModelFiles, device: Device) -> Result<Self, ModelError> {
        match device {
            Device::Cpu => Ok(Self::Cpu(Arc::new(files.load(&CpuBackend::new(1)?)?))),
            #[cfg(feature = "cuda")]
            Device::Auto(precision) if device_count().is_ok() => Self::load(files, Device::Cuda(0, precision)),
            Device::Auto(_) => Self::load(files, Device::Cpu),
            #[cfg(feature = "cuda")]
            Device::Cuda(index, precision) => {
                let device = CudaDevice::with_precision(index, precision)?;
                let model = files.load(&CudaBackend::new(&device)?)?;
                Ok(Self::Cuda(device, Arc::new(model)))
            }
            #[cfg(not(feature = "cuda"))]
            Device::Cuda(index, _) => Err(ModelError::Engine(EngineError::NoGpu(format!(
                "cuda:{index}: this aurist was built without the feature `cuda`"
            )))),
        }
    }

    pub(crate) fn config(&self) -> &ModelConfig {
        on_any!(self, PlacedModel, model => model.config())
    }

    /// The model, where it is in the processor's memory.
    pub(crate) fn on_cpu(&self) -> Option<&Arc<CtcModel<CpuBackend>>> {
        match self {
            Self::Cpu(model) => Some(model),
            #[cfg(feature = "cuda")]
            Self::Cuda(..) => None,
        }
    }

    pub(crate) fn parameter_count(&self) -> usize {
        on_any!(self, PlacedModel, model => model.weights().parameter_count())
    }

    /// The device in words.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Cpu(_) => format!("CPU ({})", CpuBackend::instructions()),
            #[cfg(feature = "cuda")]
            Self::Cuda(device, _) => device.describe(),
        }
    }

    /// A worker; on the processor it has so many threads, on a GPU a stream of its own.
    pub(crate) fn worker(&self, config: &AdaptationConfig, threads: usize) -> Result<Worker, EngineError> {
        match self {
            Self::Cpu(model) => {
                let backend = CpuBackend::new(threads)?;
                Ok(Worker::Cpu(Box::new(Work::new(backend, model, config)?)))
            }
            #[cfg(feature = "cuda")]
            Self::Cuda(device, model) => {
                let backend = CudaBackend::new(device)?;
                Ok(Worker::Cuda(Box::new(Work::new(backend, model, config)?)))
            }
        }
    }
}

/// A session's backend and its adaptation state.
pub(crate) struct Work<B: Backend> {
    backend: B,
    adapter: Adapter<B>,
    batches: Batches<B>,
}

/// What passes over several utterances are made with.
enum Batches<B: Backend> {
    /// Nobody has asked yet.
    Unknown(Arc<CtcModel<B>>, Box<AdaptationConfig>),
    /// Device, method or model have none.
    None,
    There(Box<BatchAdapter<B>>),
}

impl<B: Backend> Work<B> {
    fn new(backend: B, model: &Arc<CtcModel<B>>, config: &AdaptationConfig) -> Result<Self, EngineError> {
        let batches = Batches::Unknown(model.clone(), Box::new(config.clone()));
        Ok(Self {
            adapter: Adapter::new(&backend, model.clone(), config)?,
            backend,
            batches,
        })
    }

    fn batches(&mut self) -> Option<&mut BatchAdapter<B>> {
        if let Batches::Unknown(model, config) = &self.batches {
            // Without the memory for it there are none.
            self.batches = match BatchAdapter::new(&self.backend, model.clone(), config) {
                Ok(Some(batches)) => Batches::There(Box::new(batches)),
                Ok(None) | Err(_) => Batches::None,
            };
        }
        match &mut self.batches {
            Batches::There(batches) => Some(batches),
            _ => None,
        }
    }

    fn run_batch(&mut self, inputs: &[&[f32]]) -> Option<Result<Vec<Episode>, EngineError>> {
        self.batches()?;
        let Batches::There(batches) = &mut self.batches else {
            return None;
        };
        let done = batches.run(&self.backend, inputs);
        if matches!(done, Err(EngineError::OutOfMemory { .. })) {
            // Its memory is better left to single utterances.
            self.batches = Batches::None;
        }
        Some(done)
    }
}

/// The same on any backend.
pub(crate) enum Worker {
    Cpu(Box<Work<CpuBackend>>),
    #[cfg(feature = "cuda")]
    Cuda(Box<Work<CudaBackend>>),
}

impl Worker {
    /// See [`Adapter::run`].
    pub(crate) fn run(&mut self, input: &[f32]) -> Result<Episode, EngineError> {
        match self {
            Self::Cpu(work) => {
                let Work { backend, adapter, .. } = &mut **work;
                let backend = &*backend;
                backend.within(|| adapter.run(backend, input))
            }
            #[cfg(feature = "cuda")]
            Self::Cuda(work) => work.adapter.run(&work.backend, input),
        }
    }

    /// Whether [`Worker::run_batch`] can be had.
    pub(crate) fn takes_batches(&mut self) -> bool {
        on_any!(self, Worker, work => work.batches().is_some())
    }

    /// See [`BatchAdapter::run`]; `None` where there are no batches.
    pub(crate) fn run_batch(&mut self, inputs: &[&[f32]]) -> Option<Result<Vec<Episode>, EngineError>> {
        on_any!(self, Worker, work => work.run_batch(inputs))
    }

    /// Whisper's log-mel frames, where the device makes them itself.
    pub(crate) fn log_mel(&self, _samples: &[f32], _bands: usize) -> Option<Result<Vec<f32>, EngineError>> {
        match self {
            Self::Cpu(_) => None,
            #[cfg(feature = "cuda")]
            Self::Cuda(work) => {
                let tables = || crate::audio::LogMel::tables(_bands);
                Some(work.backend.log_mel(_samples, _bands, tables))
            }
        }
    }

    pub(crate) fn begin_stream(&mut self) {
        on_any!(self, Worker, work => work.adapter.begin_stream(&work.backend));
    }

    pub(crate) fn domain_changed(&mut self) {
        on_any!(self, Worker, work => work.adapter.domain_changed(&work.backend));
    }

    pub(crate) fn state(&mut self) -> PolicyState {
        on_any!(self, Worker, work => work.adapter.state(&work.backend))
    }

    pub(crate) fn resume(&mut self, state: &PolicyState) -> Option<()> {
        on_any!(self, Worker, work => work.adapter.resume(&work.backend, state))
    }

    pub(crate) fn limit_steps(&mut self, steps: usize) {
        on_any!(self, Worker, work => {
            // They know no such limit.
            work.batches = Batches::None;
            work.adapter.limit_steps(steps);
        });
    }

    pub(crate) fn limit_time(&mut self, deadline: Option<std::time::Instant>) {
        on_any!(self, Worker, work => work.adapter.limit_time(deadline));
    }

    /// What a continual method would start the next utterance from.
    pub(crate) fn carried_values(&mut self) -> Vec<f32> {
        on_any!(self, Worker, work => {
            work.adapter.show_carried(&work.backend);
            work.adapter.parameters().values(&work.backend)
        })
    }

    pub(crate) fn keep_logits_after(&mut self, steps: &[usize]) {
        on_any!(self, Worker, work => {
            work.batches = Batches::None;
            work.adapter.keep_logits_after(steps);
        });
    }

    /// See [`crate::adapt::AdaptedParameters::tensors`].
    pub(crate) fn tensors(&self) -> Vec<(String, Vec<usize>, Vec<f32>)> {
        on_any!(self, Worker, work => work.adapter.parameters().tensors(&work.backend).collect())
    }
}
