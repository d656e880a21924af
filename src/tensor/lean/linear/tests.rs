use super::*;
use crate::tensor::lean::dot::is_amd;

/// `[rows, columns]` in panels.
fn in_panels(values: &[f32], columns: usize) -> Vec<Row> {
    let rows = values.len() / columns;
    let mut out = vec![Row::ZERO; panels(columns) * rows];
    for (at, value) in values.iter().enumerate() {
        let (row, column) = (at / columns, at % columns);
        out[column / WIDTH * rows + row].0[column % WIDTH] = *value;
    }
    out
}

/// The same rounded, as a left side.
fn rounded(rows: &[Row]) -> Vec<HalfRow> {
    let mut halves = vec![HalfRow::ZERO; rows.len() + HalfRow::BEHIND];
    halve(rows, &mut halves);
    halves
}

/// `[count / columns, columns]` of small whole numbers, exact in any order and in bfloat16; in eight bits too, since the largest
/// of every group is 127.
fn whole(count: usize, columns: usize, salt: usize) -> Vec<f32> {
    let value = |i: usize| {
        if (i % columns).is_multiple_of(GROUP) { 127.0 } else { ((i * 7 + salt) % 11) as f32 - 5.0 }
    };
    (0..count).map(value).collect()
}

#[test]
fn a_product_is_exact_whatever_the_sizes_the_threads_and_the_precision() {
    for (rows, inputs, outputs) in [
        (1, 1, 1),
        (3, 33, 5),
        (13, 64, 130),
        (25, 300, 95),
        (50, 160, 64),
        (197, 70, 33),
        (600, 40, 40),
    ] {
        let (left, weights, bias) = (
            whole(rows * inputs, inputs, 1),
            whole(outputs * inputs, inputs, 4),
            whole(outputs, outputs, 2),
        );
        let mut want = vec![0.0; rows * outputs];
        for (at, want) in want.iter_mut().enumerate() {
            let (row, output) = (at / outputs, at % outputs);
            let pairs = left[row * inputs..][..inputs].iter().zip(&weights[output * inputs..]);
            *want = bias[output] + pairs.map(|(x, y)| x * y).sum::<f32>();
        }
        for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
            let cut = outputs / 2 * inputs;
            let pieces = [&weights[..cut], &weights[cut..]];
            let linear = Lean::pack(inputs, &pieces, &[&bias], precision);
            assert_eq!(linear.weights(), weights);
            assert_eq!(linear.bias(), bias);
            let left = in_panels(&left, inputs);
            for threads in [1, 2, 7] {
                let mut out = vec![Row([f32::NAN; WIDTH]); panels(outputs) * rows];
                linear.forward(Left::Rows(&left), rows, &mut out, After::Nothing, threads);
                assert_eq!(out, in_panels(&want, outputs), "{rows} {inputs} {outputs} {threads}");
                let halves = rounded(&out);
                let mut rounded_out = vec![HalfRow::ZERO; out.len()];
                linear.forward(Left::Rows(&left), rows, &mut rounded_out, After::Nothing, threads);
                assert_eq!(rounded_out, halves[..out.len()], "rounded as it is written");
                if linear.takes_halves() {
                    let left = rounded(&left);
                    rounded_out.fill(HalfRow::ZERO);
                    linear.forward(
                        Left::Halves(&left),
                        rows,
                        &mut rounded_out,
                        After::Nothing,
                        threads,
                    );
                    assert_eq!(rounded_out, halves[..out.len()], "rounded beforehand");
                }
                linear.forward(Left::Rows(&left), rows, &mut out, After::Add, threads);
                let twice: Vec<f32> = want.iter().map(|v| 2.0 * v).collect();
                assert_eq!(out, in_panels(&twice, outputs));
            }
        }
    }
}

fn value(at: usize) -> f32 {
    (at as f32 * 0.37).sin()
}

/// Both products of rounded values: by pairs, where this processor has that, and by widening.
#[test]
fn pairs_and_widened_values_give_the_same() {
    let Some(dot) = Dot::detect().map(Dot::for_any_rows) else {
        println!("skipped: this processor does not multiply pairs");
        return;
    };
    for (rows, inputs, outputs) in [(1, 768, 64), (7, 33, 70), (50, 515, 95), (500, 64, 33)] {
        let weights: Vec<f32> = (0..inputs * outputs).map(value).collect();
        let left: Vec<f32> = (0..rows * inputs).map(|at| value(at + 5)).collect();
        let left = in_panels(&left, inputs);
        let mut linear = Lean::pack(inputs, &[&weights], &[], Precision::Bf16);
        let mut by = |halves| {
            if let Kept::Bf16(_, kept) = &mut linear.weights {
                *kept = halves;
            }
            let mut out = vec![Row::ZERO; panels(outputs) * rows];
            linear.forward(Left::Rows(&left), rows, &mut out, After::Nothing, 2);
            out
        };
        let (pairs, widened) = (by(Halves::Dot(dot)), by(Halves::Widened));
        assert_ne!(pairs, vec![Row::ZERO; pairs.len()]);
        // The same products. AMD's instruction does not say how it adds up.
        let most = if is_amd() {
            (inputs as f32).sqrt() * 1e-6 * inputs as f32
        } else {
            f32::MIN_POSITIVE
        };
        for (one, other) in pairs.iter().zip(&widened) {
            for (one, other) in one.0.iter().zip(other.0) {
                assert!((one - other).abs() < most, "{one} {other}");
            }
        }
    }
}

