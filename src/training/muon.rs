use candle_core::{Result, Tensor, Var};

/// Decay of the momentum.
const MOMENTUM: f64 = 0.95;
/// Coefficients of the quintic iteration and how often it runs, as published.
const QUINTIC: [f64; 3] = [3.4445, -4.7750, 2.0315];
const ITERATIONS: usize = 5;

/// Momentum of one matrix, and the step that Muon (Jordan et al., 2024) makes of it: the nearest matrix
/// with all singular values alike. A tower of `[out, in]` matrices trained from scratch learns from about a
/// third of the pictures that Adam needs (`benchmarks/README.md`).
#[derive(Debug)]
pub(super) struct Muon {
    momentum: Tensor,
}

impl Muon {
    pub(super) fn new(var: &Var) -> Result<Self> {
        Ok(Self { momentum: var.as_tensor().zeros_like()? })
    }

    /// Whether a parameter is one of those that Muon is for: matrices inside the blocks of a tower.
    pub(super) fn moves(name: &str, var: &Var) -> bool {
        var.rank() == 2 && name.contains(".encoder.layers.")
    }

    /// Takes a step at `rate` with decoupled decay. `gradient` is scaled by `scale` first.
    pub(super) fn step(
        &mut self,
        var: &Var,
        gradient: &Tensor,
        scale: f64,
        rate: f64,
        decay: f64,
    ) -> Result<()> {
        // Nesterov's look ahead, detached: the gradient must not keep the step's graph alive.
        let gradient = (gradient.detach() * scale)?;
        self.momentum = ((&self.momentum * MOMENTUM)? + &gradient)?;
        let ahead = (gradient + (&self.momentum * MOMENTUM)?)?;
        let (rows, columns) = ahead.dims2()?;
        let tall = (rows as f64 / columns as f64).max(1.0).sqrt();
        let turned = (orthogonalised(&ahead)? * (rate * tall))?;
        let kept = (var.as_tensor().detach() * (1.0 - rate * decay))?;
        var.set(&(kept - turned)?)
    }
}

/// A matrix with the singular vectors of `matrix` and singular values near 1 (within 0.7 to 1.2, which is
/// near enough), by the quintic Newton-Schulz iteration: products only.
fn orthogonalised(matrix: &Tensor) -> Result<Tensor> {
    let (rows, columns) = matrix.dims2()?;
    let norm = f64::from(matrix.sqr()?.sum_all()?.to_scalar::<f32>()?).sqrt();
    let wide = if rows > columns { matrix.t()?.contiguous()? } else { matrix.clone() };
    let mut x = (wide / (norm + 1e-7))?;
    let [a, b, c] = QUINTIC;
    for _ in 0..ITERATIONS {
        let square = x.matmul(&x.t()?)?;
        let mix = ((&square * b)? + (square.matmul(&square)? * c)?)?;
        x = ((&x * a)? + mix.matmul(&x)?)?;
    }
    if rows > columns { x.t()?.contiguous() } else { Ok(x) }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};
    use rand::{Rng as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn matrix(rows: usize, columns: usize) -> Tensor {
        let rng = &mut ChaCha8Rng::seed_from_u64(7);
        let values = (0..rows * columns).map(|_| rng.random_range(-3.0_f32..3.0)).collect();
        Tensor::from_vec::<_, f32>(values, (rows, columns), &Device::Cpu).unwrap()
    }

    /// The mean of the squared singular values is the trace of the matrix by its transpose.
    #[test]
    fn all_directions_become_about_equally_long() {
        for (rows, columns) in [(8, 24), (24, 8), (16, 16)] {
            let x = orthogonalised(&matrix(rows, columns)).unwrap();
            assert_eq!(x.dims(), [rows, columns]);
            let wide = if rows > columns { x.t().unwrap().contiguous().unwrap() } else { x };
            let gram = wide.matmul(&wide.t().unwrap()).unwrap().to_vec2::<f32>().unwrap();
            let trace: f32 = (0..gram.len()).map(|i| gram[i][i]).sum();
            let mean = trace / gram.len() as f32;
            assert!((0.5..1.5).contains(&mean), "{rows}x{columns}: {mean}");
        }
    }

    #[test]
    fn a_matrix_of_orthogonal_rows_keeps_its_directions() {
        let x = (Tensor::eye(4, DType::F32, &Device::Cpu).unwrap() * 5.0).unwrap();
        let x = orthogonalised(&x).unwrap().to_vec2::<f32>().unwrap();
        for (i, row) in x.iter().enumerate() {
            for (j, v) in row.iter().enumerate() {
                let near = if i == j { (0.7..1.25).contains(v) } else { v.abs() < 1e-5 };
                assert!(near, "{i} {j}: {v}");
            }
        }
    }

    #[test]
    fn the_length_of_a_gradient_does_not_matter() {
        let run = |scale: f64| {
            let var = Var::from_tensor(&matrix(6, 4)).unwrap();
            let gradient = (matrix(6, 4).cos().unwrap() * scale).unwrap();
            Muon::new(&var).unwrap().step(&var, &gradient, 1.0, 0.1, 0.0).unwrap();
            var.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        let far = |a: &[f32], b: &[f32]| {
            a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0_f32, f32::max)
        };
        let start = matrix(6, 4).flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(far(&run(1.0), &run(100.0)) < 1e-4);
        assert!(far(&run(1.0), &start) > 0.01);
    }

    #[test]
    fn only_matrices_inside_a_tower_s_blocks_are_moved() {
        let matrix = Var::from_tensor(&matrix(2, 2)).unwrap();
        let vector = Var::zeros(2, DType::F32, &Device::Cpu).unwrap();
        assert!(Muon::moves("text_model.encoder.layers.0.mlp.fc1.weight", &matrix));
        assert!(!Muon::moves("text_model.encoder.layers.0.mlp.fc1.bias", &vector));
        assert!(!Muon::moves("visual_projection.weight", &matrix));
    }
}
