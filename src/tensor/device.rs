use std::fmt;
use std::str::FromStr;

use candle_core::Device;

use super::lean::Precision;

/// Where models compute, as a user asks for it: `auto`, `cpu`, `cpu:bf16`, `cpu:int8` or `cuda:N`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The first CUDA device if there is a working one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The CPU, with the weights of models that only embed kept in bfloat16.
    CpuBf16,
    /// The CPU, with those weights in eight bits.
    CpuInt8,
    /// The CUDA device of this number if it works, else the CPU.
    Cuda(usize),
}

/// Why a device cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// Not a device's name.
    #[error("`{0}` is not a device: use auto, cpu, cpu:bf16, cpu:int8 or cuda:N")]
    Unknown(String),
    /// This binary holds no CUDA code.
    #[error("cuda:{ordinal} was asked for, but this binary is built without the feature `cuda`")]
    NotBuilt {
        /// Number of the device asked for.
        ordinal: usize,
    },
    /// The driver or the device does not answer.
    #[error("cuda:{ordinal} does not work: {reason}")]
    Unavailable {
        /// Number of the device asked for.
        ordinal: usize,
        /// What the driver said.
        reason: String,
    },
}

impl FromStr for DeviceChoice {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        match text.trim().to_ascii_lowercase().as_str() {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cpu:bf16" => Ok(Self::CpuBf16),
            "cpu:int8" => Ok(Self::CpuInt8),
            "cuda" => Ok(Self::Cuda(0)),
            other => other
                .strip_prefix("cuda:")
                .filter(|n| n.bytes().all(|b| b.is_ascii_digit()))
                .and_then(|n| n.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(|| DeviceError::Unknown(text.to_owned())),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::CpuBf16 => f.write_str("cpu:bf16"),
            Self::CpuInt8 => f.write_str("cpu:int8"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

impl DeviceChoice {
    /// How weights are kept there by models that only embed.
    #[must_use]
    pub fn precision(self) -> Precision {
        match self {
            Self::CpuBf16 => Precision::Bf16,
            Self::CpuInt8 => Precision::Int8,
            Self::Auto | Self::Cpu | Self::Cuda(_) => Precision::F32,
        }
    }
}

/// Opens the device; the second value says why it is the CPU instead, where that may surprise.
#[must_use]
pub fn open(choice: DeviceChoice) -> (Device, Option<String>) {
    let ordinal = match choice {
        DeviceChoice::Cuda(ordinal) => ordinal,
        DeviceChoice::Auto if cfg!(feature = "cuda") => 0,
        DeviceChoice::Auto | DeviceChoice::Cpu | DeviceChoice::CpuBf16 | DeviceChoice::CpuInt8 => {
            return (Device::Cpu, None);
        }
    };
    match cuda(ordinal) {
        Ok(device) => (device, None),
        Err(error) => (Device::Cpu, Some(format!("using the CPU: {error}"))),
    }
}

#[cfg(feature = "cuda")]
fn cuda(ordinal: usize) -> Result<Device, DeviceError> {
    // cudarc panics where libcuda is missing.
    match std::panic::catch_unwind(|| Device::new_cuda(ordinal)) {
        Ok(Ok(device)) => {
            if let Device::Cuda(card) = &device
                && let Err(error) = super::card::keep_memory(card)
            {
                tracing::warn!(%error, "the card gives memory back at every wait: training is slower");
            }
            Ok(device)
        }
        Ok(Err(error)) => {
            // candle appends a backtrace where one was asked for.
            let text = error.to_string();
            let reason = text.lines().next().unwrap_or("no reason given").to_owned();
            Err(DeviceError::Unavailable { ordinal, reason })
        }
        Err(_) => Err(DeviceError::Unavailable {
            ordinal,
            reason: "the CUDA driver library cannot be loaded".to_owned(),
        }),
    }
}

#[cfg(not(feature = "cuda"))]
fn cuda(ordinal: usize) -> Result<Device, DeviceError> {
    Err(DeviceError::NotBuilt { ordinal })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_reads_what_it_prints_and_refuses_other_names() {
        for choice in [
            DeviceChoice::Auto,
            DeviceChoice::Cpu,
            DeviceChoice::CpuBf16,
            DeviceChoice::CpuInt8,
            DeviceChoice::Cuda(3),
        ] {
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(0)));
        for bad in ["", "gpu", "cpu:f16", "cuda:", "cuda:-1", "cuda:+1", "cuda:x"] {
            assert!(bad.parse::<DeviceChoice>().is_err(), "{bad}");
        }
    }

    #[test]
    fn auto_always_opens() {
        let _ = open(DeviceChoice::Auto);
        let (device, notice) = open(DeviceChoice::Cpu);
        assert!(device.is_cpu() && notice.is_none());
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_cuda_device_that_does_not_work_is_replaced_by_the_cpu_with_a_message() {
        let (device, notice) = open(DeviceChoice::Cuda(1));
        assert!(device.is_cpu());
        let notice = notice.unwrap();
        assert!(notice.contains("using the CPU") && notice.contains("cuda:1"), "{notice}");
    }
}