/// Tiles, where this processor has them, and f32: the same products, added up in another order.
#[test]
fn tiles_and_widened_values_agree_whatever_the_rows() {
    let Some(amx) = Amx::detect() else {
        println!("skipped: this processor does not multiply tiles");
        return;
    };
    let (inputs, outputs) = (515, 70);
    let weights: Vec<f32> = (0..inputs * outputs).map(value).collect();
    let mut linear = Lean::pack(inputs, &[&weights], &[], Precision::Bf16);
    for rows in (1..=70).chain([500, 1301]) {
        let left: Vec<f32> = (0..rows * inputs).map(|at| value(at + 5)).collect();
        let left = in_panels(&left, inputs);
        let mut by = |halves| {
            if let Kept::Bf16(_, kept) = &mut linear.weights {
                *kept = halves;
            }
            let mut out = vec![Row::ZERO; panels(outputs) * rows];
            linear.forward(Left::Rows(&left), rows, &mut out, After::Nothing, 2);
            out
        };
        let (tiles, widened) = (by(Halves::Tiles(amx)), by(Halves::Widened));
        assert_ne!(tiles, widened, "made by the same instructions");
        for (one, other) in tiles.iter().zip(&widened) {
            for (one, other) in one.0.iter().zip(other.0) {
                assert!((one - other).abs() < 3e-4, "{rows}: {one} {other}");
            }
        }
    }
}

/// Sums of whole numbers: the same bits by fours, where this processor has that, and by widening.
#[test]
fn eight_bits_give_the_same_by_any_instructions() {
    let Some(dot) = DotOctets::detect() else {
        println!("skipped: this processor does not multiply fours");
        return;
    };
    for (rows, inputs, outputs) in [(1, 768, 64), (7, 33, 70), (50, 515, 95), (500, 64, 33)] {
        let weights: Vec<f32> = (0..inputs * outputs).map(value).collect();
        let left: Vec<f32> = (0..rows * inputs).map(|at| value(at + 5)).collect();
        let left = in_panels(&left, inputs);
        let mut linear = Lean::pack(inputs, &[&weights], &[], Precision::Int8);
        let mut by = |dot| {
            if let Kept::Int8(kept) = &mut linear.weights {
                kept.dot = dot;
            }
            let mut out = vec![Row::ZERO; panels(outputs) * rows];
            linear.forward(Left::Rows(&left), rows, &mut out, After::Nothing, 2);
            out
        };
        let (fours, widened) = (by(Some(dot)), by(None));
        assert_ne!(fours, vec![Row::ZERO; fours.len()]);
        assert_eq!(fours, widened, "{rows} {inputs} {outputs}");
    }
}

/// Of rows and weights as a model has them: most values small, a few large.
#[test]
fn eight_bits_lose_a_hundredth_of_a_product_and_a_weight_half_a_step() {
    let (rows, inputs, outputs) = (9, 700, 40);
    let value = |at: usize| value(at).powi(3) * if at.is_multiple_of(97) { 20.0 } else { 1.0 };
    let weights: Vec<f32> = (0..inputs * outputs).map(value).collect();
    let left: Vec<f32> = (0..rows * inputs).map(|at| value(at + 5)).collect();
    let left = in_panels(&left, inputs);
    let product = |precision| {
        let linear = Lean::pack(inputs, &[&weights], &[], precision);
        let mut out = vec![Row::ZERO; panels(outputs) * rows];
        linear.forward(Left::Rows(&left), rows, &mut out, After::Nothing, 1);
        (linear.weights(), out)
    };
    let ((_, exact), (coded, eight)) = (product(Precision::F32), product(Precision::Int8));
    let largest = weights.iter().fold(0.0_f32, |largest, weight| largest.max(weight.abs()));
    for (coded, weight) in coded.iter().zip(&weights) {
        assert!((coded - weight).abs() <= 0.501 * largest / 127.0, "{coded} {weight}");
    }
    let square = |values: &mut dyn Iterator<Item = f32>| values.map(|v| v * v).sum::<f32>();
    let all = |rows: &[Row]| rows.iter().flat_map(|row| row.0).collect::<Vec<f32>>();
    let (exact, eight) = (all(&exact), all(&eight));
    let off = square(&mut exact.iter().zip(&eight).map(|(a, b)| a - b));
    let share = (off / square(&mut exact.iter().copied())).sqrt();
    assert!(share > 0.0 && share < 0.02, "{share}");
}

#[test]
fn a_row_gives_the_same_alone_and_among_others_to_the_last_bit() {
    let (inputs, outputs, rows) = (515, 70, 29);
    let weights: Vec<f32> = (0..inputs * outputs).map(value).collect();
    let left: Vec<f32> = (0..rows * inputs).map(|at| value(at + 5)).collect();
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        let linear = Lean::pack(inputs, &[&weights], &[], precision);
        let mut all = vec![Row::ZERO; panels(outputs) * rows];
        linear.forward(Left::Rows(&in_panels(&left, inputs)), rows, &mut all, After::QuickGelu, 3);
        for row in [0, 11, 28] {
            let mut one = vec![Row::ZERO; panels(outputs)];
            let alone = in_panels(&left[row * inputs..][..inputs], inputs);
            linear.forward(Left::Rows(&alone), 1, &mut one, After::QuickGelu, 1);
            let bits =
                |values: Vec<f32>| -> Vec<u32> { values.iter().map(|v| v.to_bits()).collect() };
            assert_eq!(
                bits(crate::tensor::lean::row_of(&all, rows, row, outputs)),
                bits(crate::tensor::lean::row_of(&one, 1, 0, outputs))
            );
        }
    }
}
