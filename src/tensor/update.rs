use std::cell::RefCell;

use candle_core::backend::BackendStorage as _;
use candle_core::{CpuStorage, Error, InplaceOp1, Layout, Result, Tensor};

use super::buffer::{on_cpu, with_f32s};
use super::simd::vectorised;

/// Whether a variable's values and its gradient can be worked on in place: both on the CPU in f32.
#[must_use]
pub fn in_place(variable: &Tensor, gradient: &Tensor) -> bool {
    on_cpu(&[variable, gradient]) && variable.is_contiguous() && gradient.is_contiguous()
}

/// Runs `update` on the values of a variable and of its gradient where they lie, as [`in_place`] allows:
/// nothing is copied. `update` is compiled for the widest instruction set only where it is inlined into
/// loops run by [`widest`].
///
/// # Errors
/// When the two differ in size, or do not lie on the CPU in f32.
pub fn update(
    variable: &Tensor,
    gradient: &Tensor,
    update: impl FnOnce(&mut [f32], &[f32]),
) -> Result<()> {
    with_f32s(gradient, |gradient| {
        if gradient.len() != variable.elem_count() {
            let (got, wanted) = (gradient.len(), variable.elem_count());
            return Err(Error::Msg(format!("a gradient of {got} values for {wanted}")).bt());
        }
        variable.inplace_op1(&Update(RefCell::new(Some(|values: &mut [f32]| {
            update(values, gradient);
        }))))
    })
}

/// Runs `f` on the values of a contiguous f32 tensor on the CPU.
///
/// # Errors
/// For tensors elsewhere or of another type.
pub fn with_values<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> R) -> Result<R> {
    with_f32s(tensor, |values| Ok(f(values)))
}

/// Runs `f` compiled for the widest instruction set of this machine; what it calls must be inlined into it.
#[inline]
pub fn widest<R>(f: impl FnOnce() -> R) -> R {
    vectorised(f)
}

struct Update<F>(RefCell<Option<F>>);

impl<F: FnOnce(&mut [f32])> InplaceOp1 for Update<F> {
    fn name(&self) -> &'static str {
        "update"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let dtype = storage.dtype();
        let CpuStorage::F32(values) = storage else {
            return Err(Error::UnsupportedDTypeForOp(dtype, "update").bt());
        };
        let place = layout.contiguous_offsets().map(|(start, end)| start..end);
        let Some(values) = place.and_then(|place| values.get_mut(place)) else {
            return Err(Error::Msg("an update needs a contiguous variable".to_owned()).bt());
        };
        if let Some(update) = self.0.take() {
            update(values);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    #[test]
    fn a_variable_changes_where_it_lies() {
        let var = Var::new(&[[1.0_f32, 2.0], [3.0, 4.0]], &Device::Cpu).unwrap();
        let seen = var.as_detached_tensor();
        let gradient = Tensor::new(&[[1.0_f32, 0.0], [2.0, 0.0]], &Device::Cpu).unwrap();
        assert!(in_place(&var, &gradient));
        assert!(!in_place(&var, &gradient.t().unwrap()));
        update(&var, &gradient, |values, gradient| {
            values.iter_mut().zip(gradient).for_each(|(value, by)| *value -= by);
        })
        .unwrap();
        assert_eq!(seen.to_vec2::<f32>().unwrap(), [[0.0, 2.0], [1.0, 4.0]]);
        assert!(update(&var, &gradient.get(0).unwrap(), |_, _| ()).is_err());
    }
}
