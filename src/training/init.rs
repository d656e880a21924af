use candle_core::{Tensor, Var};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::model::{ClipConfig, Parameters};

use super::error::TrainingError;

/// Root mean square of a position embedding, about that of an embedded patch. CLIP starts it at 0.02,
/// where it takes long to learn left from right.
const POSITION_SCALE: f32 = 0.5;
/// Brings the slowest cosines of normalised pictures to about the size of the positions.
const PATCH_SCALE: f32 = 0.29;
/// Share of the patch patterns that are in luminance; the rest is in two colour differences.
const LUMINANCE: f32 = 0.7;
/// How strongly a block starts by taking away what its attention found.
const VALUE_SCALE: f32 = 0.4;

/// Gives the image tower a start from which it learns where things are within few pictures: patches
/// described by their slowest cosines (what a picture's patches differ in most), positions that are waves over the grid (as in Beyer et al., 2022), queries equal to keys, and values undone by
/// the output (the pattern that trained towers share: Trockman and Kolter, 2023). Only initial values
/// differ from CLIP's; the model stays one.
///
/// # Errors
/// What candle reports, and [`TrainingError::Setting`] for a model without the parameters of a tower.
pub(super) fn spatial_start(
    parameters: &Parameters,
    config: &ClipConfig,
    seed: u64,
) -> Result<(), TrainingError> {
    let vision = &config.vision;
    let width = vision.hidden_size;
    let var = |name: &str| {
        parameters.get(name).ok_or_else(|| TrainingError::Setting {
            setting: "model",
            rule: "a CLIP with all parameters",
            got: format!("one without {name}"),
        })
    };
    let set =
        |var: &Var, values: Vec<f32>| var.set(&Tensor::from_vec(values, var.dims(), var.device())?);

    let patches = var("vision_model.embeddings.patch_embedding.weight")?;
    set(patches, patch_patterns(width, vision.patch_size, seed))?;

    let positions = var("vision_model.embeddings.position_embedding.weight")?;
    // The first row is the class token's: it has no place, and stays as drawn.
    let class = positions.get(0)?.to_vec1::<f32>()?;
    let grid = vision.image_size / vision.patch_size;
    set(positions, [class, waves(grid, width)].concat())?;

    for layer in 0..vision.num_hidden_layers {
        let at = format!("vision_model.encoder.layers.{layer}.self_attn");
        let rng = &mut ChaCha8Rng::seed_from_u64(seed ^ (0xa77e << 16) ^ layer as u64);
        let mut square = |scale: f32| -> Vec<f32> {
            let deviation = scale / (width as f32).sqrt();
            (0..width * width).map(|_| normal(rng) * deviation).collect()
        };
        let alike = square(1.0);
        set(var(&format!("{at}.q_proj.weight"))?, alike.clone())?;
        set(var(&format!("{at}.k_proj.weight"))?, alike)?;
        let values = square(VALUE_SCALE.sqrt());
        let undone = (0..width * width).map(|i| -values[(i % width) * width + i / width]).collect();
        set(var(&format!("{at}.v_proj.weight"))?, values)?;
        set(var(&format!("{at}.out_proj.weight"))?, undone)?;
    }
    Ok(())
}

/// The slowest two-dimensional cosines of a patch in luminance and colour differences, turned at random so
/// that none of the tower's dimensions is special: `[width, 3, patch, patch]`.
fn patch_patterns(width: usize, patch: usize, seed: u64) -> Vec<f32> {
    let half = 0.5_f32.sqrt();
    let third = (1.0_f32 / 3.0).sqrt();
    let sixth = (1.0_f32 / 6.0).sqrt();
    let axes = [[third; 3], [half, 0.0, -half], [-sixth, 2.0 * sixth, -sixth]];
    let mut waves: Vec<(usize, usize)> =
        (0..patch * patch).map(|i| (i / patch, i % patch)).collect();
    waves.sort_by_key(|(u, v)| (u * u + v * v, *u));
    let bright = ((width as f32 * LUMINANCE) as usize).min(waves.len());
    let counts = [bright, (width - bright).div_ceil(2), (width - bright) / 2];
    let wave = |u: usize, at: usize| {
        let size = if u == 0 { 1.0 } else { 2.0 } / patch as f32;
        let turn = std::f32::consts::PI * (at as f32 + 0.5) * u as f32 / patch as f32;
        size.sqrt() * turn.cos()
    };
    let mut patterns: Vec<Vec<f32>> = Vec::with_capacity(width);
    for (axis, count) in axes.iter().zip(counts) {
        for &(u, v) in waves.iter().cycle().take(count) {
            let mut pattern = Vec::with_capacity(3 * patch * patch);
            for part in axis {
                for y in 0..patch {
                    pattern.extend((0..patch).map(|x| part * wave(u, y) * wave(v, x)));
                }
            }
            patterns.push(pattern);
        }
    }
    let mut out = Vec::with_capacity(width * 3 * patch * patch);
    for row in orthogonal(width, &mut ChaCha8Rng::seed_from_u64(seed ^ 0xdc7)) {
        let mut mixed = vec![0.0; 3 * patch * patch];
        for (weight, pattern) in row.iter().zip(&patterns) {
            mixed.iter_mut().zip(pattern).for_each(|(m, p)| *m += weight * p * PATCH_SCALE);
        }
        out.extend(mixed);
    }
    out
}

