//! Plain slices out of candle's storages, for the fused operations.

use candle_core::backend::BackendStorage as _;
use candle_core::{CpuStorage, DType, Device, Error, Layout, Result, Storage, Tensor};

/// Rows a task takes at a time: enough to outweigh the hand-over, small enough to share out.
pub(super) const ROWS_PER_TASK: usize = 64;
/// Values, likewise.
pub(super) const PER_TASK: usize = 16 * 1024;

/// Whether all of these lie on the CPU in f32.
pub(super) fn on_cpu(tensors: &[&Tensor]) -> bool {
    tensors.iter().all(|t| t.device().is_cpu() && t.dtype() == DType::F32)
}

/// Whether a fused pass can take these: f32 on the CPU, and on a CUDA device activations in f32 or bf16 with f32
/// parameters.
pub(super) fn fusible(xs: &Tensor, parameters: &[&Tensor]) -> bool {
    match xs.device() {
        Device::Cpu => on_cpu(&[xs]) && on_cpu(parameters),
        Device::Cuda(_) => {
            matches!(xs.dtype(), DType::F32 | DType::BF16)
                && parameters.iter().all(|t| t.device().is_cuda() && t.dtype() == DType::F32)
        }
        Device::Metal(_) => false,
    }
}

/// The values of a contiguous f32 storage, in order.
pub(super) fn f32s<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let (start, end) = layout
        .contiguous_offsets()
        .ok_or_else(|| Error::Msg("a fused operation needs contiguous input".into()).bt())?;
    match storage {
        CpuStorage::F32(values) => values
            .get(start..end)
            .ok_or_else(|| Error::Msg("a layout reaches beyond its storage".into()).bt()),
        CpuStorage::U8(_)
        | CpuStorage::U32(_)
        | CpuStorage::I16(_)
        | CpuStorage::I32(_)
        | CpuStorage::I64(_)
        | CpuStorage::BF16(_)
        | CpuStorage::F16(_)
        | CpuStorage::F64(_)
        | CpuStorage::F8E4M3(_)
        | CpuStorage::F6E2M3(_)
        | CpuStorage::F6E3M2(_)
        | CpuStorage::F4(_)
        | CpuStorage::F8E8M0(_) => {
            Err(Error::UnsupportedDTypeForOp(storage.dtype(), "fused operation").bt())
        }
    }
}

/// Runs `f` on the values of a contiguous CPU f32 tensor.
pub(super) fn with_f32s<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> Result<R>) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => f(f32s(storage, layout)?),
        Storage::Cuda(_) | Storage::Metal(_) => {
            Err(Error::Msg("a fused operation needs a tensor on the CPU".into()).bt())
        }
    }
}
