mod cpu;

use candle_core::{Result, Tensor};

use super::activation::Activation;
use super::backward::take;
use super::buffer::fusible;
use super::card;
use super::lean::Rounded;

/// A weight and what is added: of a norm `[dim]` both, of a product `[outputs, inputs]` and `[outputs]`. Several of
/// the same inputs are one with all their outputs.
#[derive(Debug, Clone)]
pub struct Affine(pub(super) Vec<(Tensor, Tensor)>);

impl Affine {
    /// Of one or more pairs.
    #[must_use]
    pub fn new(parts: Vec<(Tensor, Tensor)>) -> Self {
        Self(parts)
    }

    pub(super) fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.0.iter().flat_map(|(weight, bias)| [weight, bias])
    }

    /// Whether one of them gets a gradient.
    pub(super) fn learns(&self) -> bool {
        self.tensors().any(Tensor::track_op)
    }

    /// Without history.
    pub(super) fn weight(&self) -> Result<Tensor> {
        joined(self.0.iter().map(|(weight, _)| weight.detach()).collect())
    }

    /// Without history.
    pub(super) fn bias(&self) -> Result<Tensor> {
        joined(self.0.iter().map(|(_, bias)| bias.detach()).collect())
    }

    /// Hands each part that learns its share of the gradients.
    pub(super) fn give(&self, dweight: &Tensor, dbias: &Tensor) -> Result<()> {
        let mut start = 0;
        for (weight, bias) in &self.0 {
            let outputs = weight.dim(0)?;
            for (of, gradients) in [(weight, dweight), (bias, dbias)] {
                if of.track_op() {
                    take(of, gradients.narrow(0, start, outputs)?.contiguous()?)?;
                }
            }
            start += outputs;
        }
        Ok(())
    }
}

fn joined(mut parts: Vec<Tensor>) -> Result<Tensor> {
    if parts.len() == 1 { Ok(parts.remove(0)) } else { Tensor::cat(&parts, 0) }
}

/// What a pre-norm transformer block consists of.
#[derive(Debug, Clone)]
pub struct BlockParameters {
    /// Norm, queries with keys and values, output of the attention, norm, and both products of the perceptron.
    pub affine: [Affine; 6],
    /// Heads of the attention.
    pub heads: usize,
    /// Whether a token sees only itself and earlier ones.
    pub causal: bool,
    /// Between both products.
    pub activation: Activation,
    /// Keeps the norms' division finite.
    pub eps: f64,
    /// Whether products on a CPU are of rounded values, as in [`super::linear`].
    pub rounded: Option<Rounded>,
}

