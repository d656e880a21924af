use std::cell::RefCell;
use std::collections::HashMap;

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, TensorId};

thread_local! {
    /// Gradients of variables that operations of this room hand over while [`backward`] runs.
    static HANDED_OVER: RefCell<Option<HashMap<TensorId, Tensor>>> = const { RefCell::new(None) };
}

/// Gradients of a scalar, as `loss.backward()` gives them, with less work: candle adds every gradient to fresh
/// zeros, which for large weights costs as much memory traffic again as the product that made it. Weights that
/// this room's operations see as variables skip that.
///
/// # Errors
/// What candle reports.
pub fn backward(loss: &Tensor) -> Result<GradStore> {
    let outer = HANDED_OVER.replace(Some(HashMap::new()));
    let grads = loss.backward();
    let found = HANDED_OVER.replace(outer).unwrap_or_default();
    let mut grads = grads?;
    for (id, gradient) in found {
        // Other operations may have used the same variable.
        let sum = match grads.get_id(id) {
            Some(others) => (others + gradient)?.detach(),
            None => gradient,
        };
        grads.insert_id(id, sum);
    }
    Ok(grads)
}

/// What an operation's `bwd` returns for an argument: `None` where [`backward`] takes the gradient itself, which
/// candle allows for variables alone.
pub(super) fn hand_over(argument: &Tensor, gradient: Tensor) -> Result<Option<Tensor>> {
    if !argument.is_variable() {
        return Ok(Some(gradient));
    }
    HANDED_OVER.with_borrow_mut(|found| {
        let Some(found) = found else { return Ok(Some(gradient)) };
        let gradient = gradient.detach();
        let sum = match found.remove(&argument.id()) {
            Some(so_far) => (so_far + gradient)?,
            None => gradient,
        };
        found.insert(argument.id(), sum);
        Ok(None)
    })
}

/// For an operation that has more arguments than candle lets it have: the gradient of one it has not told of.
///
/// # Errors
/// When nobody would find it: outside [`backward`], and for what is not a variable.
pub(super) fn take(argument: &Tensor, gradient: Tensor) -> Result<()> {
    match hand_over(argument, gradient)? {
        None => Ok(()),
        Some(_) => {
            Err(candle_core::Error::Msg("a gradient would be lost: use tensor::backward".into())
                .bt())
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::super::linear;
    use super::*;

    /// A variable used by two products, by a sum, and behind a view.
    #[test]
    fn gradients_are_those_of_candle_however_a_variable_is_used() {
        let cpu = Device::Cpu;
        let weight = Var::rand(-1.0_f32, 1.0, (4, 4), &cpu).unwrap();
        let bias = Var::rand(-1.0_f32, 1.0, 4, &cpu).unwrap();
        let xs = Var::rand(-1.0_f32, 1.0, (3, 4), &cpu).unwrap();
        let (w, b) = (weight.as_tensor(), bias.as_tensor());
        let ys = linear(xs.as_tensor(), w, Some(b), None).unwrap();
        let ys = linear(&ys.sqr().unwrap(), w, None, None).unwrap();
        let ys = linear(&ys, &w.t().unwrap(), Some(b), None).unwrap();
        let loss = (ys.sqr().unwrap().sum_all().unwrap() + w.sum_all().unwrap()).unwrap();
        let (ours, theirs) = (backward(&loss).unwrap(), loss.backward().unwrap());
        for var in [&weight, &bias, &xs] {
            let difference = (ours.get(var).unwrap() - theirs.get(var).unwrap()).unwrap();
            let worst = difference.abs().unwrap().flatten_all().unwrap().max(0).unwrap();
            let size = theirs.get(var).unwrap().abs().unwrap().mean_all().unwrap();
            let (worst, size) =
                (worst.to_scalar::<f32>().unwrap(), size.to_scalar::<f32>().unwrap());
            assert!(worst < 1e-5 * size.max(1.0), "{worst} of {size}");
        }
    }
}