/// A random turn: rows of length 1 that stand upright on each other (Gram and Schmidt).
fn orthogonal(size: usize, rng: &mut ChaCha8Rng) -> Vec<Vec<f32>> {
    let mut rows: Vec<Vec<f32>> = Vec::with_capacity(size);
    while rows.len() < size {
        let mut row: Vec<f32> = (0..size).map(|_| normal(rng)).collect();
        // Twice, because rounding leaves a remainder after the first.
        for _ in 0..2 {
            for other in &rows {
                let along: f32 = row.iter().zip(other).map(|(a, b)| a * b).sum();
                row.iter_mut().zip(other).for_each(|(a, b)| *a -= along * b);
            }
        }
        let length = row.iter().map(|v| v * v).sum::<f32>().sqrt();
        if length > 1e-3 {
            row.iter_mut().for_each(|v| *v /= length);
            rows.push(row);
        }
    }
    rows
}

/// Sines and cosines of both coordinates, `[grid * grid, width]`, from half a wave over the picture to one
/// every other patch.
fn waves(grid: usize, width: usize) -> Vec<f32> {
    let frequencies = width / 4;
    let octaves = (grid as f32 / 2.0).log2() + 1.0;
    let mut out = vec![0.0; grid * grid * width];
    for (place, row) in out.chunks_exact_mut(width).enumerate() {
        let centre = |cell: usize| (cell as f32 + 0.5) / grid as f32 - 0.5;
        let (x, y) = (centre(place % grid), centre(place / grid));
        for i in 0..frequencies {
            let share = i as f32 / (frequencies.max(2) - 1) as f32;
            let turn = std::f32::consts::PI * (share * octaves - 1.0).exp2();
            let parts = [(x * turn).sin(), (x * turn).cos(), (y * turn).sin(), (y * turn).cos()];
            for (part, value) in parts.into_iter().enumerate() {
                row[part * frequencies + i] = value * POSITION_SCALE * std::f32::consts::SQRT_2;
            }
        }
    }
    out
}

/// Standard normal, by Box and Muller.
fn normal(rng: &mut ChaCha8Rng) -> f32 {
    let radius = (-2.0 * (1.0 - rng.random::<f32>()).ln()).sqrt();
    radius * (std::f32::consts::TAU * rng.random::<f32>()).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_has_a_position_of_its_own_and_of_the_same_length() {
        let rows: Vec<Vec<f32>> = waves(7, 128).chunks_exact(128).map(<[f32]>::to_vec).collect();
        assert_eq!(rows.len(), 49);
        for (i, a) in rows.iter().enumerate() {
            let length: f32 = a.iter().map(|v| v * v).sum();
            assert!((length - 128.0 * POSITION_SCALE * POSITION_SCALE).abs() < 1e-2, "{length}");
            for b in &rows[..i] {
                let apart: f32 = a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum();
                assert!(apart > 1.0, "{apart}");
            }
        }
    }

    #[test]
    fn patch_patterns_are_all_different_and_equally_long() {
        let rows: Vec<Vec<f32>> =
            patch_patterns(48, 8, 3).chunks_exact(3 * 64).map(<[f32]>::to_vec).collect();
        assert_eq!(rows.len(), 48);
        for (i, a) in rows.iter().enumerate() {
            for (j, b) in rows.iter().enumerate() {
                let along: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
                let want = if i == j { PATCH_SCALE * PATCH_SCALE } else { 0.0 };
                assert!((along - want).abs() < 1e-4 * PATCH_SCALE, "{i} {j}: {along}");
            }
        }
    }

    #[test]
    fn normal_numbers_have_mean_0_and_deviation_1() {
        let rng = &mut ChaCha8Rng::seed_from_u64(1);
        let drawn: Vec<f32> = (0..20_000).map(|_| normal(rng)).collect();
        let mean = drawn.iter().sum::<f32>() / 20_000.0;
        let square = drawn.iter().map(|v| v * v).sum::<f32>() / 20_000.0;
        assert!(mean.abs() < 0.03 && (square - 1.0).abs() < 0.04, "{mean} {square}");
        assert!(drawn.iter().all(|v| v.is_finite()));
    }
}