/// A transformer block as one operation where it can be one: `[batch, tokens, dim]` to the same. `None` where it must
/// be composed: in types that no fused pass takes, and where a gradient must reach something that is neither `xs` nor a
/// variable. Only [`super::backward`] finds its gradients.
///
/// # Errors
/// When sizes do not fit, or the device fails.
pub fn block(xs: &Tensor, parameters: BlockParameters) -> Result<Option<Tensor>> {
    let tensors: Vec<&Tensor> = parameters.affine.iter().flat_map(Affine::tensors).collect();
    let reached = tensors.iter().all(|tensor| !tensor.track_op() || tensor.is_variable());
    let learns = tensors.iter().any(|tensor| tensor.track_op());
    if !fusible(xs, &tensors) || !reached || learns && !xs.track_op() {
        return Ok(None);
    }
    let xs = xs.contiguous()?;
    let ys = if xs.device().is_cuda() {
        card::block(&xs, parameters)
    } else {
        cpu::block(&xs, parameters)
    };
    ys.map(Some)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};

    use super::super::gradients::values;
    use super::super::{attention, backward, gelu, layer_norm, linear, quick_gelu};
    use super::*;

    const DIM: usize = 24;
    const INNER: usize = 40;
    const HEADS: usize = 3;
    const EPS: f64 = 1e-5;

    fn variable(shape: &[usize], seed: usize, scale: f64) -> Var {
        let values: Vec<f32> = values(shape, seed).iter().map(|v| (v * scale) as f32).collect();
        Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap()
    }

    /// Weight and bias of each of the eight, queries, keys and values apart.
    fn variables() -> Vec<[Var; 2]> {
        let shapes: [&[usize]; 8] = [
            &[DIM],
            &[DIM, DIM],
            &[DIM, DIM],
            &[DIM, DIM],
            &[DIM, DIM],
            &[DIM],
            &[INNER, DIM],
            &[DIM, INNER],
        ];
        let each = shapes.iter().enumerate();
        each.map(|(at, shape)| {
            [variable(shape, 2 * at, 0.3), variable(&shape[..1], 2 * at + 1, 0.3)]
        })
        .collect()
    }

    type Run = (Tensor, Vec<Option<Tensor>>);

    /// What comes out, and the gradients of what goes in and of all variables.
    fn run(
        learns: &dyn Fn(usize) -> bool,
        forward: &dyn Fn(&Tensor, &[(Tensor, Tensor)]) -> Tensor,
    ) -> Run {
        let variables = variables();
        let tensors: Vec<(Tensor, Tensor)> = variables
            .iter()
            .enumerate()
            .map(|(at, pair)| {
                let tensor = |of: &Var| match learns(at) {
                    true => of.as_tensor().clone(),
                    false => of.as_detached_tensor(),
                };
                (tensor(&pair[0]), tensor(&pair[1]))
            })
            .collect();
        let xs = variable(&[2, 9, DIM], 50, 1.0);
        let ys = forward(xs.as_tensor(), &tensors);
        let by = variable(&[2, 9, DIM], 60, 1.0);
        let grads = backward(&(&ys * by.as_tensor()).unwrap().sum_all().unwrap()).unwrap();
        let all = std::iter::once(&xs).chain(variables.iter().flatten());
        (ys, all.map(|of| grads.get(of).cloned()).collect())
    }

    fn whole(xs: &Tensor, parts: &[(Tensor, Tensor)], causal: bool, by: Activation) -> Tensor {
        let part = |at: usize| Affine::new(vec![parts[at].clone()]);
        let qkv = Affine::new(parts[1..4].to_vec());
        let affine = [part(0), qkv, part(4), part(5), part(6), part(7)];
        let parameters = BlockParameters {
            affine,
            heads: HEADS,
            causal,
            activation: by,
            eps: EPS,
            rounded: None,
        };
        block(xs, parameters).unwrap().unwrap()
    }

    fn composed(xs: &Tensor, parts: &[(Tensor, Tensor)], causal: bool, by: Activation) -> Tensor {
        let product =
            |xs: &Tensor, at: usize| linear(xs, &parts[at].0, Some(&parts[at].1), None).unwrap();
        let norm =
            |xs: &Tensor, at: usize| layer_norm(xs, &parts[at].0, &parts[at].1, EPS).unwrap();
        let normed = norm(xs, 0);
        let qkv = Tensor::cat(&[1, 2, 3].map(|at| product(&normed, at)), 2).unwrap();
        let mixed = attention(&qkv, HEADS, causal).unwrap();
        let between = (xs + product(&mixed, 4)).unwrap();
        let inner = product(&norm(&between, 5), 6);
        let outer = match by {
            Activation::QuickGelu => quick_gelu(&inner),
            Activation::Gelu => gelu(&inner),
        };
        (&between + product(&outer.unwrap(), 7)).unwrap()
    }

    fn assert_close(got: &Tensor, want: &Tensor, what: &str) {
        let size = want.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        let off = (got - want).unwrap().abs().unwrap().max_all().unwrap();
        let off = off.to_scalar::<f32>().unwrap();
        assert!(off <= 3e-6 * size.max(1e-3), "{what}: {off} of {size}");
    }

    #[test]
    fn a_block_as_one_gives_what_its_operations_give_whatever_learns() {
        let all = |_: usize| true;
        let none = |_: usize| false;
        // A weight of the queries, the second norm, the perceptron's second product.
        let some = |at: usize| [1, 5, 7].contains(&at);
        let cases: [(&dyn Fn(usize) -> bool, bool, Activation); 4] = [
            (&all, false, Activation::QuickGelu),
            (&all, true, Activation::Gelu),
            (&none, true, Activation::QuickGelu),
            (&some, false, Activation::Gelu),
        ];
        for (case, (learns, causal, by)) in cases.into_iter().enumerate() {
            let (ys, grads) = run(learns, &|xs, parts| whole(xs, parts, causal, by));
            let (want, wanted) = run(learns, &|xs, parts| composed(xs, parts, causal, by));
            assert_close(&ys, &want, &format!("{case}: forward"));
            for (at, (got, want)) in grads.iter().zip(&wanted).enumerate() {
                match (got, want) {
                    (Some(got), Some(want)) => assert_close(got, want, &format!("{case}: {at}")),
                    (None, None) => assert!(at > 0, "what goes in has a gradient"),
                    (Some(_), None) | (None, Some(_)) => {
                        panic!("{case}: a gradient of {at} too much or too few")
                    }
                }
            }
        }
    }

    #[test]
    fn a_block_is_composed_where_a_gradient_would_be_lost() {
        let variables = variables();
        let mut parts: Vec<(Tensor, Tensor)> =
            variables.iter().map(|[w, b]| (w.as_tensor().clone(), b.as_tensor().clone())).collect();
        let as_one = |xs: &Tensor, parts: &[(Tensor, Tensor)]| {
            let part = |at: usize| Affine::new(vec![parts[at].clone()]);
            let qkv = Affine::new(parts[1..4].to_vec());
            let affine = [part(0), qkv, part(4), part(5), part(6), part(7)];
            let (causal, activation) = (false, Activation::Gelu);
            let heads = HEADS;
            block(
                xs,
                BlockParameters { affine, heads, causal, activation, eps: EPS, rounded: None },
            )
            .unwrap()
        };
        let xs = variable(&[1, 4, DIM], 50, 1.0);
        assert!(as_one(xs.as_tensor(), &parts).is_some());
        assert!(
            as_one(&xs.as_detached_tensor(), &parts).is_none(),
            "nobody would ask for its gradients"
        );
        let half = xs.as_tensor().to_dtype(DType::F64).unwrap();
        assert!(as_one(&half, &parts).is_none(), "no fused pass takes this");
        parts[4].0 = (&parts[4].0 * 2.0).unwrap();
        assert!(as_one(xs.as_tensor(), &parts).is_none(), "no variable");
    }
}
