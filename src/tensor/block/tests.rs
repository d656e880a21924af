use candle_core::{DType, Device, Var};

use super::super::gradients::values;
use super::super::{attention, backward, gelu, layer_norm, linear, quick_gelu};
use super::*;

const DIM: usize = 24;
const INNER: usize = 40;
const HEADS: usize = 3;
const EPS: f64 = 1e-5;

/// Weight and bias of each of the eight, queries, keys and values apart.
type Parts = [(Tensor, Tensor)];
type Learns = dyn Fn(usize) -> bool;

fn variable(shape: &[usize], seed: usize, scale: f64) -> Var {
    let values: Vec<f32> = values(shape, seed).iter().map(|v| (v * scale) as f32).collect();
    Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap()
}

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
    each.map(|(at, shape)| [variable(shape, 2 * at, 0.3), variable(&shape[..1], 2 * at + 1, 0.3)])
        .collect()
}

fn as_one(parts: &Parts, causal: bool, activation: Activation) -> BlockParameters {
    let part = |at: usize| Affine::new(vec![parts[at].clone()]);
    let qkv = Affine::new(parts[1..4].to_vec());
    let affine = [part(0), qkv, part(4), part(5), part(6), part(7)];
    BlockParameters { affine, heads: HEADS, causal, activation, eps: EPS, rounded: None }
}

fn composed(xs: &Tensor, parts: &Parts, causal: bool, by: Activation) -> Tensor {
    let product =
        |xs: &Tensor, at: usize| linear(xs, &parts[at].0, Some(&parts[at].1), None).unwrap();
    let norm = |xs: &Tensor, at: usize| layer_norm(xs, &parts[at].0, &parts[at].1, EPS).unwrap();
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

/// What comes out, and the gradients of what goes in and of all variables.
fn run(
    learns: &Learns,
    forward: impl FnOnce(&Tensor, &Parts) -> Tensor,
) -> (Tensor, Vec<Option<Tensor>>) {
    let variables = variables();
    let tensor = |at: usize, of: &Var| match learns(at) {
        true => of.as_tensor().clone(),
        false => of.as_detached_tensor(),
    };
    let pairs = variables.iter().enumerate();
    let parts: Vec<_> =
        pairs.map(|(at, [weight, bias])| (tensor(at, weight), tensor(at, bias))).collect();
    let xs = variable(&[2, 9, DIM], 50, 1.0);
    let ys = forward(xs.as_tensor(), &parts);
    let by = variable(&[2, 9, DIM], 60, 1.0);
    let grads = backward(&(&ys * by.as_tensor()).unwrap().sum_all().unwrap()).unwrap();
    let all = std::iter::once(&xs).chain(variables.iter().flatten());
    (ys, all.map(|of| grads.get(of).cloned()).collect())
}

fn assert_close(got: &Tensor, want: &Tensor, what: &str) {
    let largest = |of: &Tensor| of.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    let (off, size) = (largest(&(got - want).unwrap()), largest(want));
    assert!(off <= 3e-6 * size.max(1e-3), "{what}: {off} of {size}");
}

#[test]
fn a_block_as_one_gives_what_its_operations_give_whatever_learns() {
    let (all, none) = (|_: usize| true, |_: usize| false);
    // A weight of the queries, the second norm, the perceptron's second product.
    let some = |at: usize| [1, 5, 7].contains(&at);
    let check = |what: &str, learns: &Learns, causal: bool, by: Activation| {
        let whole =
            |xs: &Tensor, parts: &Parts| block(xs, as_one(parts, causal, by)).unwrap().unwrap();
        let (ys, grads) = run(learns, whole);
        let (want, wanted) = run(learns, |xs, parts| composed(xs, parts, causal, by));
        assert_close(&ys, &want, what);
        assert!(grads[0].is_some(), "{what}: what goes in has a gradient");
        for (at, (got, want)) in grads.iter().zip(&wanted).enumerate() {
            assert_eq!(got.is_some(), want.is_some(), "{what}: the gradient of {at}");
            if let (Some(got), Some(want)) = (got, want) {
                assert_close(got, want, &format!("{what}: the gradient of {at}"));
            }
        }
    };
    check("all", &all, false, Activation::QuickGelu);
    check("all, causal", &all, true, Activation::Gelu);
    check("none", &none, true, Activation::QuickGelu);
    check("some", &some, false, Activation::Gelu);
}

#[test]
fn a_block_is_composed_where_a_gradient_would_be_lost() {
    let variables = variables();
    let tensor = |of: &Var| of.as_tensor().clone();
    let mut parts: Vec<_> = variables.iter().map(|[w, b]| (tensor(w), tensor(b))).collect();
    let is_one = |xs: &Tensor, parts: &Parts| {
        block(xs, as_one(parts, false, Activation::Gelu)).unwrap().is_some()
    };
    let xs = variable(&[1, 4, DIM], 50, 1.0);
    assert!(is_one(xs.as_tensor(), &parts));
    assert!(!is_one(&xs.as_detached_tensor(), &parts), "nobody would ask for its gradients");
    let wide = xs.as_tensor().to_dtype(DType::F64).unwrap();
    assert!(!is_one(&wide, &parts), "no fused pass takes this");
    parts[4].0 = (&parts[4].0 * 2.0).unwrap();
    assert!(!is_one(xs.as_tensor(), &parts), "no variable");
}
