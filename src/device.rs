//! The device on which tensors are kept, chosen at run time.

use std::fmt;
use std::str::FromStr;

use burn::tensor::Device;
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

use crate::error::{Error, Result, bail};

/// Returns the bytes of this machine's memory that are free, within what its group of processes may use. None where the system
/// does not tell.
pub fn free_memory() -> Option<u64> {
    let memory = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = System::new_with_specifics(memory).ok()?;
    let of_group = system.cgroup_limits().map_or(u64::MAX, |limits| limits.free_memory);
    Some(system.available_memory().min(of_group)).filter(|&bytes| bytes > 0)
}

/// Checks that this machine's memory has room for `needed` bytes. `what` is a plural that names what takes them; `cure` says what
/// else to do.
///
/// # Errors
/// Returns an error with both numbers if there is too little.
pub fn require_memory(needed: u64, what: &str, cure: &str) -> Result<()> {
    match free_memory() {
        Some(free) if free < needed => Err(too_little_memory([needed, free], what, cure)),
        _ => Ok(()),
    }
}

/// Makes the error that something takes more memory than is free, given both numbers of bytes.
pub(crate) fn too_little_memory([needed, free]: [u64; 2], what: &str, cure: &str) -> Error {
    let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
    Error::new(format!("{what} take {:.1} GiB, and {:.1} GiB of memory are free. {cure}", gib(needed), gib(free)))
}

/// What a user asks for with `--device` or `device = ...`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first CUDA device, or else the CPU with a line that says why.
    Auto,
    /// The CPU.
    Cpu,
    /// A CUDA device by index.
    Cuda(usize),
    /// A wgpu device by index.
    Wgpu(usize),
}

impl FromStr for DeviceChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (kind, index) = text.split_once(':').map_or((text, None), |(k, i)| (k, Some(i)));
        let number = match index {
            None => Ok(0),
            Some(index) => index.parse::<usize>(),
        };
        match (kind, number) {
            ("auto", Ok(0)) if index.is_none() => Ok(Self::Auto),
            ("cpu", Ok(0)) if index.is_none() => Ok(Self::Cpu),
            ("cuda", Ok(n)) => Ok(Self::Cuda(n)),
            ("wgpu", Ok(n)) => Ok(Self::Wgpu(n)),
            _ => bail!("`{text}` is no device: write auto, cpu, cuda, cuda:N, wgpu or wgpu:N."),
        }
    }
}

impl DeviceChoice {
    /// Returns the GPU `index` of the same kind; for `auto`, a CUDA device.
    ///
    /// # Errors
    /// When the choice is the CPU, of which there is only one.
    pub fn numbered(self, index: usize) -> Result<Self> {
        match self {
            Self::Auto | Self::Cuda(_) => Ok(Self::Cuda(index)),
            Self::Wgpu(_) => Ok(Self::Wgpu(index)),
            Self::Cpu => bail!(
                "`devices` names GPUs, but `device` is the CPU, all of whose cores are used anyway. Leave `devices` out."
            ),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(n) => write!(f, "cuda:{n}"),
            Self::Wgpu(n) => write!(f, "wgpu:{n}"),
        }
    }
}

/// An open device.
#[derive(Debug, Clone)]
pub struct Opened {
    /// The device, without autodiff.
    pub device: Device,
    /// The choice that it resolved to, which is never [`DeviceChoice::Auto`].
    pub choice: DeviceChoice,
    /// Why `auto` did not take an accelerator that the program could use, as one line for the user.
    pub note: Option<String>,
}

/// Opens the device that was chosen. `auto` falls back to the CPU, and says why if the program could use an accelerator.
///
/// # Errors
/// When the accelerator that was asked for is not there, or the program was built without support for it.
pub fn open(choice: DeviceChoice) -> Result<Opened> {
    match choice {
        DeviceChoice::Cpu => cpu(),
        DeviceChoice::Cuda(index) => cuda(index),
        DeviceChoice::Wgpu(index) => wgpu(index),
        DeviceChoice::Auto => cuda(0).or_else(|no_cuda| or_else_the_cpu(no_cuda, cpu())),
    }
}

/// Takes the CPU where there is no CUDA device, and says why if the program could use one.
fn or_else_the_cpu(no_cuda: Error, cpu: Result<Opened>) -> Result<Opened> {
    let mut opened =
        cpu.map_err(|no_cpu| Error::new(format!("there is nothing to compute on: {no_cuda} And {no_cpu}")))?;
    // A program without CUDA was asked for nothing else.
    opened.note = cfg!(feature = "cuda").then(|| format!("using the CPU: {no_cuda}"));
    Ok(opened)
}

#[cfg(feature = "cpu")]
fn cpu() -> Result<Opened> {
    Ok(Opened { device: Device::flex(), choice: DeviceChoice::Cpu, note: None })
}

#[cfg(not(feature = "cpu"))]
fn cpu() -> Result<Opened> {
    bail!("this program was built without the CPU backend; build it with `--features cpu`.")
}

/// What else a user can do where an accelerator is missing, as the end of a sentence.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
fn instead() -> &'static str {
    if cfg!(feature = "cpu") { ", or use --device cpu" } else { "" }
}

#[cfg(feature = "cuda")]
fn cuda(index: usize) -> Result<Opened> {
    use burn::tensor::DeviceType;
    let found = Device::enumerate(DeviceType::Cuda).into_vec();
    match found.into_iter().nth(index) {
        Some(device) => Ok(Opened { device, choice: DeviceChoice::Cuda(index), note: None }),
        None => bail!("no CUDA device {index} was found; check the driver with `nvidia-smi`{}.", instead()),
    }
}

#[cfg(not(feature = "cuda"))]
fn cuda(_index: usize) -> Result<Opened> {
    bail!("this program was built without CUDA (build it with `--features cuda`).")
}

#[cfg(feature = "wgpu")]
fn wgpu(index: usize) -> Result<Opened> {
    use burn::tensor::DeviceType;
    let found = Device::enumerate(DeviceType::Wgpu).into_vec();
    match found.into_iter().nth(index) {
        Some(device) => Ok(Opened { device, choice: DeviceChoice::Wgpu(index), note: None }),
        None => bail!("no wgpu device {index} was found; check the graphics driver{}.", instead()),
    }
}

#[cfg(not(feature = "wgpu"))]
fn wgpu(_index: usize) -> Result<Opened> {
    bail!("this program was built without wgpu (build it with `--features wgpu`).")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_read_and_written_alike() {
        for (text, choice) in
            [("auto", DeviceChoice::Auto), ("cpu", DeviceChoice::Cpu), ("cuda:1", DeviceChoice::Cuda(1))]
        {
            assert_eq!(text.parse::<DeviceChoice>().unwrap(), choice);
            assert_eq!(choice.to_string(), text);
        }
        assert_eq!("wgpu".parse::<DeviceChoice>().unwrap(), DeviceChoice::Wgpu(0));
        for bad in ["gpu", "cpu:1", "cuda:x", "", "auto:0"] {
            assert!(bad.parse::<DeviceChoice>().is_err(), "{bad}");
        }
    }

    #[test]
    fn auto_names_both_devices_that_it_lacks() {
        let missing = |what: &str| Error::new(format!("no {what} is here."));
        let error = or_else_the_cpu(missing("GPU"), Err(missing("CPU"))).unwrap_err().to_string();
        assert_eq!(error, "there is nothing to compute on: no GPU is here. And no CPU is here.");
    }
}
