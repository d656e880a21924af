//! Starting kernels: the only place that hands a device's addresses to code it cannot see.
#![expect(
    unsafe_code,
    reason = "a kernel's arguments are addresses, and fresh memory is not zeroed first"
)]

use candle_core::backend::{BackendDevice as _, BackendStorage as _};
use candle_core::cuda_backend::WrapErr as _;
use candle_core::cuda_backend::cudarc::driver::{
    DevicePtr as _, LaunchConfig, PushKernelArg as _, result, sys,
};
use candle_core::op::BackpropOp;
use candle_core::{
    CudaDevice, CudaStorage, DType, Device, Error, Layout, Result, Shape, Storage, Tensor,
};
use half::bf16;

/// What build.rs made of kernels.cu.
const PTX: &str = include_str!(concat!(env!("OUT_DIR"), "/kernels.ptx"));

/// Contiguous values on a device, which whoever made this keeps alive until the launch; memory freed later is
/// freed in the order of the device's one stream, so after the kernel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    address: u64,
    pub(super) count: usize,
}

impl Place {
    pub(super) fn of(storage: &CudaStorage, layout: &Layout) -> Result<Self> {
        let (start, end) = layout
            .contiguous_offsets()
            .ok_or_else(|| Error::Msg("a fused operation needs contiguous input".into()).bt())?;
        let stream = storage.device().cuda_stream();
        let (base, size) = if storage.dtype() == DType::BF16 {
            (storage.as_cuda_slice::<bf16>()?.device_ptr(&stream).0, 2)
        } else {
            // Says so for any other type.
            (storage.as_cuda_slice::<f32>()?.device_ptr(&stream).0, 4)
        };
        Ok(Self { address: base + (start * size) as u64, count: end - start })
    }
}

/// An argument of a kernel.
#[derive(Debug, Clone, Copy)]
pub(super) enum Argument {
    At(Place),
    Int(i32),
    Long(i64),
    Float(f32),
}

impl From<Place> for Argument {
    fn from(place: Place) -> Self {
        Self::At(place)
    }
}

impl From<f32> for Argument {
    fn from(value: f32) -> Self {
        Self::Float(value)
    }
}

pub(super) fn int(value: usize) -> Result<Argument> {
    i32::try_from(value).map(Argument::Int).map_err(Error::wrap)
}

pub(super) fn long(value: usize) -> Argument {
    Argument::Long(value as i64)
}

/// How many threads work on a kernel, and how they are laid out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grid(LaunchConfig);

impl Grid {
    const THREADS: u32 = 256;
    /// Enough to fill any card; threads stride over what is more.
    const MOST: u32 = 132 * 16;

    fn of(blocks: (u32, u32), block: (u32, u32)) -> Self {
        Self(LaunchConfig {
            grid_dim: (blocks.0.max(1), blocks.1.max(1), 1),
            block_dim: (block.0, block.1, 1),
            shared_mem_bytes: 0,
        })
    }

    /// For kernels whose threads stride over `count` values, `each` at a time.
    pub(super) fn striding(count: usize, each: usize) -> Self {
        let blocks = count.div_ceil(Self::THREADS as usize * each).min(Self::MOST as usize);
        Self::of((blocks as u32, 1), (Self::THREADS, 1))
    }

    /// As many blocks as are asked for, whose threads stride.
    pub(super) fn blocks(count: u32) -> Self {
        Self::of((count, 1), (Self::THREADS, 1))
    }

    /// A warp for each row.
    pub(super) fn rows(rows: usize) -> Result<Self> {
        Ok(Self::of((whole(rows.div_ceil(8))?, 1), (Self::THREADS, 1)))
    }

    /// Blocks of 32 columns by stretches of rows.
    pub(super) fn stretches(columns: usize, stretches: usize) -> Result<Self> {
        Ok(Self::of((whole(columns.div_ceil(32))?, whole(stretches)?), (32, 8)))
    }

    /// A thread for each value.
    pub(super) fn values(count: usize) -> Result<Self> {
        Ok(Self::of((whole(count.div_ceil(Self::THREADS as usize))?, 1), (Self::THREADS, 1)))
    }
}

fn whole(count: usize) -> Result<u32> {
    u32::try_from(count).map_err(Error::wrap)
}

/// A kernel that is there for f32 and bf16.
pub(super) fn typed(kernel: &str, dtype: DType) -> String {
    format!("{kernel}_{}", if dtype == DType::BF16 { "bf16" } else { "f32" })
}

/// Starts a kernel; `arguments` must be those that kernels.cu declares for it.
pub(super) fn launch(
    device: &CudaDevice,
    kernel: &str,
    grid: Grid,
    arguments: &[Argument],
) -> Result<()> {
    let function = device.get_or_load_custom_func(kernel, "handclip", PTX)?;
    let mut builder = function.builder();
    for argument in arguments {
        match argument {
            Argument::At(place) => builder.arg(&place.address),
            Argument::Int(value) => builder.arg(value),
            Argument::Long(value) => builder.arg(value),
            Argument::Float(value) => builder.arg(value),
        };
    }
    // SAFETY: the room's functions are the only callers, each beside the declaration it follows; they pass places
    // as large as the counts they pass, and kernels touch nothing beyond those.
    unsafe { builder.launch(grid.0) }.w()?;
    Ok(())
}

/// Memory for a result, whose every value the next kernel writes.
pub(super) fn room(device: &CudaDevice, shape: &Shape, dtype: DType) -> Result<CudaStorage> {
    // SAFETY: as said above; all callers launch a kernel that fills it.
    unsafe { device.alloc_uninit(shape, dtype) }
}

/// A tensor without history.
pub(super) fn tensor(storage: CudaStorage, shape: &Shape) -> Tensor {
    Tensor::from_storage(Storage::Cuda(storage), shape.clone(), BackpropOp::none(), false)
}

/// Runs `f` on where a tensor lies.
pub(super) fn with<R>(
    tensor: &Tensor,
    f: impl FnOnce(&CudaStorage, &Layout) -> Result<R>,
) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cuda(storage) => f(storage, layout),
        Storage::Cpu(_) | Storage::Metal(_) => {
            Err(Error::Msg("a card's operation needs a tensor on the card".to_owned()).bt())
        }
    }
}

pub(super) fn place(tensor: &Tensor) -> Result<Place> {
    with(tensor, Place::of)
}

/// Lets the device keep the memory that is freed, instead of returning it to the driver at every wait. Without it
/// each step of a training asks for all its memory anew.
pub(in super::super) fn keep_memory(device: &CudaDevice) -> Result<()> {
    let mut all = u64::MAX;
    let context = device.cuda_stream().context().clone();
    // SAFETY: the device is open, and the attribute is a 64-bit count, read during the call.
    unsafe {
        let pool = result::device::get_default_mem_pool(context.cu_device()).w()?;
        let threshold = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        result::mem_pool::set_attribute(pool, threshold, (&raw mut all).cast()).w()?;
    }
    Ok(())
}

pub(super) fn on_card(tensor: &Tensor) -> Result<CudaDevice> {
    match tensor.device() {
        Device::Cuda(device) => Ok(device.clone()),
        Device::Cpu | Device::Metal(_) => {
            Err(Error::Msg("a card's operation needs a tensor on the card".to_owned()).bt())
        }
    }
}
