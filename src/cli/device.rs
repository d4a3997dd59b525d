//! Where to compute, as typed.

use super::Failure;
use crate::Device;
use crate::engine::CudaPrecision;
use clap::{Args, ValueEnum};

/// The options of the device.
#[derive(Debug, Args)]
pub(super) struct DeviceArguments {
    /// Where to compute: cpu, cuda:N (an NVIDIA GPU) or auto (cuda:0 where it can be used, else cpu).
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = device)]
    device: Device,

    /// Precision of a GPU's matrix products, whose sums are f32 in all: exact (f32 factors), tf32 (10 bits of mantissa)
    /// or bf16 (7 bits), the faster the fewer [default: exact].
    #[arg(long, value_name = "HOW", hide_possible_values = true)]
    cuda_precision: Option<PrecisionChoice>,
}

/// A value of `--cuda-precision`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PrecisionChoice {
    Exact,
    Tf32,
    Bf16,
}

impl PrecisionChoice {
    fn precision(self) -> CudaPrecision {
        match self {
            Self::Exact => CudaPrecision::Exact,
            Self::Tf32 => CudaPrecision::Tf32,
            Self::Bf16 => CudaPrecision::Bf16,
        }
    }
}

impl DeviceArguments {
    /// Both together.
    pub(super) fn resolve(&self) -> Result<Device, Failure> {
        let precision = self.cuda_precision.map(PrecisionChoice::precision);
        match self.device {
            Device::Cpu if precision.is_some() => Err(Failure::usage(
                "--cuda-precision is a GPU's: add --device cuda:0 or --device auto (the processor computes in f32)",
            )),
            Device::Cpu => Ok(Device::Cpu),
            Device::Auto(default) => Ok(Device::Auto(precision.unwrap_or(default))),
            Device::Cuda(index, default) => Ok(Device::Cuda(index, precision.unwrap_or(default))),
        }
    }
}

fn device(text: &str) -> Result<Device, String> {
    let precision = CudaPrecision::default();
    match text {
        "cpu" => Ok(Device::Cpu),
        "auto" => Ok(Device::Auto(precision)),
        _ => text
            .strip_prefix("cuda:")
            .and_then(|index| index.parse().ok())
            .map(|index| Device::Cuda(index, precision))
            .ok_or_else(|| "give cpu, auto or cuda:N with a device number, such as cuda:0".to_string()),
    }
}
